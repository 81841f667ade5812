"""Environments of other kinds than the ones that can be played here: recognised, and told where to go."""

from __future__ import annotations

import sys
from typing import Any

import gymnasium
from pettingzoo import AECEnv, ParallelEnv

from env_registry.parameters import SettingError

TO_RLLIB = (
    "keep it in RLlib's own configuration, and give its policies gifts by rllib_empathy.with_gifting(PPOConfig()..., ...); or "
    "hand over the PettingZoo parallel environment that it was made of"
)

# Module and class -> what it is, and what to do. Looked up by name: none of these packages is imported for it.
_KINDS: tuple[tuple[str, str, str, str], ...] = (
    ("ray.rllib.env.multi_agent_env", "MultiAgentEnv", "RLlib's MultiAgentEnv", TO_RLLIB),
    ("ray.rllib.env.external_env", "ExternalEnv", "an external environment of RLlib's", TO_RLLIB),
    ("ray.rllib.env.base_env", "BaseEnv", "RLlib's BaseEnv", TO_RLLIB),
    ("ray.rllib.env.vector_env", "VectorEnv", "RLlib's VectorEnv", TO_RLLIB),
    (
        "gymnasium.vector",
        "VectorEnv",
        "a vector of Gymnasium environments",
        "hand over the PettingZoo parallel environment of one game; num_envs_per_env_runner says how many are played",
    ),
    (
        "gymnasium",
        "Env",
        "a Gymnasium environment, which has one agent only",
        "needed are several agents: a PettingZoo parallel environment",
    ),
    (
        "gym",
        "Env",
        "an environment of the old package gym",
        "needed is a PettingZoo parallel environment, with spaces of gymnasium.spaces",
    ),
    (
        "gymnasium.spaces",
        "Space",
        "a space, not an environment",
        "the environment's own observation_space(agent) and action_space(agent) say the spaces",
    ),
)


def refuse_foreign(env: Any) -> None:
    """Does nothing for what may be an environment to play.

    Args:
        env: what a user gave as environment: a class, a name, an object, or what a function made.

    Raises:
        SettingError: it is of a known kind that cannot be played here; the message says what it is and where it goes.
    """
    told = _of_name(env) if isinstance(env, str) else _of_object(env)
    if told is not None:
        what, way_out = told
        raise SettingError(f"Environment {_shown(env)} is {what}: {way_out}.")


def refuse_unplayable(env: Any) -> None:
    """Both refusals for what stands for an environment, before anything is made of it."""
    refuse_foreign(env)
    refuse_made(env)


def refuse_made(env: Any) -> None:
    """Raises SettingError for an environment that has been made already, where something that makes it is needed."""
    batched = all(hasattr(env, method) for method in ("step", "get_state", "set_state"))
    if not isinstance(env, type) and (isinstance(env, (ParallelEnv, AECEnv)) or batched):
        raise SettingError(
            f"Environment {_shown(env)} has been made already; every game and every process needs its own: a name or a callable "
            f"is needed, for instance its class, or `lambda: {type(env).__name__}(...)`."
        )


def refuse_turns(env: AECEnv[Any, Any, Any], name: str) -> None:
    """Raises SettingError for a game in which agents take turns, and for one whose conversion would lose moves."""
    if not env.metadata.get("is_parallelizable"):
        raise SettingError(
            f"{name!r} makes a {type(env).__name__}, not a PettingZoo parallel environment (agents that act at once): its agents "
            "take turns. pettingzoo.utils.conversions.turn_based_aec_to_parallel makes a parallel one of it, in which who is not "
            "on turn acts in vain; if all act before anything happens, its metadata needs 'is_parallelizable': True."
        )


def refuse_lost_moves(env: Any, name: str) -> None:
    """Raises SettingError for a game of simultaneous moves that was converted as if its agents took turns.

    PettingZoo's `turn_based_aec_to_parallel` (1.27) hands on the move of the agent on turn only. Where all agents move at once,
    the others' moves are dropped, and a round takes as many steps as there are agents.
    """
    from pettingzoo.utils.conversions import turn_based_aec_to_parallel_wrapper

    while env is not None:
        if isinstance(env, turn_based_aec_to_parallel_wrapper) and env.aec_env.metadata.get("is_parallelizable"):
            raise SettingError(
                f"{name!r} was converted by turn_based_aec_to_parallel, but in it agents act at once (its metadata say "
                "'is_parallelizable'): in each step, all moves but one would be lost. Use "
                "pettingzoo.utils.conversions.aec_to_parallel, or hand over its parallel_env."
            )
        env = vars(env).get("env")


def _of_object(env: Any) -> tuple[str, str] | None:
    if isinstance(env, ParallelEnv) or (isinstance(env, type) and issubclass(env, ParallelEnv)):
        return None
    for module, name, what, way_out in _KINDS:
        kind = getattr(sys.modules.get(module), name, None)
        if isinstance(kind, type) and (isinstance(env, kind) or (isinstance(env, type) and issubclass(env, kind))):
            return what, way_out
    return None


def _of_name(env: str) -> tuple[str, str] | None:
    tune = sys.modules.get("ray.tune.registry")  # where it is not imported, nothing has been registered
    if tune is not None and tune._global_registry.contains(tune.ENV_CREATOR, env):
        return "registered with RLlib (register_env)", TO_RLLIB
    if env in gymnasium.registry:
        return (
            "a Gymnasium environment, which has one agent only",
            "needed are several agents: a PettingZoo parallel environment",
        )
    return None


def _shown(env: Any) -> str:
    if isinstance(env, type):
        return f"{env.__module__}:{env.__qualname__}"
    return repr(env) if isinstance(env, str) else f"of type {type(env).__name__}"
