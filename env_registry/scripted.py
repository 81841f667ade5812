"""Scripted players of known character, to put beside agents that learn: a cooperator, a defector and a random one per world.

They see what an agent sees and nothing else. In Cleanup they are those of the LASE paper; for the other worlds the paper has
none, and these are ours. A world of your own gets players by an entry in `SCRIPTED`, made in the module that defines the
world, so that every process finds it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numba import njit
from numpy.typing import NDArray

from env_registry.cleanup import Cleanup
from env_registry.coin_game import CoinGame
from env_registry.game import Array, World
from env_registry.grid import MOVES, GridWorld
from env_registry.parameters import unknown_name
from env_registry.snowdrift import Snowdrift
from env_registry.stag_hunt import StagHunt

Actions = NDArray[np.int64]
Search = Callable[[Array, np.random.Generator], Actions]
"""(observations `[M, C, H, W]`, generator) -> moves `[M]` of those who see nothing that they look for."""

UP, DOWN, LEFT, RIGHT = range(4)


class ScriptedPolicy(Protocol):
    """A player without memory."""

    def act(self, observations: Array, generator: np.random.Generator) -> Actions:
        """Chooses actions `[M]` from one agent's observations `[M, *observation_shape]` in M games."""
        ...


class RandomPolicy:
    """All actions equally likely."""

    def __init__(self, world: World) -> None:
        self.num_actions = int(world.action_space.n)

    def act(self, observations: Array, generator: np.random.Generator) -> Actions:
        return generator.integers(self.num_actions, size=len(observations))


class MemoryOnePolicy:
    """Cooperates in an iterated 2x2 game with a probability that depends on the last outcome.

    Args:
        cooperation: probabilities of cooperating after [CC, CD, DC, DD] (the own action first) and at the start.
    """

    def __init__(self, cooperation: Sequence[float]) -> None:
        self.cooperation = np.asarray(cooperation, np.float64)

    def act(self, observations: Array, generator: np.random.Generator) -> Actions:
        defects = generator.random(len(observations)) >= self.cooperation[observations.argmax(axis=1)]
        return defects.astype(np.int64)


@njit(cache=True, nogil=True)
def _seek(
    observations: Any, targets: Any, avoided: Any, on_target: int, search: Any, asides: Any, actions: Any
) -> None:
    num_games, _, height, width = observations.shape
    for game in range(num_games):
        row = column = -1
        for cell in range(height * width):
            if observations[game, 0, cell // width, cell % width]:
                row, column = cell // width, cell % width
        actions[game] = search[game]
        if row < 0:  # it has left the game
            continue
        nearest = height + width
        for target_row in range(height):
            for target_column in range(width):
                distance = abs(target_row - row) + abs(target_column - column)
                if distance >= nearest:
                    continue
                wanted = False
                for channel in targets:
                    wanted |= observations[game, channel, target_row, target_column] != 0
                if wanted:
                    nearest = distance
                    if distance == 0:
                        actions[game] = on_target if on_target >= 0 else search[game]
                    elif target_row != row:
                        actions[game] = UP if target_row < row else DOWN
                    else:
                        actions[game] = LEFT if target_column < column else RIGHT
        for aside in range(4):
            action = actions[game]
            next_row = (row + (action == DOWN) - (action == UP)) % height
            next_column = (column + (action == RIGHT) - (action == LEFT)) % width
            in_the_way = False
            for channel in avoided:
                in_the_way |= action < 4 and observations[game, channel, next_row, next_column] != 0
            if not in_the_way:
                break
            actions[game] = (asides[game] + aside) % 4


class Seeker:
    """Walks to the nearest thing in view (by Manhattan distance, vertical moves first) and acts on it.

    Of several that are equally near, the topmost and then leftmost is taken. Before something that is to be avoided it steps
    aside at random.

    Args:
        world: the game.
        targets: names of the channels with what it looks for.
        on_target: name of the action on a target's cell; None where stepping on it is all there is to do.
        avoided: names of channels with what it does not step on.
        search: moves while nothing is in view; by default at random.
    """

    def __init__(
        self,
        world: GridWorld,
        targets: Sequence[str],
        on_target: str | None,
        avoided: Sequence[str] = (),
        search: Search | None = None,
    ) -> None:
        self.targets = np.array([world.channel_names.index(name) for name in targets], np.int64)
        self.avoided = np.array([world.channel_names.index(name) for name in avoided], np.int64)
        self.on_target = -1 if on_target is None else world.action_names.index(on_target)
        self.search = search or _wander

    def act(self, observations: Array, generator: np.random.Generator) -> Actions:
        actions = np.empty(len(observations), np.int64)
        asides = generator.integers(len(MOVES), size=len(observations))
        search = self.search(observations, generator)
        _seek(observations, self.targets, self.avoided, self.on_target, search, asides, actions)
        return actions


def _wander(observations: Array, generator: np.random.Generator) -> Actions:
    return generator.integers(len(MOVES), size=len(observations))


def _along_the_edge(world: GridWorld, direction: int, depth: int) -> Search:
    """Up (or down) to the `depth` rows at the map's edge, and there sideways at random."""
    radius = world.parameters.window_radius
    depth = min(depth, radius)
    row = radius - depth if direction == UP else radius + depth  # of the window; off the map when the agent is there
    edge = world.channel_names.index("off the map")

    def search(observations: Array, generator: np.random.Generator) -> Actions:
        sideways = generator.integers(LEFT, RIGHT + 1, size=len(observations))
        return np.where(observations[:, edge, row, radius] != 0, sideways, direction)

    return search


def _cleans(world: Cleanup) -> ScriptedPolicy:
    return Seeker(world, ["waste"], "clean", search=_along_the_edge(world, UP, world.parameters.river_rows))


def _picks(world: Cleanup) -> ScriptedPolicy:
    return Seeker(world, ["apple"], "pick", search=_along_the_edge(world, DOWN, world.parameters.orchard_rows))


def _coins(world: CoinGame) -> list[str]:
    return [name for name in world.channel_names if name.endswith("coin") or name.startswith("coin")]


def _takes_own_coins(world: CoinGame) -> ScriptedPolicy:
    return Seeker(world, ["own coin"], _stay(world), avoided=[name for name in _coins(world) if name != "own coin"])


def _takes_all_coins(world: CoinGame) -> ScriptedPolicy:
    return Seeker(world, _coins(world), _stay(world))


def _stay(world: GridWorld) -> str | None:
    return "stay" if "stay" in world.action_names else None


def _hunts(prey: str) -> Callable[[StagHunt], ScriptedPolicy]:
    def player(world: StagHunt) -> ScriptedPolicy:
        return Seeker(world, [prey], f"hunt {prey}" if world.parameters.rule == "explicit" else "stay")

    return player


def _removes_drifts(world: Snowdrift) -> ScriptedPolicy:
    return Seeker(world, ["drift"], "remove", avoided=world.channel_names[1 : world.num_agents])


def _only_wanders(world: Snowdrift) -> ScriptedPolicy:
    return Seeker(world, [], None)


_MATRIX_PLAYERS: dict[str, Callable[[Any], ScriptedPolicy]] = {
    "cooperator": lambda world: MemoryOnePolicy([1, 1, 1, 1, 1]),
    "defector": lambda world: MemoryOnePolicy([0, 0, 0, 0, 0]),
    "tit_for_tat": lambda world: MemoryOnePolicy([1, 0, 1, 0, 1]),
    "random": RandomPolicy,
}

SCRIPTED: dict[str, dict[str, Callable[[Any], ScriptedPolicy]]] = {
    "iterated_prisoners_dilemma": _MATRIX_PLAYERS,
    "matrix_game": _MATRIX_PLAYERS,
    "coin_game": {"cooperator": _takes_own_coins, "defector": _takes_all_coins, "random": RandomPolicy},
    "cleanup": {"cooperator": _cleans, "defector": _picks, "random": RandomPolicy},
    "stag_hunt": {"cooperator": _hunts("stag"), "defector": _hunts("hare"), "random": RandomPolicy},
    "snowdrift": {"cooperator": _removes_drifts, "defector": _only_wanders, "random": RandomPolicy},
}
"""World -> kind of player -> what builds one for a game of that world."""


def scripted_policy(world_name: str, kind: str, world: World) -> ScriptedPolicy:
    """A scripted player for `world`, which was made under the name `world_name`.

    Raises:
        SettingError: the world has no scripted players, or none of this kind.
    """
    if world_name not in SCRIPTED:
        raise unknown_name("world with scripted players", world_name, SCRIPTED)
    if kind not in SCRIPTED[world_name]:
        raise unknown_name(f"scripted player of {world_name!r}", kind, SCRIPTED[world_name])
    return SCRIPTED[world_name][kind](world)
