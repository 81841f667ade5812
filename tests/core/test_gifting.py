"""Relationships, gift weights and transfers against plain loops, and what must hold for all of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rllib_empathy.reshaping.gifting import gift_row, gift_weights, social_relationship, transfer

SEEDS = st.integers(0, 2**32 - 1)


def slow_relationship(q, prediction, taken):
    """One focal agent, one co-player: q and prediction are lists over the co-player's actions."""
    spread = max(q) - min(q)
    if spread == 0:
        return 0.0
    return (q[taken] - sum(p * v for p, v in zip(prediction, q, strict=True))) / spread


def slow_weights(relationships, gives):
    """One N x N matrix, by the book."""
    agents = len(relationships)
    weights = [[0.0] * agents for _ in range(agents)]
    for i in range(agents):
        for j in range(agents):
            if i != j and gives[i]:
                weights[i][j] = max(0.0, relationships[i][j]) / (agents - 1)
        weights[i][i] = 1.0 - sum(weights[i])
    return weights


@given(SEEDS, st.integers(1, 7))
def test_relationship_is_the_formula(seed, actions):
    random = np.random.default_rng(seed)
    q = random.normal(size=(5, actions))
    prediction = random.dirichlet(np.ones(actions), size=5)
    taken = random.integers(actions, size=5)
    found = social_relationship(torch.tensor(q[np.arange(5), taken]), torch.tensor(q), torch.tensor(prediction))
    expected = [slow_relationship(list(q[k]), list(prediction[k]), taken[k]) for k in range(5)]
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert (found.abs() <= 1).all()


def test_bounds_are_reached_by_surprises_only():
    q = torch.tensor([0.0, 1.0])
    certain = torch.tensor([1.0, 0.0])
    assert social_relationship(torch.tensor(1.0), q, certain) == 1.0
    assert social_relationship(torch.tensor(0.0), q, 1 - certain) == -1.0
    assert social_relationship(torch.tensor(1.0), q, 1 - certain) == 0.0


@pytest.mark.parametrize("level", [0.0, 1.0, -1e6, 1e30])
def test_zero_range_gives_zero_and_no_nan(level):
    q = torch.full((3, 4), level)
    uneven = torch.tensor([0.1, 0.2, 0.3, 0.4]).expand(3, 4)
    assert (social_relationship(q[:, 0], q, uneven) == 0).all()
    if level:
        q[:, 0] *= 1 + 1.2e-7  # rounding noise is no influence
        assert (social_relationship(q[:, 0], q, uneven) == 0).all()


def test_small_ranges_can_be_guarded_against():
    q = torch.tensor([0.0, 0.05])
    even = torch.tensor([0.5, 0.5])
    assert social_relationship(q[1], q, even) == 0.5
    assert social_relationship(q[1], q, even, minimum_range=0.1) == 0.0


@given(SEEDS, st.integers(2, 8))
def test_weights_are_the_formula_and_a_split(seed, agents):
    random = np.random.default_rng(seed)
    relationships = random.uniform(-1, 1, size=(3, agents, agents))
    gives = random.random((3, agents)) < 0.7
    found = gift_weights(torch.tensor(relationships), torch.tensor(gives)).numpy()
    for k in range(3):
        np.testing.assert_allclose(found[k], slow_weights(relationships[k], gives[k]), atol=1e-12)
    np.testing.assert_allclose(found.sum(-1), 1.0)
    off_diagonal = found[:, ~np.eye(agents, dtype=bool)]
    assert (off_diagonal >= 0).all()
    assert (off_diagonal <= 1 / (agents - 1) + 1e-12).all()
    assert (np.diagonal(found, axis1=1, axis2=2) >= -1e-12).all()
    np.testing.assert_array_equal(found[~gives], np.eye(agents)[np.nonzero(~gives)[1]])


@given(SEEDS, st.integers(2, 8))
def test_transfer_is_the_formula_and_conserves_the_sum(seed, agents):
    random = np.random.default_rng(seed)
    rewards = random.normal(size=(4, agents))
    weights = gift_weights(torch.tensor(random.uniform(-1, 1, size=(4, agents, agents)))).numpy()
    found = transfer(torch.tensor(rewards), torch.tensor(weights)).numpy()
    for k in range(4):
        for i in range(agents):
            np.testing.assert_allclose(found[k, i], sum(weights[k, j, i] * rewards[k, j] for j in range(agents)))
    np.testing.assert_allclose(found.sum(1), rewards.sum(1))


@given(SEEDS, st.integers(2, 6))
def test_permuting_agents_permutes_everything(seed, agents):
    random = np.random.default_rng(seed)
    relationships, rewards = random.uniform(-1, 1, size=(agents, agents)), random.normal(size=agents)
    order = random.permutation(agents)
    plain = transfer(torch.tensor(rewards), gift_weights(torch.tensor(relationships)))
    permuted = transfer(torch.tensor(rewards[order]), gift_weights(torch.tensor(relationships[order][:, order])))
    np.testing.assert_allclose(permuted, plain[order])


def test_the_matrix_game_of_the_theory():
    """With payoffs R = 1, P = 0 as Q and a prediction p of cooperation: weight 1 - p for cooperation, none for defection."""
    for temptation, sucker in ((1.2, -0.2), (0.5, 0.5), (1.8, 0.6)):
        payoff = {("C", "C"): 1.0, ("C", "D"): sucker, ("D", "C"): temptation, ("D", "D"): 0.0}
        for own in "CD":
            q = torch.tensor([payoff[own, "C"], payoff[own, "D"]])
            for p in (0.0, 0.3, 1.0):
                prediction = torch.tensor([p, 1 - p])
                helpful = q[0] > q[1]
                for taken in (0, 1):
                    weight = social_relationship(q[taken], q, prediction).clamp(min=0)
                    expected = {True: {0: 1 - p, 1: 0.0}, False: {0: 0.0, 1: p}}[bool(helpful)][taken]
                    assert weight.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("giver", [-1, 3])
def test_seats_that_do_not_exist_give_nothing(giver):
    with pytest.raises(ValueError, match=rf"giver = {giver} has no seat: agents are 0 .. 2"):
        gift_row(torch.zeros(5, 3), giver)


def test_gifts_to_seats_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match=r"\[4, 4\] are not for 3 agents"):
        transfer(torch.zeros(3), torch.eye(4))
