"""A run of which all tests of populations make use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.algorithm.common import small_config

EARLIER: list[Any] = [
    "lase",
    {"kind": "ppo", "network": {"memory": "lstm", "memory_size": 8}},
    {"kind": "a2c", "network": {"memory": "gru", "memory_size": 8}},
    "cooperator",
]
"""Agents of the earlier run, one of each sort."""


@pytest.fixture(scope="session")
def earlier(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a run in stag_hunt."""
    path = tmp_path_factory.mktemp("earlier") / "checkpoint"
    algorithm = small_config(population=EARLIER).training(lr=0.01).build_algo()
    for _ in range(2):
        algorithm.train()
    algorithm.save_to_path(path)
    algorithm.stop()
    return path
