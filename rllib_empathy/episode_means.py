"""Exact means over episodes, however they are spread over runners, and cheap ones over Learners."""

from __future__ import annotations

from math import isnan
from typing import Any

import numpy as np
from ray.rllib.utils.metrics.metrics_logger import DEFAULT_STATS_CLS_LOOKUP
from ray.rllib.utils.metrics.stats.base import StatsBase


class EpisodeMeanStats(StatsBase):
    """The mean over all episodes of an iteration; where none has ended, the last known mean.

    RLlib's own mean over several runners is a mean of means. This one carries (sum, count) pairs, so that every episode weighs
    the same. `push` takes such a pair. Where episodes have ended but none has a value, the mean is NaN: an old one would be
    wrong.
    """

    stats_cls_identifier = "episode_mean"

    def __init__(self, is_root: bool = False, is_leaf: bool = True) -> None:
        super().__init__(is_root=is_root, is_leaf=is_leaf)
        self._sum, self._count, self._last = 0.0, 0, float("nan")
        self._pushed = False

    def push(self, value: Any) -> None:
        """Adds (sum over episodes that have a value, number of such episodes)."""
        self._add(*value)

    def merge(self, incoming_stats: list[EpisodeMeanStats]) -> None:
        """Adds what others have collected since they last reduced."""
        for other in incoming_stats:
            if other._pushed:
                self._add(other._sum, other._count)
        self.latest_merged = self.peek()

    def peek(self, compile: bool = True, latest_merged_only: bool = False) -> Any:
        """The mean so far, or the last one that was reported."""
        mean = self._sum / self._count if self._count else float("nan") if self._pushed else self._last
        return mean if compile else [mean]

    def reduce(self, compile: bool = True) -> Any:
        """Hands out the mean (or the sum and count) and begins anew."""
        mean = self.peek()
        handed_on = self.clone()
        handed_on._sum, handed_on._count, handed_on._last = self._sum, self._count, mean
        handed_on._pushed = self._pushed
        self._sum, self._count, self._last, self._pushed = 0.0, 0, mean, False
        return mean if compile else handed_on

    def get_state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            **super().get_state(),
            "sum": self._sum,
            "count": self._count,
            "last": self._last,
            "pushed": self._pushed,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues from `get_state`'s answer."""
        super().set_state(state)
        self._sum, self._count, self._last = state["sum"], state["count"], state["last"]
        self._pushed = state["pushed"]

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.peek()}; count={self._count})"

    def _add(self, sum: float, count: int) -> None:
        self._pushed = True
        self._sum += float(sum)
        self._count += int(count)


class LearnerMeanStats(EpisodeMeanStats):
    """The mean over Learners of what each said in an iteration; NaN where none said anything.

    RLlib's mean of a window of one does this too, through several calls of NumPy for each number: for the N x N matrices of a
    population that was a thirtieth of an iteration.
    """

    stats_cls_identifier = "learner_mean"

    def push(self, value: Any) -> None:
        """Adds a number; NaN is none."""
        self._add(*((0.0, 0) if isnan(value) else (value, 1)))

    def reduce(self, compile: bool = True) -> Any:
        """Hands out the mean (or the sum and count) and forgets it."""
        reduced = super().reduce(compile)
        self._last = float("nan")
        return reduced


STATS: dict[str, type[StatsBase]] = {
    **DEFAULT_STATS_CLS_LOOKUP,
    **{stats.stats_cls_identifier: stats for stats in (EpisodeMeanStats, LearnerMeanStats)},
}
"""RLlib's reductions and ours, by name."""


def sum_and_count(values: np.ndarray) -> tuple[float, int]:
    """What `EpisodeMeanStats` wants of the values `[K]` of K episodes; NaN stands for an episode that has none."""
    known = ~np.isnan(values)
    return float(np.sum(values, where=known)), int(known.sum())
