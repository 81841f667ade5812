"""What agents do to each other's values, what they owe each other for it, and the reward for paying it back.

Zhou, Hong and Kao 2024, "Reciprocal Reward Influence Encourages Cooperation From Self-Interested Agents" (arXiv 2406.01641).
Pure functions on tensors. T steps, B games, N agents, A actions; `...` stands for any shape, mostly [B, N, N] or [B, N - 1].
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

RewardForm = Literal["product", "sign_of_balance", "sign_of_influence"]
"""How balance B and influence VI make a reward: B VI, sign(B) VI or B sign(VI); the last two are the authors' variants."""


def value_influence(alternatives: Tensor, actions: Tensor, policy: Tensor) -> Tensor:
    """What an agent's action did for another agent's value, compared with what its policy does on average.

        VI_i|j(s, a) = Q_j(s, a) - sum_a' pi_i(a') Q_j(s, a_-i, a')

    (section "1-step value influence"). Its mean over i's policy is 0.

    Args:
        alternatives: `[..., A]`, j's values with i's action replaced by each of its A actions, the taken one included.
        actions: `[...]` integers, what i did.
        policy: `[..., A]`, how i acts there; sums to 1.

    Returns:
        `[...]`.
    """
    taken = alternatives.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
    return taken - (policy * alternatives).sum(-1)


def influence_balance(
    received: Tensor, given: Tensor, decay: float = 1.0, starts: Tensor | None = None, pay_back: bool = True
) -> Tensor:
    """What others have done for an agent so far, less what it has done for them: the balance BEFORE each step.

        B_i(t) = decay B_i(t - 1) + VI_i|rc(t) - VI_rc|i(t),        B_i = 0 before an episode's first step

    The balance after a step holds what others did in it, which the agent could not know when it acted; hence the one before.

    Args:
        received: `[T, ...]`, influence of each co-player i on the Reciprocator, VI_i|rc.
        given: `[T, ...]`, influence of the Reciprocator on each co-player, VI_rc|i.
        decay: of the balance per step, in [0, 1]; 1 in the paper, the discount in the authors' code. 0 remembers the last
            step only.
        starts: `[T, B]`, the step is its episode's first; the shape above is then `[T, B, ...]`. Default: the first row only.
        pay_back: whether what is given counts.

    Returns:
        `[T, ...]`.

    Raises:
        ValueError: shapes that do not fit, or a decay outside [0, 1].
    """
    if received.shape != given.shape:
        raise ValueError(f"received has shape {tuple(received.shape)}, given {tuple(given.shape)}; they must be equal.")
    if not 0 <= decay <= 1:
        raise ValueError(f"decay = {decay} is not in [0, 1]: 1 remembers everything, 0 the last step only.")
    if starts is not None and starts.shape != received.shape[:2]:
        raise ValueError(
            f"starts has shape {tuple(starts.shape)}; needed are steps and games, {tuple(received.shape[:2])}."
        )
    change = received - given if pay_back else received
    balances = torch.empty_like(change)
    balance = torch.zeros_like(change[0])
    for step in range(len(change)):
        if starts is not None:
            balance = torch.where(starts[step].view(-1, *[1] * (balance.ndim - 1)), 0.0, balance)
        balances[step] = balance
        balance = decay * balance + change[step]
    return balances


def reciprocal_reward(
    balance: Tensor, given: Tensor, form: RewardForm = "product", present: Tensor | None = None
) -> Tensor:
    """The reward for repaying in kind, a mean over co-players:  r^R_i(t) = B_i(t - 1) VI_rc|i(t).

    Args:
        balance: `[..., K]`, of each co-player before the step, from `influence_balance`.
        given: `[..., K]`, the Reciprocator's influence on each co-player in the step.
        form: the product, or one of its factors as a sign only.
        present: `[..., K]` bool, co-players that count (the agent itself does not); default: all. Without any the reward is 0.

    Returns:
        `[...]`.

    Raises:
        ValueError: there is no such form.
    """
    if form not in get_args(RewardForm):
        raise ValueError(f"form = {form!r} is unknown. Known: {', '.join(get_args(RewardForm))}.")
    per_co_player = (balance.sign() if form == "sign_of_balance" else balance) * (
        given.sign() if form == "sign_of_influence" else given
    )
    if present is None:
        return per_co_player.mean(-1)
    return (per_co_player * present).sum(-1) / present.sum(-1).clamp(min=1)
