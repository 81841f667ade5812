"""A PettingZoo environment of a user's that raises, or never ends, on purpose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import ray
from gymnasium.spaces import Box, Discrete
from pettingzoo import ParallelEnv


def in_another_process() -> bool:
    """Whether this is a runner's process, not the one that the user started."""
    return ray.is_initialized() and ray.get_runtime_context().get_actor_id() is not None


class Broken(ParallelEnv):
    """Raises KeyError("agent_7").

    Args:
        when: "made" (on other machines only), "reset", "step" (the fourth one) or "never".
        once: a file; nothing is raised before it is there.
        length: the step in which episodes end; None: they do not.
    """

    def __init__(self, when: str = "step", once: str | None = None, length: int | None = None) -> None:
        self.metadata = {"name": "broken"}
        self.possible_agents = ["ann", "bob"]
        self.when, self.once, self.length = when, once, length
        if when == "made" and in_another_process():
            self.fail()

    def observation_space(self, agent: str) -> Box:
        return Box(0, 1, (3,), np.float32)

    def action_space(self, agent: str) -> Discrete:
        return Discrete(2)

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        self.time, self.agents = 0, list(self.possible_agents)
        if self.when == "reset":
            self.fail()
        return self.look(), {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, int]) -> Any:
        self.time += 1
        if self.when == "step" and self.time == 4 and (self.once is None or Path(self.once).exists()):
            self.fail()
        over = self.time == self.length
        seen, none = self.look(), dict.fromkeys(self.agents, False)
        if over:
            self.agents = []
        return seen, dict.fromkeys(none, 1.0), none, dict.fromkeys(none, over), {agent: {} for agent in none}

    def look(self) -> dict[str, np.ndarray]:
        return {agent: np.zeros(3, np.float32) for agent in self.agents}

    def fail(self) -> None:
        raise KeyError("agent_7")
