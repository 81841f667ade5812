"""LASE in 2x2 games: the formulas from the definitions of gifts, the closed forms, the iteration, the command."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from matplotlib.image import imread
from typer.testing import CliRunner

from rllib_empathy.cli import app
from rllib_empathy.theory.lase import (
    ENDS,
    IPD,
    REGIONS,
    asymmetric_fixed_point,
    converge,
    ends_by_kind,
    gradient,
    plane,
    predicted_end,
    region,
    reshaped_rewards,
    symmetric_fixed_point,
    update,
)

PROBABILITIES = st.floats(0, 1)
TEMPTATIONS = st.floats(0, 2)
SUCKERS = st.floats(-1, 1)
OUTCOMES = ((0, 0), (0, 1), (1, 0), (1, 1))  # CC, CD, DC, DD


def rewards_by_gifting(predictions, temptation, sucker):
    """Reshaped rewards [outcome][agent], each gift inferred from the agents' payoff tables as LASE infers it from Q."""
    table = [[1.0, sucker], [temptation, 0.0]]  # own action, the co-player's
    answers = []
    for actions in OUTCOMES:
        earned, given_away = [], []
        for agent, own in enumerate(actions):
            values = table[own]
            expectation = predictions[1 - agent] * values[0] + (1 - predictions[1 - agent]) * values[1]
            spread = abs(values[0] - values[1])
            taken = values[actions[1 - agent]]
            given_away.append(max(0.0, (taken - expectation) / spread))
            earned.append(taken)
        answers.append([(1 - given_away[i]) * earned[i] + given_away[1 - i] * earned[1 - i] for i in range(2)])
    return answers


def expected_reward(own, other, outcomes):
    chances = (own * other, own * (1 - other), (1 - own) * other, (1 - own) * (1 - other))
    return sum(chance * outcome for chance, outcome in zip(chances, outcomes, strict=True))


def scalar_update(theta, temptation, sucker, step):
    moved = []
    for own, other in (theta, theta[::-1]):
        bracket = (other + (1 - own) - other * temptation) * other + (sucker + (1 - own) * temptation) * (1 - other)
        moved.append(min(1.0, max(0.0, own + step * bracket)))
    return moved


# -- formulas


@given(PROBABILITIES, PROBABILITIES, st.floats(0.01, 2), st.floats(-1, 0.99))
def test_reshaped_rewards_are_those_of_inferred_gifts(own, other, temptation, sucker):
    expected = rewards_by_gifting((own, other), temptation, sucker)
    first = reshaped_rewards(own, other, temptation, sucker)
    both, exploited, exploiting, neither = reshaped_rewards(other, own, temptation, sucker)
    found = np.array([first, (both, exploiting, exploited, neither)], float)
    np.testing.assert_allclose(found.T, expected, atol=1e-12)


@given(st.floats(0.01, 0.99), PROBABILITIES, TEMPTATIONS, SUCKERS)
def test_gradient_is_that_of_the_expected_reward_with_predictions_held_constant(own, other, temptation, sucker):
    outcomes = reshaped_rewards(own, other, temptation, sucker)
    small = 1e-3  # exact up to rounding: the expectation is linear in the own probability
    rise = expected_reward(own + small, other, outcomes) - expected_reward(own - small, other, outcomes)
    assert gradient(own, other, temptation, sucker) == pytest.approx(rise / (2 * small), abs=1e-9)


@given(PROBABILITIES, PROBABILITIES, TEMPTATIONS, SUCKERS, st.floats(0.01, 2))
def test_update_equals_a_loop_over_agents(first, second, temptation, sucker, step):
    moved = update(np.array([first, second]), temptation, sucker, step)
    np.testing.assert_allclose(moved, scalar_update((first, second), temptation, sucker, step), atol=1e-12)


def test_converge_equals_a_loop_over_games_and_starts():
    temptation, sucker = plane(4)
    starts = np.random.default_rng(0).random((2, 3, 4, 4))
    ends, converged = converge(starts, temptation, sucker, tolerance=0, max_updates=60)
    for start, row, column in np.ndindex(3, 4, 4):
        theta, moved = list(starts[:, start, row, column]), True
        for _ in range(60):
            before, theta = theta, scalar_update(theta, temptation[row, column], sucker[row, column], 0.1)
            moved = theta != before
        np.testing.assert_allclose(ends[:, start, row, column], theta, atol=1e-12)
        assert converged[start, row, column] or moved
    assert converged.any()
    assert not converged.all()


def test_pairs_that_have_not_converged_are_told_apart():
    starts = np.array([[0.3, 1.0], [0.3, 1.0]])
    _, converged = converge(starts, 0.5, 0.5, max_updates=1)
    np.testing.assert_array_equal(converged, [False, True])


# -- properties of the iteration


@settings(deadline=None)
@given(PROBABILITIES, PROBABILITIES, TEMPTATIONS, SUCKERS)
def test_agents_exchanged_exchange_their_ends(first, second, temptation, sucker):
    there, _ = converge(np.array([first, second]), temptation, sucker, max_updates=50)
    back, _ = converge(np.array([second, first]), temptation, sucker, max_updates=50)
    np.testing.assert_array_equal(there, back[::-1])
    assert (there >= 0).all()
    assert (there <= 1).all()


@settings(deadline=None)
@given(PROBABILITIES, TEMPTATIONS, SUCKERS)
def test_symmetric_starts_stay_symmetric(start, temptation, sucker):
    ends, _ = converge(np.array([start, start]), temptation, sucker, max_updates=50)
    assert ends[0] == ends[1]


# -- closed forms


@given(TEMPTATIONS, SUCKERS)
def test_symmetric_fixed_point_is_the_only_root(temptation, sucker):
    assume(abs(sucker + 2 * temptation - 1) > 1e-6)
    theta = float(symmetric_fixed_point(temptation, sucker).theta)
    roots = np.linspace(0, 1, 201)
    values = np.asarray(gradient(roots, roots, temptation, sucker))
    if np.isnan(theta):
        assert values.min() > 0 or values.max() < 0
    else:
        assert 0 <= theta <= 1
        assert gradient(theta, theta, temptation, sucker) == pytest.approx(0, abs=1e-9)
        np.testing.assert_allclose(update(np.array([theta, theta]), temptation, sucker), theta, atol=1e-9)
        # There is no other, since the gradient is linear along the diagonal.
        np.testing.assert_allclose(np.diff(values, 2), 0, atol=1e-12)


@given(TEMPTATIONS, SUCKERS)
def test_eigenvalues_are_those_of_the_jacobian(temptation, sucker):
    point = symmetric_fixed_point(temptation, sucker)
    assume(not np.isnan(point.theta))
    small, theta = 1e-4, float(point.theta)  # central differences: exact for the quadratic gradient
    own = gradient(theta + small, theta, temptation, sucker) - gradient(theta - small, theta, temptation, sucker)
    other = gradient(theta, theta + small, temptation, sucker) - gradient(theta, theta - small, temptation, sucker)
    jacobian = np.array([[own, other], [other, own]]) / (2 * small)
    assert sorted([point.together, point.apart]) == pytest.approx(list(np.linalg.eigvalsh(jacobian)), abs=1e-6)


@given(st.floats(1.001, 2), SUCKERS)
def test_asymmetric_fixed_point_takes_over_where_the_symmetric_one_is_unstable(temptation, sucker):
    apart = symmetric_fixed_point(temptation, sucker).apart
    assume(abs(apart) > 1e-6)
    pair = asymmetric_fixed_point(temptation, sucker)
    if apart < 0:
        assert np.isnan(pair).all()
    else:
        assert -1e-9 < pair[1] < pair[0] < 1 + 1e-9
        np.testing.assert_allclose(update(pair, temptation, sucker), pair, atol=1e-7)


def test_the_game_in_which_everything_is_a_fixed_point_has_no_root():
    assert np.isnan(symmetric_fixed_point(1.0, -1.0).theta)
    theta = np.linspace(0, 1, 11)
    np.testing.assert_allclose(gradient(theta, theta, 1.0, -1.0), 0, atol=1e-12)


def test_iteration_ends_where_the_closed_form_says():
    games = plane(30)
    ends, converged = converge(np.random.default_rng(0).random((2, 5, 30, 30)), *games, max_updates=5000)
    predicted = predicted_end(*games)
    known = converged & ~np.isnan(predicted[0])
    difference = np.sort(ends, 0)[::-1] - predicted[:, None]
    assert converged.mean() > 0.95
    assert np.abs(difference[:, known]).max() < 1e-4
    both_stable = np.isnan(predicted[0])
    np.testing.assert_array_equal(both_stable, games[0] + games[1] < 0)
    assert set(np.unique(ends_by_kind(ends[:, :, both_stable]))) == {0, 1}


def test_fixed_point_is_the_watershed_of_symmetric_starts_where_both_corners_are_stable():
    temptation, sucker = 0.4, -0.8
    theta = float(symmetric_fixed_point(temptation, sucker).theta)
    ends, _ = converge(np.array([[theta - 0.01, theta + 0.01]] * 2), temptation, sucker)
    np.testing.assert_array_equal(ends, [[0, 1], [0, 1]])


def test_agents_cooperate_five_times_in_six_in_the_ipd():
    assert symmetric_fixed_point(*IPD).theta == pytest.approx(5 / 6)
    ends, converged = converge(np.random.default_rng(0).random((2, 200)), *IPD)
    assert converged.all()
    np.testing.assert_allclose(ends, 5 / 6, atol=1e-6)


# -- regions and kinds


@given(TEMPTATIONS, SUCKERS)
def test_every_game_lies_in_the_region_of_its_payoffs_order(temptation, sucker):
    greed, fear = temptation > 1, sucker < 0
    members = {
        "Prisoner's Dilemma": greed and fear,
        "Stag Hunt": fear and not greed,
        "Snowdrift": greed and not fear,
        "Harmony": not greed and not fear,
    }
    assert [name for name, member in members.items() if member] == [REGIONS[int(region(temptation, sucker))]]


def test_regions_are_quarters_of_the_plane():
    temptation, sucker = plane(10)
    assert temptation.min() == pytest.approx(0.1)
    assert temptation.max() == pytest.approx(1.9)
    np.testing.assert_allclose(sucker.T, temptation - 1)
    np.testing.assert_array_equal(np.bincount(region(temptation, sucker).ravel()), [25] * 4)


@pytest.mark.parametrize(
    ("pair", "kind"),
    [((1, 1), 0), ((0, 0), 1), ((1, 0.4), 2), ((0.4, 0.6), 2), ((0.4, 0.4), 3), ((1, 0.9985), 2), ((0.998, 0.998), 3)],
)
def test_kind_of_an_end(pair, kind):
    assert ENDS[int(ends_by_kind(np.array(pair)))] == ENDS[kind]


# -- the command


def test_command_prints_its_tables_and_draws_the_picture(tmp_path):
    folder = tmp_path / "new" / "folder"
    arguments = ["theory", "lase", "--out", str(folder), "--starts", "2", "--resolution", "8"]
    first, second = (CliRunner().invoke(app, arguments) for _ in range(2))
    assert first.exit_code == 0, first.output
    for text in (*REGIONS, *ENDS, "0.833333", "lase_theory.png"):
        assert text in first.output
    assert second.output == first.output
    assert CliRunner().invoke(app, [*arguments, "--seed", "1"]).output != first.output
    picture = imread(folder / "lase_theory.png")
    assert picture.std() > 0.1


def test_command_names_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    answer = CliRunner().invoke(app, ["theory", "lase", "--out", str(tmp_path / "file")])
    assert answer.exit_code == 2
    assert "--out" in answer.output


def test_command_works_at_its_smallest(tmp_path):
    arguments = ["theory", "lase", "--out", str(tmp_path), "--starts", "1", "--resolution", "3"]
    answer = CliRunner().invoke(app, arguments)
    assert answer.exit_code == 0, answer.output
    assert "nan" not in answer.output


@pytest.mark.parametrize("option", [["--starts", "0"], ["--resolution", "2"], ["--seed", "-1"]])
def test_command_refuses_what_is_out_of_range(option):
    assert CliRunner().invoke(app, ["theory", "lase", *option]).exit_code == 2
