"""Agents that come and go between iterations."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from time import sleep
from typing import Any

import numpy as np
import pytest
import ray
from ray.exceptions import RayActorError

from env_registry.parameters import SettingError
from rllib_empathy.experiments.checkpoints import read_agent
from rllib_empathy.learning.algorithm import Empathy
from tests.algorithm.common import small_config, weights

BEFORE: list[Any] = [
    {"kind": "ppo", "name": "veteran"},
    "a2c",
    {"kind": "lase", "name": "giver", "buffer_size": 2},
    "random",
]


def state_of(algorithm: Empathy, module_id: str) -> dict[str, np.ndarray]:
    return algorithm.get_module(module_id).get_state()


def steps_of(algorithm: Empathy, module_id: str) -> int:
    """Gradient steps that an agent's optimiser has taken."""
    optimizers = algorithm.learner_group._learner.get_optimizers_for_module(module_id)
    return int(next(iter(optimizers[0][1].state.values()))["step"])


def test_whoever_stays_goes_on_and_the_others_begin(ray_local, earlier, tmp_path):
    after: list[Any] = [
        {"kind": "frozen", "checkpoint": str(earlier), "agent": 0},
        "cooperator",
        {"kind": "ppo", "name": "recruit"},
        {"kind": "ppo", "name": "veteran"},
    ]
    config = small_config(population=BEFORE).evaluation(evaluation_interval=1, evaluation_duration=8)
    algorithm = config.build_algo()
    for _ in range(2):
        algorithm.train()
    kept, steps = state_of(algorithm, "veteran_0"), steps_of(algorithm, "veteran_0")
    with pytest.raises(SettingError, match="'veteran_0' would go on as another agent"):
        algorithm.change_population([{"kind": "ppo", "name": "veteran", "lr": 0.5}, *BEFORE[1:]])
    with pytest.raises(SettingError, match="fills 2 seats, the world has 4"):
        algorithm.change_population(["ppo", "ppo"])
    assert set(algorithm.config.policies) == {"veteran_0", "a2c_1", "giver_2", "random_3"}
    with pytest.raises(SettingError, match="call change_population"):
        algorithm.remove_module("a2c_1")

    after[3] = {"kind": "ppo", "name": "veteran_0", "shared": True}  # its id, on another seat
    algorithm.change_population(after)
    np.testing.assert_equal(state_of(algorithm, "veteran_0"), kept)
    assert steps_of(algorithm, "veteran_0") == steps
    result = algorithm.train()
    names = {"frozen_0", "cooperator_1", "recruit_2", "veteran_0"}
    assert set(result["learners"]) == {*names, "__all_modules__"}
    assert set(algorithm.env_runner.module.keys()) == names
    assert steps_of(algorithm, "veteran_0") == steps + 8
    assert steps_of(algorithm, "recruit_2") == 8
    assert any((value != kept[name]).any() for name, value in state_of(algorithm, "veteran_0").items())
    np.testing.assert_equal(state_of(algorithm, "frozen_0"), read_agent(earlier, 0).weights)
    for name in names:  # what acts is what has learned
        acting = algorithm.env_runner.module[name].get_state()
        np.testing.assert_equal(acting, state_of(algorithm, name))
    assert result["evaluation"]["env_runners"]["num_episodes"] >= 8

    algorithm.save_to_path(tmp_path)
    expected = algorithm.train()["env_runners"]["agent_episode_returns_mean"]
    restored = Empathy.from_checkpoint(tmp_path)
    assert restored.train()["env_runners"]["agent_episode_returns_mean"] == expected
    np.testing.assert_array_equal(weights(restored), weights(algorithm))
    algorithm.stop()
    restored.stop()


def test_on_remote_runners_and_with_several_learners(ray_local):
    config = small_config(population=["ppo", "ppo", "a2c", "random"])
    algorithm = config.env_runners(num_env_runners=1).learners(num_learners=2).build_algo()
    algorithm.train()
    algorithm.change_population(["ppo", "a2c", "a2c", "lase"])
    result = algorithm.train()
    assert set(result["learners"]) == {"ppo_0", "a2c_1", "a2c_2", "lase_3", "__all_modules__"}
    names = algorithm.env_runner_group.foreach_env_runner(lambda runner: sorted(runner.module.keys()))
    assert names == [["a2c_1", "a2c_2", "lase_3", "ppo_0"]] * 2
    replicas = [
        answer.get()
        for answer in algorithm.learner_group.foreach_learner(
            lambda learner: {mid: learner.module[mid].get_state() for mid in sorted(learner.module.keys())}
        )
    ]
    np.testing.assert_equal(replicas[0], replicas[1])

    # A runner that comes back before anybody notices that it was gone.
    group = algorithm.env_runner_group
    (process,) = group.foreach_env_runner(lambda runner: os.getpid(), local_env_runner=False)
    os.kill(process, signal.SIGKILL)
    wait_for_restart(group._worker_manager.actors()[1], process)
    assert group.num_healthy_remote_env_runners() == 1
    assert set(algorithm.train()["learners"]) == set(result["learners"])
    acting = group.foreach_env_runner(
        lambda runner: {mid: runner.module[mid].get_state() for mid in sorted(runner.module.keys())}
    )
    np.testing.assert_equal(acting[1], acting[0])
    assert set(acting[1]) == set(names[0])
    algorithm.stop()


def wait_for_restart(actor: Any, earlier: int) -> None:
    """Until it answers from another process."""
    now = earlier
    while now == earlier:
        sleep(0.1)
        with suppress(RayActorError):
            now = ray.get(actor.apply.remote(lambda runner: os.getpid()), timeout=120)
