"""Numbers that say how well something was predicted."""

from __future__ import annotations

import torch
from torch import Tensor


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 - Var(returns - values) / Var(returns) over the masked entries, `[G]`; 0 where the returns do not vary.

    Args:
        values: `[G, T, M]`, predictions.
        returns: `[G, T, M]`, what they were to predict.
        mask: `[G, T, M]`, which entries count.
    """
    count = mask.sum((1, 2)).clamp(min=1)

    def variance(x: Tensor) -> Tensor:
        mean = ((x * mask).sum((1, 2)) / count).view(-1, 1, 1)
        return (((x - mean) ** 2) * mask).sum((1, 2)) / count

    spread = variance(returns)
    return torch.where(spread > 1e-12, 1 - variance(returns - values) / spread.clamp(min=1e-12), 0.0)
