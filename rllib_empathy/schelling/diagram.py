"""The numbers of a Schelling diagram and the verdict on the game (Schelling 1973; Hughes et al. 2018, arXiv 1803.08884).

With l of a player's N - 1 co-players cooperating, R_c(l) is what it earns on average by cooperating, R_d(l) by defecting. The
game is a social dilemma if (Macy and Flache 2002, for N players)

    1.  R_c(N-1) > R_d(0)      all cooperating beats all defecting,
    2.  R_c(N-1) > R_c(0)      all cooperating beats cooperating alone,
    3.  fear   R_d(0) > R_c(0)      defecting pays where nobody else cooperates,
        and/or greed   R_d(N-1) > R_c(N-1)      where everybody else does.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rllib_empathy.experiments.statistics import Estimate

Floats = NDArray[np.float64]

RESAMPLES = 2000
"""Bootstrap samples behind an interval."""


class Condition(NamedTuple):
    """An inequality a > b between mean returns."""

    difference: Estimate  # a - b with its 95 % interval

    @property
    def holds(self) -> bool | None:
        """None where the interval leaves it open."""
        if self.difference.low > 0:
            return True
        return False if self.difference.high <= 0 else None


class Verdict(NamedTuple):
    """Which conditions of a social dilemma hold."""

    all_beats_none: Condition  # R_c(N-1) > R_d(0)
    all_beats_alone: Condition  # R_c(N-1) > R_c(0)
    fear: Condition  # R_d(0) > R_c(0)
    greed: Condition  # R_d(N-1) > R_c(N-1)

    @property
    def is_dilemma(self) -> bool | None:
        """None where it depends on a condition that is open."""
        tempted = _or(self.fear.holds, self.greed.holds)
        return _and(_and(self.all_beats_none.holds, self.all_beats_alone.holds), tempted)

    def to_json(self) -> dict[str, Any]:
        """In plain types."""
        conditions = {
            name: {"holds": condition.holds, **condition.difference._asdict()}
            for name, condition in self._asdict().items()
        }
        return {"is_dilemma": self.is_dilemma, **conditions}


class Diagram(NamedTuple):
    """K episodes of each mixture of N players. Returns are means over the players of a role in an episode."""

    cooperators: Floats  # [N, K], R_c(l) for l = 0 .. N-1 others that cooperate
    defectors: Floats  # [N, K], R_d(l)
    group: Floats  # [N + 1, K], mean over all players with k = 0 .. N cooperators

    @classmethod
    def of(cls, returns: Floats, cooperates: NDArray[np.bool_]) -> Diagram:
        """Sorts what was played by role.

        Args:
            returns: `[N + 1, K, N]`, by number of cooperators, episode and seat.
            cooperates: the same shape, who does; k of N in every episode of row k.
        """
        defects = ~cooperates
        numbers = np.arange(len(returns))[:, None]
        of_cooperators = (returns * cooperates).sum(2)[1:] / numbers[1:]
        of_defectors = (returns * defects).sum(2)[:-1] / numbers[:0:-1]
        return cls(of_cooperators, of_defectors, returns.mean(2))

    def verdict(self) -> Verdict:
        """The inequalities of a social dilemma, with intervals over episodes."""
        return Verdict(
            all_beats_none=Condition(mean_difference(self.cooperators[-1], self.defectors[0])),
            all_beats_alone=Condition(mean_difference(self.cooperators[-1], self.cooperators[0])),
            fear=Condition(mean_difference(self.defectors[0], self.cooperators[0])),
            greed=Condition(mean_difference(self.defectors[-1], self.cooperators[-1])),
        )

    def to_json(self) -> dict[str, Any]:
        """Means with 95 % intervals, and the verdict, in plain types."""
        means = {name: [mean_estimate(row)._asdict() for row in rows] for name, rows in self._asdict().items()}
        return {
            "players": len(self.cooperators),
            "episodes": self.group.shape[1],
            **means,
            "verdict": self.verdict().to_json(),
        }


def mean_estimate(values: Floats) -> Estimate:
    """The mean of `[K]` episodes with its 95 % percentile bootstrap interval."""
    return _estimate(values.mean(), _resampled_means(values, 0))


def mean_difference(first: Floats, second: Floats) -> Estimate:
    """mean(first) - mean(second) with its 95 % percentile bootstrap interval, both `[K]` resampled independently."""
    return _estimate(first.mean() - second.mean(), _resampled_means(first, 0) - _resampled_means(second, 1))


def _estimate(value: float, resampled: Floats) -> Estimate:
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Estimate(float(value), float(low), float(high))


def _resampled_means(values: Floats, seed: int) -> Floats:
    """Means `[RESAMPLES]` of values drawn with replacement; always the same draws, so that a verdict stays as it is."""
    chosen = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    return np.asarray(values[chosen].mean(1))


def _and(one: bool | None, other: bool | None) -> bool | None:
    if one is False or other is False:
        return False
    return None if one is None or other is None else True


def _or(one: bool | None, other: bool | None) -> bool | None:
    if one or other:
        return True
    return None if one is None or other is None else False
