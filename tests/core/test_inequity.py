"""Inequity aversion against sums written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rllib_empathy.reshaping.inequity import inequity, smoothed_rewards

few = settings(max_examples=30, deadline=None)
SEEDS = st.integers(0, 2**31)


@few
@given(SEEDS, st.integers(1, 6), st.integers(1, 3), st.integers(1, 4), st.floats(0, 1))
def test_traces_are_sums_since_the_episode_began(seed, steps, games, agents, decay):
    random = np.random.default_rng(seed)
    rewards, starts = random.normal(size=(steps, games, agents)), random.random((steps, games)) < 0.3
    found = smoothed_rewards(torch.tensor(rewards), torch.tensor(starts), decay).numpy()
    for game in range(games):
        begun = 0
        for t in range(steps):
            begun = t if starts[t, game] else begun
            expected = sum(decay ** (t - k) * rewards[k, game] for k in range(begun, t + 1))
            np.testing.assert_allclose(found[t, game], expected, atol=1e-9)


@few
@given(SEEDS, st.integers(1, 5), st.floats(0, 5), st.floats(0, 5))
def test_inequity_is_the_formula(seed, agents, envy, guilt):
    e = np.random.default_rng(seed).normal(size=(3, agents))
    for i in range(agents):
        others = [j for j in range(agents) if j != i]
        behind = sum(np.maximum(e[:, j] - e[:, i], 0) for j in others)
        ahead = sum(np.maximum(e[:, i] - e[:, j], 0) for j in others)
        expected = (envy * behind + guilt * ahead) / max(1, agents - 1)
        np.testing.assert_allclose(inequity(torch.tensor(e), i, envy, guilt), expected * np.ones(3), atol=1e-9)


def test_the_richer_of_two_pays_for_its_guilt_and_nobody_pays_where_nothing_was_earned():
    rewards = torch.tensor([3.0, 0.0])
    assert [(rewards[i] - inequity(rewards, i, 0.0, 0.05)).item() for i in (0, 1)] == pytest.approx([2.85, 0.0])
    assert [inequity(torch.zeros(3), i, 5.0, 0.05).item() for i in range(3)] == [0.0, 0.0, 0.0]


@few
@given(SEEDS, st.integers(2, 6), st.floats(-5, 5))
def test_only_differences_count_and_agents_permute(seed, agents, shift):
    random = np.random.default_rng(seed)
    e, order = torch.tensor(random.normal(size=agents)), random.permutation(agents)
    for place, agent in enumerate(order):
        plain = inequity(e, int(agent), 2.0, 0.5)
        torch.testing.assert_close(inequity(e + shift, int(agent), 2.0, 0.5), plain)
        torch.testing.assert_close(inequity(e[order.tolist()], place, 2.0, 0.5), plain)
