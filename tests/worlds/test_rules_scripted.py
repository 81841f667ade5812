"""Scripted players: what they do in positions made by hand, and what becomes of games between them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from env_registry import WORLDS, SettingError, make
from env_registry.grid import GridWorld
from env_registry.scripted import SCRIPTED, MemoryOnePolicy, scripted_policy
from tests.worlds.players import play, returns

UP, DOWN, LEFT, RIGHT, STAY = range(5)


def actions(world: Any, name: str, kind: str, window: NDArray[np.uint8], draws: int = 200) -> set[int]:
    """All that a player does in many looks at the same window `[C, H, W]`."""
    observations = np.broadcast_to(window, (draws, *window.shape))
    chosen = scripted_policy(name, kind, world).act(observations, np.random.default_rng(0))
    assert chosen.shape == (draws,)
    return set(chosen.tolist())


def window(world: Any, **places: tuple[int, int]) -> NDArray[np.uint8]:
    """A window with the agent in the middle and things at (rows down, columns right) of it."""
    out = np.zeros(world.observation_space.shape, np.uint8)
    row, column = out.shape[1] // 2, out.shape[2] // 2
    out[0, row, column] = 1
    for name, (down, right) in places.items():
        out[world.channel_names.index(name.replace("_", " ")), row + down, column + right] = 1
    return out


@pytest.mark.parametrize("name", WORLDS)
def test_every_world_has_its_players(name: str) -> None:
    assert {"cooperator", "defector", "random"} <= set(SCRIPTED[name])
    world = make(name, 1)
    sample = np.stack([world.observation_space.low] * 4)
    for kind in SCRIPTED[name]:
        chosen = scripted_policy(name, kind, world).act(sample, np.random.default_rng(0))
        assert chosen.shape == (4,)
        assert all(world.action_space.contains(action) for action in chosen)


def test_unknown_players_are_refused() -> None:
    world = make("cleanup")
    with pytest.raises(SettingError, match="Did you mean 'cooperator'"):
        scripted_policy("cleanup", "coperator", world)
    with pytest.raises(SettingError, match="Unknown world with scripted players 'clean'"):
        scripted_policy("clean", "cooperator", world)


@pytest.mark.parametrize(
    ("name", "kind", "thing", "action"),
    [
        ("cleanup", "cooperator", "waste", "clean"),
        ("cleanup", "defector", "apple", "pick"),
        ("stag_hunt", "cooperator", "stag", "hunt stag"),
        ("stag_hunt", "defector", "hare", "hunt hare"),
        ("snowdrift", "cooperator", "drift", "remove"),
    ],
)
def test_walks_to_the_nearest_vertical_first_and_acts(name: str, kind: str, thing: str, action: str) -> None:
    world = make(name)
    assert isinstance(world, GridWorld)
    for place, move in (((-2, 1), UP), ((1, -2), DOWN), ((0, -1), LEFT), ((0, 2), RIGHT)):
        assert actions(world, name, kind, window(world, **{thing: place})) == {move}
    assert actions(world, name, kind, window(world, **{thing: (0, 0)})) == {world.action_names.index(action)}
    two = window(world, **{thing: (-1, 2)})
    two |= window(world, **{thing: (1, 1)})
    assert actions(world, name, kind, two) == {DOWN}
    for places, move in ((((-1, 1), (0, 2)), UP), (((1, 0), (0, 1)), RIGHT), (((0, -1), (0, 1)), LEFT)):
        equal = window(world, **{thing: places[0]}) | window(world, **{thing: places[1]})
        assert actions(world, name, kind, equal) == {move}, "the topmost, then leftmost"


@pytest.mark.parametrize(("kind", "towards", "edge"), [("cooperator", UP, -2), ("defector", DOWN, 2)])
def test_cleanup_players_search_their_rows(kind: str, towards: int, edge: int) -> None:
    """With nothing in view: up to the river (down to the orchard), which is where the map ends two rows on; then sideways."""
    world = make("cleanup")
    seen = window(world)
    assert actions(world, "cleanup", kind, seen) == {towards}
    mask = seen[-1]
    mask[:, 0] = 1  # the map's side is no reason to stop
    assert actions(world, "cleanup", kind, seen) == {towards}
    mask[2 + edge] = 1
    assert actions(world, "cleanup", kind, seen) == {LEFT, RIGHT}


def test_coin_cooperator_leaves_others_coins_alone() -> None:
    world = make("coin_game")
    assert actions(world, "coin_game", "cooperator", window(world, coin_1=(1, 0))) == {UP, LEFT, RIGHT}
    assert actions(world, "coin_game", "defector", window(world, coin_1=(1, 0))) == {DOWN}
    both = window(world, coin_1=(1, 0), own_coin=(2, 0))
    assert DOWN not in actions(world, "coin_game", "cooperator", both)
    assert actions(world, "coin_game", "cooperator", window(world, coin_1=(1, 0), own_coin=(-1, 0))) == {UP}


def test_coin_players_stay_on_a_coin_where_they_can() -> None:
    world = make("coin_game", preset="reciprocator")
    assert actions(world, "coin_game", "cooperator", window(world, own_coin=(0, 0))) == {STAY}
    assert actions(world, "coin_game", "defector", window(world, coin_1=(0, 0))) == {STAY}


def test_players_find_themselves_in_an_absolute_view() -> None:
    world = make("coin_game", preset="reciprocator", view="absolute")
    seen = np.zeros((4, 3, 3), np.uint8)
    seen[0, 2, 2] = seen[2, 0, 2] = 1
    assert actions(world, "coin_game", "cooperator", seen) == {UP}


def test_snowdrift_cooperator_steps_aside() -> None:
    world = make("snowdrift")
    name = "co-player 1"
    assert actions(world, "snowdrift", "cooperator", window(world, **{name: (1, 0), "drift": (2, 0)})) == {
        UP,
        LEFT,
        RIGHT,
    }


def test_snowdrift_defector_never_removes() -> None:
    world = make("snowdrift")
    assert actions(world, "snowdrift", "defector", window(world, drift=(0, 0))) == {UP, DOWN, LEFT, RIGHT}


def test_random_player_is_uniform() -> None:
    world = make("cleanup")
    player = scripted_policy("cleanup", "random", world)
    chosen = player.act(np.zeros((14_000, 7, 5, 5), np.uint8), np.random.default_rng(0))
    assert (
        (np.bincount(chosen, minlength=7) - 2000) ** 2 / 2000
    ).sum() < 28  # chi-square, 6 degrees of freedom, 1 - 1e-4


def test_memory_one_players() -> None:
    outcomes = np.eye(5, dtype=np.uint8)  # CC, CD, DC, DD, start
    generator = np.random.default_rng(0)
    world = make("iterated_prisoners_dilemma")
    expected = {"cooperator": [0] * 5, "defector": [1] * 5, "tit_for_tat": [0, 1, 0, 1, 0]}
    for kind, choices in expected.items():
        player = scripted_policy("iterated_prisoners_dilemma", kind, world)
        assert player.act(outcomes, generator).tolist() == choices
    often = MemoryOnePolicy([0.25] * 5).act(np.repeat(outcomes, 4000, axis=0), generator)
    assert often.mean() == pytest.approx(0.75, abs=0.015)


def test_tit_for_tat_loses_one_round_to_a_defector() -> None:
    total = returns("iterated_prisoners_dilemma", ["tit_for_tat", "defector"], num_games=2)
    np.testing.assert_allclose(total, [[-0.2, 1.2]] * 2, atol=1e-5)


def test_cleanup_needs_both_kinds() -> None:
    """Cooperators do not eat and defectors do not clean: the orchard yields to mixed groups only."""
    assert not returns("cleanup", ["cooperator"]).any()
    assert not returns("cleanup", ["defector"]).any()
    total, events = play("cleanup", ["cooperator", "cooperator", "defector", "defector"])
    assert total.sum(axis=1).mean() > 50
    assert not total[:, :2].any()
    assert (events["waste_cleaned"][:, :2].sum(axis=1) > 8).all()
    assert not events["waste_cleaned"][:, 2:].any()


@pytest.mark.parametrize("preset", ["explicit", "wait"])
def test_stag_hunters_trust_pays(preset: str) -> None:
    assert returns("stag_hunt", ["cooperator"], preset=preset).sum(axis=1).mean() > 10
    assert returns("stag_hunt", ["defector"], preset=preset).sum(axis=1).max() <= 4
