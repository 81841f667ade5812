"""The states of the sources of chance that all code of a process shares: Python's `random` and NumPy's `np.random`."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np

States: TypeAlias = tuple[Any, Any]


def states() -> States:
    """Where both are now."""
    return random.getstate(), np.random.get_state(legacy=False)  # noqa: NPY002


def fresh(seed: int) -> States:
    """Where both begin with a seed of 0 ... 2^32 - 1."""
    return random.Random(seed).getstate(), np.random.RandomState(seed).get_state(legacy=False)


def put(wanted: States) -> None:
    """Sets both."""
    random.setstate(wanted[0])
    np.random.set_state(wanted[1])  # noqa: NPY002


def equal(one: States, other: States) -> bool:
    """Whether both are at the same places."""
    return one[0] == other[0] and all(
        np.array_equal(one[1]["state"][part], other[1]["state"][part]) for part in ("key", "pos")
    )


@contextmanager
def kept() -> Iterator[None]:
    """Puts both back to where they were."""
    before = states()
    try:
        yield
    finally:
        put(before)
