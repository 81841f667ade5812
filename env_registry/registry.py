"""Names of worlds -> worlds."""

from __future__ import annotations

from typing import Any

from env_registry.game import Game, World
from env_registry.matrix_game import IteratedPrisonersDilemma, MatrixGame
from env_registry.parameters import unknown_name

WORLDS: dict[str, type[Game]] = {
    "iterated_prisoners_dilemma": IteratedPrisonersDilemma,
    "matrix_game": MatrixGame,
}


def make(name: str, num_games: int = 1, **env_config: Any) -> World:
    """B games of a registered world.

    Raises:
        SettingError: no world has this name, or a parameter is unknown or impossible.
    """
    if name not in WORLDS:
        raise unknown_name("world", name, WORLDS)
    return WORLDS[name](num_games, **env_config)
