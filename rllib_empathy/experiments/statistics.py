"""Statistics of a few trials: robust means, intervals, differences."""

from __future__ import annotations

from math import nan
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

RESAMPLES = 2000
"""Bootstrap samples behind an interval."""


class Estimate(NamedTuple):
    """A value and its interval; all NaN without a seed, the interval NaN with one."""

    value: float
    low: float
    high: float


def first_and_last(values: Values, episodes: Values) -> tuple[float, float]:
    """Means over the episodes of the first and the last tenth of the iterations in which episodes ended; NaN without any."""
    known = (episodes > 0) & ~np.isnan(values)
    values, episodes = values[known], episodes[known]
    if not len(values):
        return nan, nan
    tenth = max(1, len(values) // 10)
    first, last = (
        np.average(values[part], weights=episodes[part]) for part in (slice(None, tenth), slice(-tenth, None))
    )
    return float(first), float(last)


def interquartile_mean(values: Values, axis: int = -1) -> Any:
    """The mean of the values without the lowest and the highest quarter (Agarwal et al. 2021, arXiv:2108.13264).

    floor(K / 4) of K values are left out at each end, so that it is the mean for K < 4.

    Args:
        values: `[..., K, ...]`, K >= 1.
        axis: which one is K.
    """
    ordered = np.sort(np.moveaxis(values, axis, -1), -1)
    count = ordered.shape[-1]
    return ordered[..., count // 4 : count - count // 4].mean(-1)


def iqm_estimate(values: Values, confidence: float = 0.95) -> Estimate:
    """IQM over seeds with its percentile bootstrap interval.

    With fewer than about ten seeds the interval is narrower than it says: the bootstrap only knows the seeds that it has.

    Args:
        values: `[K]`, one for each seed; those that are NaN are left out.
        confidence: of the interval, in (0, 1).
    """
    values = values[~np.isnan(values)]
    if len(values) < 2:
        return Estimate(float(values[0]) if len(values) else nan, nan, nan)
    return _estimate(float(interquartile_mean(values)), _resampled_iqms(values, 0), confidence)


def iqm_difference(first: Values, second: Values, confidence: float = 0.95) -> Estimate:
    """IQM(first) - IQM(second) with its percentile bootstrap interval, both resampled independently.

    Args:
        first: `[K]`, one for each seed; those that are NaN are left out.
        second: `[L]`, the same.
        confidence: of the interval, in (0, 1).
    """
    first, second = first[~np.isnan(first)], second[~np.isnan(second)]
    if not (len(first) and len(second)):
        return Estimate(nan, nan, nan)
    value = float(interquartile_mean(first) - interquartile_mean(second))
    if min(len(first), len(second)) < 2:
        return Estimate(value, nan, nan)
    return _estimate(value, _resampled_iqms(first, 0) - _resampled_iqms(second, 1), confidence)


def iqm_band(curves: Values, confidence: float = 0.95) -> tuple[Values, Values, Values]:
    """IQM over seeds, low and high end of its interval at each point of learning curves.

    Args:
        curves: `[K, P]`: K seeds at P points, without NaN.
        confidence: of the intervals, in (0, 1).

    Returns:
        Three times `[P]`.
    """
    chosen = np.random.default_rng(0).integers(len(curves), size=(RESAMPLES // 10, len(curves)))
    tail = (1 - confidence) / 2
    low, high = np.quantile(interquartile_mean(curves[chosen], 1), [tail, 1 - tail], axis=0)
    return interquartile_mean(curves, 0), low, high


def _resampled_iqms(values: Values, seed: int) -> Values:
    """IQMs `[RESAMPLES]` of the values drawn with replacement; always the same draws, so that a result stays as it is."""
    chosen = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    return np.asarray(interquartile_mean(values[chosen]))


def _estimate(value: float, resampled: Values, confidence: float) -> Estimate:
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Estimate(value, float(low), float(high))
