"""What is logged between agents, as matrices and as a picture."""

from __future__ import annotations

import numpy as np

from rllib_empathy.experiments.between_agents import PARTS, draw_between_agents, matrices_between_agents

METRICS = {
    "agent_return/0": np.zeros(10),
    "agent_return/1": np.zeros(10),
    "learner/lase_0/gift_share/agent_0_to_1": np.arange(10.0),
    "learner/lase_1/gift_share/agent_1_to_0": np.array([np.nan, 4.0] + [1.0] * 8),
    "learner/lase_1/perspective_accuracy": np.ones(10),
}


def test_matrices_are_means_over_parts_of_a_run():
    (name, matrices), *others = matrices_between_agents(METRICS, 5).items()
    assert (name, others) == ("gift_share", [])
    np.testing.assert_array_equal(matrices[:, 0, 1], [0.5, 2.5, 4.5, 6.5, 8.5])
    np.testing.assert_array_equal(matrices[:, 1, 0], [4, 1, 1, 1, 1])  # what is not known does not count
    assert np.isnan(matrices[:, [0, 1], [0, 1]]).all()


def test_a_short_run_has_none():
    assert matrices_between_agents({name: values[: PARTS - 1] for name, values in METRICS.items()}, PARTS) == {}


def test_a_picture_where_there_is_something_to_see(tmp_path):
    assert draw_between_agents(METRICS, tmp_path / "some.png")
    assert (tmp_path / "some.png").stat().st_size > 1000
    assert not draw_between_agents({"agent_return/0": np.zeros(10)}, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
