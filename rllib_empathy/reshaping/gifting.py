"""Zero-sum gifts and how LASE agents decide on them (Kong et al. 2024, arXiv 2410.07863).

Pure functions on tensors. N agents; `...` stands for any leading shape, mostly [T, B].
"""

from __future__ import annotations

import torch
from torch import Tensor


def social_relationship(
    q_taken: Tensor,
    q_alternatives: Tensor,
    predicted_policy: Tensor,
    minimum_range: float = 0.0,
    noise: Tensor | float = 0.0,
    allowed: Tensor | None = None,
) -> Tensor:
    """How much a co-player's action did for the focal agent, compared with what it was expected to do, in [-1, 1].

        (Q(o, a) - sum_a' pi(a') Q(o, a_-j, a')) / (max_a' Q(o, a_-j, a') - min_a' Q(o, a_-j, a'))

    (LASE, section on social relationship inference; the gift is its positive part over N - 1.)

    Args:
        q_taken: `[...]`, the focal agent's value of the joint action that was taken.
        q_alternatives: `[..., A]`, its values with the co-player's action replaced by each of its A actions, the taken one
            included.
        predicted_policy: `[..., A]`, the focal agent's prediction of the co-player; sums to 1, over allowed actions alone.
        minimum_range: ranges up to this count as zero.
        noise: the values' typical error, added to the range (our addition): what does not stand out from it counts little.
        allowed: `[..., A]` bool, what the co-player might have done: its other actions are no alternatives. None: all are.

    Returns:
        `[...]`; 0 where the range of the alternatives is zero (up to rounding).
    """
    baseline = (predicted_policy * q_alternatives).sum(-1)
    if allowed is not None:  # the range is then that of allowed actions: the others take the value of what was done
        q_alternatives = torch.where(allowed, q_alternatives, q_taken.unsqueeze(-1))
    highest, lowest = q_alternatives.amax(-1), q_alternatives.amin(-1)
    rounding = 4 * torch.finfo(q_alternatives.dtype).eps * torch.maximum(highest.abs(), lowest.abs())
    spread = highest - lowest
    matters = spread > rounding.clamp(min=minimum_range)
    relationship = (q_taken - baseline) / torch.where(matters, spread + noise, 1.0)
    return torch.where(matters, relationship, 0.0).clamp(-1.0, 1.0)


def averaged(relationships: Tensor, starts: Tensor, decay: float) -> Tensor:
    """m_t = decay m_t-1 + (1 - decay) x_t, and m_t = x_t in an episode's first step and in the first row (our addition).

    Noise of either sign cancels before the positive part is taken.

    Args:
        relationships: x, `[T, B, ...]`.
        starts: `[T, B]`, the step is its episode's first.
        decay: in [0, 1).
    """
    means = [relationships[0]]
    for now, begins in zip(relationships[1:], starts[1:], strict=True):
        begins = begins.view(*begins.shape, *[1] * (now.ndim - 1))
        means.append(torch.where(begins, now, decay * means[-1] + (1 - decay) * now))
    return torch.stack(means)


def gift_weights(relationships: Tensor, gives: Tensor | None = None) -> Tensor:
    """Shares of reward from relationships: w^ij = max(0, relationship^ij) / (N - 1) for j != i, and w^ii keeps the rest.

    Args:
        relationships: `[..., N, N]` in [-1, 1], of agent i towards j; the diagonal does not count.
        gives: `[..., N]` bool, agents that give at all; default: everyone.

    Returns:
        `[..., N, N]`, rows sum to 1; at most 1 / (N - 1) to each co-player; a one-hot row for agents that do not give.
    """
    if gives is not None:
        relationships = relationships * gives.unsqueeze(-1)
    rows = [gift_row(relationships[..., giver, :], giver) for giver in range(relationships.shape[-1])]
    return torch.stack(rows, -2)


def gift_row(relationships: Tensor, giver: int) -> Tensor:
    """One agent's row of `gift_weights`: the shares `[..., N]` of its reward, from its relationships `[..., N]`."""
    return keeping_the_rest(relationships.clamp(min=0.0) / max(1, relationships.shape[-1] - 1), giver)


def keeping_the_rest(shares: Tensor, giver: int) -> Tensor:
    """Shares `[..., N]` for co-players as a whole row: the giver's own entry becomes what is left of 1.

    Raises:
        ValueError: the giver is none of the N agents.
    """
    if not 0 <= giver < shares.shape[-1]:
        raise ValueError(f"giver = {giver} has no seat: agents are 0 .. {shares.shape[-1] - 1}.")
    mine = torch.arange(shares.shape[-1], device=shares.device) == giver
    given = shares.masked_fill(mine, 0.0)
    return torch.where(mine, 1.0 - given.sum(-1, keepdim=True), given)


def transfer(rewards: Tensor, weights: Tensor) -> Tensor:
    """r_tot^i = sum_j w^ji r^j: what each agent has after all gifts (LASE, section on zero-sum gifting).

    Args:
        rewards: `[..., N]` extrinsic.
        weights: `[..., N, N]`, w^ij is the share of i's reward that goes to j; rows sum to 1, so that the group's sum is
            conserved at every step. Losses are shared by the same rule.

    Returns:
        `[..., N]`.

    Raises:
        ValueError: the weights give to, or are of, seats that do not exist.
    """
    agents = rewards.shape[-1]
    if weights.shape[-2:] != (agents, agents):
        raise ValueError(
            f"Gift weights {list(weights.shape)} are not for {agents} agents: the last two axes are giver and receiver, "
            f"{agents} x {agents}."
        )
    return torch.einsum("...j,...ji->...i", rewards, weights)
