"""Stag hunt: a hare can be had alone, a stag only together, and it is worth more (LASE, sequential stag hunt).

Prey stands still, on different cells, and does not come back. All agents that hunt the same prey in the same step share its
reward equally; a stag needs several of them. A successful hunter leaves the map, and sees nothing from then on. A game ends when
nobody or no prey is left.

Rule "explicit" (the paper's, 8x8): actions are 4 moves, stay, hunt hare, hunt stag; the last two on the prey's cell.
Rule "wait" (the authors' later one, 5x5): actions are 4 moves and stay; staying on the cell of prey hunts it. A move against the
map's edge is no staying.
With the paper's numbers (4 agents, 2 stags worth 10) the group can earn 20.
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

STAY, HUNT_HARE, HUNT_STAG = 4, 5, 6


class StagHuntParameters(GridParameters):
    """Rules of the stag hunt. Each preset is a rule with its map: "explicit" 8x8, "wait" 5x5."""

    presets: ClassVar = {
        "explicit": {},
        "wait": {"rule": "wait", "height": 5, "width": 5},
    }

    preset: Literal["explicit", "wait"] = Field("explicit", description="a rule with its map size")
    rule: Literal["explicit", "wait"] = Field(
        "explicit", description="hunting by actions of its own, or by staying on prey"
    )
    episode_length: int = Field(30, ge=1, description="steps until a game is cut off")
    stags: int = Field(2, ge=0, description="stags at the start")
    hares: int = Field(4, ge=0, description="hares at the start")
    stag_reward: float = Field(10.0, description="for a stag, shared equally by its hunters")
    hare_reward: float = Field(1.0, description="for a hare, shared equally by its hunters")
    hunters_needed: int = Field(2, ge=1, description="simultaneous hunters that a stag needs at least")

    @model_validator(mode="after")
    def _fits(self) -> StagHuntParameters:
        cells = self.height * self.width
        self.require(self.stags + self.hares >= 1, "stags = 0 and hares = 0 leave nothing to hunt", "raise one of them")
        self.require(
            self.stags + self.hares <= cells,
            f"stags = {self.stags} and hares = {self.hares} are more than the map's {cells} cells",
            "lower them or enlarge the map (height, width)",
        )
        self.require(
            self.hunters_needed <= self.num_agents,
            f"hunters_needed = {self.hunters_needed} is more than num_agents = {self.num_agents}",
            "lower it, or no stag can be hunted",
        )
        self.require(
            not self.blocking or self.hunters_needed == 1,
            f"hunters_needed = {self.hunters_needed} agents that block each other cannot stand on a stag's cell",
            "set blocking = False or hunters_needed = 1",
        )
        self.require_room(cells, "the map")
        return self


@njit(cache=True, nogil=True)
def _start(
    games: Any, streams: Any, board: Any, cells: Any, prey_left: Any, stags: Any, hares: Any, blocking: Any
) -> None:
    num_cells = board.shape[1] - 2
    stag_bit, hare_bit = 1 << cells.shape[1], 2 << cells.shape[1]
    for game in range(games.shape[0]):
        if games[game]:
            clear(board, game)
            for prey in range(stags + hares):
                cell = random_free_cell(board, game, 0, num_cells, stag_bit | hare_bit, num_cells - prey, streams)
                board[game, cell] |= stag_bit if prey < stags else hare_bit
            prey_left[game] = stags + hares
            place_agents(board, cells, game, 0, num_cells, blocking, streams)


@njit(cache=True, nogil=True)
def _advance(
    actions: Any,
    streams: Any,
    board: Any,
    cells: Any,
    prey_left: Any,
    alive: Any,
    terminated: Any,
    rewards: Any,
    events: Any,
    destination: Any,
    blocking: Any,
    waiting_hunts: Any,
    stag_reward: Any,
    hare_reward: Any,
    hunters_needed: Any,
) -> None:
    num_games, num_agents = actions.shape
    nowhere = board.shape[1] - 1
    stag_bit, hare_bit = 1 << num_agents, 2 << num_agents
    order = np.empty(num_agents, np.int64)
    quarry = np.empty(num_agents, np.int64)  # what each agent hunts: stag_bit, hare_bit or 0
    for game in range(num_games):
        anybody_hunts = False
        shuffle(order, streams, game)
        for agent in order:
            cell, action = cells[game, agent], actions[game, agent]
            move(board, cells, game, agent, destination[cell, action], blocking)
            wanted = 0
            if waiting_hunts:
                if action == STAY:
                    wanted = stag_bit | hare_bit
            elif action == HUNT_STAG:
                wanted = stag_bit
            elif action == HUNT_HARE:
                wanted = hare_bit
            quarry[agent] = board[game, cell] & wanted  # at the cell it stood on; hunters do not move
            anybody_hunts |= quarry[agent] != 0
        if not anybody_hunts:
            continue
        for agent in range(num_agents):
            hunters = 0
            for other in range(num_agents):
                hunters += quarry[other] != 0 and cells[game, other] == cells[game, agent]
            if quarry[agent] == stag_bit and hunters >= hunters_needed:
                rewards[game, agent] = stag_reward / hunters
                events[game, 0, agent] = 1
            elif quarry[agent] == hare_bit:
                rewards[game, agent] = hare_reward / hunters
                events[game, 1, agent] = 1
        survivors = 0
        for agent in range(num_agents):
            if events[game, 0, agent] or events[game, 1, agent]:
                cell = cells[game, agent]
                if board[game, cell] & quarry[agent]:
                    board[game, cell] ^= quarry[agent]
                    prey_left[game] -= 1
                board[game, cell] ^= 1 << agent
                cells[game, agent] = nowhere
                alive[game, agent] = False
            survivors += alive[game, agent]
        terminated[game] = survivors == 0 or prey_left[game] == 0


class StagHunt(GridWorld):
    """Agents that can go for a hare alone or trust each other to hunt a stag."""

    Parameters = StagHuntParameters
    parameters: StagHuntParameters
    event_names = ("stags", "hares")
    cooperation: ClassVar = {"stag_share": Share("stags", of=("stags", "hares"))}

    def setup(self) -> None:
        hunting = ("hunt hare", "hunt stag") if self.parameters.rule == "explicit" else ()
        self.lay_out({"stag": (120, 70, 40), "hare": (200, 170, 120)}, ("stay", *hunting))
        self.prey_left = self.array("prey_left", (), np.int32)

    def start(self, games: NDArray[np.bool_]) -> None:
        rules = self.parameters
        per_game = (games, self.streams, self.board, self.cells, self.prey_left)
        self.run(_start, per_game, rules.stags, rules.hares, rules.blocking)

    def advance(self, actions: NDArray[np.int64], rewards: NDArray[np.float32], events: NDArray[np.uint8]) -> None:
        rules = self.parameters
        self.run(
            _advance,
            (
                actions,
                self.streams,
                self.board,
                self.cells,
                self.prey_left,
                self.alive,
                self.terminated,
                rewards,
                events,
            ),
            self.destination,
            rules.blocking,
            rules.rule == "wait",
            rules.stag_reward,
            rules.hare_reward,
            rules.hunters_needed,
        )
