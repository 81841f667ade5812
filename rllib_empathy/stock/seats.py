"""Who plays in a user's environment, and which of RLlib's policies plays whom."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium.spaces import Box, Space
from gymnasium.spaces.utils import flatdim
from ray.rllib.env.env_context import EnvContext
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.env.utils import _gym_env_creator
from ray.tune.registry import ENV_CREATOR, _global_registry

from env_registry.parameters import SettingError
from rllib_empathy.stock.observed import spaces_in_episodes

AgentID = Hashable


class Seat(NamedTuple):
    """What is known of an agent before it plays."""

    agent_id: AgentID
    module_id: str  # of the policy that plays it
    observation_space: Space[Any]  # of what is in its episodes
    action_space: Space[Any]


def seats_of(config: Any) -> list[Seat]:
    """All agents of the configured environment, `agent_2` before `agent_10`, whatever order the environment has.

    The environment is made once, asked, and closed.

    Raises:
        SettingError: there is no multi-agent environment, it does not say who plays, or nobody can say what connectors leave in
            the episodes.
    """
    env = _make_env(config)
    agents = list(getattr(env, "possible_agents", None) or ())
    if not isinstance(env, MultiAgentEnv) or not agents:
        raise SettingError(
            f"The environment {config.env!r} does not say who plays. Needed is RLlib's MultiAgentEnv with possible_agents set to "
            "everybody who may ever appear; for PettingZoo's environments see env_registry.rllib_env."
        )
    nobody = MultiAgentEpisode()
    observed = spaces_in_episodes(config, env, {agent: env.get_observation_space(agent) for agent in agents})
    seats = [
        Seat(
            agent,
            config.policy_mapping_fn(agent, nobody),
            observed[agent],
            env.get_action_space(agent),
        )
        for agent in sorted(agents, key=_natural_order)
    ]
    env.close()
    return seats


def as_observed(seat: Seat, module_space: Space[Any] | None) -> Seat:
    """The seat with the bounds and type that the policy's observation space has.

    Where a connector has changed numbers and not their count, episodes hold what the policy sees.
    """
    space = seat.observation_space
    if isinstance(space, Box) and isinstance(module_space, Box) and flatdim(space) == flatdim(module_space):
        low, high = (np.reshape(bound, space.shape) for bound in (module_space.low, module_space.high))
        return seat._replace(observation_space=Box(low, high, dtype=module_space.dtype.type))
    return seat


def agents_of(seats: Sequence[Seat], module_id: str) -> tuple[int, ...]:
    """The agents (indices into N) that a policy plays."""
    return tuple(agent for agent, seat in enumerate(seats) if seat.module_id == module_id)


def _make_env(config: Any) -> Any:
    """As RLlib's runners make it."""
    context = EnvContext(config.env_config, worker_index=0, num_workers=config.num_env_runners)
    if isinstance(config.env, str) and _global_registry.contains(ENV_CREATOR, config.env):
        return _global_registry.get(ENV_CREATOR, config.env)(context)
    return _gym_env_creator(env_descriptor=config.env, env_context=context)


def _natural_order(agent: AgentID) -> list[tuple[int, int, str]]:
    pieces = re.findall(r"\d+|\D+", str(agent))
    return [(0, int(piece), "") if piece.isdigit() else (1, 0, piece) for piece in pieces]
