"""What all tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

# Before anything is imported that reads them.
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RLLIB_EMPATHY_MLFLOW", "off")  # its tests say where
os.environ.setdefault("RAY_worker_niceness", "0")  # a test waits for Ray's processes: they are as urgent as it is
os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")  # two test processes start Ray at the same time
os.environ.setdefault("OMP_NUM_THREADS", "1")  # sums do not depend on how many cores the machine has


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """A Ray of this test run only, whatever cluster runs on the machine; its CPUs are slots, not cores."""
    import ray

    ray.init(
        address="local",
        num_cpus=8,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=256 * 2**20,
    )
    yield
    ray.shutdown()
