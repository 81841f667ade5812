"""One random stream per game, so that a game plays the same whatever is played beside it.

A stream is SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014): 64 bits of state per
game, one addition and three multiply-xor-shifts a draw. Compiled code draws with `uniform`, `below` and `shuffle`.
"""

from __future__ import annotations

import secrets
from typing import Any

import numpy as np
from numba import njit, uint64
from numpy.typing import NDArray

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_TO_UNIT = 1.0 / (1 << 53)


@njit(cache=True, inline="always")
def _mix(z: Any) -> Any:
    z = (z ^ (z >> uint64(30))) * _MIX_1
    z = (z ^ (z >> uint64(27))) * _MIX_2
    return z ^ (z >> uint64(31))


@njit(cache=True, inline="always")
def uniform(streams: NDArray[np.uint64], game: int) -> float:
    """A number in [0, 1) from the game's stream."""
    streams[game] += _GAMMA
    return (_mix(streams[game]) >> uint64(11)) * _TO_UNIT


@njit(cache=True, inline="always")
def below(streams: NDArray[np.uint64], game: int, n: int) -> int:
    """An integer in 0 .. n-1 from the game's stream, each equally likely (to 2^-53)."""
    return int(uniform(streams, game) * n)


@njit(cache=True, inline="always")
def shuffle(order: NDArray[np.int64], streams: NDArray[np.uint64], game: int) -> None:
    """Fills `order` with 0 .. n-1 in a random order, each equally likely (n <= 16).

    One draw serves all choices (Fisher and Yates, inside out): the fraction that one choice leaves is the next one's draw.
    """
    left = uniform(streams, game)
    order[0] = 0
    for position in range(1, order.shape[0]):
        left *= position + 1
        chosen = int(left)
        left -= chosen
        order[position] = order[chosen]
        order[chosen] = position


@njit(cache=True, nogil=True)
def _seed_streams(streams: NDArray[np.uint64], seed: Any, first_game: Any) -> None:
    for game in range(streams.shape[0]):
        streams[game] = _mix(_mix(seed + _GAMMA) ^ _mix((first_game + uint64(game)) * _MIX_2 + _GAMMA))


def seed_streams(streams: NDArray[np.uint64], seed: int | None, first_game: int) -> None:
    """Starts the streams `[B]`: stream b depends on (seed, first_game + b) only.

    The seed's lowest 64 bits count; None stands for a seed that nobody knows.
    """
    if seed is None:
        seed = secrets.randbits(64)
    _seed_streams(streams, np.uint64(seed & 0xFFFFFFFFFFFFFFFF), np.uint64(first_game))
