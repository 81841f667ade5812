"""Totals of episodes against adding up the steps by hand."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from env_registry import WORLDS, Share, Step, make
from rllib_empathy import metrics
from rllib_empathy.sampling.episodes import EpisodeTotals, FinishedEpisodes, cooperation_of, outcome_names

EVENTS = ("apples", "returns")  # an event may be called like a total
COOPERATION = {"apples_each": Share("apples")}


def random_step(rng: np.random.Generator, games: int = 3, agents: int = 2) -> Step:
    ended = rng.random(games) < 0.3
    terminated = ended & (rng.random(games) < 0.5)
    return Step(
        observations=np.zeros((games, agents, 1), np.uint8),
        rewards=(rng.normal(size=(games, agents)) + 0.5).astype(np.float32),
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
            rewards = np.array([s.rewards[game] for s in steps[game]])
            outcomes = found.outcomes(COOPERATION)
            expected = {
                "efficiency": metrics.efficiency(rewards),
                "equality": metrics.equality(rewards.astype(float).sum(0)),
                "equality_defined": metrics.equality_defined(rewards.astype(float).sum(0)),
                "sustainability": metrics.sustainability(rewards),
                "sustainability_share": metrics.sustainability(rewards) / len(rewards),
                "cooperation/apples_each": sum(s.events["apples"][game].sum() for s in steps[game]) / 2 / len(rewards),
            }
            assert list(outcomes) == list(expected)
            np.testing.assert_allclose(
                [values[row] for values in outcomes.values()], list(expected.values()), atol=1e-6
            )
            assert found.games[row] == game
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


def episodes(**events: list[list[int]]) -> FinishedEpisodes:
    """Episodes of 4 steps of two agents with these events, and returns of 3 and 1."""
    count = len(next(iter(events.values())))
    each = np.ones((count, 2), np.int64)
    return FinishedEpisodes(
        games=np.arange(count)[::-1],
        returns=each * np.array([3.0, 1.0]),
        lengths=np.full(count, 4),
        earning_steps=each,
        earning_times=each * np.array([2, 4]),
        events={name: np.array(counts) for name, counts in events.items()},
    )


def test_measures_of_cooperation():
    played = episodes(own=[[2, 1], [0, 0]], other=[[1, 0], [0, 0]], timed_out=[[0, 0], [4, 2]])
    found = played.outcomes({"own_share": Share("own", of=("own", "other")), "rate": Share("own")})
    np.testing.assert_allclose(found["cooperation/own_share"], [0.75, np.nan])
    np.testing.assert_allclose(found["cooperation/rate"], [3 / 8, 0])
    np.testing.assert_allclose(found["peace"], [2, 0.5])
    np.testing.assert_allclose(found["efficiency"], [1, 1])
    np.testing.assert_allclose(found["equality"], [0.75, 0.75])
    np.testing.assert_allclose(found["sustainability"], [3, 3])
    np.testing.assert_allclose(found["sustainability_share"], [0.75, 0.75])


def test_parts_become_one_and_are_put_in_order_of_games():
    first, second = episodes(own=[[2, 1], [0, 0]]), episodes(own=[[5, 6]])
    together = FinishedEpisodes.concatenate([first, second])
    np.testing.assert_array_equal(together.games, [1, 0, 0])
    np.testing.assert_array_equal(together.events["own"], [[2, 1], [0, 0], [5, 6]])
    ordered = together.by_game()
    np.testing.assert_array_equal(ordered.games, [0, 0, 1])
    np.testing.assert_array_equal(ordered.events["own"], [[0, 0], [5, 6], [2, 1]])
    assert ordered.lengths.shape == (3,)


@pytest.mark.parametrize("name", WORLDS)
def test_every_world_has_outcomes(name):
    """Of a whole batch of random play: the names that were announced, and a measure of cooperation between 0 and 1."""
    world = make(name, 64)
    totals = EpisodeTotals(64, world.num_agents, world.event_names)
    rng = np.random.default_rng(0)
    world.reset(0)
    parts: list[FinishedEpisodes] = []
    while sum([len(part.lengths) for part in parts]) < 64:
        step = world.step(rng.integers(world.action_space.n, size=(64, world.num_agents)))
        found = totals.add(step, np.ones(64, np.bool_))
        parts += [] if found is None else [found]
    outcomes = FinishedEpisodes.concatenate(parts).outcomes(cooperation_of(world))
    assert list(outcomes) == outcome_names(world)
    measures = [values for each, values in outcomes.items() if each.startswith("cooperation/")]
    assert measures
    for values in measures:
        known = values[~np.isnan(values)]
        assert ((known >= 0) & (known <= 1)).all()
        assert len(known)


def test_a_state_is_a_copy():
    totals = EpisodeTotals(3, 2, EVENTS)
    state = totals.get_state()
    totals.add(random_step(np.random.default_rng(0)), np.ones(3, np.bool_))
    other = EpisodeTotals(3, 2, EVENTS)
    other.set_state(state)
    assert not other.lengths.any()
    assert not any(counts.any() for counts in other.events.values())
