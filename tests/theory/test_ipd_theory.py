"""Memory-one policies in the prisoner's dilemma: exact returns against sums over time and plain loops, and what learners do."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from rllib_empathy.theory.ipd import PAIRS, PAYOFFS, SWAPPED, ascend, exact_returns, reciprocal_returns

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


def test_reciprocators_cooperate_and_naive_learners_do_not():
    starts = torch.randn(2, 20, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    ends = {pair.name: ascend(starts, pair.weights, 0.96, 500)[0][-1] for pair in PAIRS}
    assert (ends["naive / naive"] < -1.9).all()
    assert (ends["Reciprocator / Reciprocator"] > -1.1).double().mean() > 0.9
    mixed = ends["Reciprocator / naive"].mean(1)
    assert mixed[0] > -1.2 > mixed[1]  # it shapes the learner, and gains more by it
    swapped = ascend(starts.flip(0), (0.0, 5.0), 0.96, 500)[0][-1]
    np.testing.assert_allclose(swapped.flip(0), ends["Reciprocator / naive"], atol=1e-6)
