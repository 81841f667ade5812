"""Sums over episodes that spread over batches, against adding up each game's rows from its start to its end."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rllib_empathy import EmpathyConfig
from rllib_empathy.joint import JointTrajectory, concatenate
from rllib_empathy.learning.episode_sums import EpisodeSums
from rllib_empathy.sampling.joint_env_runner import JointEnvRunner


def runner(world: str = "stag_hunt", worker_index: int = 1, games: int = 5, **settings) -> JointEnvRunner:
    """Random stag hunters with short, unlike episodes."""
    config = EmpathyConfig().environment(world, env_config={"episode_length": 7}).population("random")
    config.env_runners(num_envs_per_env_runner=games, **settings).debugging(seed=3)
    return JointEnvRunner(config=config, worker_index=worker_index)


def fragment(of: JointEnvRunner, steps: int) -> JointTrajectory:
    (joint,) = of.sample(num_timesteps=steps * of.num_games)
    rewards = np.random.default_rng(joint.origin["steps_before"].sum()).integers(-9, 9, joint.shape)
    return replace(joint, rewards=rewards.astype(np.float32))  # so that every step counts


def added(sums: EpisodeSums, joint: JointTrajectory) -> np.ndarray:
    tensors = joint.to_tensors()
    return sums.add(tensors, tensors.rewards)


def in_order(rows: np.ndarray) -> list[tuple[float, ...]]:
    return sorted(map(tuple, rows.tolist()))


def expected(fragments: list[JointTrajectory]) -> list[tuple[float, ...]]:
    """Sums of all whole episodes of one runner's consecutive fragments, game by game and row by row."""
    found = []
    for game in range(fragments[0].shape[1]):
        total = None
        for joint in fragments:
            for step in range(joint.shape[0]):
                if joint.starts[step, game]:
                    total = np.zeros(joint.shape[2])
                if total is not None:
                    total = total + joint.rewards[step, game]
                last = step == joint.shape[0] - 1
                ended = joint.terminated[step, game] or joint.truncated[step, game]
                if ended and not (last and joint.origin["goes_on"][game]) and total is not None:
                    found.append(tuple(total))
                    total = None
    return sorted(found)


@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(1, 11), min_size=1, max_size=5))
def test_every_episode_counts_once_however_it_is_cut(lengths):
    """Two runners side by side; one is a fragment ahead in every batch."""
    ahead, behind, sums = runner(worker_index=1), runner(worker_index=2), EpisodeSums()
    fragments = [[fragment(each, steps) for steps in lengths] for each in (ahead, behind)]
    ordered = [[fragments[0][0]], *([fragments[0][i + 1], fragments[1][i]] for i in range(len(lengths) - 1))]
    ordered.append([fragments[1][-1]])
    found = []
    for batch in ordered:
        found.extend(in_order(np.concatenate([added(sums, joint) for joint in batch])))
        sums.set_state(pickle.loads(pickle.dumps(sums.get_state())))
    assert sorted(found) == sorted(expected(fragments[0]) + expected(fragments[1]))


def test_several_rounds_of_a_batch_are_one_after_the_other():
    player, sums = runner(), EpisodeSums()
    fragments = [fragment(player, 10) for _ in range(3)]
    found = added(sums, concatenate(fragments))
    assert len(found) >= 15
    assert in_order(found) == expected(fragments)


def test_an_episode_of_which_a_part_was_lost_is_left_out():
    player, sums = runner(), EpisodeSums()
    first, _lost, third = (fragment(player, 10) for _ in range(3))
    found = np.concatenate([added(sums, first), added(sums, third)])
    assert in_order(found) == sorted(expected([first]) + expected([third]))


def test_a_runner_that_replaces_another_begins_anew():
    sums = EpisodeSums()
    first, again = fragment(runner(), 10), fragment(runner(), 10)
    found = np.concatenate([added(sums, first), added(sums, again)])
    assert in_order(found) == sorted(expected([first]) + expected([again]))


@pytest.mark.parametrize("world", ["stag_hunt", "iterated_prisoners_dilemma"])
def test_whole_episodes_and_their_padding(world):
    player, sums = runner(world, batch_mode="complete_episodes"), EpisodeSums()
    batches = [player.sample()[0] for _ in range(2)]
    finished = player.take_finished()
    assert finished is not None
    found = np.concatenate([added(sums, joint) for joint in batches])
    np.testing.assert_allclose(in_order(found), in_order(finished.returns))
    assert sums.get_state() == {}


def test_games_that_go_on_are_marked():
    player = runner()
    joint = fragment(player, 10)
    state = player.get_state()
    joined = fragment(player, 3)
    np.testing.assert_array_equal(joint.origin["goes_on"], ~joined.starts[0])
    np.testing.assert_array_equal(joined.origin["steps_before"], 10)
    np.testing.assert_array_equal(joined.origin["game"], range(5))
    np.testing.assert_array_equal(runner(worker_index=3).sample()[0].origin["game"], range(10, 15))
    player.set_state(state)
    np.testing.assert_array_equal(fragment(player, 3).origin["steps_before"], 10)


def test_values_may_be_any_quantity_of_the_steps():
    joint = fragment(runner(), 20)
    tensors = joint.to_tensors()
    sums = EpisodeSums().add(tensors, torch.ones_like(tensors.rewards))
    assert set(sums.flatten().tolist()) <= set(range(1, 8))
