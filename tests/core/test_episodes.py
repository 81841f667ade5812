"""Totals of episodes against adding up the steps by hand."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from env_registry import Step
from rllib_empathy.sampling.episodes import EpisodeTotals

EVENTS = ("apples", "returns")  # an event may be called like a total


def random_step(rng: np.random.Generator, games: int = 3, agents: int = 2) -> Step:
    ended = rng.random(games) < 0.3
    terminated = ended & (rng.random(games) < 0.5)
    return Step(
        observations=np.zeros((games, agents, 1), np.uint8),
        rewards=rng.normal(size=(games, agents)).astype(np.float32),
        terminated=terminated,
        truncated=ended & ~terminated,
        alive=np.ones((games, agents), np.bool_),
        events={name: rng.integers(0, 256, (games, agents), np.uint8) for name in EVENTS},
        final_observations=None,
    )


@pytest.mark.parametrize("all_count", [True, False])
def test_totals_are_the_sums_of_the_steps(all_count):
    rng = np.random.default_rng(3)
    totals = EpisodeTotals(3, 2, EVENTS)
    steps: list[list[Step]] = [[] for _ in range(3)]
    finished = 0
    for _ in range(60):
        step, counts = random_step(rng), np.array([True, all_count or rng.random() < 0.5, True])
        found = totals.add(step, counts)
        for game in range(3):
            if counts[game]:
                steps[game].append(step)
        ended = [game for game in range(3) if counts[game] and (step.terminated | step.truncated)[game]]
        if not ended:
            assert found is None
            continue
        assert found is not None
        assert len(found.lengths) == len(ended)
        finished += len(ended)
        for row, game in enumerate(ended):
            assert found.lengths[row] == len(steps[game])
            np.testing.assert_allclose(found.returns[row], sum(s.rewards[game].astype(float) for s in steps[game]))
            for name in EVENTS:
                expected = sum(s.events[name][game].astype(int) for s in steps[game])
                np.testing.assert_array_equal(found.events[name][row], expected)
            steps[game] = []
    assert finished > 10


def test_finished_episodes_stay_as_they_were():
    rng = np.random.default_rng(1)
    totals = EpisodeTotals(3, 2, EVENTS)
    step = random_step(rng)._replace(truncated=np.ones(3, np.bool_))
    found = totals.add(step, np.ones(3, np.bool_))
    assert found is not None
    totals.add(random_step(rng), np.ones(3, np.bool_))
    np.testing.assert_allclose(found.returns, step.rewards)
    np.testing.assert_array_equal(found.events["apples"], step.events["apples"])


def test_forgetting_some_games():
    rng = np.random.default_rng(1)
    totals = EpisodeTotals(3, 2, EVENTS)
    step = random_step(rng)._replace(terminated=np.zeros(3, np.bool_), truncated=np.zeros(3, np.bool_))
    totals.add(step, np.ones(3, np.bool_))
    totals.clear(np.array([True, False, True]))
    np.testing.assert_array_equal(totals.lengths, [0, 1, 0])
    np.testing.assert_array_equal(totals.events["apples"][1], step.events["apples"][1])
    assert not totals.returns[[0, 2]].any()
    assert not totals.events["returns"][[0, 2]].any()


def test_going_on_from_a_state():
    rng = np.random.default_rng(5)
    ones = np.ones(3, np.bool_)
    going, other = EpisodeTotals(3, 2, EVENTS), EpisodeTotals(3, 2, EVENTS)
    for _ in range(3):
        going.add(random_step(rng), ones)
    state = pickle.loads(pickle.dumps(going.get_state()))
    other.set_state(state)
    for _ in range(20):
        step = random_step(rng)
        mine, others = going.add(step, ones), other.add(step, ones)
        assert (mine is None) == (others is None)
        if mine is not None and others is not None:
            np.testing.assert_equal(mine._asdict(), others._asdict())


def test_a_state_is_a_copy():
    totals = EpisodeTotals(3, 2, EVENTS)
    state = totals.get_state()
    totals.add(random_step(np.random.default_rng(0)), np.ones(3, np.bool_))
    other = EpisodeTotals(3, 2, EVENTS)
    other.set_state(state)
    assert not other.lengths.any()
    assert not any(counts.any() for counts in other.events.values())
