"""Inequity aversion: rewards lowered by others' being ahead, or by being ahead oneself (Hughes et al. 2018, arXiv 1803.08884)."""

from __future__ import annotations

import torch
from torch import Tensor


def smoothed_rewards(rewards: Tensor, starts: Tensor, decay: float) -> Tensor:
    """e_t = decay e_{t-1} + r_t, from 0 at each episode's start (equation 4; decay is gamma lambda).

    Args:
        rewards: `[T, B, N]` extrinsic.
        starts: `[T, B]` bool, the first step of an episode.
        decay: in [0, 1].

    Returns:
        `[T, B, N]`.
    """
    going_on = decay * (~starts).to(rewards).unsqueeze(-1)
    smoothed = torch.empty_like(rewards)
    trace = torch.zeros_like(rewards[0])
    for step, reward in enumerate(rewards):
        trace = going_on[step] * trace + reward
        smoothed[step] = trace
    return smoothed


def inequity(smoothed: Tensor, agent: int, envy: float, guilt: float) -> Tensor:
    """What inequity takes from an agent's reward (equation 3).

        envy / (N - 1) sum_j max(e_j - e_i, 0) + guilt / (N - 1) sum_j max(e_i - e_j, 0)

    Args:
        smoothed: `[..., N]`, from `smoothed_rewards`.
        agent: i.
        envy: alpha >= 0, dislike of being behind.
        guilt: beta >= 0, dislike of being ahead.

    Returns:
        `[...]`, at least 0.
    """
    ahead = smoothed - smoothed[..., agent, None]
    others = max(1, smoothed.shape[-1] - 1)
    return (envy * ahead.clamp(min=0) + guilt * (-ahead).clamp(min=0)).sum(-1) / others
