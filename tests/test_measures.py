"""Measures of trials: columns, what agents log while they learn, how labour is divided."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rllib_empathy.studies.measures import measure, measured_names

COLUMNS = {
    "group_return": 7.0,
    "learner/lase_0/gift_share_when/cleaned": 0.2,
    "learner/lase_1/gift_share_when/cleaned": 0.4,
    "learner/lase_2/gift_share_when/cleaned": np.nan,  # it had no such step
    "learner/lase_0/gift_share_when/cleaned_up": 9.0,
    "agent_events/cleaned/0": 6.0,
    "agent_events/cleaned/1": 2.0,
    "agent_events/cleaned/2": 0.0,
    "agent_events/eaten/1": 6.0,
    "events/cleaned": 8.0,
    "events/eaten": 6.0,
    "agent_return/0": 1.0,
    "agent_return/1": 6.0,
    "agent_return/2": 2.0,
    "learner/lase_0/gift_received/agent_0": 0.5,
}


def test_columns_means_over_agents_and_largest_shares():
    assert measure(COLUMNS, "group_return") == 7
    assert measure(COLUMNS, "learned/gift_share_when/cleaned") == pytest.approx(0.3)
    assert measure(COLUMNS, "learned/*/cleaned_up") == 9
    assert measure(COLUMNS, "learned/gift_share_when/*") == pytest.approx(9.6 / 3)
    assert measure(COLUMNS, "largest_share/cleaned") == pytest.approx(0.75)
    assert measure(COLUMNS, "event_share/cleaned/1") == pytest.approx(0.25)


def test_agents_are_told_apart_by_what_they_do():
    assert measure(COLUMNS, "events/cleaned+eaten") == 14
    assert measure(COLUMNS, "top/cleaned/agent_return") == 1
    assert measure(COLUMNS, "rest/cleaned/agent_return") == 4
    assert measure(COLUMNS, "top/cleaned/agent_events/cleaned") == 6
    assert measure(COLUMNS, "top/cleaned/gift_received") == 0.5


@pytest.mark.parametrize(
    "name",
    [
        "events/cleaned+slept",
        "top/slept/agent_return",
        "top/cleaned/agent_return_after_gifts",
        "rest/cleaned/gift_received",  # not all of them log it
        "learned/gift_share_when/eaten",
        "largest_share/slept",
        "event_share/slept/1",
        "event_share/cleaned/2",
        "equality",
        "learned/",
    ],
)
def test_what_is_not_there_is_nan(name):
    assert np.isnan(measure(COLUMNS, name))


def test_a_share_of_nothing_is_nan():
    assert np.isnan(measure({"agent_events/cleaned/0": 0.0, "agent_events/cleaned/1": 0.0}, "largest_share/cleaned"))


@given(st.lists(st.lists(st.floats(0, 9), min_size=3, max_size=3), min_size=1, max_size=5))
def test_curves_are_measured_point_by_point(rows):
    names = [f"agent_events/cleaned/{agent}" for agent in range(3)]
    curve = measure(dict(zip(names, np.array(rows).T, strict=True)), "largest_share/cleaned")
    points = [measure(dict(zip(names, row, strict=True)), "largest_share/cleaned") for row in rows]
    np.testing.assert_array_equal(curve, points)
    known = curve[~np.isnan(curve)]
    assert ((known >= 1 / 3 - 1e-9) & (known <= 1)).all()


def test_on_a_curve_whoever_does_most_at_the_time_is_the_top():
    columns = {
        "agent_events/cleaned/0": np.array([3.0, 1.0]),
        "agent_events/cleaned/1": np.array([2.0, 4.0]),
        "agent_return/0": np.array([5.0, 6.0]),
        "agent_return/1": np.array([7.0, 8.0]),
    }
    np.testing.assert_array_equal(measure(columns, "top/cleaned/agent_return"), [5, 8])
    np.testing.assert_array_equal(measure(columns, "rest/cleaned/agent_return"), [7, 6])


def test_names_are_known_before_anything_has_run():
    names = measured_names(["group_return", "agent_return/0", "agent_return/1", "events/cleaned"])
    assert {
        "group_return",
        "largest_share/cleaned",
        "event_share/cleaned/1",
        "learned/gift_share_otherwise/cleaned",
    } <= set(names)
    assert {"learned/gift_share/agent_0_to_1", "learned/gift_share/agent_1_to_0"} <= set(names)
    assert "learned/gift_share/agent_0_to_0" not in names
    assert {"top/cleaned/agent_return", "rest/cleaned/agent_events/cleaned"} <= set(names)
