"""What a user's env-to-module connectors leave in episodes, found by running them on an episode's first observations.

Pieces that show previous actions, flatten or filter write into episodes; frame stacks write to the batch. Each says the space
that it gives, and none says which of the two it does.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Dict, Space, Tuple
from gymnasium.spaces.utils import flatdim
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.env.vector.sync_vector_multi_agent_env import SyncVectorMultiAgentEnv
from ray.rllib.utils.spaces.space_utils import flatten_to_single_ndarray

from env_registry.parameters import SettingError

logger = logging.getLogger(__name__)


def spaces_in_episodes(config: Any, env: Any, spaces: Mapping[Any, Space[Any]]) -> dict[Any, Space[Any]]:
    """The space of what each agent's episodes hold.

    That of the environment, where the number of entries stays; else the last one that a connector announces and that fits.

    Args:
        config: of the algorithm.
        env: the environment; it is reset, if there are connectors.
        spaces: agent -> what the environment shows it.

    Raises:
        SettingError: what connectors leave there fits no space that they announce.
    """
    if config._env_to_module_connector is None:
        return dict(spaces)
    own = config.copy(copy_frozen=False)
    own.env_runners(add_default_connectors_to_env_to_module_pipeline=False)
    pieces = own.build_env_to_module_connector(env=SyncVectorMultiAgentEnv([lambda: env]))
    stages = [_of_agents(piece.observation_space, spaces) for piece in _single(pieces.connectors)]
    try:
        held = _held(config, env, pieces)
    except Exception as error:  # of a user's own pieces, some of which need an RLModule
        logger.warning(
            "Connectors could not be tried (%s): episodes are taken to hold what the environment shows.", error
        )
        return dict(spaces)
    if not all(_same_size(spaces[agent], one) for agent, one in held.items()):
        for stage in reversed(stages):
            if all(fits(stage[agent], one) for agent, one in held.items()):
                return stage
        agent, one = next((agent, one) for agent, one in held.items() if not _same_size(spaces[agent], one))
        raise SettingError(
            f"The env_to_module_connector leaves observations of agent {agent!r} in the episodes that fit no space which its "
            f"pieces announce: {_shapes(one)}. Gifts need to know what the episodes hold: give the piece a "
            "recompute_output_observation_space that says it, or let it write to the batch, not into the episodes."
        )
    return dict(spaces)


def fits(space: Space[Any], observation: Any) -> bool:
    """Whether an observation has the structure and the sizes of a space.

    Bounds, types and shapes may differ: RLlib's `PrevActionsPrevRewards` (2.60) announces previous actions as one row and writes
    a row for each.
    """
    if isinstance(space, Dict):
        return (
            isinstance(observation, Mapping)
            and set(observation) == set(space.spaces)
            and all(fits(part, observation[key]) for key, part in space.spaces.items())
        )
    if isinstance(space, Tuple):
        alike = isinstance(observation, tuple | list) and len(observation) == len(space.spaces)
        return alike and all(map(fits, space.spaces, observation))
    return not isinstance(observation, Mapping | tuple) and np.size(observation) == np.prod(space.shape or ())


def _held(config: Any, env: Any, pieces: Any) -> dict[Any, Any]:
    """What is in the episodes of those whom the environment shows something first."""
    observations, infos = env.reset()
    episode = MultiAgentEpisode(
        observation_space={agent: env.get_observation_space(agent) for agent in env.possible_agents},
        action_space={agent: env.get_action_space(agent) for agent in env.possible_agents},
        agent_to_module_mapping_fn=config.policy_mapping_fn,
    )
    episode.add_env_reset(observations=observations, infos=infos)
    pieces(rl_module=None, batch={}, episodes=[episode], explore=False, shared_data={}, metrics=None)
    return {agent: own.get_observations(-1) for agent, own in episode.agent_episodes.items()}


def _single(pieces: Sequence[Any]) -> list[Any]:
    """All pieces, those in pipelines as well, in order."""
    return [one for piece in pieces for one in (_single(piece.connectors) if hasattr(piece, "connectors") else [piece])]


def _of_agents(space: Any, spaces: Mapping[Any, Space[Any]]) -> dict[Any, Space[Any]]:
    announced = space.spaces if isinstance(space, Dict) else space if isinstance(space, Mapping) else {}
    return {agent: announced.get(agent, own) for agent, own in spaces.items()}


def _same_size(space: Space[Any], observation: Any) -> bool:
    size = flatten_to_single_ndarray(observation).size
    return fits(space, observation) or (space.is_np_flattenable and size == flatdim(space))


def _shapes(observation: Any) -> str:
    if isinstance(observation, Mapping):
        return "{" + ", ".join(f"{key}: {_shapes(part)}" for key, part in observation.items()) + "}"
    return f"numbers of shape {np.shape(observation)}"
