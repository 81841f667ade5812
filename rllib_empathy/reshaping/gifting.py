"""Zero-sum gifts: agents hand shares of their own reward to others (LASE, section on zero-sum gifting)."""

from __future__ import annotations

import torch
from torch import Tensor


def transfer(rewards: Tensor, weights: Tensor) -> Tensor:
    """r_tot^i = sum_j w^ji r^j: what each agent has after all gifts.

    Args:
        rewards: `[..., N]` extrinsic.
        weights: `[..., N, N]`, w^ij is the share of i's reward that goes to j; rows sum to 1, so that the group's sum is
            conserved at every step. Losses are shared by the same rule.

    Returns:
        `[..., N]`.
    """
    return torch.einsum("...j,...ji->...i", rewards, weights)
