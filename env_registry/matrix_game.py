"""Iterated 2x2 games: two agents cooperate or defect, and see what both did last.

Observation: one-hot of [CC, CD, DC, DD, start], the own action first (LASE, section on the iterated prisoner's dilemma; the
Reciprocators' game is the same with other payoffs). Actions: 0 cooperate, 1 defect.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from gymnasium.spaces import Box
from numba import njit
from numpy.typing import NDArray
from pydantic import Field, model_validator

from env_registry.game import Game, GameParameters, Share

Payoffs = tuple[float, float, float, float]


class MatrixGameParameters(GameParameters):
    """Any symmetric 2x2 game, by its payoffs [R, S, T, P]: both cooperate, sucker, temptation, both defect."""

    num_agents: Literal[2] = 2
    payoffs: Payoffs = Field((1.0, -0.2, 1.2, 0.0), description="[R, S, T, P] of the agent whose action comes first")


class PrisonersDilemmaParameters(MatrixGameParameters):
    """A prisoner's dilemma: T > R > P > S. The presets are those of the two papers."""

    presets: ClassVar = {
        "lase": {"payoffs": (1.0, -0.2, 1.2, 0.0), "episode_length": 100},
        "reciprocator": {"payoffs": (-1.0, -3.0, 0.0, -2.0), "episode_length": 32},
    }

    preset: Literal["lase", "reciprocator"] = Field("lase", description="whose payoffs and episode length")

    @model_validator(mode="after")
    def _is_a_dilemma(self) -> PrisonersDilemmaParameters:
        reward, sucker, temptation, punishment = self.payoffs
        if not temptation > reward > punishment > sucker:
            raise ValueError("a prisoner's dilemma needs T > R > P > S; use 'matrix_game' for other payoffs")
        return self


@njit(cache=True, nogil=True)
def _advance(actions: Any, last: Any, rewards: Any, events: Any, payoffs: Any) -> None:
    for game in range(actions.shape[0]):
        for agent in range(2):
            outcome = 2 * actions[game, agent] + actions[game, 1 - agent]
            last[game, agent] = outcome
            rewards[game, agent] = payoffs[outcome]
            events[game, 0, agent] = 1 - actions[game, agent]


@njit(cache=True, nogil=True)
def _observe(last: Any, games: Any, out: Any) -> None:
    for game in range(last.shape[0]):
        if games[game]:
            out[game] = 0
            for agent in range(2):
                out[game, agent, last[game, agent]] = 1


class MatrixGame(Game):
    """An iterated symmetric 2x2 game."""

    Parameters = MatrixGameParameters
    parameters: MatrixGameParameters
    event_names = ("cooperations",)
    cooperation: ClassVar = {"cooperation_rate": Share("cooperations")}
    fully_observed = True
    action_names = ("cooperate", "defect")

    def setup(self) -> None:
        self.observation_space = Box(0, 1, (5,), np.uint8)
        self.last = self.array("last", (2,), np.int8)
        self._payoffs = np.array(self.parameters.payoffs, np.float32)

    def start(self, games: NDArray[np.bool_]) -> None:
        self.last[games] = 4

    def advance(self, actions: NDArray[np.int64], rewards: NDArray[np.float32], events: NDArray[np.uint8]) -> None:
        self.run(_advance, (actions, self.last, rewards, events), self._payoffs)

    def observe(self, out: NDArray[np.uint8], games: NDArray[np.bool_]) -> None:
        self.run(_observe, (self.last, games, out))

    def render(self, game: int = 0) -> NDArray[np.uint8]:
        """Two squares, green where the agent cooperated last, red where it defected, grey at the start."""
        colours = np.array([[60, 160, 90], [60, 160, 90], [200, 60, 60], [200, 60, 60], [130, 130, 130]], np.uint8)
        picture = np.full((48, 96, 3), 255, np.uint8)
        for agent in range(2):
            picture[4:44, 4 + 48 * agent : 44 + 48 * agent] = colours[self.last[game, agent]]
        return picture


class IteratedPrisonersDilemma(MatrixGame):
    """The iterated prisoner's dilemma with the payoffs of either paper."""

    Parameters = PrisonersDilemmaParameters
