"""What grid worlds share: tables, windows, moves, collisions, draws."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from numpy.typing import NDArray

from env_registry import WORLDS, make
from env_registry.grid import CELL_SIZE, GridWorld, agent_colours, destinations, random_free_cell, windows
from env_registry.random_streams import seed_streams, shuffle, uniform
from env_registry.unpacking import unpack
from tests.worlds.plain_games import PlainStream

UP, DOWN, LEFT, RIGHT, STAY = range(5)


@njit
def _unpack(numbers: Any, bit: int, out: Any, to: int) -> None:
    unpack(numbers, bit, out, to)


@njit
def _draws(streams: Any, out: Any, orders: Any) -> None:
    for game in range(streams.shape[0]):
        for number in range(out.shape[1]):
            out[game, number] = uniform(streams, game)
            shuffle(orders[game, number], streams, game)


@njit
def _free_cells(board: Any, first: int, last: int, taken: int, num_free: int, streams: Any, out: Any) -> None:
    for game in range(board.shape[0]):
        out[game] = random_free_cell(board, game, first, last, taken, num_free, streams)


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
@pytest.mark.parametrize("size", [1, 4, 7, 8, 9, 15, 16, 17, 25, 31, 32, 33, 49, 121])
def test_unpacking_is_a_shift_and_touches_nothing_else(size: int, dtype: type) -> None:
    bits = np.iinfo(dtype).bits
    numbers: NDArray[Any] = np.random.default_rng(size).integers(2**bits, size=size).astype(dtype)
    for bit in range(bits):
        out = np.full(size + 5, 7, np.uint8)
        _unpack(numbers, bit, out, 3)
        np.testing.assert_array_equal(out[3:-2], (numbers >> bit) & 1)
        assert set(out[:3]) | set(out[-2:]) == {7}


@pytest.mark.parametrize("num_agents", [1, 2, 4, 15, 16])
def test_draws_are_those_of_splitmix(num_agents: int) -> None:
    streams = np.zeros(3, np.uint64)
    seed_streams(streams, 77, 40)
    numbers = np.zeros((3, 9))
    orders = np.zeros((3, 9, num_agents), np.int64)
    _draws(streams, numbers, orders)
    for game in range(3):
        plain = PlainStream(77, 40 + game)
        for number in range(9):
            assert numbers[game, number] == plain.uniform()
            assert orders[game, number].tolist() == plain.order(num_agents)


def test_first_number_of_splitmix_is_the_published_one() -> None:
    plain = PlainStream(0, 0)
    plain.state = 1234567
    assert plain.uniform() == (6457827717110365317 >> 11) / 2**53


def test_orders_are_equally_likely() -> None:
    streams = np.zeros(24_000, np.uint64)
    seed_streams(streams, 5, 0)
    orders = np.zeros((24_000, 1, 4), np.int64)
    _draws(streams, np.zeros((24_000, 1)), orders)
    _, counts = np.unique(orders[:, 0], axis=0, return_counts=True)
    assert len(counts) == 24
    assert ((counts - 1000) ** 2 / 1000).sum() < 60  # chi-square with 23 degrees of freedom: 60 is beyond 1 - 1e-4


def test_free_cells_are_equally_likely_and_free() -> None:
    board = np.tile(np.array([0, 1, 3, 0, 2, 1, 2, 0], np.uint16), (9000, 1))
    streams, chosen = np.zeros(9000, np.uint64), np.zeros(9000, np.int64)
    seed_streams(streams, 6, 0)
    _free_cells(board, 1, 7, 1, 3, streams, chosen)
    cells, counts = np.unique(chosen, return_counts=True)
    assert cells.tolist() == [3, 4, 6]
    assert ((counts - 3000) ** 2 / 3000).sum() < 20


@given(st.integers(1, 6), st.integers(1, 6), st.booleans())
def test_destinations(height: int, width: int, torus: bool) -> None:
    table = destinations(height, width, 7, torus)
    off_map, nowhere = height * width, height * width + 1
    for cell in range(height * width):
        row, column = divmod(cell, width)
        for action, (down, right) in enumerate([(-1, 0), (1, 0), (0, -1), (0, 1)]):
            new_row, new_column = row + down, column + right
            if torus:
                new_row, new_column = new_row % height, new_column % width
            inside = 0 <= new_row < height and 0 <= new_column < width
            assert table[cell, action] == (new_row * width + new_column if inside else cell)
        assert (table[cell, STAY:] == cell).all()
    assert (table[off_map] == off_map).all()
    assert (table[nowhere] == nowhere).all()


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 4))
def test_windows(height: int, width: int, radius: int) -> None:
    cells = height * width
    bounded = windows(height, width, radius, False, "centred")
    torus = windows(height, width, radius, True, "centred")
    absolute = windows(height, width, radius, True, "absolute")
    assert bounded.shape == (cells + 2, 2 * radius + 1, 2 * radius + 1)
    for cell in range(cells):
        row, column = divmod(cell, width)
        assert bounded[cell, radius, radius] == torus[cell, height // 2, width // 2] == cell
        for (down, right), seen in np.ndenumerate(bounded[cell]):
            r, c = row + down - radius, column + right - radius
            assert seen == (r * width + c if 0 <= r < height and 0 <= c < width else cells)
        assert sorted(torus[cell].ravel()) == list(range(cells))
        rolled = np.roll(np.arange(cells).reshape(height, width), (height // 2 - row, width // 2 - column), (0, 1))
        np.testing.assert_array_equal(torus[cell], rolled)
        np.testing.assert_array_equal(absolute[cell], np.arange(cells).reshape(height, width))
    for table in (bounded, torus, absolute):
        assert (table[cells:] == cells + 1).all()


def put(world: GridWorld, *cells: int) -> None:
    """Puts the agents of all games on these cells."""
    anybody = (1 << world.num_agents) - 1
    world.board[:, : world.num_cells] &= world.board.dtype.type(~anybody & 0xFFFF)
    for agent, cell in enumerate(cells):
        world.cells[:, agent] = cell
        world.board[:, cell] |= world.board.dtype.type(1 << agent)


def grid(name: str, num_games: int, **config: Any) -> Any:
    world = make(name, num_games, **config)
    assert isinstance(world, GridWorld)
    world.reset(0)
    return world


def step_all(world: GridWorld, *actions: int) -> NDArray[np.uint16]:
    """The same actions in all games; returns where the agents are then."""
    world.step(np.tile(actions, (world.num_games, 1)))
    return world.cells


def test_who_gets_a_contested_cell_is_fair() -> None:
    world = grid("snowdrift", 6000, num_agents=3, height=3, width=3, drifts=1)
    put(world, 1, 3, 5)  # all next to the middle
    cells = step_all(world, DOWN, RIGHT, LEFT)
    winners = cells == 4
    assert (winners.sum(axis=1) == 1).all()
    assert ((winners.sum(axis=0) - 2000) ** 2 / 2000).sum() < 19  # chi-square, 2 degrees of freedom, 1 - 1e-4
    assert (np.where(winners, [1, 3, 5], cells) == [1, 3, 5]).all(), "who does not get it stays"


def test_one_can_follow_an_agent_only_if_it_moved_earlier() -> None:
    world = grid("snowdrift", 6000, num_agents=2, height=1, width=3, drifts=1)
    put(world, 0, 1)
    cells = step_all(world, RIGHT, RIGHT)
    assert (cells[:, 1] == 2).all()
    assert set(cells[:, 0].tolist()) == {0, 1}
    assert abs((cells[:, 0] == 1).mean() - 0.5) < 0.03


def test_agents_that_block_cannot_swap_and_others_can() -> None:
    world = grid("snowdrift", 50, num_agents=2, height=1, width=2, drifts=1)
    put(world, 0, 1)
    assert (step_all(world, RIGHT, LEFT) == [0, 1]).all()
    world = grid("snowdrift", 50, num_agents=2, height=1, width=2, drifts=1, blocking=False)
    put(world, 0, 1)
    assert (step_all(world, RIGHT, LEFT) == [1, 0]).all()
    assert (step_all(world, LEFT, STAY) == [0, 0]).all()


def assert_one_taker_each_equally_likely(taken: NDArray[Any]) -> None:
    """`taken` `[B, 3]`: how much each of three agents took."""
    expected = len(taken) / 3
    assert (taken.sum(axis=1) == 1).all()
    assert ((taken.sum(axis=0, dtype=int) - expected) ** 2 / expected).sum() < 19  # as above


def test_who_gets_a_contested_apple_is_fair() -> None:
    world = grid("cleanup", 6000, num_agents=3, waste_probability=0, apple_probability=0)
    put(world, 60, 60, 60)
    world.board[:, 60] |= world.board.dtype.type(1 << 4)
    world.counts[:, 1] = 1
    step = world.step(np.full((6000, 3), 6))
    assert_one_taker_each_equally_likely(step.events["apples_eaten"])
    assert_one_taker_each_equally_likely(step.rewards)


def test_who_gets_a_contested_drift_is_fair() -> None:
    world = grid("snowdrift", 6000, num_agents=3, blocking=False, drifts=64)
    put(world, 9, 9, 9)
    assert_one_taker_each_equally_likely(world.step(np.full((6000, 3), 5)).events["drifts_removed"])


@pytest.mark.parametrize("contested", ["one", "all"])
def test_a_contested_coin_goes_to_one_at_random_or_to_all(contested: str) -> None:
    world = grid("coin_game", 6000, num_agents=3, height=1, width=1, stay=True, contested=contested)
    owners = world.coins.argmin(axis=1)  # the other colours' coins are nowhere, a larger number
    step = world.step(np.full((6000, 3), STAY))
    owns, others = step.events["own_coins"], step.events["other_coins"]
    if contested == "one":
        assert_one_taker_each_equally_likely(owns + others)
    else:
        assert (owns + others == 1).all()
    np.testing.assert_array_equal(owns.sum(axis=1), owns[np.arange(6000), owners])
    expected = owns + others - 1.5 * others.sum(axis=1, keepdims=True) * (np.arange(3) == owners[:, None])
    np.testing.assert_allclose(step.rewards, expected)


def test_agents_that_block_never_share_a_cell() -> None:
    world = grid("snowdrift", 40, num_agents=6, height=3, width=3, ends_when_cleared=False)
    generator = np.random.default_rng(0)
    for _ in range(120):
        assert all(len(set(cells)) == 6 for cells in world.cells.tolist())
        world.step(generator.integers(6, size=(40, 6)))


def test_own_channel_comes_first_and_coplayers_in_turn() -> None:
    world = grid("snowdrift", 1, num_agents=3, height=1, width=3, window_radius=2, drifts=1)
    put(world, 2, 0, 1)
    state = world.get_state()
    observations = world.set_state(state)[0]
    assert world.channel_names == ("self", "co-player 1", "co-player 2", "drift", "off the map")
    centre = 2
    for agent, cell in enumerate([2, 0, 1]):
        for channel in range(3):
            other = [2, 0, 1][(agent + channel) % 3]
            expected = np.zeros((5, 5))
            expected[centre, centre + other - cell] = 1
            np.testing.assert_array_equal(observations[agent, channel], expected)


def test_own_coins_come_first() -> None:
    world = grid("coin_game", 1, preset="reciprocator", num_agents=3, view="absolute")
    observations = world.set_state(world.get_state())[0]
    for agent in range(3):
        for channel in range(3):
            row, column = np.argwhere(observations[agent, 3 + channel])[0]
            assert row * 3 + column == world.coins[0, (agent + channel) % 3]


def test_who_has_left_sees_nothing_and_is_not_seen() -> None:
    world = grid("stag_hunt", 1, preset="wait", height=1, width=2, num_agents=2, stags=0, hares=2)
    put(world, 0, 1)
    step = world.step(np.array([[STAY, LEFT]]))  # the second agent joins too late to share the hare
    assert step.alive.tolist() == [[False, True]]
    assert step.rewards.tolist() == [[1, 0]]
    assert not step.observations[0, 0].any()
    assert not step.observations[0, 1, 1].any()
    assert step.observations[0, 1, 0, 2, 2] == 1
    after = world.step(np.array([[RIGHT, STAY]]))
    assert after.alive.tolist() == [[False, True]]
    assert not after.observations[0, 0].any()


@given(st.integers(1, 15))
def test_agents_have_colours_of_their_own(num_agents: int) -> None:
    assert len({tuple(colour) for colour in agent_colours(num_agents)}) == num_agents


@pytest.mark.parametrize("name", [name for name, world in WORLDS.items() if issubclass(world, GridWorld)])  # type: ignore[arg-type]
def test_pictures_show_every_agent_in_its_cell(name: str) -> None:
    world = grid(name, 1, num_agents=4)
    height, width = world.parameters.height, world.parameters.width
    picture = world.render()
    assert picture.shape == (CELL_SIZE * height, CELL_SIZE * width, 3)
    for agent, colour in enumerate(agent_colours(4)):
        pixels = np.argwhere((picture == colour).all(axis=2)) // CELL_SIZE
        assert {(row, column) for row, column in pixels.tolist()} == {divmod(int(world.cells[0, agent]), width)}


@settings(deadline=None)
@given(
    st.sampled_from(["cleanup", "snowdrift", "stag_hunt", "coin_game"]),
    st.integers(2, 15),
    st.integers(5, 9),
    st.integers(4, 9),
    st.integers(0, 2**64),
)
def test_the_board_holds_every_agent_once(name: str, num_agents: int, height: int, width: int, seed: int) -> None:
    world = grid(
        name,
        3,
        num_agents=num_agents,
        height=height,
        width=width,
        **{"max_waste": 8} if name == "cleanup" else {"blocking": False},
    )
    world.reset(seed)
    generator = np.random.default_rng(seed)
    for _ in range(8):
        world.step(generator.integers(world.action_space.n, size=(3, num_agents)))
        for game in range(3):
            for agent in range(num_agents):
                holding = np.flatnonzero(world.board[game] >> agent & 1).tolist()
                expected = [world.cells[game, agent]] if world.alive[game, agent] else []
                assert holding == expected
        off_map = len(world.channel_names) - 1
        assert (world.board[:, : world.num_cells] < 1 << off_map).all()
        assert (world.board[:, world.num_cells] == 1 << off_map).all()
        assert (world.board[:, world.nowhere] == 0).all()
