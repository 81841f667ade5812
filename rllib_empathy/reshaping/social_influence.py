"""Causal influence of an agent's action on what others do next (Jaques et al. 2019, arXiv 1810.08647)."""

from __future__ import annotations

from torch import Tensor


def social_influence(log_predictions: Tensor, policy: Tensor, taken: Tensor) -> Tensor:
    """How far the action taken moves the prediction of another's next action from what it is on average over own actions.

        D_KL[ p(a_j | a_k, s) || sum_a' pi_k(a' | s) p(a_j | a', s) ]   (equations 1 and 2)

    Its mean over the policy is the mutual information of a_k and a_j given s.

    Args:
        log_predictions: `[..., A, A_j]`, log p(a_j | a', s) for each own action a'.
        policy: `[..., A]`, pi_k; sums to 1.
        taken: `[...]` integers, a_k.

    Returns:
        `[...]`, at least 0.
    """
    marginal = (policy.unsqueeze(-1) * log_predictions.exp()).sum(-2)
    index = taken.unsqueeze(-1).unsqueeze(-1).expand(*taken.shape, 1, log_predictions.shape[-1])
    conditional = log_predictions.gather(-2, index).squeeze(-2)
    return (conditional.exp() * (conditional - marginal.clamp(min=1e-30).log())).sum(-1).clamp(min=0.0)
