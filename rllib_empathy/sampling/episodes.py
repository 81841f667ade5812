"""Running totals of unfinished episodes, and what the finished ones came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from env_registry.game import Share, Step, World
from rllib_empathy.metrics import equality, equality_defined, mean_earning_time

SOCIAL = ("efficiency", "equality", "equality_defined", "sustainability", "sustainability_share")
"""Measures of every episode in every world: see `rllib_empathy.metrics`; `sustainability_share` is S / T."""

TIMED_OUT = "timed_out"
"""Name of the event that a world with time-outs counts, for each agent in each step that it is out."""


class FinishedEpisodes(NamedTuple):
    """K episodes."""

    games: NDArray[np.int64]  # [K] in which game each was played
    returns: NDArray[np.float64]  # [K, N] extrinsic
    lengths: NDArray[np.int64]  # [K]
    earning_steps: NDArray[np.int64]  # [K, N] steps with a positive reward
    earning_times: NDArray[np.int64]  # [K, N] sum of these steps' numbers, 1 .. length
    events: dict[str, NDArray[np.int64]]  # name -> [K, N]

    @classmethod
    def concatenate(cls, parts: Sequence[FinishedEpisodes]) -> FinishedEpisodes:
        """All episodes of several parts, of which there is at least one."""
        *columns, events = zip(*parts, strict=True)
        together = {name: np.concatenate([part[name] for part in events]) for name in events[0]}
        return cls._make([*map(np.concatenate, columns), together])

    def by_game(self) -> FinishedEpisodes:
        """The same in the order of their games."""
        order = np.argsort(self.games, kind="stable")
        *columns, events = self
        ordered = {name: counts[order] for name, counts in events.items()}
        return FinishedEpisodes._make([*(column[order] for column in columns), ordered])

    def outcomes(self, cooperation: Mapping[str, Share]) -> dict[str, NDArray[np.float64]]:
        """The values `[K]` of the measures that `outcome_names` names; NaN where an episode has none."""
        times = mean_earning_time(self.earning_times, self.earning_steps)
        values = (
            self.returns.sum(1) / self.lengths,
            equality(self.returns),
            equality_defined(self.returns).astype(np.float64),
            times,
            times / self.lengths,
        )
        found = dict(zip(SOCIAL, values, strict=True))
        agents = self.returns.shape[1]
        if TIMED_OUT in self.events:
            found["peace"] = agents - self.events[TIMED_OUT].sum(1) / self.lengths
        for name, share in cooperation.items():
            all_of = sum(self.events[event].sum(1) for event in share.of) if share.of else agents * self.lengths
            found[f"cooperation/{name}"] = self.events[share.event].sum(1) / np.where(all_of > 0, all_of, np.nan)
        return found


def cooperation_of(world: World) -> Mapping[str, Share]:
    """The world's own measures of cooperation; a world that derives from nothing of ours may have none."""
    return getattr(world, "cooperation", {})


def outcome_names(world: World) -> list[str]:
    """What runs log about each episode beside returns and events."""
    peace = ("peace",) if TIMED_OUT in world.event_names else ()
    return [*SOCIAL, *peace, *(f"cooperation/{name}" for name in cooperation_of(world))]


class EpisodeTotals:
    """Adds up rewards and events of B games of N agents, across fragments."""

    def __init__(self, num_games: int, num_agents: int, event_names: tuple[str, ...]) -> None:
        self.returns = np.zeros((num_games, num_agents))
        self.lengths = np.zeros(num_games, np.int64)
        self.earning_steps = np.zeros((num_games, num_agents), np.int64)
        self.earning_times = np.zeros((num_games, num_agents), np.int64)
        self.events = {name: np.zeros((num_games, num_agents), np.int64) for name in event_names}

    def add(self, step: Step, counts: NDArray[np.bool_]) -> FinishedEpisodes | None:
        """Adds one step and hands out the episodes that it ended.

        Args:
            step: of all games.
            counts: `[B]`, games whose step counts.
        """
        mask = counts[:, None]
        self.returns += step.rewards * mask
        self.lengths += counts
        earns = (step.rewards > 0) & mask
        self.earning_steps += earns
        self.earning_times += earns * self.lengths[:, None]
        for name, totals in self.events.items():
            totals += step.events[name] * mask
        ended = (step.terminated | step.truncated) & counts
        if not ended.any():
            return None
        events = {name: totals[ended] for name, totals in self.events.items()}
        finished = FinishedEpisodes._make([ended.nonzero()[0], *(totals[ended] for totals in self._per_game()), events])
        self.clear(ended)
        return finished

    def clear(self, games: NDArray[np.bool_]) -> None:
        """Forgets the unfinished episodes of these games `[B]`."""
        for totals in (*self._per_game(), *self.events.values()):
            totals[games] = 0

    def get_state(self) -> dict[str, Any]:
        """Everything, for a checkpoint."""
        return {
            "totals": [totals.copy() for totals in self._per_game()],
            "events": {name: totals.copy() for name, totals in self.events.items()},
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues from `get_state`'s answer."""
        for totals, value in zip(self._per_game(), state["totals"], strict=True):
            totals[...] = value
        for name, totals in self.events.items():
            totals[...] = state["events"][name]

    def _per_game(self) -> tuple[NDArray, ...]:
        return self.returns, self.lengths, self.earning_steps, self.earning_times
