"""The runner fills the joint trajectory with what really happened."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest

import env_registry
from env_registry import WORLDS, Game
from rllib_empathy.joint import JointTrajectory, concatenate
from rllib_empathy.sampling.joint_env_runner import JointEnvRunner
from tests.algorithm.common import small_config


def runner(worker_index: int = 0, **settings) -> JointEnvRunner:
    config = small_config(**settings)
    config.validate()
    return JointEnvRunner(config=config, worker_index=worker_index)


def assert_equal(left: JointTrajectory, right: JointTrajectory) -> None:
    for name in ("observations", "actions", "log_probs", "rewards", "alive", "survives", "starts", "tail_observations"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name), err_msg=name)


@pytest.mark.parametrize("world", WORLDS)
def test_trajectory_is_what_the_world_does(world):
    steps = cast(Game, env_registry.make(world)).parameters.episode_length + 7
    joint = runner(world=world, population="random", games=3, steps=steps).sample()[0]
    replay = env_registry.make(world, 3)
    observations = replay.reset(3)
    tails = {(s, g): o for s, g, o in zip(joint.tail_steps, joint.tail_games, joint.tail_observations, strict=True)}
    begun = np.ones(3, bool)
    for t in range(steps):
        np.testing.assert_array_equal(joint.observations[t], observations)
        np.testing.assert_array_equal(joint.starts[t], begun)
        np.testing.assert_array_equal(joint.alive[t], replay.alive)
        step = replay.step(joint.actions[t])
        np.testing.assert_array_equal(joint.rewards[t], step.rewards)
        np.testing.assert_array_equal(joint.survives[t], step.alive)
        for name, counts in step.events.items():
            np.testing.assert_array_equal(joint.events[name][t], counts)
        begun = step.terminated | step.truncated
        for game in begun.nonzero()[0]:
            assert step.final_observations is not None
            np.testing.assert_array_equal(tails.pop((t, game)), step.final_observations[game])
        np.testing.assert_array_equal(joint.terminated[t], step.terminated)
        observations = step.observations
    for going in (~begun).nonzero()[0]:
        np.testing.assert_array_equal(tails.pop((steps - 1, going)), observations[going])
        assert joint.truncated[-1, going]
    assert not tails


def test_two_fragments_are_one_long_one():
    population = [{"kind": "ppo", "count": 2, "shared": True, "network": {"memory": "lstm"}}, "a2c", "random"]
    long = runner(steps=40, population=population).sample()[0]
    halves = runner(steps=20, population=population)
    first, second = halves.sample()[0], halves.sample()[0]
    for name in ("observations", "actions", "log_probs", "rewards", "alive", "starts"):
        joined = np.concatenate([getattr(first, name), getattr(second, name)])
        np.testing.assert_array_equal(joined, getattr(long, name), err_msg=name)


def test_games_do_not_depend_on_how_they_are_spread_over_runners():
    together = runner(games=4, population="random").sample()[0]
    world = env_registry.make("stag_hunt", 2)
    spread = [runner(worker_index=index, games=2, population="random") for index in (1, 2)]
    starts = [r.sample()[0].observations[0] for r in spread]
    np.testing.assert_array_equal(np.concatenate(starts), together.observations[0])
    np.testing.assert_array_equal(world.reset(3, first_game=2), together.observations[0, 2:])


def test_whole_episodes_are_whole():
    source = runner(world="stag_hunt", population="random", games=5, steps=20)
    source.config.batch_mode = "complete_episodes"
    source.sample()
    for joint in [source.sample()[0], source.sample(num_episodes=12)[2]]:
        alive = joint.alive.any(2)
        ended = (joint.terminated | joint.truncated) & alive
        assert joint.starts[0].all()
        assert (ended.sum(0) == 1).all()
        for game in range(5):
            assert alive[: ended[:, game].argmax() + 1, game].all()
            assert not alive[ended[:, game].argmax() + 1 :, game].any()
    metrics = source.get_metrics()
    assert metrics["num_episodes"].peek() == 5 + 5 + 15


def test_metrics_are_the_trajectories_episodes():
    source = runner(world="snowdrift", population="random", games=6, steps=75)
    joint = concatenate([source.sample()[0]])
    returns, removed = [], []
    for game in range(6):
        total, drifts = np.zeros(4), 0
        for t in range(75):
            total += joint.rewards[t, game]
            drifts += joint.events["drifts_removed"][t, game].sum()
            if joint.terminated[t, game] or (joint.truncated[t, game] and t < 74):
                returns.append(total)
                removed.append(drifts)
                total, drifts = np.zeros(4), 0
    metrics = source.get_metrics()
    assert metrics["num_episodes"].peek() == len(returns)
    np.testing.assert_allclose(metrics["episode_return_mean"].peek(), np.sum(returns, 1).mean())
    np.testing.assert_allclose(metrics["events_mean"]["drifts_removed"].peek(), np.mean(removed))
    for agent in range(4):
        mean = metrics["agent_episode_returns_mean"][f"agent_{agent}"].peek()
        np.testing.assert_allclose(mean, np.mean(returns, 0)[agent])
    assert metrics["num_env_steps_sampled"].peek() == 6 * 75


def test_state_continues_bit_equal():
    population = [{"kind": "ppo", "count": 3, "network": {"memory": "gru"}}, "random"]
    source, other = runner(population=population), runner(population=population)
    source.sample()
    state = source.get_state()
    expected = source.sample()[0]
    other.set_state(state)
    assert_equal(other.sample()[0], expected)


def test_another_runners_games_are_not_taken_over():
    source, other = runner(worker_index=1), runner(worker_index=2)
    source.sample()
    other.sample()
    before = other.get_state()["sampling"]["world"]
    other.set_state(source.get_state())
    after = other.get_state()["sampling"]["world"]
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_weights_of_an_earlier_checkpoint_are_taken_too():
    source = runner()
    old = source.get_state(components="rl_module")
    new = {**old, "weights_seq_no": 9}
    source.set_state(new)
    source.set_state({**old, "weights_seq_no": 5})
    assert source._weights_seq_no == 5


def test_random_actions_are_refused_with_a_hint():
    with pytest.raises(ValueError, match="kind 'random'"):
        runner().sample(random_actions=True)
