"""Seats that are shuffled for every episode, against games played by hand."""

from __future__ import annotations

from collections import Counter
from itertools import permutations
from typing import Any

import numpy as np
import pytest

import env_registry
from env_registry import WORLDS
from env_registry.parameters import SettingError
from env_registry.shuffled_seats import ShuffledSeats
from rllib_empathy.learning.algorithm import Empathy
from rllib_empathy.sampling.joint_env_runner import JointEnvRunner
from tests.algorithm.common import small_config, weights
from tests.worlds.small_games import FadingWorld

GAMES = 3


def shuffled(world: Any, games: int = GAMES, **env_config: Any) -> ShuffledSeats:
    return ShuffledSeats(env_registry.make(world, games, **env_config))


@pytest.mark.parametrize("world", [*WORLDS, FadingWorld])
def test_everything_follows_the_agent(world):
    """The same seed without shuffling, with actions handed to the seats by hand."""
    episode: Any = {"episode_length": 5}
    mine, plain = shuffled(world, **episode), env_registry.make(world, GAMES, **episode)
    seen, plain_seen = mine.reset(7), plain.reset(7)
    choices = np.random.default_rng(1)
    met: set[tuple[int, ...]] = set()
    for _ in range(40):
        seats = mine.seats
        met |= {tuple(row) for row in seats.tolist()}
        actions = choices.integers(int(mine.action_space.n), size=(GAMES, mine.num_agents))
        plain_actions = np.empty_like(actions)
        for game in range(GAMES):
            for agent in range(mine.num_agents):
                seat = seats[game, agent]
                np.testing.assert_array_equal(seen[game, agent], plain_seen[game, seat])
                assert mine.alive[game, agent] == plain.alive[game, seat]
                plain_actions[game, seat] = actions[game, agent]
        step, plain_step = mine.step(actions), plain.step(plain_actions)
        ended = step.terminated | step.truncated
        np.testing.assert_array_equal(ended, plain_step.terminated | plain_step.truncated)
        for game in range(GAMES):
            if not ended[game]:
                np.testing.assert_array_equal(mine.seats[game], seats[game])
            for agent in range(mine.num_agents):
                seat = seats[game, agent]
                assert step.rewards[game, agent] == plain_step.rewards[game, seat]
                assert step.alive[game, agent] == plain_step.alive[game, seat]
                for name, counts in step.events.items():
                    assert counts[game, agent] == plain_step.events[name][game, seat]
                if ended[game]:
                    assert step.final_observations is not None
                    assert plain_step.final_observations is not None
                    final, plain_final = step.final_observations[game, agent], plain_step.final_observations[game, seat]
                    np.testing.assert_array_equal(final, plain_final)
        seen, plain_seen = step.observations, plain_step.observations
    assert len(met) > 1


def test_every_order_is_equally_likely_and_no_game_follows_another():
    world = shuffled("cleanup", 6000, num_agents=3)
    world.reset(1)
    counts = Counter(map(tuple, world.seats.tolist()))
    assert set(counts) == set(permutations(range(3)))
    assert (
        sum((count - 1000) ** 2 / 1000 for count in counts.values()) < 30
    )  # 5 degrees of freedom: once in 80,000 seeds
    neighbours = Counter(zip(map(tuple, world.seats[:-1].tolist()), map(tuple, world.seats[1:].tolist()), strict=True))
    assert sum((neighbours[pair] - 5999 / 36) ** 2 / (5999 / 36) for pair in neighbours) < 85  # 35 degrees of freedom


def test_seats_do_not_depend_on_how_games_are_spread():
    together, second = shuffled("cleanup", 6), shuffled("cleanup", 3)
    together.reset(4)
    second.reset(4, first_game=3)
    np.testing.assert_array_equal(second.seats, together.seats[3:])


@pytest.mark.parametrize("world", ["snowdrift", FadingWorld])
def test_state_continues_bit_equal(world):
    source, other = (shuffled(world, episode_length=4) for _ in range(2))
    source.reset(3)
    actions = np.zeros((GAMES, source.num_agents), np.int64)
    for _ in range(6):
        shown = source.step(actions).observations
    np.testing.assert_array_equal(other.set_state(source.get_state()), shown)
    for _ in range(9):
        mine, others = source.step(actions), other.step(actions)
        np.testing.assert_array_equal(mine.observations, others.observations)
        np.testing.assert_array_equal(mine.rewards, others.rewards)
        np.testing.assert_array_equal(source.seats, other.seats)


def test_unlike_seats_are_refused_before_anything_starts():
    config = small_config("tests.worlds.small_games:unlike_game").population("ppo", shuffle_seats=True)
    with pytest.raises(SettingError, match=r"shuffle_seats needs seats that are alike; here .* differ"):
        config.validate()


def test_a_runner_notes_who_sat_where():
    config = small_config("stag_hunt", games=4, steps=70).population("random", shuffle_seats=True)
    config.validate()
    joint = JointEnvRunner(config=config, worker_index=0).sample()[0]
    plain = env_registry.make("stag_hunt", 4)
    seen = plain.reset(3)
    for t in range(70):
        for game in range(4):
            np.testing.assert_array_equal(joint.observations[t, game], seen[game, joint.seats[t, game]])
            if t and not joint.starts[t, game]:
                np.testing.assert_array_equal(joint.seats[t, game], joint.seats[t - 1, game])
        actions = np.empty((4, 4), np.int64)
        np.put_along_axis(actions, joint.seats[t].astype(int), joint.actions[t], 1)
        seen = plain.step(actions).observations
    assert len(np.unique(joint.seats.reshape(-1, 4), axis=0)) > 2


def test_resuming_continues_bit_equal(ray_local, tmp_path):
    population: list[Any] = ["lase", {"kind": "ppo", "network": {"memory": "gru", "memory_size": 8}}, "a2c", "random"]
    config = small_config("stag_hunt").population(population, shuffle_seats=True)
    original = config.build_algo()
    original.train()
    original.save_to_path(tmp_path)
    expected = original.train()["env_runners"]["agent_episode_returns_mean"]
    restored = Empathy.from_checkpoint(tmp_path)
    assert restored.train()["env_runners"]["agent_episode_returns_mean"] == expected
    np.testing.assert_array_equal(weights(restored), weights(original))
    original.stop()
    restored.stop()
