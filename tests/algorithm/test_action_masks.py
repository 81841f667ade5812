"""Whole algorithms in worlds that forbid actions; these stop with an error where something forbidden is done."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from env_registry import WORLDS
from env_registry.parameters import SettingError
from rllib_empathy.experiments.checkpoints import read_agent
from rllib_empathy.experiments.evaluation import evaluate
from rllib_empathy.experiments.tournament import all_against_all
from rllib_empathy.inference import Agent, load_agent
from rllib_empathy.learning.algorithm import Empathy
from rllib_empathy.policies import KINDS, register_kind
from rllib_empathy.policies.random_agent import Random, RandomModule
from rllib_empathy.sampling.joint_env_runner import JointEnvRunner
from tests.algorithm.common import small_config, weights
from tests.core.test_kinds import PLAY_ANY_WORLD
from tests.worlds.masked_games import Locks, MaskedGame

LENGTH = 9


def config_of(population: Any = "ppo", games: int = 8, world: Any = MaskedGame, **env_config: Any) -> Any:
    config = small_config(world, population, games, LENGTH).environment(env_config=env_config)
    return config.env_runners(batch_mode="complete_episodes")


PLACES = ["observation", "observations", "infos"]


@pytest.mark.parametrize(("kind", "where"), list(zip(PLAY_ANY_WORLD, cycle(PLACES), strict=False)))
def test_every_kind_keeps_to_masks_and_learns(ray_local, kind, where):
    algorithm = config_of([kind, kind, {"kind": "ppo", "name": "other"}], where=where, choices=(3, 5, 3)).build_algo()
    before = weights(algorithm)
    for _ in range(3):  # the estimators of Reciprocators are fitted first
        result = algorithm.train()
    after = weights(algorithm)
    assert np.isfinite(after).all()
    assert not np.array_equal(before, after)
    assert result["env_runners"]["num_env_steps_sampled_lifetime"] == 3 * 8 * LENGTH
    assert result["env_runners"]["episode_return_mean"] > 0
    algorithm.stop()


def test_masks_are_in_the_trajectory_and_unmasked_worlds_have_none():
    config = config_of("ppo", choices=(3, 5), deaths={"player_0": 4})
    config.validate()
    (joint,) = JointEnvRunner(config=config, worker_index=0).sample()
    assert joint.action_masks is not None
    assert joint.action_masks.shape == (LENGTH, 8, 2, 5)
    assert np.take_along_axis(joint.action_masks, joint.actions[..., None], -1).all()
    assert joint.action_masks[~joint.alive].all()
    assert not joint.action_masks[:4, :, 0, 3:].any()  # actions that the first agent does not have
    assert 0.2 < joint.action_masks[:, :, 1].mean() < 0.8
    plain = small_config("stag_hunt")
    plain.validate()
    assert JointEnvRunner(config=plain, worker_index=0).sample()[0].action_masks is None


def test_the_best_play_of_a_known_game_is_found(ray_local):
    """The lowest action that is allowed earns 1. Who sees no masks but obeys them learns to want low ones."""
    algorithm = config_of(games=32, choices=(4, 4)).training(lr=0.02, entropy_coeff=0.0).build_algo()
    returns = [algorithm.train()["env_runners"]["episode_return_mean"] for _ in range(15)]
    assert returns[0] < 12  # of 18; by chance about 10
    assert returns[-1] > 17
    algorithm.stop()


def test_what_acted_is_what_is_learned_from(ray_local):
    """Before its first step a policy is the one that played: its ratio to it is 1 everywhere."""
    population = [{"kind": "ppo", "exploration": 0.3, "num_epochs": 1, "minibatch_size": 2**31}] * 2
    named = [{**entry, "name": name} for entry, name in zip(population, "ab", strict=True)]
    algorithm = config_of(named, choices=(4, 4)).build_algo()
    for _ in range(2):
        learned = algorithm.train()["learners"]
        assert learned["a_0"]["mean_kl"] == pytest.approx(0, abs=1e-6)
        assert learned["b_1"]["mean_kl"] == pytest.approx(0, abs=1e-6)
    algorithm.stop()


@pytest.mark.parametrize(("kind", "remote"), [("a2c", 1), ("reciprocator", 0)])
def test_two_learners_learn_what_one_does_from_masked_games(ray_local, kind, remote):
    whole = 2**31
    options: dict[str, dict[str, Any]] = {
        "a2c": {"kind": "a2c", "network": {"memory": "gru", "memory_size": 8}},
        "reciprocator": {
            "kind": "reciprocator",
            "minibatch_size": whole,
            "estimator": {"refit_every": 1, "minibatch_size": whole},
        },
    }
    config = config_of([{**options[kind], "count": 2}], games=16, choices=(4, 4), where="infos")
    config.env_runners(num_env_runners=remote)
    one, two = config.copy().build_algo(), config.copy().learners(num_learners=2).build_algo()
    for _ in range(3):
        one.train()
        two.train()
    np.testing.assert_allclose(weights(two), weights(one), atol=1e-5)
    one.stop()
    two.stop()


@pytest.fixture(scope="module")
def checkpoint(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of LASE, a recurrent agent and a Reciprocator, with a remote runner; that it goes on bit-equal is checked beside."""
    path = tmp_path_factory.mktemp("masked") / "checkpoint"
    memory = {"kind": "ppo", "network": {"memory": "gru", "memory_size": 8}}
    config = config_of(["lase", memory, "reciprocator"], choices=(3, 3, 3)).training(lr=0.01)
    config.evaluation(evaluation_interval=1, evaluation_duration=4, evaluation_config={"explore": False})
    original = config.env_runners(num_env_runners=1).build_algo()
    for _ in range(2):
        result = original.train()
    assert result["evaluation"]["env_runners"]["episode_return_mean"] > 0
    original.save_to_path(path)
    original.train()
    restored = Empathy.from_checkpoint(path)
    restored.train()
    np.testing.assert_array_equal(weights(restored), weights(original))
    original.stop()
    restored.stop()
    return path


def test_trained_agents_are_evaluated_and_play_each_other(checkpoint):
    found = evaluate(checkpoint, episodes=6, greedy=True, others={1: "random"})
    assert found.returns.shape == (6, 3)
    agents: dict[str, Any] = {
        "trained": {"kind": "frozen", "checkpoint": str(checkpoint), "agent": 1},
        "random": {"kind": "random"},
    }
    tournament = all_against_all(config_of(choices=(3, 3, 3)), agents, episodes=4)
    assert np.isfinite(tournament.returns).all()


def test_a_loaded_agent_does_what_a_runner_does_with_masks(checkpoint):
    entries = [{"kind": "frozen", "checkpoint": str(checkpoint), "agent": agent} for agent in range(3)]
    config = config_of(entries, games=1, choices=(3, 3, 3))
    config.validate()
    runner = JointEnvRunner(config=config, worker_index=0)
    for module_id, kind in runner.population.kinds().items():
        kind.initialise(runner.module[module_id])
    joint: Any = runner.sample(explore=False)[0]
    for number in range(3):
        agent, beside = load_agent(checkpoint, number, greedy=True), load_agent(checkpoint, number, greedy=True)
        for step in range(LENGTH):
            seen, mask = joint.observations[step, 0, number], joint.action_masks[step, 0, number]
            assert agent.act(seen, action_mask=mask) == joint.actions[step, 0, number]
            assert beside.act({"observation": seen, "action_mask": mask}) == joint.actions[step, 0, number]
            for each in (agent, beside):
                told = joint.observations[step, 0], joint.actions[step, 0]
                each.notice(*told, action_masks=joint.action_masks[step, 0])


@pytest.mark.parametrize("where", ["observation", "infos"])
def test_who_needs_a_mask_says_so(ray_local, tmp_path, where):
    algorithm = config_of(["ppo", "reciprocator"], where=where).build_algo()
    algorithm.save_to_path(tmp_path)
    algorithm.stop()
    assert read_agent(tmp_path, 0).masked
    agent = load_agent(tmp_path, 0)
    with pytest.raises(ValueError, match=r"hand over act\(observation, action_mask=\.\.\.\)"):
        agent.act([0.0, 0.0])
    with pytest.raises(ValueError, match="all zeros"):
        agent.act([0.0, 0.0], action_mask=[0, 0, 0])
    with pytest.raises(ValueError, match=r"shape \(2,\); needed is a number for each of its 3 actions"):
        agent.act([0.0, 0.0], action_mask=[1, 0])
    assert [agent.act([0.0, 0.0], action_mask=[0, 1, 0]) for _ in range(20)] == [1] * 20
    account = load_agent(tmp_path, 1)
    account.act([0.0, 0.0], action_mask=[1, 1, 1])
    with pytest.raises(ValueError, match="action_masks="):
        account.notice(np.zeros((2, 2)), [0, 0])
    with pytest.raises(SettingError, match="an ONNX file would not look at them"):
        agent.to_onnx(tmp_path / "agent.onnx")


@pytest.mark.filterwarnings("ignore::UserWarning")  # MLflow's own
def test_an_mlflow_model_without_masks_is_refused(checkpoint):
    from rllib_empathy.tracking.agent_model import AgentModel

    context = type("Context", (), {"artifacts": {"checkpoint": str(checkpoint)}})()
    with pytest.raises(SettingError, match="an MLflow model is not told"):
        AgentModel().load_context(context)


def test_agents_of_worlds_without_masks_need_none(ray_local, tmp_path):
    algorithm = small_config("stag_hunt").build_algo()
    algorithm.save_to_path(tmp_path)
    algorithm.stop()
    trained = read_agent(tmp_path, 0)
    assert not trained.masked
    agent = Agent(trained, seed=0)
    agent.act(agent.observation_space.low)


def test_batched_worlds_of_ones_own_and_shuffled_seats(ray_local, monkeypatch):
    monkeypatch.setitem(WORLDS, "locks", Locks)
    config = small_config("locks", ["ppo", "lase", "random"], games=6, steps=12)
    config.shuffle_seats = True
    algorithm = config.build_algo()
    for _ in range(2):
        result = algorithm.train()
    assert result["env_runners"]["num_env_steps_sampled_lifetime"] == 2 * 6 * 12
    algorithm.stop()


def test_who_may_do_nothing_stops_the_run_with_game_agent_and_step(ray_local):
    algorithm = config_of(stuck=3).build_algo()
    with pytest.raises(SettingError, match="MaskedGame allows 'player_0' no action in game 0, after 3 steps"):
        algorithm.train()
    algorithm.stop()


def test_kinds_that_do_not_look_at_masks_are_refused_before_anything_starts(monkeypatch):
    class DeafModule(RandomModule):
        @classmethod
        def act(cls, modules, parameters, observations, state, generator, explore):  # type: ignore[override]
            raise AssertionError("never asked")

    class Deaf(Random):
        name = "deaf"
        Module = DeafModule

    monkeypatch.setitem(KINDS, "deaf", Deaf)
    assert register_kind(Deaf) is Deaf
    with pytest.raises(SettingError, match=r"'deaf' do not look at them: .*DeafModule.act takes no argument 'allowed'"):
        config_of("deaf").validate()
    config_of("deaf", world="stag_hunt").validate()


def test_scripts_know_no_worlds_with_masks():
    with pytest.raises(SettingError, match="do not know how to play"):
        config_of("cooperator").validate()
