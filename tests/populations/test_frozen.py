"""Frozen agents play as they did when their checkpoint was written, whatever is learned beside them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from env_registry.parameters import SettingError
from rllib_empathy.experiments.checkpoints import read_agent, read_config
from rllib_empathy.experiments.evaluation import evaluate
from rllib_empathy.joint import JointTrajectory
from rllib_empathy.learning.algorithm import Empathy
from rllib_empathy.learning.config import EmpathyConfig
from rllib_empathy.policies.kind import AgentModule
from rllib_empathy.sampling.joint_env_runner import JointEnvRunner
from tests.algorithm.common import small_config, weights


def frozen(path: Path, agent: int, **seats: Any) -> dict[str, Any]:
    return {"kind": "frozen", "checkpoint": str(path), "agent": agent, **seats}


def played(config: EmpathyConfig, path: Path | None = None) -> JointTrajectory:
    """Two fragments, always the most probable action; weights from a checkpoint, or those that the kinds bring."""
    config.env_runners(num_env_runners=0, num_envs_per_env_runner=6).debugging(seed=5).validate()
    runner = JointEnvRunner(config=config, worker_index=0)
    if path is not None:
        runner.module.restore_from_path(path / "learner_group" / "learner" / "rl_module")
    else:
        for module_id, kind in runner.population.kinds().items():
            kind.initialise(runner.module[module_id])
    runner.sample(num_timesteps=120, explore=False)
    return runner.sample(num_timesteps=120, explore=False)[0]


def test_four_frozen_agents_play_as_the_run_that_they_are_from(earlier):
    """Networks with and without memory, and scripts."""
    expected = played(read_config(earlier), earlier)
    found = played(small_config(population=[frozen(earlier, agent) for agent in range(4)]))
    for name in ("observations", "actions", "rewards", "starts"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    np.testing.assert_allclose(found.log_probs, expected.log_probs, atol=1e-6)
    for one, other in zip(found.states, expected.states, strict=True):
        assert set(one) == set(other)
        for name in one:
            np.testing.assert_allclose(one[name], other[name], atol=1e-6)


def test_any_seat_and_a_shared_network_will_do(earlier):
    population = [frozen(earlier, 1, count=3, shared=True, name="elders"), "ppo"]
    runner_config = small_config(population=population)
    runner_config.validate()
    assert runner_config.resolved_population().module_of_agent == {0: "elders", 1: "elders", 2: "elders", 3: "ppo_3"}
    assert played(runner_config).states[2].keys() == {"h", "c"}


def test_they_do_not_learn_on_any_process(ray_local, earlier):
    config = small_config(population=["a2c", frozen(earlier, 1), frozen(earlier, 0), "lase"])
    algorithm = config.env_runners(num_env_runners=1).build_algo()
    before = weights(algorithm)
    for _ in range(2):
        result = algorithm.train()
    assert np.abs(weights(algorithm) - before).max() > 0
    assert "policy_loss" in result["learners"]["a2c_0"]
    assert "policy_loss" not in result["learners"]["frozen_1"]
    for agent, module_id in ((1, "frozen_1"), (0, "frozen_2")):
        expected = read_agent(earlier, agent).weights
        everywhere = modules(algorithm, module_id)
        assert len(everywhere) == 3
        for module in everywhere:
            np.testing.assert_equal(module, expected)
    algorithm.stop()


def test_a_run_needs_the_earlier_one_no_more_once_it_has_begun(ray_local, earlier, tmp_path):
    gone = Path(shutil.copytree(earlier, tmp_path / "gone"))
    algorithm = small_config(population=["a2c", frozen(gone, 1), frozen(gone, 0), "lase"]).build_algo()
    shutil.rmtree(gone)
    algorithm.train()
    algorithm.save_to_path(tmp_path / "later")
    expected = algorithm.train()["env_runners"]["episode_return_mean"]
    restored = Empathy.from_checkpoint(tmp_path / "later")
    assert restored.train()["env_runners"]["episode_return_mean"] == expected
    np.testing.assert_array_equal(weights(restored), weights(algorithm))
    algorithm.stop()
    restored.stop()

    assert evaluate(tmp_path / "later", episodes=4).seats == ("a2c", "frozen", "frozen", "lase")
    again = read_agent(tmp_path / "later", 1)
    assert again.kind == "frozen"
    np.testing.assert_equal(again.weights, read_agent(earlier, 1).weights)


def modules(algorithm: Empathy, module_id: str) -> list[dict[str, np.ndarray]]:
    """The weights of a module on the Learner and on every runner."""
    found = algorithm.env_runner_group.foreach_env_runner(lambda runner: runner.module[module_id].get_state())
    return [algorithm.get_module(module_id).get_state(), *found]


def test_with_the_acting_network_only(earlier):
    names = {name.partition(".")[0] for name in read_agent(earlier, 0).weights}
    assert "actor_critic" in names
    assert "social" not in names
    assert isinstance(read_agent(earlier, 0).module(), AgentModule)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c, p: c.population([*["ppo"] * 3, frozen(p / "nowhere", 0)]), "nowhere does not exist"),
        (lambda c, p: c.population([*["ppo"] * 3, frozen(p.parent, 0)]), "is no RLlib checkpoint"),
        (lambda c, p: c.population([*["ppo"] * 3, frozen(p, 4)]), "has no agent 4; its agents are 0 to 3"),
        (lambda c, p: c.population([*["ppo"] * 3, frozen(p, -1)]), "'agent' = -1"),
        (lambda c, p: c.population([*["ppo"] * 3, {"kind": "frozen"}]), "'checkpoint' is missing"),
        (lambda c, p: c.population([*["ppo"] * 3, {"kind": "frozen", "checkpoint": 3}]), "'checkpoint' = 3"),
        (lambda c, p: c.population([frozen(p, 0, count=4)]).environment("cleanup"), "in 'stag_hunt', this world is 'cleanup'"),
        (
            lambda c, p: c.population([frozen(p, 1, count=3)]).environment(env_config={"num_agents": 3}),
            "knows observations Box.*env_config",
        ),
        (
            lambda c, p: c.population([frozen(p, 1, count=4)]).environment(env_config={"window_radius": 1}),
            "knows observations Box.*env_config",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_before_anything_starts(earlier, change, message):
    with pytest.raises(SettingError, match=message):
        change(small_config(), earlier).validate()
