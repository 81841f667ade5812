"""Social metrics against their definitions, spelled out, and by what must not change them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rllib_empathy.metrics import efficiency, equality, equality_defined, peace, sustainability

few = settings(max_examples=50, deadline=None)
RETURNS = st.lists(st.integers(0, 1000), min_size=1, max_size=6)
REWARDS = arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(1, 4)), elements=st.integers(-3, 3))
"""[T, N]"""


def plain_equality(returns: list[float]) -> float:
    if any(value < 0 for value in returns):
        return math.nan
    if sum(returns) == 0:
        return 1.0
    differences = sum(abs(one - other) for one in returns for other in returns)
    return 1 - differences / (2 * len(returns) * sum(returns))


def plain_sustainability(rewards: list[list[float]]) -> float:
    means = []
    for agent in range(len(rewards[0])):
        times = [step for step, row in enumerate(rewards, 1) if row[agent] > 0]
        if times:
            means.append(sum(times) / len(times))
    return sum(means) / len(means) if means else math.nan


@pytest.mark.parametrize(
    ("returns", "value", "defined"),
    [
        ((2, 2, 2), 1, True),
        ((5, 0, 0, 0), 1 / 4, True),
        ((3, 1), 0.75, True),
        ((0, 0), 1, False),
        ((7,), 1, True),
        ((3, -1), math.nan, False),
        ((-1, -1), math.nan, False),
        ((1, -1), math.nan, False),
        ((math.nan, 1), math.nan, False),
    ],
)
def test_equality_of_known_returns(returns, value, defined):
    assert float(equality(returns)) == pytest.approx(value, nan_ok=True)
    assert bool(equality_defined(returns)) == defined


@few
@given(RETURNS, st.integers(1, 1000), st.randoms(use_true_random=False))
def test_equality_follows_its_formula_whatever_scale_and_order(returns, scale, random):
    value = float(equality(returns))
    assert value == pytest.approx(plain_equality(returns))
    assert 1 / len(returns) - 1e-12 <= value <= 1
    assert value == pytest.approx(float(equality(np.array(returns) * scale)))
    random.shuffle(returns)
    assert value == pytest.approx(float(equality(returns)))


@few
@given(arrays(np.float64, (2, 3, 4), elements=st.integers(-2, 50)))
def test_equality_of_many_episodes(returns):
    values, defined = equality(returns), equality_defined(returns)
    assert values.shape == defined.shape == (2, 3)
    for index in np.ndindex(2, 3):
        assert values[index] == pytest.approx(plain_equality(returns[index].tolist()), nan_ok=True)
        assert defined[index] == (returns[index].min() >= 0 and returns[index].sum() > 0)


@few
@given(REWARDS)
def test_efficiency_and_sustainability_follow_their_formulas(rewards):
    assert float(efficiency(rewards)) == pytest.approx(rewards.sum() / len(rewards))
    assert float(sustainability(rewards)) == pytest.approx(plain_sustainability(rewards.tolist()), nan_ok=True)


def test_sustainability_of_known_rewards():
    assert (
        sustainability([[1, 0], [0, 0], [2, 0]]) == 2
    )  # times 1 and 3, whatever the amounts; who never earns is left out
    assert sustainability([[1, 0], [0, 0], [0, 5]]) == 2
    assert np.isnan(sustainability([[0, -1], [0, 0]]))
    assert sustainability([[0], [0], [0], [1]]) == 4  # S / T = 1: all of it at the very end


def test_peace_counts_steps_out_of_the_game():
    timed_out = np.zeros((4, 3), bool)
    assert peace(timed_out) == 3
    timed_out[1:3, 0] = True
    assert peace(timed_out) == 2.5
    assert peace(np.ones((4, 3), bool)) == 0


@few
@given(arrays(np.float64, (5, 3, 2), elements=st.integers(-2, 2)))
def test_many_games_at_once(rewards):
    for metric in (efficiency, sustainability, peace):
        each = [float(metric(rewards[:, game])) for game in range(3)]
        np.testing.assert_allclose(metric(rewards), each)


@pytest.mark.parametrize("metric", [efficiency, sustainability, peace])
@pytest.mark.parametrize("shape", [(3,), (0, 2), (2, 0)])
def test_what_is_no_episode_is_refused(metric, shape):
    with pytest.raises(ValueError, match=r"needed is \[T, ..., N\]"):
        metric(np.zeros(shape))


@pytest.mark.parametrize("metric", [equality, equality_defined])
def test_a_group_of_nobody_is_refused(metric):
    with pytest.raises(ValueError, match=r"returns has shape \(3, 0\)"):
        metric(np.zeros((3, 0)))
