"""Coin game: every agent has a colour; taking any coin pays, and its owner pays for each coin that another takes.

Preset "lase" is the LASE paper's game: a bounded 5x5 map with one coin of random colour; of several agents on it, one at
random takes it. Preset "reciprocator" is the Reciprocators' game: a 3x3 torus, one coin per agent at all times; all agents on
a coin take it. In both, collecting coins whatever their colour pays nothing on average: an owner loses N / (N - 1) for each
other agent that takes its coin. Taken coins appear again in the same step on any cell, an agent's too, and can be taken from
the next step on.

Actions: 4 moves, and "stay" if the rules have it. Channels: agents (oneself first), coins (one's own colour first), off the map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray
from pydantic import Field, model_validator

from env_registry.game import Share
from env_registry.grid import GridParameters, GridWorld, View, agent_colours, clear, move, place_agents
from env_registry.random_streams import below, shuffle


class CoinGameParameters(GridParameters):
    """Rules of the coin game; the presets are those of the two papers."""

    presets: ClassVar = {
        "lase": {},
        "reciprocator": {
            "height": 3,
            "width": 3,
            "episode_length": 32,
            "torus": True,
            "stay": True,
            "coins": "one_each",
            "contested": "all",
        },
    }

    preset: Literal["lase", "reciprocator"] = Field("lase", description="whose game")
    num_agents: int = Field(2, ge=2, le=15, description="agents in a game")
    height: int = Field(5, ge=1, le=64, description="rows of the map")
    width: int = Field(5, ge=1, le=64, description="columns of the map")
    torus: bool = Field(False, description="whether the map's edges are joined")
    view: View = Field(
        "centred",
        description="windows move with the agent (on a torus the whole map, wrapping), or show the map as it is",
    )
    window_radius: int = Field(
        2, ge=0, le=16, description="cells seen in each direction; centred view of a bounded map only"
    )
    stay: bool = Field(False, description="whether there is an action to stay")
    coins: Literal["one", "one_each"] = Field(
        "one", description="one coin of random colour, or always one of each colour"
    )
    contested: Literal["one", "all"] = Field("one", description="who takes a coin that several agents step on")
    coin_reward: float = Field(1.0, description="for taking a coin of any colour")
    theft_penalty: float | None = Field(
        None,
        description="what an owner loses for each other agent that takes its coin; None: coin_reward * N / (N - 1)",
    )

    @model_validator(mode="after")
    def _fits(self) -> CoinGameParameters:
        self.require_room(self.height * self.width, "the map")
        return self


@njit(cache=True, inline="always")
def _drop_coin(board: Any, coins: Any, game: int, owner: int, streams: Any) -> None:
    num_agents = coins.shape[1]
    cell = below(streams, game, board.shape[1] - 2)
    coins[game, owner] = cell
    board[game, cell] |= 1 << (num_agents + owner)


@njit(cache=True, nogil=True)
def _start(games: Any, streams: Any, board: Any, cells: Any, coins: Any, one_coin: Any, blocking: Any) -> None:
    num_agents = cells.shape[1]
    num_cells = board.shape[1] - 2
    for game in range(games.shape[0]):
        if games[game]:
            clear(board, game)
            if one_coin:
                coins[game] = num_cells + 1
                _drop_coin(board, coins, game, below(streams, game, num_agents), streams)
            else:
                for owner in range(num_agents):
                    _drop_coin(board, coins, game, owner, streams)
            place_agents(board, cells, game, 0, num_cells, blocking, streams)


@njit(cache=True, nogil=True)
def _advance(
    actions: Any,
    streams: Any,
    board: Any,
    cells: Any,
    coins: Any,
    rewards: Any,
    events: Any,
    destination: Any,
    blocking: Any,
    one_coin: Any,
    one_taker: Any,
    coin_reward: Any,
    theft_penalty: Any,
) -> None:
    num_games, num_agents = actions.shape
    nowhere = board.shape[1] - 1
    anybody = (1 << num_agents) - 1
    order = np.empty(num_agents, np.int64)
    for game in range(num_games):
        shuffle(order, streams, game)
        for agent in order:
            move(board, cells, game, agent, destination[cells[game, agent], actions[game, agent]], blocking)
        for owner in range(num_agents):
            cell = coins[game, owner]
            if board[game, cell] & anybody == 0:
                continue
            taken = False
            for agent in order:
                if cells[game, agent] == cell and not (taken and one_taker):
                    taken = True
                    rewards[game, agent] += coin_reward
                    if agent == owner:
                        events[game, 0, agent] += 1
                    else:
                        events[game, 1, agent] += 1
                        rewards[game, owner] -= theft_penalty
            board[game, cell] ^= 1 << (num_agents + owner)
            coins[game, owner] = nowhere
            if one_coin:
                _drop_coin(board, coins, game, below(streams, game, num_agents), streams)
                break
            _drop_coin(board, coins, game, owner, streams)


class CoinGame(GridWorld):
    """Agents that had better leave each other's coins alone."""

    Parameters = CoinGameParameters
    parameters: CoinGameParameters
    event_names = ("own_coins", "other_coins")
    cooperation: ClassVar = {"own_coin_share": Share("own_coins", of=("own_coins", "other_coins"))}

    def setup(self) -> None:
        rules = self.parameters
        pale = 255 - (255 - agent_colours(rules.num_agents)) // 2
        coins: dict[str, Sequence[int]] = {
            f"coin {k}" if k else "own coin": tuple(colour) for k, colour in enumerate(pale)
        }
        self.lay_out(coins, ("stay",) if rules.stay else (), rules.torus, rules.view, owned=True)
        self.coins = self.array("coins", (rules.num_agents,), np.uint16)  # cell of each colour's coin
        self._theft_penalty = rules.theft_penalty
        if self._theft_penalty is None:
            self._theft_penalty = rules.coin_reward * rules.num_agents / (rules.num_agents - 1)

    def start(self, games: NDArray[np.bool_]) -> None:
        per_game = (games, self.streams, self.board, self.cells, self.coins)
        self.run(_start, per_game, self.parameters.coins == "one", self.parameters.blocking)

    def advance(self, actions: NDArray[np.int64], rewards: NDArray[np.float32], events: NDArray[np.uint8]) -> None:
        rules = self.parameters
        self.run(
            _advance,
            (actions, self.streams, self.board, self.cells, self.coins, rewards, events),
            self.destination,
            rules.blocking,
            rules.coins == "one",
            rules.contested == "one",
            rules.coin_reward,
            self._theft_penalty,
        )
