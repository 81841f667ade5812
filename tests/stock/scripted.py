"""Games whose agents end as a script says, for both paths: what is seen and paid does not depend on what is done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
from gymnasium.spaces import Box, Discrete
from pettingzoo import ParallelEnv
from ray.rllib.env.multi_agent_env import MultiAgentEnv

AGENTS = ("a", "b", "c")
LENGTH = 5

Script = Mapping[str, tuple[int, str]]
"""Agent -> the step (from 1) with which its part ends, and how: "dies" or "cut"."""

ENDS: dict[str, Script] = {
    "all cut off": {"a": (5, "cut"), "b": (5, "cut"), "c": (5, "cut")},
    "all die": {"a": (5, "dies"), "b": (5, "dies"), "c": (5, "dies")},
    "one dies as the others are cut off": {"a": (5, "dies"), "b": (5, "cut"), "c": (5, "cut")},
    "two die as the other is cut off": {"a": (5, "dies"), "b": (5, "dies"), "c": (5, "cut")},
    "two died before, one is cut off": {"a": (2, "dies"), "b": (3, "dies"), "c": (5, "cut")},
    "one died before, the others are cut off": {"a": (3, "dies"), "b": (5, "cut"), "c": (5, "cut")},
    "one died before, one dies, one is cut off": {"a": (2, "dies"), "b": (5, "dies"), "c": (5, "cut")},
    "one after the other dies": {"a": (2, "dies"), "b": (3, "dies"), "c": (5, "dies")},
}
LONE_LIMITS: dict[str, Script] = {
    "one was cut off before, the others die": {"a": (2, "cut"), "b": (5, "dies"), "c": (5, "dies")},
    "one was cut off before, the others are as well": {"a": (2, "cut"), "b": (5, "cut"), "c": (5, "cut")},
    "one after the other is cut off": {"a": (2, "cut"), "b": (3, "cut"), "c": (5, "cut")},
}


class Played(NamedTuple):
    """A step of the script."""

    observations: dict[str, Any]
    rewards: dict[str, float]
    died: dict[str, bool]
    cut: dict[str, bool]


class Scripted:
    """The script's game.

    Args:
        script: who ends when.
        constant: every observation is this and every reward 1; None: both differ from step to step and agent to agent.
    """

    def __init__(self, script: Script, constant: float | None = None) -> None:
        self.script, self.constant = script, constant
        self.time = 0

    def restart(self) -> dict[str, Any]:
        self.time = 0
        return self.look(list(self.script))

    def look(self, agents: Any) -> dict[str, Any]:
        values = {a: 0.1 * (self.time + 1) * (1 + AGENTS.index(a)) for a in agents}
        return {a: np.array([self.constant or values[a], -1], np.float32) for a in agents}

    def playing(self) -> list[str]:
        return [agent for agent, (step, _) in self.script.items() if step > self.time]

    def play(self) -> Played:
        there = self.playing()
        self.time += 1
        ending = {agent: how for agent in there for step, how in [self.script[agent]] if step == self.time}
        paid = {a: 1.0 if self.constant else self.time - 2.5 * AGENTS.index(a) for a in there}
        died, cut = ({agent: ending.get(agent) == how for agent in there} for how in ("dies", "cut"))
        return Played(self.look(there), paid, died, cut)


class ParallelScript(ParallelEnv):
    """As PettingZoo's parallel environments: each agent has its own flag."""

    metadata: ClassVar[dict[str, Any]] = {"name": "script"}
    render_mode = None

    def __init__(self, **settings: Any) -> None:
        self.game = Scripted(**settings)
        self.possible_agents = list(self.game.script)
        self.agents: list[str] = []
        self.spaces = {agent: Box(-100, 100, (2,), np.float32) for agent in AGENTS}, {a: Discrete(2) for a in AGENTS}

    def observation_space(self, agent: str) -> Any:
        return self.spaces[0][agent]

    def action_space(self, agent: str) -> Any:
        return self.spaces[1][agent]

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        observations = self.game.restart()
        self.agents = list(observations)
        return observations, {agent: {} for agent in self.agents}

    def step(self, actions: Any) -> Any:
        step = self.game.play()
        self.agents = self.game.playing()
        return *step, {agent: {} for agent in step.observations}


class UsersScript(MultiAgentEnv):
    """As users write RLlib's environments.

    Args:
        settings: of `Scripted`, and "flags": how the last step is said: "own" flags, by "all", or by "both".
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        self.flags = settings.get("flags", "own")
        self.game = Scripted(settings["script"], settings.get("constant"))
        self.possible_agents = list(self.game.script)
        self.agents = list(self.possible_agents)
        self.observation_spaces = {agent: Box(-100, 100, (2,), np.float32) for agent in self.agents}
        self.action_spaces = {agent: Discrete(2) for agent in self.agents}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return self.game.restart(), {}

    def step(self, action_dict: dict[str, Any]) -> Any:
        step = self.game.play()
        over = not self.game.playing()
        cut_off = over and any(step.cut.values())
        died, cut = dict(step.died), dict(step.cut)
        if over and self.flags == "all":
            died, cut = (died, {}) if cut_off else ({}, {})
        if self.flags == "own":
            over = cut_off = False
        return (
            step.observations,
            step.rewards,
            {**died, "__all__": over and not cut_off},
            {**cut, "__all__": cut_off},
            {},
        )
