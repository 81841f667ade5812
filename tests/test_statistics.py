"""Robust means and their intervals, against slow and obvious references."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rllib_empathy.experiments.statistics import interquartile_mean, iqm_band, iqm_difference, iqm_estimate

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20).map(np.array)


@given(VALUES)
def test_interquartile_mean_is_that_of_the_middle_half(values):
    middle = sorted(values)
    for _ in range(len(values) // 4):
        middle = middle[1:-1]
    assert interquartile_mean(values) == pytest.approx(sum(middle) / len(middle), abs=1e-6)


def test_interquartile_mean_along_an_axis_is_that_of_each_column():
    values = np.random.default_rng(0).normal(size=(3, 7, 2))
    expected = [[interquartile_mean(values[i, :, j]) for j in range(2)] for i in range(3)]
    np.testing.assert_allclose(interquartile_mean(values, 1), expected)


@given(VALUES, st.floats(-100, 100), st.floats(0.1, 10))
def test_estimates_lie_within_the_values_and_move_with_them(values, shift, scale):
    estimate = iqm_estimate(values)
    moved = iqm_estimate(values * scale + shift)
    np.testing.assert_allclose(moved, np.array(estimate) * scale + shift, rtol=1e-9, atol=1e-6)
    assert np.isnan(estimate.low) == (len(values) < 2)
    if len(values) > 1:
        assert min(values) - 1e-6 <= estimate.low <= estimate.high <= max(values) + 1e-6


def test_interval_is_that_of_a_plain_bootstrap():
    values = np.random.default_rng(1).normal(size=8)
    generator = np.random.default_rng(2)
    resampled = [interquartile_mean(generator.choice(values, 8)) for _ in range(20_000)]
    estimate = iqm_estimate(values)
    np.testing.assert_allclose(estimate[1:], np.quantile(resampled, [0.025, 0.975]), atol=0.06)
    wide, narrow = iqm_estimate(values, 0.99), iqm_estimate(values, 0.5)
    assert wide.low < estimate.low < narrow.low <= narrow.high < estimate.high < wide.high


def test_interval_covers_the_mean_about_as_often_as_it_says():
    generator = np.random.default_rng(3)
    hits = 0
    for _ in range(200):
        _, low, high = iqm_estimate(generator.normal(5, 2, size=20))
        hits += low <= 5 <= high
    assert 0.85 < hits / 200 < 0.99


def test_seeds_without_a_value_are_left_out():
    nan = float("nan")
    assert iqm_estimate(np.array([1.0, nan, 3.0])) == iqm_estimate(np.array([1.0, 3.0]))
    assert np.isnan(iqm_estimate(np.array([nan]))).all()
    assert iqm_difference(np.array([4.0, nan]), np.array([1.0, 2.0])).value == 2.5
    assert np.isnan(iqm_difference(np.array([4.0]), np.array([nan]))).all()


@given(VALUES, VALUES)
def test_difference_changes_sign_with_its_arguments(first, second):
    there, back = iqm_difference(first, second), iqm_difference(second, first)
    assert there.value == -back.value
    if min(len(first), len(second)) > 1:
        assert there.low <= there.high


def test_difference_is_told_from_none_only_where_it_is_one():
    generator = np.random.default_rng(4)
    low, high = generator.normal(0, 1, 10), generator.normal(5, 1, 10)
    assert iqm_difference(high, low).low > 3
    same = iqm_difference(low, generator.normal(0, 1, 10))
    assert same.low < 0 < same.high


def test_band_is_the_estimate_at_each_point():
    curves = np.random.default_rng(5).normal(size=(6, 4))
    middle, low, high = iqm_band(curves)
    for point in range(4):
        estimate = iqm_estimate(curves[:, point])
        assert middle[point] == pytest.approx(estimate.value)
        np.testing.assert_allclose([low[point], high[point]], estimate[1:], atol=0.2)
