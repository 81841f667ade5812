"""The exact value influence in the coin game against games that are played, and estimators against it."""

from __future__ import annotations

import numpy as np
import pytest

import env_registry
from rllib_empathy.theory.coins import exact_influences, play, quality


@pytest.fixture(scope="module")
def exact() -> np.ndarray:
    return exact_influences(0.99)


def test_nobody_influences_itself_and_influence_is_zero_on_average(exact):
    assert not exact[..., 0, 0].any()
    assert not exact[..., 1, 1].any()
    np.testing.assert_allclose(exact[..., 0, 1].mean(5), 0, atol=1e-5)
    np.testing.assert_allclose(exact[..., 1, 0].mean(6), 0, atol=1e-5)


@pytest.mark.parametrize(("step", "games"), [(31, 16), (24, 4096)])
def test_influences_are_those_of_games_that_are_played(exact, step, games):
    """All games go on from one state with each action of agent 0 in turn, then at random to the end."""
    cells, coins, other = [0, 7], [4, 1], 0  # agent 1 steps up onto cell 4, the first one's coin
    returns = []
    for action in range(5):
        world = env_registry.make("coin_game", games, preset="reciprocator")
        world.reset(seed=1)
        state = world.get_state()
        state["cells"][:], state["coins"][:], state["clock"][:] = cells, coins, step
        state["board"][:] = 0
        for number in range(2):
            state["board"][:, cells[number]] |= 1 << number
            state["board"][:, coins[number]] |= 1 << (2 + number)
        world.set_state(state)
        random, total = np.random.default_rng(2), np.zeros(games)
        for later in range(step, 32):
            first = later == step
            actions = np.tile([action, other], (games, 1)) if first else random.integers(0, 5, (games, 2))
            total += 0.99 ** (later - step) * world.step(actions).rewards[:, 1]
        returns.append(total.mean())
    found = np.array(returns) - np.mean(returns)
    index = (step, *cells, *coins, slice(None), other, 0, 1)
    np.testing.assert_allclose(found, exact[index], atol=1e-5 if step == 31 else 0.3)
    assert np.abs(exact[index]).max() > 0.5


def test_learned_influence_is_near_the_exact_one(exact):
    lessons, check = play(192, 1, exact), play(64, 2, exact)
    _, explained = quality("counterfactual", lessons, check, 0.99, epochs=8, minibatch_size=512)
    _, by_twins = quality("twins", lessons, check, 0.99, epochs=8, minibatch_size=512)
    assert explained > 0.5
    assert explained > by_twins
