"""Names of worlds -> worlds."""

from __future__ import annotations

from typing import Any

from env_registry.cleanup import Cleanup
from env_registry.coin_game import CoinGame
from env_registry.game import Game, World
from env_registry.matrix_game import IteratedPrisonersDilemma, MatrixGame
from env_registry.parameters import unknown_name
from env_registry.snowdrift import Snowdrift
from env_registry.stag_hunt import StagHunt

WORLDS: dict[str, type[Game]] = {
    "iterated_prisoners_dilemma": IteratedPrisonersDilemma,
    "matrix_game": MatrixGame,
    "coin_game": CoinGame,
    "cleanup": Cleanup,
    "stag_hunt": StagHunt,
    "snowdrift": Snowdrift,
}


def make(name: str, num_games: int = 1, **env_config: Any) -> World:
    """B games of a registered world.

    Raises:
        SettingError: no world has this name, or a parameter is unknown or impossible.
    """
    if name not in WORLDS:
        raise unknown_name("world", name, WORLDS)
    return WORLDS[name](num_games, **env_config)
