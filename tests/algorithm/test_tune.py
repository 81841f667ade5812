"""Tune searches over agents' options, worlds and populations as over any RLlib algorithm's settings."""

from __future__ import annotations

import signal

import pytest
from ray import tune

from env_registry import SettingError
from rllib_empathy.learning.algorithm import Empathy
from tests.algorithm.common import small_config


@pytest.fixture(autouse=True)
def interrupt_handler():
    """Tune leaves its own behind."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


def test_grid_over_options_world_and_population(ray_local, tmp_path):
    config = (
        small_config("snowdrift")
        .environment(env_config={"drifts": tune.grid_search([3, 6])})
        .population([{"kind": "ppo", "count": 3, "gamma": tune.choice([0.9])}, "random"])
        .training(lr=tune.uniform(0.001, 0.002))
    )
    results = tune.Tuner(
        Empathy,
        param_space=config,
        run_config=tune.RunConfig(stop={"training_iteration": 2}, storage_path=str(tmp_path), verbose=0),
    ).fit()
    assert not results.errors
    assert len(results) == 2
    rates = {result.metrics["learners"]["ppo_0"]["default_optimizer_learning_rate"] for result in results}
    assert len(rates) == 2
    assert all(0.001 <= rate <= 0.002 for rate in rates)
    assert {result.config["env_config"]["drifts"] for result in results} == {3, 6}


def test_a_wrong_option_is_named_before_a_trial_starts(ray_local, tmp_path):
    config = small_config("snowdrift").training(gamma=tune.grid_search([1.5]))
    tuner = tune.Tuner(
        Empathy,
        param_space=config,
        run_config=tune.RunConfig(stop={"training_iteration": 1}, storage_path=str(tmp_path), verbose=0),
    )
    with pytest.raises(SettingError, match=r"'gamma' = 1.5"):
        tuner.fit()
