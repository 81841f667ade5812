"""What can be earned: conservation step by step, and the group maxima, reached by players that see or know everything."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from env_registry import make
from env_registry.scripted import Seeker, scripted_policy
from tests.worlds.players import returns

UP, DOWN, LEFT, RIGHT, STAY, HUNT_HARE, HUNT_STAG = range(7)

amounts = st.floats(-10, 10, width=16)
seeds = st.integers(0, 2**32)


def played(name: str, seed: int, **config: Any) -> Any:
    """Yields the world after each of 40 random steps, with the step."""
    world = make(name, 6, **config)
    world.reset(seed)
    generator = np.random.default_rng(seed)
    for _ in range(40):
        yield world, world.step(generator.integers(world.action_space.n, size=(6, world.num_agents)))


def things(world: Any, kind: int) -> NDArray[Any]:
    """Number of things of the kind on each game's map."""
    return (world.board[:, : world.num_cells] >> (world.num_agents + kind) & 1).sum(axis=1)


@settings(deadline=None, max_examples=25)
@given(seeds, amounts, amounts, st.booleans(), st.integers(1, 8))
def test_snowdrift_pays_for_drifts_only(seed: int, reward: float, cost: float, ends: bool, drifts: int) -> None:
    config: dict[str, Any] = {"removal_reward": reward, "removal_cost": cost, "ends_when_cleared": ends}
    for world, step in played("snowdrift", seed, height=3, width=3, drifts=drifts, **config):
        removed = step.events["drifts_removed"].astype(float)
        np.testing.assert_allclose(
            step.rewards, reward * removed.sum(axis=1, keepdims=True) - cost * removed, atol=1e-4, rtol=1e-4
        )
        np.testing.assert_array_equal(things(world, 0), world.drifts_left)
        assert ends or not step.terminated.any()
        assert not (ends and (world.drifts_left == 0).any())


@settings(deadline=None, max_examples=25)
@given(seeds, amounts, amounts, st.integers(0, 8), st.floats(0, 1), st.floats(0, 1), st.integers(1, 3))
def test_cleanup_pays_for_apples_only(
    seed: int, reward: float, cost: float, waste: int, new_waste: float, new_apple: float, spawns: int
) -> None:
    config: dict[str, Any] = {"apple_reward": reward, "cleaning_cost": cost, "initial_waste": waste}
    config |= {"waste_probability": new_waste, "apple_probability": new_apple, "spawns_per_step": spawns}
    for world, step in played("cleanup", seed, height=5, width=4, **config):
        expected = reward * step.events["apples_eaten"] - cost * step.events["waste_cleaned"].astype(float)
        np.testing.assert_allclose(step.rewards, expected, atol=1e-4, rtol=1e-4)
        np.testing.assert_array_equal(np.stack([things(world, 0), things(world, 1)], axis=1), world.counts)
        assert (world.counts[:, 0] <= 8).all()
        board = world.board[:, : world.num_cells]
        assert not (board[:, 8:] >> world.num_agents & 1).any(), "waste lies in the river only"
        assert not (board[:, :12] >> world.num_agents + 1 & 1).any(), "apples grow in the orchard only"


def test_apples_grow_as_often_as_the_waste_allows() -> None:
    for waste, expected in ((0, 1.0), (2, 0.75), (6, 0.25), (8, 0.0)):
        world: Any = make("cleanup", 4000, initial_waste=waste, waste_probability=0)
        world.reset(0)
        world.step(np.full((4000, 4), STAY))
        assert world.counts[:, 1].mean() == pytest.approx(expected, abs=0.03)


def test_waste_appears_as_often_as_it_should() -> None:
    world: Any = make("cleanup", 4000, initial_waste=3)
    world.reset(0)
    world.step(np.full((4000, 4), STAY))
    assert world.counts[:, 0].mean() == pytest.approx(3.1, abs=0.02)


@settings(deadline=None, max_examples=25)
@given(seeds, amounts, st.none() | amounts, st.sampled_from(["one", "one_each"]), st.sampled_from(["one", "all"]))
def test_coins_stay_as_many_and_pay_as_they_should(
    seed: int, reward: float, penalty: float | None, coins: str, contested: str
) -> None:
    config: dict[str, Any] = {"coin_reward": reward, "theft_penalty": penalty, "coins": coins, "contested": contested}
    for world, step in played("coin_game", seed, num_agents=3, height=3, width=3, **config):
        per_theft = 1.5 * reward if penalty is None else penalty
        own, other = (step.events[name].sum(axis=1, dtype=float) for name in ("own_coins", "other_coins"))
        expected = reward * (own + other) - per_theft * other
        np.testing.assert_allclose(step.rewards.sum(axis=1), expected, atol=1e-3, rtol=1e-3)
        counts = np.stack([things(world, owner) for owner in range(3)], axis=1)
        assert (counts.sum(axis=1) == 1).all() if coins == "one" else (counts == 1).all()


@settings(deadline=None, max_examples=25)
@given(seeds, st.floats(0, 10, width=16), st.floats(0, 10, width=16), st.sampled_from(["explicit", "wait"]))
def test_hunters_share_what_they_hunt(seed: int, stag: float, hare: float, rule: str) -> None:
    config: dict[str, Any] = {"stag_reward": stag, "hare_reward": hare, "rule": rule}
    for world, step in played("stag_hunt", seed, height=2, width=3, stags=1, hares=3, **config):
        stags, hares = step.events["stags"], step.events["hares"]
        assert (stags.sum(axis=1) != 1).all(), "nobody hunts a stag alone"
        np.testing.assert_allclose((step.rewards * stags).sum(axis=1), stag * (stags.sum(axis=1) > 0), atol=1e-4)
        gone = stags + hares > 0
        assert not (gone & step.alive).any()
        assert not (step.rewards[~gone]).any()
        np.testing.assert_array_equal(things(world, 0) + things(world, 1), world.prey_left)


@pytest.mark.parametrize("preset", ["explicit", "wait"])
@pytest.mark.parametrize(
    ("prey", "hunters", "share"),
    [("stags", 1, 0), ("stags", 2, 5), ("stags", 3, 10 / 3), ("hares", 1, 1), ("hares", 2, 1 / 2), ("hares", 3, 1 / 3)],
)
def test_all_who_hunt_together_share_equally(preset: str, prey: str, hunters: int, share: float) -> None:
    """Everything happens on the only cell there is; the others try to move, which is neither hunting nor staying."""
    numbers: dict[str, Any] = {"stags": 0, "hares": 0, prey: 1}
    world = make("stag_hunt", preset=preset, height=1, width=1, **numbers)
    world.reset(0)
    hunt = STAY if preset == "wait" else HUNT_STAG if prey == "stags" else HUNT_HARE
    step = world.step(np.array([[hunt] * hunters + [UP] * (4 - hunters)]))
    np.testing.assert_allclose(step.rewards, [[share] * hunters + [0] * (4 - hunters)])
    caught = share > 0
    assert step.events[prey].tolist() == [[int(caught)] * hunters + [0] * (4 - hunters)]
    assert step.alive.tolist() == [[not caught] * hunters + [True] * (4 - hunters)]
    assert step.terminated.tolist() == [caught], "nothing is left to hunt"


@pytest.mark.parametrize(
    ("config", "maximum"),
    [({}, 120), ({"ends_when_cleared": False}, 120), ({"preset": "extended"}, 12 * (8 * 6 - 4))],
)
def test_snowdrift_group_maximum(config: dict[str, Any], maximum: float) -> None:
    """Whoever sees the whole map removes all drifts in time."""
    assert (returns("snowdrift", ["cooperator"], window_radius=12, **config).sum(axis=1) == maximum).all()


@pytest.mark.parametrize("preset", ["explicit", "wait"])
def test_stag_hunt_group_maximum(preset: str) -> None:
    """Two agents go to the first stag and two to the second, wait for each other, and hunt."""
    world: Any = make("stag_hunt", 400, preset=preset)
    world.reset(3)
    width = world.parameters.width
    stags = np.array([np.flatnonzero(board >> 4 & 1) for board in world.board])
    rows, columns = np.divmod(np.repeat(stags, 2, axis=1), width)
    total, playing = np.zeros(400), np.ones(400, bool)
    for _ in range(world.parameters.episode_length):
        down, right = rows - world.cells // width, columns - world.cells % width
        arrived = (down == 0) & (right == 0)
        both_arrived = arrived.reshape(400, 2, 2).all(axis=2).repeat(2, axis=1)
        hunt = HUNT_STAG if preset == "explicit" else STAY
        conditions = [both_arrived, arrived, down > 0, down < 0, right > 0]
        step = world.step(np.select(conditions, [hunt, STAY, DOWN, UP, RIGHT], LEFT))
        total += step.rewards.sum(axis=1) * playing
        playing &= ~step.terminated
    assert not playing.any(), "all have left before the time limit"
    assert (total == 20).all()


@pytest.mark.parametrize("config", [{}, {"preset": "reciprocator"}, {"preset": "reciprocator", "num_agents": 3}])
def test_collecting_any_coin_pays_nothing_on_average(config: dict[str, Any]) -> None:
    total = returns("coin_game", ["defector"], num_games=1500, **config)
    mean, error = total.mean(axis=0), total.std(axis=0) / np.sqrt(len(total))
    assert (np.abs(mean) < 4.5 * error).all()
    assert (error < 0.5).all(), "enough games to say so"
    assert returns("coin_game", ["cooperator"], **config).mean() > 1, "and leaving others' coins alone pays"


def test_seeing_everything_is_no_part_of_the_rules() -> None:
    world: Any = make("snowdrift", 1, window_radius=8)
    assert isinstance(scripted_policy("snowdrift", "cooperator", world), Seeker)
    assert world.observation_space.shape == (6, 17, 17)
