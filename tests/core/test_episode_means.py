"""Means over episodes are exact however the episodes are spread over runners."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from rllib_empathy.episode_means import STATS, EpisodeMeanStats, LearnerMeanStats, sum_and_count

few = settings(max_examples=50, deadline=None)
EPISODES = st.lists(st.floats(-1e3, 1e3), max_size=5)
KEY = ("agents", "return_mean")


def logged(logger: MetricsLogger, episodes: list[float]) -> None:
    if episodes:
        logger.log_value(KEY, sum_and_count(np.array(episodes)), reduce="episode_mean")


def logger(root: bool) -> MetricsLogger:
    return MetricsLogger(root=root, stats_cls_lookup=STATS)


def result(logger: MetricsLogger) -> float:
    return logger.reduce(compile=True)["agents"]["return_mean"]


@few
@given(st.lists(st.lists(EPISODES, min_size=2, max_size=2), min_size=1, max_size=5))
def test_exact_over_several_runners_and_iterations(iterations):
    """Two runners, one of which may have no episode while the other has; where none has any, the last mean stays."""
    driver, runners = logger(root=True), [logger(root=False), logger(root=False)]
    last = None
    for per_runner in iterations:
        for runner, episodes in zip(runners, per_runner, strict=True):
            logged(runner, episodes)
        driver.aggregate([pickle.loads(pickle.dumps(runner.reduce())) for runner in runners], key="sampled")
        everything = [value for episodes in per_runner for value in episodes]
        last = float(np.mean(everything)) if everything else last
        if last is None:
            continue
        assert driver.peek(("sampled", *KEY)) == pytest.approx(last, abs=1e-9)
        assert driver.reduce(compile=True)["sampled"]["agents"]["return_mean"] == pytest.approx(last, abs=1e-9)


def test_every_episode_weighs_the_same():
    driver, runners = logger(root=True), [logger(root=False), logger(root=False)]
    logged(runners[0], [0.0])
    logged(runners[1], [10.0, 10.0, 10.0])
    driver.aggregate([runner.reduce() for runner in runners])
    assert result(driver) == 7.5


def test_several_rounds_of_one_iteration():
    driver, runner = logger(root=True), logger(root=False)
    for episodes in ([1.0], [], [2.0, 6.0]):
        logged(runner, episodes)
        driver.aggregate([runner.reduce()])
    assert result(driver) == 3.0


def test_several_values_of_one_runner():
    runner = logger(root=False)
    logged(runner, [1.0])
    logged(runner, [2.0, 6.0])
    assert runner.peek(KEY) == 3.0


def test_the_last_mean_outlives_a_checkpoint():
    driver, runner = logger(root=True), logger(root=False)
    logged(runner, [4.0])
    driver.aggregate([runner.reduce()])
    assert result(driver) == 4.0
    restored = logger(root=True)
    restored.set_state(pickle.loads(pickle.dumps(driver.get_state())))
    assert result(restored) == 4.0
    logged(runner, [6.0])
    restored.aggregate([runner.reduce()])
    assert result(restored) == 6.0


@few
@given(EPISODES, EPISODES)
def test_state_round_trip_in_the_middle(before, after):
    stats = EpisodeMeanStats()
    stats.push(sum_and_count(np.array(before)))
    restored = EpisodeMeanStats.from_state(pickle.loads(pickle.dumps(stats.get_state())))
    for each in (stats, restored):
        each.push(sum_and_count(np.array(after)))
    assert len(restored) == len(stats) == len(before) + len(after)
    assert repr(restored) == repr(stats)
    np.testing.assert_equal(restored.reduce(), stats.reduce())


def test_nothing_known_is_nan():
    stats = EpisodeMeanStats()
    assert math.isnan(stats.peek())
    assert math.isnan(stats.reduce())
    stats.push((3.0, 2))
    assert stats.peek(compile=False) == [1.5]
    assert stats.reduce() == 1.5
    assert stats.reduce() == 1.5
    assert len(stats) == 0


def test_what_is_handed_on_carries_the_weights():
    stats = EpisodeMeanStats()
    stats.push((6.0, 3))
    handed_on = stats.reduce(compile=False)
    assert (len(handed_on), handed_on.peek()) == (3, 2.0)
    assert (len(stats), stats.peek()) == (0, 2.0)
    root = EpisodeMeanStats(is_root=True, is_leaf=False)
    other = EpisodeMeanStats()
    other.push((2.0, 1))
    root.merge([handed_on, other])
    assert root.peek() == root.latest_merged == 2.0


def test_episodes_without_a_value_do_not_count():
    driver, runners = logger(root=True), [logger(root=False), logger(root=False)]
    logged(runners[0], [math.nan, 1.0])
    logged(runners[1], [math.nan])
    driver.aggregate([pickle.loads(pickle.dumps(runner.reduce())) for runner in runners])
    assert result(driver) == 1.0
    logged(runners[0], [math.nan])  # episodes ended, none has a value: the 1.0 of before says nothing about them
    driver.aggregate([pickle.loads(pickle.dumps(runner.reduce())) for runner in runners])
    restored = logger(root=True)
    restored.set_state(pickle.loads(pickle.dumps(driver.get_state())))
    assert math.isnan(result(driver))
    assert math.isnan(result(restored))


def test_sum_and_count():
    assert sum_and_count(np.array([1.0, math.nan, 3.0])) == (4.0, 2)
    assert sum_and_count(np.array([1.0, 2.0])) == (3.0, 2)
    assert sum_and_count(np.array([], np.float32)) == (0.0, 0)
    assert STATS["episode_mean"] is EpisodeMeanStats


@few
@given(st.lists(st.lists(st.floats(-10, 10) | st.just(math.nan), max_size=1), min_size=1, max_size=4))
def test_a_mean_over_learners_is_what_they_said_in_this_iteration(said):
    driver = logger(root=True)
    learners = [logger(root=False) for _ in said]
    for learner, numbers in zip(learners, said, strict=True):
        learner.log_value(KEY, 100.0, reduce="learner_mean")  # of the iteration before
        learner.reduce()
        for number in numbers:
            learner.log_value(KEY, number, reduce="learner_mean")
    driver.aggregate([pickle.loads(pickle.dumps(learner.reduce())) for learner in learners])
    known = [number for numbers in said for number in numbers if not math.isnan(number)]
    np.testing.assert_allclose(result(driver), np.mean(known) if known else math.nan)
    assert math.isnan(result(driver))
    assert STATS["learner_mean"] is LearnerMeanStats
