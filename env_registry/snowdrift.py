"""Snowdrift: removing a snowdrift helps everybody and costs only the one who does it (LASE, sequential snowdrift game).

Actions: 4 moves, stay, remove (on the agent's own cell). Drifts do not come back. With the paper's numbers (4 agents, 6 drifts,
+6 for everybody, -4 for the remover) the group can earn 6 (4 * 6 - 4) = 120.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray
from pydantic import Field, model_validator

from env_registry.game import Share
from env_registry.grid import GridParameters, GridWorld, clear, move, place_agents, random_free_cell
from env_registry.random_streams import shuffle

REMOVE = 5


class SnowdriftParameters(GridParameters):
    """Rules of Snowdrift. Preset "lase" is the paper's game; the numbers of its "extended" game are not known, these are ours."""

    presets: ClassVar = {
        "lase": {},
        "extended": {
            "num_agents": 8,
            "height": 12,
            "width": 12,
            "window_radius": 3,
            "drifts": 12,
            "episode_length": 100,
        },
    }

    preset: Literal["lase", "extended"] = Field("lase", description="the paper's game, or 8 players on a larger map")
    episode_length: int = Field(50, ge=1, description="steps until a game is cut off")
    blocking: bool = Field(True, description="whether a cell holds one agent only")
    drifts: int = Field(6, ge=1, description="snowdrifts at the start, on different cells")
    removal_reward: float = Field(6.0, description="to every agent, for each drift that is removed")
    removal_cost: float = Field(4.0, description="to the agent that removes a drift")
    ends_when_cleared: bool = Field(
        True, description="whether a game ends with its last drift; if not, the agents walk about until the time limit"
    )

    @model_validator(mode="after")
    def _fits(self) -> SnowdriftParameters:
        cells = self.height * self.width
        self.require(
            self.drifts <= cells,
            f"drifts = {self.drifts} is more than the map's {cells} cells",
            "lower it or enlarge the map (height, width)",
        )
        self.require_room(cells, "the map")
        return self


@njit(cache=True, nogil=True)
def _start(games: Any, streams: Any, board: Any, cells: Any, drifts_left: Any, drifts: Any, blocking: Any) -> None:
    num_cells = board.shape[1] - 2
    drift_bit = 1 << cells.shape[1]
    for game in range(games.shape[0]):
        if games[game]:
            clear(board, game)
            for drift in range(drifts):
                cell = random_free_cell(board, game, 0, num_cells, drift_bit, num_cells - drift, streams)
                board[game, cell] |= drift_bit
            drifts_left[game] = drifts
            place_agents(board, cells, game, 0, num_cells, blocking, streams)


@njit(cache=True, nogil=True)
def _advance(
    actions: Any,
    streams: Any,
    board: Any,
    cells: Any,
    drifts_left: Any,
    terminated: Any,
    rewards: Any,
    events: Any,
    destination: Any,
    blocking: Any,
    removal_reward: Any,
    removal_cost: Any,
    ends_when_cleared: Any,
) -> None:
    num_games, num_agents = actions.shape
    drift_bit = 1 << num_agents
    order = np.empty(num_agents, np.int64)
    for game in range(num_games):
        removed = 0
        shuffle(order, streams, game)
        for agent in order:
            cell, action = cells[game, agent], actions[game, agent]
            if action == REMOVE:
                if board[game, cell] & drift_bit:
                    board[game, cell] ^= drift_bit
                    removed += 1
                    rewards[game, agent] -= removal_cost
                    events[game, 0, agent] = 1
            else:
                move(board, cells, game, agent, destination[cell, action], blocking)
        if removed > 0:
            for agent in range(num_agents):
                rewards[game, agent] += removed * removal_reward
            drifts_left[game] -= removed
            terminated[game] = ends_when_cleared and drifts_left[game] == 0


class Snowdrift(GridWorld):
    """Somebody has to remove the snowdrifts, and everybody would rather it were another."""

    Parameters = SnowdriftParameters
    parameters: SnowdriftParameters
    event_names = ("drifts_removed",)
    cooperation: ClassVar = {"removal_rate": Share("drifts_removed")}

    def setup(self) -> None:
        self.lay_out({"drift": (130, 160, 215)}, ("stay", "remove"))
        self.drifts_left = self.array("drifts_left", (), np.int32)

    def start(self, games: NDArray[np.bool_]) -> None:
        per_game = (games, self.streams, self.board, self.cells, self.drifts_left)
        self.run(_start, per_game, self.parameters.drifts, self.parameters.blocking)

    def advance(self, actions: NDArray[np.int64], rewards: NDArray[np.float32], events: NDArray[np.uint8]) -> None:
        rules = self.parameters
        self.run(
            _advance,
            (actions, self.streams, self.board, self.cells, self.drifts_left, self.terminated, rewards, events),
            self.destination,
            rules.blocking,
            rules.removal_reward,
            rules.removal_cost,
            rules.ends_when_cleared,
        )
