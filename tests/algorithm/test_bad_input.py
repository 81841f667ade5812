"""What is wrong is said at once, by name, and nothing is lost."""

from __future__ import annotations

import numpy as np
import pytest

from env_registry import SettingError
from rllib_empathy.learning.algorithm import Empathy
from rllib_empathy.learning.config import EmpathyConfig
from rllib_empathy.learning.finite import NonFiniteError
from tests.algorithm.common import small_config, weights
from tests.algorithm.worlds import BadReward


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_non_finite_rewards_stop_before_anything_is_learned(ray_local, tmp_path, value):
    config = small_config(BadReward).environment(env_config={"bad_value": value, "bad_step": 30})
    algorithm = config.build_algo()
    algorithm.train()
    algorithm.save_to_path(tmp_path)
    good = weights(algorithm)
    with pytest.raises(NonFiniteError, match=r"agent 1 .*game 0, step 10 of the batch"):
        algorithm.train()
    np.testing.assert_array_equal(weights(algorithm), good)
    restored = Empathy.from_checkpoint(tmp_path)
    np.testing.assert_array_equal(weights(restored), good)
    algorithm.stop()
    restored.stop()


def test_non_finite_gradients_stop_before_they_touch_the_weights(ray_local):
    algorithm = small_config("snowdrift").training(reward_scale=1e38).build_algo()
    with pytest.raises(NonFiniteError, match="gradients of ppo_0"):
        algorithm.train()
    assert np.isfinite(weights(algorithm)).all()
    algorithm.stop()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.environment("clean_up"), "Unknown world 'clean_up'. Did you mean 'cleanup'"),
        (lambda c: c.environment("cleanup", env_config={"num_agent": 3}), "Did you mean 'num_agents'"),
        (lambda c: c.environment("cleanup", env_config={"num_agents": 0}), "'num_agents' = 0"),
        (lambda c: c.population("pop"), "Unknown kind of agent 'pop'. Did you mean 'ppo'"),
        (lambda c: c.population(["ppo", "ppo"]), "fills 2 seats, the world has 4"),
        (lambda c: c.population([{"kind": "ppo", "count": 4, "clip": 0.1}]), "Unknown key 'clip'"),
        (lambda c: c.population([{"kind": "ppo", "count": 4, "gamma": 1.5}]), "'gamma' = 1.5"),
        (lambda c: c.training(gamma=-1), "'gamma' = -1"),
        (lambda c: c.training(gama=0.9), "Unknown training option 'gama'. Did you mean 'gamma'"),
        (lambda c: c.training(lr=((10, 0.1), (0, 0.2))), "rising env steps"),
        (lambda c: c.learners(num_learners=3), "num_envs_per_env_runner = 8 is not a multiple of num_learners = 3"),
        (lambda c: c.training(network={"padding": "none", "conv_filters": (4, 4, 4)}), "larger than 6 cells"),
    ],
)
def test_wrong_settings_are_named_before_anything_is_started(change, message):
    with pytest.raises((SettingError, ValueError), match=message.replace("(", r"\(").replace("[", r"\[")):
        change(small_config("cleanup")).validate()


def test_a_world_is_needed():
    with pytest.raises(SettingError, match=r"call .environment\(NAME\)"):
        EmpathyConfig().validate()


def test_foreign_weights_are_refused(ray_local, tmp_path):
    other = small_config("snowdrift").build_algo()
    other.save_to_path(tmp_path)
    algorithm = small_config("coin_game").build_algo()
    good = weights(algorithm)
    with pytest.raises(ValueError, match="These weights do not fit this agent"):
        algorithm.restore_from_path(tmp_path)
    np.testing.assert_array_equal(weights(algorithm), good)
    algorithm.stop()
    other.stop()
