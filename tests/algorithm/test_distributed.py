"""Remote runners and several learners: nothing is lost, counted twice or learned differently."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import ray

from rllib_empathy.learning.algorithm import Empathy
from rllib_empathy.learning.finite import NonFiniteError
from rllib_empathy.learning.training_data import JointTrainingData
from rllib_empathy.sampling.joint_env_runner import JointEnvRunner
from tests.algorithm.common import small_config, weights
from tests.algorithm.worlds import BadReward

MIXED = [{"kind": "ppo", "count": 2, "network": {"memory": "lstm", "memory_size": 8}}, "a2c", "random"]


def replica_difference(algorithm: Empathy) -> float:
    """Largest difference between the parameters of two learners."""
    replicas = [
        answer.get()
        for answer in algorithm.learner_group.foreach_learner(
            lambda learner: np.concatenate(
                [
                    p.detach().numpy().ravel()
                    for mid in sorted(learner.module.keys())
                    for p in learner.module[mid].parameters()
                ]
            )
        )
    ]
    assert len(replicas) == 2
    return float(np.abs(replicas[0] - replicas[1]).max())


def test_two_runners_resume_bit_equal_and_survive_a_kill(ray_local, tmp_path):
    algorithm = small_config(population=MIXED).env_runners(num_env_runners=2).build_algo()
    algorithm.train()
    algorithm.save_to_path(tmp_path)
    expected = algorithm.train()
    restored = Empathy.from_checkpoint(tmp_path)
    result = restored.train()
    np.testing.assert_array_equal(weights(restored), weights(algorithm))
    assert result["env_runners"]["num_env_steps_sampled_lifetime"] == 2 * 2 * 8 * 20
    assert result["env_runners"]["episode_return_mean"] == expected["env_runners"]["episode_return_mean"]
    restored.stop()

    ray.kill(algorithm.env_runner_group._worker_manager.actors()[1], no_restart=False)
    steps = expected["env_runners"]["num_env_steps_sampled_lifetime"]
    healthy, deadline = 1, time.monotonic() + 120
    while healthy < 2 and time.monotonic() < deadline:
        result = algorithm.train()
        sampled = result["env_runners"]["num_env_steps_sampled"]
        assert sampled in (8 * 20, 2 * 8 * 20)
        steps += sampled
        healthy = result["fault_tolerance"]["num_healthy_workers"] if sampled == 2 * 8 * 20 else 1
    assert healthy == 2
    assert result["env_runners"]["num_env_steps_sampled_lifetime"] == steps
    versions = algorithm.env_runner_group.foreach_env_runner(
        lambda runner: runner._weights_seq_no, local_env_runner=False
    )
    assert len(set(versions)) == 1
    algorithm.stop()


@pytest.mark.parametrize("remote", [0, 1])
def test_two_learners_learn_what_one_does(ray_local, remote):
    population = ["a2c", "a2c", {"kind": "a2c", "network": {"memory": "gru", "memory_size": 8}}, "random"]
    config = small_config(population=population, games=16).env_runners(num_env_runners=remote)
    one, two = config.copy().build_algo(), config.copy().learners(num_learners=2).build_algo()
    np.testing.assert_array_equal(weights(one), weights(two))
    for _ in range(3):
        single, double = one.train(), two.train()
    assert single["env_runners"]["episode_return_mean"] == double["env_runners"]["episode_return_mean"]
    np.testing.assert_allclose(weights(two), weights(one), atol=1e-5)
    assert replica_difference(two) == 0.0
    one.stop()
    two.stop()


def test_two_learners_reciprocate_as_one_does(ray_local):
    """Estimators and acting networks, on whole batches: two minibatches of half the rows are one of all."""
    whole = 2**31
    network = {"form": "counterfactual", "refit_every": 1, "epochs": 2, "minibatch_size": whole, "buffer_size": 2}
    counting = {
        "kind": "reciprocator",
        "normalize_reciprocal": True,
        "estimator": {"form": "tabular", "refit_every": 1},
    }
    other = {"kind": "reciprocator", "balance_input": False, "network": {"memory": "gru"}, "estimator": network}
    config = small_config("iterated_prisoners_dilemma", [counting, other], steps=10).training(minibatch_size=whole)
    config.environment(env_config={"preset": "reciprocator", "episode_length": 10})
    one, two = config.copy().build_algo(), config.copy().learners(num_learners=2).build_algo()
    begun = weights(one)
    for _ in range(4):
        single, double = one.train()["learners"], two.train()["learners"]
    np.testing.assert_allclose(weights(two), weights(one), atol=1e-5)
    assert np.abs(weights(one) - begun).max() > 1e-2
    assert replica_difference(two) == 0.0
    for module, agent in (("reciprocator_0", 0), ("reciprocator_1", 1)):
        pair = f"agent_{agent}_to_{1 - agent}"
        for name in (
            f"influence/{pair}",
            f"balance/{pair}",
            f"reciprocal_reward/agent_{agent}",
            "reshaped_reward_mean",
        ):
            assert double[module][name] == pytest.approx(single[module][name], abs=1e-4), name
    one.stop()
    two.stop()


def test_two_learners_pay_for_what_one_does(ray_local):
    population = [{"kind": "lio", "incentive_lr": 0.01, "incentive_cost": 0.01}, {"kind": "lio", "gamma": 0.9}]
    config = small_config("iterated_prisoners_dilemma", population, steps=10)
    config.environment(env_config={"episode_length": 10})
    one, two = config.copy().build_algo(), config.copy().learners(num_learners=2).build_algo()
    begun = weights(one)
    for _ in range(4):
        one.train()
        two.train()
    np.testing.assert_allclose(weights(two), weights(one), atol=1e-5)
    assert np.abs(weights(one) - begun).max() > 1e-2
    assert replica_difference(two) == 0.0
    one.stop()
    two.stop()


def test_what_a_dead_runner_left_is_missed_but_not_waited_for(ray_local):
    class Runner:
        def sample(self, joint):
            return [ray.put(joint)]

    remote_runner: Any = ray.remote(Runner)
    config = small_config()
    config.validate()
    joint = JointEnvRunner(config=config, worker_index=0).sample()[0]
    runners = [remote_runner.remote() for _ in range(2)]
    references = [ray.get(runner.sample.remote(joint))[0] for runner in runners]
    ray.kill(runners[0])
    deadline = time.monotonic() + 60
    data = JointTrainingData(trajectories=references)
    while len(data.trajectories) == 2 and time.monotonic() < deadline:
        data = JointTrainingData(trajectories=references)
        data.solve_refs()
    assert len(data.trajectories) == 1
    np.testing.assert_array_equal(data.joint().rewards, joint.rewards)
    with pytest.raises(ray.exceptions.ObjectLostError):
        JointTrainingData(trajectories=references[:1]).solve_refs()
    ray.kill(runners[1])


def test_several_learners_stop_together(ray_local):
    """The bad reward is in the first learner's share only; the second must not wait for it."""
    config = small_config(BadReward).environment(env_config={"bad_step": 5}).learners(num_learners=2)
    algorithm = config.build_algo()
    with pytest.raises(NonFiniteError):
        algorithm.train()
    algorithm.stop()


def test_runners_that_sample_ahead_are_one_update_behind(ray_local):
    """The runner notes which weights it plays with; the Learner's own version counts updates.

    It is slow to take weights over, so that the next ones are made meanwhile, and once to play.
    """

    class Noting(JointEnvRunner):
        samples = 0

        def set_state(self, state):
            if self.worker_index:
                time.sleep(0.2)
            super().set_state(state)

        def sample(self, **kwargs):
            self.samples += 1
            if self.samples == 3:
                time.sleep(1.5)
            trajectories = super().sample(**kwargs)
            return [replace(t, events={"version": np.full_like(t.actions, self._weights_seq_no)}) for t in trajectories]

    config = small_config(games=4, steps=5).env_runners(num_env_runners=1, sample_ahead=True, env_runner_cls=Noting)
    config.env_runners(sample_timeout_s=1.0)
    algorithm = config.build_algo()
    learned_from, learner_group = [], algorithm.learner_group

    def update(*, training_data, **kwargs):
        learned_from.append(int(ray.get(training_data.trajectories[0]).events["version"].min()))
        return type(learner_group).update(learner_group, training_data=training_data, **kwargs)

    learner_group.update = update
    steps = [algorithm.train()["env_runners"]["num_env_steps_sampled_lifetime"] for _ in range(5)]
    algorithm.stop()
    assert steps == [20, 40, 60, 80, 100]
    behind = np.arange(5) - learned_from
    assert behind[0] == 0
    assert set(behind[1:]) == {1}
