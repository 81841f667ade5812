"""Worlds in which agents have to live with each other, stepped many games at once as arrays."""

from pathlib import Path

from env_registry.foreign import refuse_unplayable
from env_registry.game import Game, GameParameters, Share, Step, World
from env_registry.kernel_cache import forget_stale_kernels
from env_registry.parallel_env import parallel_env
from env_registry.parameters import SettingError
from env_registry.registry import WORLDS, make, register, register_all

__all__ = [
    "WORLDS",
    "Game",
    "GameParameters",
    "SettingError",
    "Share",
    "Step",
    "World",
    "make",
    "parallel_env",
    "refuse_unplayable",
    "register",
    "register_all",
]

forget_stale_kernels(Path(__file__).parent)
