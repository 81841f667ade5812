"""PettingZoo environments train like our own worlds, also where agents die."""

from __future__ import annotations

import numpy as np
import pytest

from env_registry import WORLDS
from rllib_empathy.learning.algorithm import Empathy
from tests.algorithm.common import small_config, weights
from tests.algorithm.worlds import BadReward

ENVIRONMENTS = {
    "mpe2.simple_spread_v3": {"max_cycles": 15},
    "butterfly/knights_archers_zombies-v11": {"max_cycles": 60},
}


def test_a_registered_world_reaches_other_processes(ray_local, monkeypatch):
    monkeypatch.setitem(WORLDS, "harmless", BadReward)
    config = small_config("harmless").environment(env_config={"bad_value": "0.0"}).env_runners(num_env_runners=1)
    algorithm = config.build_algo()
    assert algorithm.train()["env_runners"]["num_env_steps_sampled"] == 8 * 20
    algorithm.stop()


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_a_pettingzoo_environment_trains_and_resumes(ray_local, tmp_path, name):
    config = small_config(name, games=3, steps=20).environment(env_config=ENVIRONMENTS[name])
    original = config.build_algo()
    for _ in range(4):
        result = original.train()
    assert np.isfinite(result["env_runners"]["episode_return_mean"])
    original.save_to_path(tmp_path)
    original.train()
    restored = Empathy.from_checkpoint(tmp_path)
    restored.train()
    np.testing.assert_array_equal(weights(restored), weights(original))
    original.stop()
    restored.stop()
