"""Schelling diagrams: verdicts on games whose answers are known, and the numbers behind them by hand."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from rllib_empathy.cli import app
from rllib_empathy.experiments.statistics import Estimate
from rllib_empathy.schelling.diagram import Condition, Diagram, Verdict, mean_difference, mean_estimate
from rllib_empathy.schelling.picture import diagram_table, draw_diagram, verdict_table
from rllib_empathy.schelling.playing import play_mixtures

GAMES = {  # [R, S, T, P]: all beats none, all beats alone, fear, greed
    "prisoners_dilemma": ((1, -1, 3, 0), (True, True, True, True), True),
    "stag_hunt": ((4, 0, 3, 2), (True, True, True, False), True),
    "snowdrift": ((3, 1, 4, 0), (True, True, False, True), True),
    "harmony": ((4, 3, 2, 1), (True, True, False, False), False),
    "deadlock": ((1, 0, 3, 2), (False, True, True, True), False),
    "indifferent": ((1, 1, 1, 1), (False, False, False, False), False),
}


@pytest.mark.parametrize("name", GAMES)
def test_verdicts_of_matrix_games(name):
    payoffs, conditions, is_dilemma = GAMES[name]
    diagram = play_mixtures("matrix_game", {"payoffs": payoffs, "episode_length": 2}, episodes=5)
    verdict = diagram.verdict()
    assert tuple(condition.holds for condition in verdict) == conditions
    assert verdict.is_dilemma is is_dilemma
    both, sucker, temptation, neither = (2 * payoff for payoff in payoffs)
    np.testing.assert_allclose(diagram.cooperators, [[sucker] * 5, [both] * 5])
    np.testing.assert_allclose(diagram.defectors, [[neither] * 5, [temptation] * 5])
    np.testing.assert_allclose(diagram.group.mean(1), [neither, (sucker + temptation) / 2, both])


@pytest.mark.parametrize(
    ("world", "fear", "greed"),
    [
        ("iterated_prisoners_dilemma", True, True),
        ("stag_hunt", True, False),
        ("snowdrift", False, True),
        ("coin_game", True, True),
    ],
)
def test_verdicts_of_worlds(world, fear, greed):
    verdict = play_mixtures(world, episodes=40).verdict()
    assert verdict.is_dilemma is True
    assert (verdict.fear.holds, verdict.greed.holds) == (fear, greed)


def test_a_world_in_which_contributors_are_paid_is_no_dilemma():
    assert play_mixtures("snowdrift", {"removal_cost": -6}, episodes=20).verdict().is_dilemma is False


def test_returns_are_sorted_by_role():
    rng = np.random.default_rng(0)
    players, episodes = 3, 6
    returns = rng.normal(size=(players + 1, episodes, players))
    cooperates = np.zeros(returns.shape, bool)
    for number in range(players + 1):
        for episode in range(episodes):
            cooperates[number, episode, rng.permutation(players)[:number]] = True
    diagram = Diagram.of(returns, cooperates)
    for others in range(players):
        for episode in range(episodes):
            mine = [returns[others + 1, episode, p] for p in range(players) if cooperates[others + 1, episode, p]]
            assert diagram.cooperators[others, episode] == pytest.approx(np.mean(mine))
            mine = [returns[others, episode, p] for p in range(players) if not cooperates[others, episode, p]]
            assert diagram.defectors[others, episode] == pytest.approx(np.mean(mine))
    np.testing.assert_allclose(diagram.group, returns.mean(2))


def test_roles_are_shuffled_over_seats(monkeypatch):
    seen = []
    monkeypatch.setattr(Diagram, "of", lambda returns, cooperates: seen.append(cooperates))
    play_mixtures("snowdrift", {"episode_length": 1}, episodes=60)
    (cooperates,) = seen
    np.testing.assert_array_equal(cooperates.sum(2), np.arange(5)[:, None].repeat(60, 1))
    for number in (1, 2, 3):
        assert (np.abs(cooperates[number].mean(0) - number / 4) < 0.25).all(), "no seat is always the same role's"


def test_intervals_cover_the_mean_as_often_as_they_say():
    rng = np.random.default_rng(1)
    covered = [
        estimate.low <= 3 <= estimate.high for estimate in (mean_estimate(rng.normal(3, 2, 40)) for _ in range(200))
    ]
    assert 0.9 <= np.mean(covered) <= 0.985
    difference = mean_difference(rng.normal(5, 1, 400), rng.normal(3, 1, 400))
    assert 1.7 < difference.low < difference.value < difference.high < 2.3


def condition(low: float, high: float) -> Condition:
    return Condition(Estimate((low + high) / 2, low, high))


def test_what_episodes_leave_open_is_open():
    yes, no, unsure = condition(1, 2), condition(-2, 0), condition(-1, 1)
    assert (yes.holds, no.holds, unsure.holds) == (True, False, None)
    assert Verdict(yes, yes, unsure, no).is_dilemma is None
    assert Verdict(yes, yes, unsure, yes).is_dilemma is True
    assert Verdict(unsure, yes, yes, yes).is_dilemma is None
    assert Verdict(unsure, no, yes, yes).is_dilemma is False
    assert Verdict(yes, yes, no, no).is_dilemma is False


def test_command_writes_table_numbers_and_picture(tmp_path):
    arguments = ["schelling", "matrix_game", "--set", "payoffs=[1,-1,3,0]", "--episodes", "3", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "A social dilemma, of fear and greed" in result.output
    found = json.loads((tmp_path / "matrix_game.json").read_text())
    assert found["verdict"]["is_dilemma"] is True
    assert found["verdict"]["fear"] == {"holds": True, "value": 100.0, "low": 100.0, "high": 100.0}
    assert found["cooperators"][1]["value"] == 100
    assert (tmp_path / "matrix_game.png").read_bytes().startswith(b"\x89PNG")
    again = CliRunner().invoke(app, [*arguments, "--json"])
    assert json.loads(again.output) == found


def test_tit_for_tat_and_a_strategy_of_chance_can_play_too():
    diagram = play_mixtures("matrix_game", {"payoffs": (1, -1, 3, 0)}, "memory_one", "random", episodes=20)
    assert len(diagram_table(diagram).rows) == 2
    assert len(verdict_table(diagram.verdict()).rows) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "No world is called|nowhere"),
        (["snowdrift", "--cooperator", "ppo"], "trained first"),
        (["snowdrift", "--defector", "nobody"], "neither a run folder or checkpoint nor one of"),
        (["snowdrift", "--set", "drifts=0"], "drifts"),
        (["snowdrift", "--cooperator", "memory_one"], "memory_one"),
        (["coin_game", "--set", "num_agents=1"], "num_agents"),
    ],
)
def test_wrong_input_is_explained(tmp_path, arguments, message):
    result = CliRunner().invoke(app, ["schelling", *arguments, "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert any(part in result.output for part in message.split("|")), result.output


def test_a_picture_has_a_point_for_every_number_of_others(tmp_path, monkeypatch):
    diagram = Diagram(*(np.random.default_rng(0).normal(size=(rows, 4)) for rows in (3, 3, 4)))
    saved: list = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, *_, **__: saved.append(figure))
    draw_diagram(diagram, "title", SimpleNamespace())  # type: ignore[arg-type]
    (axis,) = saved[0].axes
    for line, rows in zip(axis.lines, (diagram.cooperators, diagram.defectors), strict=False):
        np.testing.assert_allclose(line.get_ydata(), rows.mean(1))
