"""Social metrics: how much a group earns, how evenly, how lastingly, how peacefully (Perolat et al. 2017, arXiv 1707.06600).

Pure functions of one episode, or of many at once: `...` stands for any dimensions between time and agents, for instance B
games. T steps, N agents, R_i = sum_t r_i^t. They are meant for whole episodes and extrinsic rewards; means are taken over the
episodes' values, since a metric of mean returns is another number (the Gini coefficient of means hides who is ahead in turn).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def efficiency(rewards: ArrayLike) -> Floats:
    """U = sum_i R_i / T: what the group earns per step.

    Args:
        rewards: `[T, ..., N]`.

    Returns:
        `[...]`.

    Raises:
        ValueError: no step, or no agent.
    """
    values = _filled(rewards, 2, "rewards")
    return np.asarray(values.sum((0, -1)) / len(values))


def equality(returns: ArrayLike) -> Floats:
    """E = 1 - sum_i sum_j |R_i - R_j| / (2 N sum_i R_i), one minus the Gini coefficient: from 1/N (one has all) to 1 (all alike).

    Args:
        returns: `[..., N]`.

    Returns:
        `[...]`. Where all returns are 0 nobody is ahead: 1. Where any is negative the coefficient has no meaning: NaN.

    Raises:
        ValueError: no agent.
    """
    values = _filled(returns, 1, "returns")
    total = values.sum(-1)
    differences = np.abs(values[..., :, None] - values[..., None, :]).sum((-1, -2))
    gini = differences / (2 * values.shape[-1] * np.where(total > 0, total, 1.0))
    return np.where((values >= 0).all(-1), np.where(total > 0, 1 - gini, 1.0), np.nan)


def equality_defined(returns: ArrayLike) -> NDArray[np.bool_]:
    """Whether the formula of `equality` says something: no return is negative and not all are 0.

    Args:
        returns: `[..., N]`.

    Returns:
        `[...]`.

    Raises:
        ValueError: no agent.
    """
    values = _filled(returns, 1, "returns")
    return np.asarray((values >= 0).all(-1) & (values > 0).any(-1))


def sustainability(rewards: ArrayLike) -> Floats:
    """S = mean_i t_i, t_i = mean{t : r_i^t > 0}: the average time at which rewards are collected, t = 1 .. T.

    Comparable at the same T only; S / T is a number in (0, 1].

    Args:
        rewards: `[T, ..., N]`.

    Returns:
        `[...]`. Agents that never earn do not count; NaN where nobody does.

    Raises:
        ValueError: no step, or no agent.
    """
    earns = _filled(rewards, 2, "rewards") > 0
    times = np.arange(1, len(earns) + 1).reshape(-1, *[1] * (earns.ndim - 1))
    return mean_earning_time((earns * times).sum(0), earns.sum(0))


def mean_earning_time(times: NDArray[Any], steps: NDArray[Any]) -> Floats:
    """`sustainability` from running sums.

    Args:
        times: `[..., N]`, sum of the times at which each agent earned.
        steps: `[..., N]`, how often it did.

    Returns:
        `[...]`.
    """
    earners = (steps > 0).sum(-1)
    per_agent = times / np.maximum(steps, 1)
    return np.where(earners > 0, per_agent.sum(-1) / np.maximum(earners, 1), np.nan)


def peace(timed_out: ArrayLike) -> Floats:
    """P = (N T - sum_i sum_t I_i^t) / T, from 0 to N: how many agents are in the game on average.

    Args:
        timed_out: `[T, ..., N]`, I = 1 in each step that an agent is timed out (tagged, zapped), not only when it is hit.

    Returns:
        `[...]`.

    Raises:
        ValueError: no step, or no agent.
    """
    out = _filled(timed_out, 2, "timed_out")
    return np.asarray(out.shape[-1] - out.sum((0, -1)) / len(out))


def _filled(values: ArrayLike, dimensions: int, name: str) -> Floats:
    array = np.asarray(values, np.float64)
    if array.ndim < dimensions or not array.shape[-1] or (dimensions == 2 and not len(array)):
        needed = "[T, ..., N] with at least one step and" if dimensions == 2 else "[..., N] with at least one"
        raise ValueError(f"{name} has shape {array.shape}; needed is {needed} agent.")
    return array
