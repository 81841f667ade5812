"""Games that forbid actions, and stop with an error where something forbidden is done."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, Space
from numpy.typing import NDArray
from pettingzoo import ParallelEnv

from env_registry import Game, GameParameters


class MaskedGame(ParallelEnv):
    """In each step, each agent may do some of its actions, drawn from the seed; the lowest of them earns 1, all others nothing.

    Args:
        where: the mask is in the observation, beside what is seen under this name; or in "infos".
        length: steps.
        choices: numbers of actions, one for each agent.
        stuck: the step before which the first agent may do nothing.
        deaths: agent -> the step in which it dies.
        start: number of the first action.
        lenient: forbidden actions earn -1, and are no error.
    """

    def __init__(
        self,
        where: str = "observation",
        length: int = 9,
        choices: tuple[int, ...] = (3, 3),
        stuck: int | None = None,
        deaths: dict[str, int] | None = None,
        start: int = 0,
        lenient: bool = False,
    ) -> None:
        self.metadata = {"name": "masked_game", "render_modes": []}
        self.render_mode = None
        self.where, self.length, self.stuck, self.deaths, self.lenient = where, length, stuck, deaths or {}, lenient
        self.possible_agents = [f"player_{number}" for number in range(len(choices))]
        self.does = {a: Discrete(n, start=start) for a, n in zip(self.possible_agents, choices, strict=True)}
        self.random = np.random.default_rng()

    def observation_space(self, agent: str) -> Space[Any]:
        seen = Box(0, 1, (2,), np.float32)
        choices = int(self.does[agent].n)
        return seen if self.where == "infos" else Dict({self.where: seen, "action_mask": MultiBinary(choices)})

    def action_space(self, agent: str) -> Discrete:
        return self.does[agent]

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        if seed is not None:
            self.random = np.random.default_rng(seed)
        self.agents, self.clock = list(self.possible_agents), 0
        return self.look()

    def look(self) -> tuple[dict, dict]:
        self.masks = {}
        for agent in self.agents:
            mask = self.random.random(int(self.does[agent].n)) < 0.4
            mask[self.random.integers(len(mask))] = True
            self.masks[agent] = mask.astype(np.int8) * (self.stuck != self.clock or agent != self.possible_agents[0])
        seen = {a: np.array([self.clock / self.length, a == "player_0"], np.float32) for a in self.agents}
        if self.where == "infos":
            return seen, {agent: {"action_mask": self.masks[agent]} for agent in self.agents}
        together = {a: {self.where: seen[a], "action_mask": self.masks[a]} for a in self.agents}
        return together, {agent: {} for agent in self.agents}

    def step(self, actions: dict) -> tuple[dict, dict, dict, dict, dict]:
        rewards = {}
        for agent, action in actions.items():
            number = int(action) - int(self.does[agent].start)
            allowed = bool(self.masks[agent][number])
            assert allowed or self.lenient, f"{agent} did {number}, allowed was {self.masks[agent]}"
            rewards[agent] = float(number == self.masks[agent].argmax()) if allowed else -1.0
        self.clock += 1
        here, over = list(self.agents), self.clock == self.length
        dead = {agent: self.deaths.get(agent) == self.clock for agent in here}
        seen, infos = self.look()
        self.agents = [] if over else [agent for agent in here if not dead[agent]]
        return seen, rewards, dead, {agent: over and not dead[agent] for agent in here}, infos


class LocksParameters(GameParameters):
    num_agents: int = 3
    episode_length: int = 5


class Locks(Game):
    """A batched world: agent i may do all but action (clock + i) mod 4. Everybody sees the clock and the own number."""

    Parameters = LocksParameters
    parameters: LocksParameters
    action_names = ("north", "east", "south", "west")
    action_masks: NDArray[np.bool_]

    def setup(self) -> None:
        self.observation_space = Box(0, 255, (2,), np.uint8)
        self.action_masks = self.array("action_masks", (self.num_agents, 4), np.bool_)

    def _lock(self, games: NDArray[np.bool_], clock: NDArray[np.int32]) -> None:
        locked = (clock[:, None] + np.arange(self.num_agents)) % 4
        self.action_masks[games] = (np.arange(4) != locked[..., None])[games]

    def start(self, games: NDArray[np.bool_]) -> None:
        self._lock(games, self.clock)

    def advance(self, actions: NDArray[np.int64], rewards: NDArray[np.float32], events: NDArray[np.uint8]) -> None:
        assert np.take_along_axis(self.action_masks, actions[..., None], -1).all()
        rewards[:] = actions
        self._lock(np.ones(self.num_games, np.bool_), self.clock + 1)

    def observe(self, out: NDArray[np.uint8], games: NDArray[np.bool_]) -> None:
        out[games, :, 0] = self.clock[games, None]
        out[games, :, 1] = np.arange(self.num_agents)

    def render(self, game: int = 0) -> NDArray[np.uint8]:
        return np.zeros((4, 4, 3), np.uint8)
