"""Cleanup: apples grow in the orchard only while somebody cleans the river, which pays nothing (LASE, Cleanup).

The river is the top rows, the orchard the bottom rows; agents start in the rows between. Actions: 4 moves, stay, clean, pick; the
last two work on the agent's own cell. A step: agents act in random order, then waste may appear in the river, then an apple in
the orchard, with a probability that falls with the waste there is.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray
from pydantic import Field, model_validator

from env_registry.game import Share
from env_registry.grid import GridParameters, GridWorld, clear, move, place_agents, random_free_cell
from env_registry.random_streams import shuffle, uniform

CLEAN, PICK = 5, 6


class CleanupParameters(GridParameters):
    """Rules of Cleanup. Preset "lase" is the paper's game; the numbers of its "extended" game are not known, these are ours."""

    presets: ClassVar = {
        "lase": {},
        "extended": {
            "num_agents": 8,
            "height": 12,
            "width": 12,
            "window_radius": 3,
            "river_rows": 3,
            "orchard_rows": 3,
            "initial_waste": 16,
            "max_waste": 16,
            "spawns_per_step": 2,
            "episode_length": 200,
        },
    }

    preset: Literal["lase", "extended"] = Field("lase", description="the paper's game, or 8 players on a larger map")
    river_rows: int = Field(2, ge=1, description="rows of the river, at the top")
    orchard_rows: int = Field(2, ge=1, description="rows of the orchard, at the bottom")
    initial_waste: int = Field(8, ge=0, description="waste cells at the start")
    max_waste: int = Field(8, ge=1, description="waste cells from which on no more appear and no apple grows")
    waste_probability: float = Field(0.1, ge=0, le=1, description="of new waste, while there is less than max_waste")
    apple_probability: float = Field(
        1.0, ge=0, le=1, description="of a new apple with a clean river; falls to 0 at max_waste"
    )
    spawns_per_step: int = Field(1, ge=1, le=16, description="how often a step draws for new waste and for a new apple")
    apple_reward: float = Field(1.0, description="for picking an apple")
    cleaning_cost: float = Field(0.0, description="for cleaning a waste cell")

    @model_validator(mode="after")
    def _fits(self) -> CleanupParameters:
        start_rows = self.height - self.river_rows - self.orchard_rows
        self.require(
            start_rows >= 1,
            f"river_rows = {self.river_rows} and orchard_rows = {self.orchard_rows} leave no row between them to start in",
            f"height = {self.height} must be larger than their sum",
        )
        self.require(
            self.max_waste <= self.river_rows * self.width,
            f"max_waste = {self.max_waste} is more than the river's {self.river_rows * self.width} cells",
            "lower it, or make the river larger (river_rows, width)",
        )
        self.require(
            self.initial_waste <= self.max_waste,
            f"initial_waste = {self.initial_waste} is more than max_waste = {self.max_waste}",
            "lower it or raise max_waste",
        )
        self.require_room(start_rows * self.width, "the rows between river and orchard")
        return self


@njit(cache=True, nogil=True)
def _start(
    games: Any,
    streams: Any,
    board: Any,
    cells: Any,
    counts: Any,
    river: Any,
    orchard: Any,
    blocking: Any,
    initial_waste: Any,
) -> None:
    waste_bit = 1 << cells.shape[1]
    for game in range(games.shape[0]):
        if games[game]:
            clear(board, game)
            for waste in range(initial_waste):
                board[game, random_free_cell(board, game, 0, river, waste_bit, river - waste, streams)] |= waste_bit
            counts[game, 0] = initial_waste
            counts[game, 1] = 0
            place_agents(board, cells, game, river, orchard, blocking, streams)


@njit(cache=True, nogil=True)
def _advance(
    actions: Any,
    streams: Any,
    board: Any,
    cells: Any,
    counts: Any,
    rewards: Any,
    events: Any,
    destination: Any,
    blocking: Any,
    river: Any,
    orchard: Any,
    max_waste: Any,
    waste_probability: Any,
    apple_probability: Any,
    spawns_per_step: Any,
    apple_reward: Any,
    cleaning_cost: Any,
) -> None:
    num_games, num_agents = actions.shape
    num_cells = board.shape[1] - 2
    waste_bit, apple_bit = 1 << num_agents, 2 << num_agents
    order = np.empty(num_agents, np.int64)
    for game in range(num_games):
        waste, apples = counts[game, 0], counts[game, 1]
        shuffle(order, streams, game)
        for agent in order:
            cell, action = cells[game, agent], actions[game, agent]
            if action == CLEAN:
                if board[game, cell] & waste_bit:
                    board[game, cell] ^= waste_bit
                    waste -= 1
                    rewards[game, agent] -= cleaning_cost
                    events[game, 0, agent] = 1
            elif action == PICK:
                if board[game, cell] & apple_bit:
                    board[game, cell] ^= apple_bit
                    apples -= 1
                    rewards[game, agent] += apple_reward
                    events[game, 1, agent] = 1
            else:
                move(board, cells, game, agent, destination[cell, action], blocking)
        for _ in range(spawns_per_step):
            if waste < max_waste and uniform(streams, game) < waste_probability:
                board[game, random_free_cell(board, game, 0, river, waste_bit, river - waste, streams)] |= waste_bit
                waste += 1
            room = num_cells - orchard - apples
            if room > 0 and uniform(streams, game) < apple_probability * (1 - waste / max_waste):
                board[game, random_free_cell(board, game, orchard, num_cells, apple_bit, room, streams)] |= apple_bit
                apples += 1
        counts[game, 0], counts[game, 1] = waste, apples


class Cleanup(GridWorld):
    """Agents eat apples, or clean the river so that there are any."""

    Parameters = CleanupParameters
    parameters: CleanupParameters
    event_names = ("waste_cleaned", "apples_eaten")
    cooperation: ClassVar = {"cleaning_rate": Share("waste_cleaned")}

    def setup(self) -> None:
        rules = self.parameters
        self.lay_out({"waste": (120, 80, 40), "apple": (90, 190, 60)}, ("stay", "clean", "pick"))
        self.counts = self.array("counts", (2,), np.int32)  # waste, apples
        self._river = rules.river_rows * rules.width  # cells before this one
        self._orchard = self.num_cells - rules.orchard_rows * rules.width  # cells from this one on

    def start(self, games: NDArray[np.bool_]) -> None:
        rules = self.parameters
        per_game = (games, self.streams, self.board, self.cells, self.counts)
        self.run(_start, per_game, self._river, self._orchard, rules.blocking, rules.initial_waste)

    def advance(self, actions: NDArray[np.int64], rewards: NDArray[np.float32], events: NDArray[np.uint8]) -> None:
        rules = self.parameters
        self.run(
            _advance,
            (actions, self.streams, self.board, self.cells, self.counts, rewards, events),
            self.destination,
            rules.blocking,
            self._river,
            self._orchard,
            rules.max_waste,
            rules.waste_probability,
            rules.apple_probability,
            rules.spawns_per_step,
            rules.apple_reward,
            rules.cleaning_cost,
        )

    def ground(self) -> NDArray[np.uint8]:
        ground = super().ground()
        ground[: self.parameters.river_rows] = (150, 195, 230)
        ground[-self.parameters.orchard_rows :] = (215, 235, 190)
        return ground
