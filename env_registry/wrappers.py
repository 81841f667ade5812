"""SuperSuit wrappers by name, so that an experiment file can ask for a frame stack or an agent indicator.

A wrapper is written as its name, as `{name: {argument: value}}`, or, in Python, as any function from environment to
environment.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from gymnasium.spaces import Box
from pettingzoo import ParallelEnv
from pettingzoo.utils.wrappers import BaseParallelWrapper

from env_registry.parameters import SettingError, unknown_name

Environment: TypeAlias = ParallelEnv[str, Any, Any]
Wrapper: TypeAlias = str | Mapping[str, Mapping[str, Any] | None] | Callable[[Environment], Environment]


class BlackDeath(BaseParallelWrapper[str, Any, Any]):
    """Agents that have left the game stay: they see zeros and earn nothing until the game is over for all.

    Stands in for `black_death_v3` of SuperSuit 3.11, which asks for agents to be terminated and truncated at once
    before it ends a game, so that every game goes on for one step of zeros too many.
    """

    def __init__(self, env: Environment) -> None:
        super().__init__(env)
        for agent in env.possible_agents:
            if not isinstance(env.observation_space(agent), Box):
                raise ValueError(
                    f"observations have to be boxes, those of {agent!r} are {env.observation_space(agent)}"
                )

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        observations, infos = self.env.reset(seed=seed, options=options)
        self.agents = list(self.env.possible_agents)
        return self._fill(observations), {agent: infos.get(agent, {}) for agent in self.agents}

    def step(
        self, actions: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        agents = list(self.agents)
        observations, rewards, terminations, truncations, infos = self.env.step(
            {agent: actions[agent] for agent in self.env.agents}
        )
        over = not self.env.agents
        cut_off = over and any(truncations[agent] and not terminations[agent] for agent in truncations)
        if over:
            self.agents = []
        return (
            self._fill(observations),
            {agent: rewards.get(agent, 0.0) for agent in agents},
            dict.fromkeys(agents, over and not cut_off),
            dict.fromkeys(agents, cut_off),
            {agent: infos.get(agent, {}) for agent in agents},
        )

    def _fill(self, observations: dict[str, Any]) -> dict[str, Any]:
        return {
            agent: observations[agent]
            if agent in observations
            else np.zeros_like(self.env.observation_space(agent).low)
            for agent in self.env.possible_agents
        }


def wrapped(env: Environment, wrappers: Sequence[Wrapper] | None) -> Environment:
    """Applies wrappers to a PettingZoo parallel environment, the first one innermost.

    Two things to know of SuperSuit 3.11: frame stacks hand out the same array at every step, so copy what is to be
    kept; and `frame_skip_v0` sums rewards but hands on the last frame's infos (and with them events) only.

    Raises:
        SettingError: SuperSuit has no such wrapper, or it refuses its arguments or this environment.
    """
    if isinstance(wrappers, (str, Mapping)):
        raise SettingError(f"'wrappers' = {wrappers!r}: a list of wrappers is needed, for instance [{wrappers!r}].")
    for wrapper in wrappers or ():
        name, function, arguments = _look_up(wrapper)
        try:
            env = function(env, **arguments)
        except (AssertionError, AttributeError, TypeError, ValueError) as error:
            reason = str(error) or "its spaces do not suit it."
            raise SettingError(f"Wrapper {name!r} with {arguments} cannot be applied to {env}: {reason}") from error
    return env


def _look_up(wrapper: Wrapper) -> tuple[str, Callable[..., Environment], dict[str, Any]]:
    """Name, function and arguments of one entry of a list of wrappers."""
    if callable(wrapper):
        return getattr(wrapper, "__name__", repr(wrapper)), wrapper, {}
    if isinstance(wrapper, Mapping) and len(wrapper) == 1:
        [(name, arguments)] = wrapper.items()
    elif isinstance(wrapper, str):
        name, arguments = wrapper, None
    else:
        raise SettingError(f"Wrapper {wrapper!r}: write its name, or {{name: {{argument: value}}}}.")
    known = supersuit_wrappers()
    if name not in known:
        raise unknown_name("SuperSuit wrapper", name, known)
    if not isinstance(arguments, (Mapping, type(None))):
        raise SettingError(f"Wrapper {name!r}: its arguments are {arguments!r}; write {{{name}: {{argument: value}}}}.")
    return name, known[name], dict(arguments or {})


def supersuit_wrappers() -> dict[str, Callable[..., Environment]]:
    """Names of SuperSuit's wrappers for parallel environments -> wrappers."""
    import supersuit

    is_wrapper = re.compile(r"(?!.*vec_env|vectorize).*_v\d+$")
    wrappers = {name: wrapper for name, wrapper in vars(supersuit).items() if is_wrapper.match(name)}
    return wrappers | {"black_death_v3": BlackDeath}
