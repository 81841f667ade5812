"""Running totals of unfinished episodes, and what the finished ones came to."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from env_registry.game import Step


class FinishedEpisodes(NamedTuple):
    """K episodes."""

    returns: NDArray[np.float64]  # [K, N] extrinsic
    lengths: NDArray[np.int64]  # [K]
    events: dict[str, NDArray[np.int64]]  # name -> [K, N]


class EpisodeTotals:
    """Adds up rewards and events of B games of N agents, across fragments."""

    def __init__(self, num_games: int, num_agents: int, event_names: tuple[str, ...]) -> None:
        self.returns = np.zeros((num_games, num_agents))
        self.lengths = np.zeros(num_games, np.int64)
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
        for name, totals in self.events.items():
            totals += step.events[name] * mask
        ended = (step.terminated | step.truncated) & counts
        if not ended.any():
            return None
        finished = FinishedEpisodes(
            self.returns[ended], self.lengths[ended], {name: totals[ended] for name, totals in self.events.items()}
        )
        self.clear(ended)
        return finished

    def clear(self, games: NDArray[np.bool_]) -> None:
        """Forgets the unfinished episodes of these games `[B]`."""
        for totals in (self.returns, self.lengths, *self.events.values()):
            totals[games] = 0

    def get_state(self) -> dict[str, Any]:
        """Everything, for a checkpoint."""
        return {
            "returns": self.returns.copy(),
            "lengths": self.lengths.copy(),
            "events": {name: totals.copy() for name, totals in self.events.items()},
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues from `get_state`'s answer."""
        self.returns[...], self.lengths[...] = state["returns"], state["lengths"]
        for name, totals in self.events.items():
            totals[...] = state["events"][name]
