"""Names of worlds -> worlds; anything that can be named -> a batched world."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from env_registry.cleanup import Cleanup
from env_registry.coin_game import CoinGame
from env_registry.foreign import refuse_foreign, refuse_unplayable
from env_registry.game import World
from env_registry.matrix_game import IteratedPrisonersDilemma, MatrixGame
from env_registry.parameters import SettingError, unknown_name
from env_registry.snowdrift import Snowdrift
from env_registry.stag_hunt import StagHunt

if TYPE_CHECKING:
    from env_registry.wrappers import Wrapper

WorldFactory = Callable[..., World]
"""Called as `factory(num_games, **env_config)`."""

WORLDS: dict[str, WorldFactory] = {
    "iterated_prisoners_dilemma": IteratedPrisonersDilemma,
    "matrix_game": MatrixGame,
    "coin_game": CoinGame,
    "cleanup": Cleanup,
    "stag_hunt": StagHunt,
    "snowdrift": Snowdrift,
}

_BUILT_IN = frozenset(WORLDS)


def register(name: str, world: WorldFactory) -> None:
    """Adds a world of your own under a name; registering the name again replaces it.

    Registration holds for this process. Where work is spread over processes, name the world by
    "package.module:callable" or hand over the class itself, and every process finds it.

    Args:
        name: without "." and ":", which mark module paths.
        world: a class derived from `Game`, or anything that gives a `World` when called as `world(num_games,
            **env_config)`.

    Raises:
        SettingError: the name is no plain name or belongs to a built-in world, or `world` cannot be called.
    """
    if not name or set(name) & set(".:/"):
        raise SettingError(f"A world cannot be called {name!r}: use a name without '.', ':' and '/'.")
    if name in _BUILT_IN:
        raise SettingError(f"The name {name!r} belongs to a built-in world; choose another.")
    if not callable(world):
        raise SettingError(
            f"World {name!r} = {world!r}: needed is a class or function to call with (num_games, **env_config)."
        )
    WORLDS[name] = world


def make(
    env: str | Callable[..., Any], num_games: int = 1, wrappers: Sequence[Wrapper] | None = None, **env_config: Any
) -> World:
    """B games as a batched world.

    Args:
        env: a registered world's name; a world or PettingZoo environment as "package.module:callable" or as the
            callable itself; or a PettingZoo environment's module ("mpe2.simple_spread_v3") or name in PettingZoo's
            registry ("butterfly/knights_archers_zombies-v11").
        num_games: B >= 1.
        wrappers: SuperSuit wrappers (see `parallel_env`). They work on one game at a time, in Python: a world that is
            compiled for many games loses most of its speed.
        env_config: the world's parameters, or the keyword arguments of a PettingZoo environment.

    Raises:
        SettingError: an unknown name, an unknown or impossible parameter, an environment or wrapper that does not fit.
    """
    make_world = world_factory(env)
    if make_world is not None and not wrappers:
        return make_world(num_games, **env_config)
    from env_registry.pettingzoo_world import PettingZooWorld

    return PettingZooWorld(env, num_games, wrappers, **env_config)


def register_all() -> None:
    """Registers every world with Ray Tune and RLlib under its name, for RLlib's own runners.

    `PPOConfig().environment("cleanup", env_config={"num_agents": 4})` then finds it as a `MultiAgentEnv`; see
    `env_registry.rllib_env.RLlibEnv` for what it shows and for the keys that `env_config` may hold besides the world's
    own.
    """
    from ray.tune.registry import register_env

    for name, world in WORLDS.items():
        register_env(name, partial(_make_for_rllib, name, world))


def _make_for_rllib(name: str, world: WorldFactory, env_config: Mapping[str, Any]) -> Any:
    from env_registry.rllib_env import rllib_env

    WORLDS.setdefault(name, world)  # a worker process has not heard of what the user registered
    return rllib_env(name, **env_config)


def world_factory(env: str | Callable[..., Any]) -> WorldFactory | None:
    """What makes the batched world that `env` stands for; None where it stands for a PettingZoo environment.

    Raises:
        SettingError: nothing has this name.
    """
    if isinstance(env, str) and env in WORLDS:
        return WORLDS[env]
    factory = load(env)
    is_world = factory in WORLDS.values() or all(
        hasattr(factory, method) for method in ("step", "get_state", "set_state")
    )
    return factory if is_world else None


def load(env: str | Callable[..., Any]) -> Callable[..., Any]:
    """The callable behind "package.module:callable", a module or a PettingZoo name; a callable is its own answer.

    Raises:
        SettingError: nothing has this name, or it cannot be called.
    """
    if not isinstance(env, str):
        refuse_unplayable(env)
    if callable(env):
        return env
    if not isinstance(env, str):
        raise SettingError(f"Environment {env!r}: a name or a callable is needed, for instance `lambda: my_env()`.")
    if "/" in env:
        import pettingzoo

        if env not in pettingzoo.parallel_registry:
            refuse_foreign(env)
            raise unknown_name("PettingZoo environment", env, pettingzoo.parallel_registry)
        return partial(pettingzoo.make, "parallel", env)
    if "." not in env and ":" not in env:
        refuse_foreign(env)
        raise unknown_name("world", env, WORLDS)
    module_name, _, attribute = env.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise SettingError(f"Environment {env!r}: module {module_name!r} cannot be imported ({error}).") from error
    factory = getattr(module, attribute or "parallel_env", None)
    if not callable(factory):
        raise SettingError(
            f"Environment {env!r}: module {module_name!r} has no callable {attribute or 'parallel_env'!r}; "
            "name one as 'package.module:callable'."
        )
    return factory


def name_of(env: str | Callable[..., Any]) -> str:
    """How `env` is called in messages."""
    return env if isinstance(env, str) else getattr(env, "__name__", repr(env))
