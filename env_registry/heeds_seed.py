"""Whether an environment plays what its seed says: tried on a few steps of a game before training starts.

B games are B games only if seeds make them differ, and a run can be repeated and resumed only if they make games repeat. Seen is
what shows in these few steps; chance that comes later is not.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from env_registry import global_generators
from env_registry.contract import Environment
from env_registry.parameters import SettingError

logger = logging.getLogger(__name__)

STEPS = 8
"""How long the games are that are compared."""

_told: set[str] = set()


def warn_if_deaf(name: str, make_env: Callable[[], Environment]) -> None:
    """Logs a warning, once for each world in a process, if its seeds do not do what they should.

    Args:
        name: what the message calls the world.
        make_env: makes an environment that nobody has played in.

    Raises:
        SettingError: what the environment answers does not keep to PettingZoo's API. Other exceptions of it are left to those
            who play in it, and nothing is said of its seeds.
    """
    if name in _told:
        return
    try:
        wrong = fault_of_seeding(make_env)
    except SettingError:
        raise
    except Exception:
        logger.debug("%s was not tried for its seeds", name, exc_info=True)
        return
    if wrong:
        _told.add(name)
        logger.warning("%s %s", name, wrong)


def fault_of_seeding(make_env: Callable[[], Environment]) -> str | None:
    """What is wrong with an environment's seeds, as the end of a sentence; None: nothing that shows.

    Equal play for all seeds is wrong only in a world that has chance. It has, if its second episode is another one than its first
    though nobody gave a seed in between, or if it draws from Python's or NumPy's global generators.
    """
    with global_generators.kept():
        one, draws = _first_episode(make_env, seed=1, others=1)
        again, _ = _first_episode(make_env, seed=1, others=2)
        if one != again:
            third, _ = _first_episode(make_env, seed=1, others=1)
            return SHARED_UNSEEDED if third == one else UNREPEATABLE
        if draws:
            return SHARED
        other, second = _two_episodes(make_env)
    return DEAF if other == one and second != other else None


_MEND_DRAWS = (
    "Draw from a generator made from the seed in reset (self.np_random = np.random.default_rng(seed)), or give the world "
    "generators of its own by the wrapper 'own_generators', as the first of env_config['wrappers']."
)

SHARED_UNSEEDED = (
    "does not repeat a game from its seed: it draws from the global generators of Python or NumPy (random, np.random), which all "
    f"games of a process share. {_MEND_DRAWS}"
)

SHARED = (
    "draws from the global generators of Python or NumPy (random, np.random), or seeds them, and all games of a process share "
    f"these: what happens in a game depends on what is played beside it. {_MEND_DRAWS}"
)

UNREPEATABLE = (
    "does not repeat a game from its seed: two games of the same seed and the same actions went apart. It draws from a source of "
    "its own that reset(seed=...) does not set. Runs cannot be repeated, and go on otherwise after a resume. Make every source "
    "of chance anew from the seed in reset."
)

DEAF = (
    f"does not listen to its seed: games of the seeds 1 and 2 with the same actions were equal for {STEPS} steps, though the "
    "world has chance (without a new seed, the second episode is another one than the first). All games played at once, on "
    "all runners, are then one and the same game. Make every source of chance anew from the seed in reset(seed=...)."
)


def _first_episode(make_env: Callable[[], Environment], seed: int, others: int) -> tuple[list[Any], bool]:
    """A new environment's first episode, and whether it used the global generators, which begin at `others`."""
    env = make_env()
    before = global_generators.fresh(others)
    global_generators.put(before)
    try:
        return _played(env, seed), not global_generators.equal(before, global_generators.states())
    finally:
        _close(env)


def _two_episodes(make_env: Callable[[], Environment]) -> tuple[list[Any], list[Any]]:
    """A new environment's first episode, of another seed, and its second one, without a seed."""
    env = make_env()
    try:
        return _played(env, 2), _played(env, None)
    finally:
        _close(env)


def _played(env: Environment, seed: int | None) -> list[Any]:
    """All that is seen and paid in the first steps of an episode with always the same actions."""
    chance = np.random.default_rng(0)
    observations, infos = env.reset(seed=seed)
    seen = [_plain(observations)]
    for _ in range(STEPS):
        if not env.agents:
            break
        actions = {agent: _action(env, agent, observations, infos, chance) for agent in env.agents}
        observations, rewards, terminations, truncations, infos = env.step(actions)
        seen.append(_plain((observations, rewards, terminations, truncations)))
        if all(terminations.get(agent) or truncations.get(agent) for agent in actions):
            break
    return seen


def _action(env: Environment, agent: str, observations: Any, infos: Any, chance: np.random.Generator) -> int:
    """An action that the agent may take, the same one whenever its choices are."""
    space: Any = env.action_space(agent)
    beside = observations.get(agent)
    mask = beside.get("action_mask") if isinstance(beside, Mapping) else infos.get(agent, {}).get("action_mask")
    allowed = np.arange(space.n) if mask is None or not np.any(mask) else np.flatnonzero(mask)
    return int(space.start + allowed[int(chance.random() * len(allowed))])


def _plain(what: Any) -> Any:
    """A copy that can be compared by `==`."""
    if isinstance(what, Mapping):
        return {key: _plain(part) for key, part in what.items()}
    if isinstance(what, (tuple, list)):
        return [_plain(part) for part in what]
    array = np.asarray(what)
    return array.tobytes() if array.dtype != object else repr(what)


def _close(env: Environment) -> None:
    with suppress(Exception):
        env.close()
