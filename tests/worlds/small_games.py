"""Games that are small enough to know what they have to show."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, Space
from numpy.typing import NDArray
from pettingzoo import ParallelEnv

from env_registry import Game, GameParameters


class ScriptedGame(ParallelEnv):
    """Agents see [a number drawn from the seed, the clock]; agent number i earns 10 i + the clock; who plays when is given.

    Args:
        deaths: agent -> the step in which it dies.
        length: the step in which the others are cut off.
        joins: agent -> the step in which it comes in.
        forgets: False for a game whose second episode is another one than its first, whatever the seed.
    """

    event_names = ("odd_actions",)

    def __init__(
        self,
        deaths: dict[str, int] | None = None,
        length: int = 5,
        joins: dict[str, int] | None = None,
        forgets: bool = True,
        render_mode: str | None = None,
    ) -> None:
        self.metadata = {"name": "scripted_game", "render_modes": ["rgb_array"]}
        self.render_mode = render_mode
        self.deaths, self.length, self.joins, self.forgets = deaths or {}, length, joins or {}, forgets
        self.episodes = 0
        self.possible_agents = ["ann", "bob", "cid"]
        self.spaces = {agent: Box(0, 10, (2,), np.float32) for agent in self.possible_agents}
        self.choices = {agent: Discrete(4) for agent in self.possible_agents}
        self.random = np.random.default_rng()

    def observation_space(self, agent: str) -> Box:
        return self.spaces[agent]

    def action_space(self, agent: str) -> Discrete:
        return self.choices[agent]

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        if seed is not None:
            self.random = np.random.default_rng(seed)
        self.number, self.clock = self.random.random() + (0 if self.forgets else self.episodes), 0
        self.episodes += 1
        self.agents = [agent for agent in self.possible_agents if agent not in self.joins]
        return self.look(), {agent: {} for agent in self.agents}

    def look(self) -> dict:
        return {agent: np.array([self.number, self.clock], np.float32) for agent in self.agents}

    def step(self, actions: dict) -> tuple[dict, dict, dict, dict, dict]:
        assert set(actions) == set(self.agents)
        self.clock += 1
        rewards = {agent: 10.0 * self.possible_agents.index(agent) + self.clock for agent in self.agents}
        dead = {agent: self.deaths.get(agent) == self.clock for agent in self.agents}
        cut_off = {agent: self.clock == self.length and not dead[agent] for agent in self.agents}
        infos = {agent: {"events": {"odd_actions": int(actions[agent]) % 2}} for agent in self.agents}
        self.agents += [agent for agent, clock in self.joins.items() if clock == self.clock]
        seen = self.look()
        self.agents = [agent for agent in self.agents if not dead.get(agent) and not cut_off.get(agent)]
        return seen, rewards, dead, cut_off, infos

    def render(self) -> NDArray[np.uint8]:
        return np.full((4, 4, 3), self.clock, np.uint8)


class UnlikeGame(ParallelEnv):
    """Agents with unlike spaces, which see and do whatever these give them at random; one step long or more.

    Args:
        sees: agent -> observation space.
        does: agent -> action space.
        reward: what everybody gets in every step.
        repeats: False for a game that plays differently after the same seed.
    """

    render_mode = None

    def __init__(
        self,
        sees: dict[str, Space[Any]],
        does: dict[str, Space[Any]],
        length: int = 5,
        reward: float = 1.0,
        repeats: bool = True,
    ) -> None:
        self.metadata = {"name": "unlike_game", "render_modes": []}
        self.sees, self.does, self.length, self.reward, self.repeats = sees, does, length, reward, repeats
        self.possible_agents = list(sees)
        self.done: list[dict] = []

    def observation_space(self, agent: str) -> Space[Any]:
        return self.sees[agent]

    def action_space(self, agent: str) -> Space[Any]:
        return self.does[agent]

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        for number, space in enumerate(self.sees.values()):
            space.seed(seed + number if seed is not None and self.repeats else None)
        self.agents, self.clock = list(self.possible_agents), 0
        return self.look(), {agent: {} for agent in self.agents}

    def look(self) -> dict:
        self.seen = {agent: self.sees[agent].sample() for agent in self.agents}
        return self.seen

    def step(self, actions: dict) -> tuple[dict, dict, dict, dict, dict]:
        self.done.append(actions)
        self.clock += 1
        agents, over = self.agents, self.clock == self.length
        answer: tuple[dict, dict, dict, dict, dict] = (
            self.look(),
            dict.fromkeys(agents, self.reward),
            dict.fromkeys(agents, False),
            dict.fromkeys(agents, over),
            {agent: {} for agent in agents},
        )
        self.agents = [] if over else agents
        return answer


def unlike_game(length: int = 5) -> UnlikeGame:
    """A vector, a dictionary and a number are seen; two, three and five actions are known, the last from 7 on."""
    sees = {
        "vector": Box(-1, 1, (3,), np.float64),
        "mapping": Dict({"picture": Box(0, 9, (2, 2), np.int32), "side": Discrete(3)}),
        "number": Discrete(4),
    }
    return UnlikeGame(sees, {"vector": Discrete(2), "mapping": Discrete(3), "number": Discrete(5, start=7)}, length)


class FadingParameters(GameParameters):
    num_agents: int = 3
    episode_length: int = 4
    picture: tuple[int, int, int] | None = None


class FadingWorld(Game):
    """A batched world in which agent i leaves with step i + 1, and all is over when nobody is left.

    Everybody sees the clock and the own number, as a vector or as the first two channels of a picture of the given shape.
    """

    Parameters = FadingParameters
    parameters: FadingParameters
    event_names = ("steps",)
    action_names = ("stay", "go")

    def setup(self) -> None:
        self.observation_space = Box(0, 255, self.parameters.picture or (2,), np.uint8)

    def start(self, games: NDArray[np.bool_]) -> None:
        """Nothing but the clock and the alive mask, which `Game` keeps."""

    def advance(self, actions: NDArray[np.int64], rewards: NDArray[np.float32], events: NDArray[np.uint8]) -> None:
        rewards[:] = self.alive * (1 + actions)
        events[:, 0] = self.alive
        self.alive &= np.arange(self.num_agents) > self.clock[:, None]
        self.terminated[:] = ~self.alive.any(axis=1)

    def observe(self, out: NDArray[np.uint8], games: NDArray[np.bool_]) -> None:
        out[games] = 0
        for game in np.flatnonzero(games):
            for agent in range(self.num_agents):
                out[game, agent, 0] = self.clock[game]
                out[game, agent, 1] = agent

    def render(self, game: int = 0) -> NDArray[np.uint8]:
        return np.zeros((4, 4, 3), np.uint8)
