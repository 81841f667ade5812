"""Memory-one policies in the prisoner's dilemma: exact returns against sums over time and plain loops, and what learners do."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from rllib_empathy.theory.ipd import (
    LOLA,
    NAIVE,
    PAYOFFS,
    RECIPROCATOR,
    SWAPPED,
    Ascent,
    course,
    exact_returns,
    foreseen,
    reciprocal_returns,
)
from rllib_empathy.theory.ipd_pairs import PAIRS

ALWAYS, NEVER, TIT_FOR_TAT = [1.0] * 5, [0.0] * 5, [1.0, 0.0, 1.0, 0.0, 1.0]


def pair(*policies: list[float]) -> torch.Tensor:
    return torch.tensor(policies, dtype=torch.float64).unsqueeze(1)


@pytest.mark.parametrize(
    ("policies", "returns"),
    [
        ((ALWAYS, ALWAYS), (-10, -10)),
        ((NEVER, NEVER), (-20, -20)),
        ((NEVER, ALWAYS), (0, -30)),
        ((TIT_FOR_TAT, ALWAYS), (-10, -10)),
        ((TIT_FOR_TAT, NEVER), (-3 - 2 * 9, 0 - 2 * 9)),
    ],
)
def test_returns_of_known_strategies(policies, returns):
    np.testing.assert_allclose(exact_returns(pair(*policies), 0.9)[:, 0], returns, atol=1e-9)


def test_returns_are_those_of_the_game_that_is_played():
    payoffs = (1.0, -0.2, 1.2, 0.0)
    np.testing.assert_allclose(exact_returns(pair(NEVER, ALWAYS), 0.9, payoffs)[:, 0], (12, -2), atol=1e-9)
    starts = random_starts(20, seed=3)
    lola, naive = Ascent(look_ahead=1.0, payoffs=payoffs), Ascent(payoffs=payoffs)
    rewards = {
        name: course(starts, (learner, learner), 0.99, 200, payoffs)[0][-1].mean()
        for name, learner in {"lola": lola, "naive": naive}.items()
    }
    assert rewards["lola"] > 0.9
    assert rewards["naive"] < 0.6


def plain_sums(policies: np.ndarray, gamma: float, steps: int) -> np.ndarray:
    """Discounted rewards and reciprocal rewards `[2, 2]` by adding up all pairs of successive steps, step by step."""

    def cooperates(agent: int, state: int) -> float:
        return policies[agent][state if agent == 0 else SWAPPED[state]]

    def probability(state: int, outcome: int) -> float:
        actions = (outcome // 2, outcome % 2)
        both = [cooperates(i, state) if actions[i] == 0 else 1 - cooperates(i, state) for i in range(2)]
        return both[0] * both[1]

    def reward(agent: int, outcome: int) -> float:
        return PAYOFFS[outcome if agent == 0 else SWAPPED[outcome]]

    def influence(agent: int, state: int, outcome: int) -> float:
        """Of `agent` on the other."""
        other = 1 - agent
        flip = outcome ^ (2 if agent == 0 else 1)
        taken = (outcome // 2, outcome % 2)[agent]
        p = cooperates(agent, state) if taken == 0 else 1 - cooperates(agent, state)
        return reward(other, outcome) - p * reward(other, outcome) - (1 - p) * reward(other, flip)

    sums = np.zeros((2, 2))
    states = {4: 1.0}
    for step in range(steps):
        after = dict.fromkeys(range(4), 0.0)
        for state, outcome in product(states, range(4)):
            chance = states[state] * probability(state, outcome)
            after[outcome] += chance
            for agent in range(2):
                sums[0, agent] += gamma**step * chance * reward(agent, outcome)
                given = sum(probability(outcome, then) * influence(agent, outcome, then) for then in range(4))
                sums[1, agent] += gamma ** (step + 1) * chance * influence(1 - agent, state, outcome) * given
        states = after
    return sums


def test_returns_are_sums_over_time():
    policies = np.random.default_rng(1).random((2, 5))
    expected = plain_sums(policies, 0.8, 150)
    columns = torch.from_numpy(policies).unsqueeze(1)
    np.testing.assert_allclose(exact_returns(columns, 0.8)[:, 0], expected[0], atol=1e-9)
    np.testing.assert_allclose(reciprocal_returns(columns, 0.8)[:, 0], expected[1], atol=1e-9)


def random_starts(pairs: int, seed: int) -> torch.Tensor:
    return torch.randn(2, pairs, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_reciprocators_and_lola_cooperate_and_naive_learners_do_not():
    starts = random_starts(20, seed=3)
    rewards = {name: course(starts, learners, 0.96, 200)[0][-1] for name, learners in PAIRS.items()}
    assert (rewards["naive / naive"] < -1.9).all()
    assert (rewards["Reciprocator / Reciprocator"] > -1.1).double().mean() > 0.9
    assert (rewards["LOLA / LOLA"] > -1.2).all(0).double().mean() > 0.5
    first, second = rewards["Reciprocator / naive"].mean(1)
    assert first > -1.1 > second > -1.5  # it shapes the learner, and gains more by it
    assert (rewards["LOLA / naive"].mean(1) > -1.8).all()


def test_seats_do_not_matter():
    starts = random_starts(5, seed=3)
    one = course(starts, (RECIPROCATOR, LOLA), 0.96, 50)[0]
    other = course(starts.flip(0), (LOLA, RECIPROCATOR), 0.96, 50)[0]
    np.testing.assert_allclose(other.flip(1), one, atol=1e-6)


def test_a_course_begins_at_the_start_and_ends_with_the_policies_of_the_last_rewards():
    starts = random_starts(4, seed=4)
    rewards, policies = course(starts, (NAIVE, LOLA), 0.96, 3)
    assert rewards.shape == (4, 2, 4)
    for games, played in ((rewards[0], starts.sigmoid()), (rewards[-1], policies)):
        np.testing.assert_allclose(games, (1 - 0.96) * exact_returns(played, 0.96), atol=1e-12)


def test_what_lola_foresees_is_the_step_that_the_other_takes():
    starts = random_starts(4, seed=1)
    seen = foreseen(starts.clone().requires_grad_(), 0, 1.0, 0.96).detach()
    np.testing.assert_allclose(seen[1], NAIVE.step(starts, 1, 0.96), atol=1e-9)
    np.testing.assert_array_equal(seen[0], starts[0])


def test_lola_follows_the_slope_of_its_return_after_the_others_step():
    """Against finite differences of V_1(theta_1, theta_2 + eta grad_2 V_2)."""
    start = random_starts(1, seed=2)

    def return_after(logits: torch.Tensor) -> float:
        seen = foreseen(logits.clone().requires_grad_(), 0, 1.0, 0.9)
        return exact_returns(seen.sigmoid(), 0.9)[0].item()

    slopes = []
    for number in range(5):
        nudge = torch.zeros_like(start)
        nudge[0, 0, number] = 1e-5
        slopes.append((return_after(start + nudge) - return_after(start - nudge)) / 2e-5)
    taken = LOLA.step(start, 0, 0.9) - start[0]
    np.testing.assert_allclose(taken[0], slopes, atol=1e-6)


def test_gradients_flow_through_steps_only_where_they_are_asked_for():
    starts = random_starts(2, seed=5)
    assert not NAIVE.step(starts, 0, 0.96).requires_grad
    assert NAIVE.step(starts.clone().requires_grad_(), 0, 0.96).requires_grad
