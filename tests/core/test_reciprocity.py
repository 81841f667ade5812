"""Influence, balance and reciprocal reward against plain loops, and by their properties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rllib_empathy.reshaping.reciprocity import influence_balance, reciprocal_reward, value_influence

SHAPES = st.tuples(st.integers(1, 7), st.integers(1, 4), st.integers(2, 4))
DECAYS = st.sampled_from([0.0, 0.5, 0.96, 1.0])
FORMS = ["product", "sign_of_balance", "sign_of_influence"]


def influences(seed: int, steps: int, games: int, agents: int) -> tuple[torch.Tensor, torch.Tensor]:
    """VI[t, b, i, j] of i on j, 0 on the diagonal, and where episodes start."""
    random = np.random.default_rng(seed)
    influence = random.normal(size=(steps, games, agents, agents)) * (1 - np.eye(agents))
    return torch.from_numpy(influence), torch.from_numpy(random.random((steps, games)) < 0.3)


def plain_reward(influence, starts, decay: float, pay_back: bool, form: str) -> np.ndarray:
    """Reciprocal reward [T, B, N] of every agent, one number at a time."""
    steps, games, agents = influence.shape[:3]
    rewards = np.zeros((steps, games, agents))
    for game in range(games):
        for me in range(agents):
            owed = [0.0] * agents
            for step in range(steps):
                if starts[step, game]:
                    owed = [0.0] * agents
                for other in range(agents):
                    if other == me:
                        continue
                    mine, theirs = influence[step, game, me, other], influence[step, game, other, me]
                    product = {
                        "product": owed[other] * mine,
                        "sign_of_balance": np.sign(owed[other]) * mine,
                        "sign_of_influence": owed[other] * np.sign(mine),
                    }[form]
                    rewards[step, game, me] += product / (agents - 1)
                    owed[other] = decay * owed[other] + theirs - (mine if pay_back else 0.0)
    return rewards


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), SHAPES, DECAYS, st.booleans(), st.sampled_from(FORMS))
def test_rewards_are_those_of_the_formula(seed, shape, decay, pay_back, form):
    influence, starts = influences(seed, *shape)
    balance = influence_balance(influence.transpose(2, 3), influence, decay, starts, pay_back)
    others = ~torch.eye(shape[2], dtype=torch.bool)
    found = reciprocal_reward(balance, influence, form, others.expand_as(balance))
    expected = plain_reward(influence.numpy(), starts.numpy(), decay, pay_back, form)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)
    in_single = reciprocal_reward(
        influence_balance(influence.float().transpose(2, 3), influence.float(), decay, starts, pay_back),
        influence.float(), form, others.expand_as(balance),
    )  # fmt: skip
    if form == "product":  # a sign may tip over by rounding
        np.testing.assert_allclose(in_single.numpy(), expected, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), SHAPES, DECAYS)
def test_the_first_step_of_an_episode_owes_nothing(seed, shape, decay):
    influence, starts = influences(seed, *shape)
    balance = influence_balance(influence.transpose(2, 3), influence, decay, starts)
    assert (balance[0] == 0).all()
    assert (balance[starts] == 0).all()
    assert (reciprocal_reward(balance, influence)[starts] == 0).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), SHAPES, DECAYS)
def test_nothing_crosses_the_end_of_an_episode(seed, shape, decay):
    influence, starts = influences(seed, *shape)
    other, _ = influences(seed + 1, *shape)
    step, game = shape[0] // 2, 0
    starts[step, game] = True
    changed = influence.clone()
    changed[:step] = other[:step]
    balances = [influence_balance(x.transpose(2, 3), x, decay, starts)[step:, game] for x in (influence, changed)]
    assert torch.equal(*balances)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), SHAPES)
def test_an_equal_pay_back_settles_the_balance(seed, shape):
    steps, _, _ = shape
    influence, _ = influences(seed, *shape)
    received = influence.transpose(2, 3)
    paid = received.sum(0, keepdim=True)
    nothing = torch.zeros_like(paid)
    balance = influence_balance(
        torch.cat([received, nothing, nothing]), torch.cat([torch.zeros_like(received), paid, nothing])
    )
    torch.testing.assert_close(balance[steps], paid[0])
    torch.testing.assert_close(balance[-1], torch.zeros_like(paid[0]), atol=1e-12, rtol=0)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), SHAPES, st.randoms())
def test_agents_permute(seed, shape, random):
    influence, starts = influences(seed, *shape)
    order = list(range(shape[2]))
    random.shuffle(order)

    def rewards(x: torch.Tensor) -> torch.Tensor:
        return reciprocal_reward(influence_balance(x.transpose(2, 3), x, 0.9, starts), x)

    torch.testing.assert_close(rewards(influence[:, :, order][..., order]), rewards(influence)[..., order])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 5))
def test_influence_is_the_difference_to_the_mean_over_the_policy(seed, rows, actions):
    random = np.random.default_rng(seed)
    values, policy = random.normal(size=(rows, actions)), random.dirichlet(np.ones(actions), rows)
    everything = [
        value_influence(torch.from_numpy(values), torch.full((rows,), action), torch.from_numpy(policy)).numpy()
        for action in range(actions)
    ]
    for action, row in np.ndindex(actions, rows):
        baseline = sum(policy[row, other] * values[row, other] for other in range(actions))
        np.testing.assert_allclose(everything[action][row], values[row, action] - baseline, atol=1e-12)
    np.testing.assert_allclose((np.stack(everything, -1) * policy).sum(-1), 0, atol=1e-12)


def test_absent_co_players_do_not_count():
    balance, influence = torch.tensor([[2.0, 3.0], [1.0, 1.0]]), torch.tensor([[1.0, 5.0], [4.0, 4.0]])
    present = torch.tensor([[True, False], [False, False]])
    assert reciprocal_reward(balance, influence, present=present).tolist() == [2.0, 0.0]
    assert reciprocal_reward(balance, influence).tolist() == [8.5, 4.0]


def test_what_does_not_fit_is_refused():
    column = torch.zeros(3, 2, 1)
    for decay in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"decay = .* is not in \[0, 1\]"):
            influence_balance(column, column, decay)
    with pytest.raises(ValueError, match=r"received has shape \(3, 2, 1\), given \(3, 2\)"):
        influence_balance(column, column[..., 0])
    with pytest.raises(ValueError, match=r"starts has shape \(2, 3\)"):
        influence_balance(column, column, starts=torch.zeros(2, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"form = 'cube' is unknown. Known: product, sign_of_balance"):
        reciprocal_reward(column, column, "cube")  # type: ignore[arg-type]
