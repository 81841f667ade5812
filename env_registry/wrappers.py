"""SuperSuit wrappers by name, so that an experiment file can ask for a frame stack or an agent indicator.

A wrapper is written as its name, as `{name: {argument: value}}`, or, in Python, as any function from environment to
environment.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from gymnasium.spaces import Box, Discrete
from pettingzoo.utils.wrappers import BaseParallelWrapper

from env_registry.contract import Environment
from env_registry.own_wrappers import (
    AgentIndicator,
    DelayObservations,
    FrameSkip,
    OwnGenerators,
    RewardLambda,
    StickyActions,
    clip_reward,
    frame_stack_v1,
    frame_stack_v2,
)
from env_registry.parameters import SettingError, unknown_name

__all__ = ["FAULTS", "OWN", "BlackDeath", "Environment", "Wrapper", "supersuit_wrappers", "wrapped"]

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

    Where a wrapper of SuperSuit 3.11 gives other numbers than its name promises, one of our own stands in (`OWN`), or what it
    would do wrong is refused (`FAULTS`).

    Raises:
        SettingError: SuperSuit has no such wrapper, or it refuses its arguments or this environment.
    """
    if isinstance(wrappers, (str, Mapping)):
        raise SettingError(f"'wrappers' = {wrappers!r}: a list of wrappers is needed, for instance [{wrappers!r}].")
    for wrapper in wrappers or ():
        name, function, arguments = _look_up(wrapper)
        fault = FAULTS[name](env, arguments) if name in FAULTS else None
        if fault:
            raise SettingError(f"Wrapper {name!r} with {arguments} cannot be applied to {env}: {fault}.")
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
    known = supersuit_wrappers() | {"own_generators": OwnGenerators}
    if name not in known:
        raise unknown_name("SuperSuit wrapper", name, known)
    if not isinstance(arguments, (Mapping, type(None))):
        raise SettingError(f"Wrapper {name!r}: its arguments are {arguments!r}; write {{{name}: {{argument: value}}}}.")
    # A file has no tuples, which some of SuperSuit's wrappers insist on.
    values = {key: tuple(one) if isinstance(one, list) else one for key, one in (arguments or {}).items()}
    return name, known[name], values


def supersuit_wrappers() -> dict[str, Callable[..., Environment]]:
    """Names of SuperSuit's wrappers for parallel environments -> wrappers."""
    import supersuit

    is_wrapper = re.compile(r"(?!.*vec_env|vectorize).*_v\d+$")
    wrappers = {name: wrapper for name, wrapper in vars(supersuit).items() if is_wrapper.match(name)}
    return wrappers | {name: own for name, own in OWN.items() if name in wrappers}


OWN: dict[str, Callable[..., Environment]] = {
    "agent_indicator_v0": AgentIndicator,
    "black_death_v3": BlackDeath,
    "clip_reward_v0": clip_reward,
    "delay_observations_v0": DelayObservations,
    "frame_skip_v0": FrameSkip,
    "frame_stack_v1": frame_stack_v1,
    "frame_stack_v2": frame_stack_v2,
    "reward_lambda_v0": RewardLambda,
    "sticky_actions_v0": StickyActions,
}
"""Wrappers that stand in for SuperSuit's of the same name; each says what is otherwise."""

Fault: TypeAlias = Callable[[Environment, Mapping[str, Any]], str | None]


def _seen_boxes(env: Environment) -> str | None:
    others = [space for space in map(env.observation_space, env.possible_agents) if not isinstance(space, Box)]
    return f"observations have to be boxes, some are {others[0]}" if others else None


def _color_reduction(env: Environment, arguments: Mapping[str, Any]) -> str | None:
    dtypes = {env.observation_space(agent).dtype for agent in env.possible_agents}
    if arguments.get("mode", "full") == "full" and dtypes != {np.dtype(np.uint8)}:
        return "it rounds greys to whole numbers, so observations have to be bytes (uint8); mode 'R', 'G' or 'B' keeps numbers"
    return None


def _normalize_obs(env: Environment, arguments: Mapping[str, Any]) -> str | None:
    fault = _seen_boxes(env)
    if fault is None and any(
        (env.observation_space(agent).low == env.observation_space(agent).high).any() for agent in env.possible_agents
    ):
        return "it divides by the distance between the bounds, which is 0 for some numbers: they would become NaN"
    return fault


def _max_observation(env: Environment, arguments: Mapping[str, Any]) -> str | None:
    memory = arguments.get("memory", 1)
    if not isinstance(memory, int) or memory < 1:
        return f"'memory' = {memory!r} has to be a whole number of at least 1"
    return _seen_boxes(env)


def _pad_observations(env: Environment, arguments: Mapping[str, Any]) -> str | None:
    fault = _seen_boxes(env)
    return fault and f"{fault}. Worlds pad unlike observations by themselves: leave this wrapper out"


def _pad_action_space(env: Environment, arguments: Mapping[str, Any]) -> str | None:
    for space in map(env.action_space, env.possible_agents):
        if isinstance(space, Discrete) and space.start != 0:
            return f"it takes actions to begin with 0, unlike {space}. Worlds pad unlike actions by themselves: leave it out"
    return None


def _continuous_actions(env: Environment, arguments: Mapping[str, Any]) -> str | None:
    others = [space for space in map(env.action_space, env.possible_agents) if not isinstance(space, Box)]
    return f"it is for continuous actions, some are {others[0]}" if others else None


FAULTS: dict[str, Fault] = {
    "clip_actions_v0": _continuous_actions,
    "color_reduction_v0": _color_reduction,
    "max_observation_v0": _max_observation,
    "normalize_obs_v0": _normalize_obs,
    "pad_action_space_v0": _pad_action_space,
    "pad_observations_v0": _pad_observations,
    "resize_v1": lambda env, arguments: _seen_boxes(env),
    "scale_actions_v0": _continuous_actions,
}
"""Why one of SuperSuit's wrappers cannot be applied, where it would say so too late, or never."""
