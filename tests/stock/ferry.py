"""A user's own environment: unlike spaces, an agent that leaves early, one that joins late, and always the same returns."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete
from ray.rllib.env.multi_agent_env import MultiAgentEnv

RETURNS = {"captain": 6.0, "deckhand": 1.0, "passenger_2": 0.0, "passenger_10": -2.0}
"""What each agent is paid in an episode, whatever it does."""


class Ferry(MultiAgentEnv):
    """A crossing of six steps: passenger_2 leaves after the second, the deckhand comes in with the third."""

    def __init__(self, env_config: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.possible_agents = ["passenger_10", "captain", "deckhand", "passenger_2"]
        self.agents = self.possible_agents
        seen: dict[str, Any] = {agent: Box(-1, 1, (3,), np.float32) for agent in self.possible_agents}
        self.observation_spaces = {**seen, "deckhand": Box(0, 1, (4,), np.float32)}
        if (env_config or {}).get("rich"):
            self.observation_spaces["deckhand"] = Box(0, 255, (2, 2), np.uint8)
            self.observation_spaces["captain"] = Dict(depth=Box(0, 1, (2,), np.float32), wind=Discrete(4))
        self.action_spaces = {agent: Discrete(3 if "_" in agent else len(agent)) for agent in self.possible_agents}
        self.time = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.time = 0
        if seed is not None:
            for space in self.observation_spaces.values():
                space.seed(seed)
        return self._look(), {}

    def step(self, action_dict: dict[str, Any]) -> Any:
        assert set(action_dict) == self._aboard()
        rewards = {agent: RETURNS[agent] / {"deckhand": 4, "passenger_2": 2}.get(agent, 6) for agent in action_dict}
        self.time += 1
        seen = (
            self._look() if self.time < 6 else {agent: self.observation_spaces[agent].sample() for agent in action_dict}
        )
        dead = {}
        if self.time == 2:
            seen["passenger_2"], dead = self.observation_spaces["passenger_2"].sample(), {"passenger_2": True}
        return seen, rewards, {**dead, "__all__": False}, {"__all__": self.time == 6}, {}

    def _look(self) -> dict[str, Any]:
        return {agent: self.observation_spaces[agent].sample() for agent in sorted(self._aboard())}

    def _aboard(self) -> set[str]:
        aboard = {"captain", "passenger_10"}
        return aboard | ({"passenger_2"} if self.time < 2 else {"deckhand"})
