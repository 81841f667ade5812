"""What every registered world has to keep, whatever its rules: the contract of a batched world."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from annotated_types import Ge, Gt, Le, Lt
from numpy.typing import NDArray

import env_registry
from env_registry import WORLDS, Game, SettingError, Step, World, make

VARIANTS: dict[str, list[dict[str, Any]]] = {
    "iterated_prisoners_dilemma": [{"episode_length": 7}, {"preset": "reciprocator"}],
    "matrix_game": [{"payoffs": (3.0, 0.0, 2.0, 1.0), "episode_length": 7}],
    "coin_game": [
        {"episode_length": 9},
        {"preset": "reciprocator", "episode_length": 9},
        {"preset": "reciprocator", "num_agents": 3, "view": "absolute"},
    ],
    "cleanup": [{"episode_length": 9}, {"preset": "extended", "blocking": True}],
    "stag_hunt": [{"height": 3, "width": 3}, {"preset": "wait"}],
    "snowdrift": [{"height": 3, "width": 3}, {"preset": "extended", "episode_length": 9}],
}
CASES = [(name, config) for name in WORLDS for config in VARIANTS.get(name, [{}])]

every_world = pytest.mark.parametrize("name", WORLDS)
every_case = pytest.mark.parametrize(("name", "config"), CASES, ids=str)


def random_actions(world: World, steps: int, seed: int = 0) -> NDArray[np.int64]:
    """Actions `[steps, B, N]`."""
    shape = (steps, world.num_games, world.num_agents)
    return np.random.default_rng(seed).integers(world.action_space.n, size=shape)


def columns(world: World, actions: NDArray[np.int64]) -> list[dict[str, Any]]:
    """All that a world hands out, step by step, with the final observations of ended games only."""
    return [as_columns(world.step(each)) for each in actions]


def as_columns(step: Step) -> dict[str, Any]:
    ended = (step.terminated | step.truncated)[(...,) + (None,) * (step.observations.ndim - 1)]
    final = np.zeros_like(step.observations) if step.final_observations is None else step.final_observations
    cut_off = np.zeros_like(step.alive) if step.cut_off is None else step.cut_off
    columns = {**step._asdict(), **step.events, "final_observations": np.where(ended, final, 0), "cut_off": cut_off}
    del columns["events"]
    return columns


def assert_same(some: list[dict[str, Any]], others: list[dict[str, Any]], games: slice = slice(None)) -> None:
    """`some` hold what `others` hold about `games`."""
    for one, other in zip(some, others, strict=True):
        for key in other:
            np.testing.assert_array_equal(one[key], other[key][games], err_msg=key)


@every_case
def test_hands_out_what_it_promises(name: str, config: dict[str, Any]) -> None:
    world = make(name, 5, **config)
    assert isinstance(world, World)
    shape = (5, world.num_agents)
    world.reset(3)
    assert world.alive.all()
    for actions in random_actions(world, 60):
        alive = world.alive.copy()
        step = world.step(actions)
        for observations in [step.observations, as_columns(step)["final_observations"]]:
            assert observations.shape == (*shape, *world.observation_space.shape)
            assert observations.dtype == world.observation_space.dtype
            assert observations.min() >= world.observation_space.low.min()
            assert observations.max() <= world.observation_space.high.max()
        assert (step.rewards.shape, step.rewards.dtype.name) == (shape, "float32")
        assert (step.alive.shape, step.alive.dtype.name) == (shape, "bool")
        assert tuple(step.events) == world.event_names
        assert all(counts.shape == shape and counts.dtype == np.uint8 for counts in step.events.values())
        assert step.terminated.shape == step.truncated.shape == (5,)
        assert not (step.terminated & step.truncated).any()
        assert not any(values[~alive].any() for values in (step.rewards, step.alive, *step.events.values()))


@every_case
def test_a_game_does_not_depend_on_its_company(name: str, config: dict[str, Any]) -> None:
    together = make(name, 7, **config)
    actions = random_actions(together, 80)
    first = together.reset(21)
    expected = columns(together, actions)
    for first_game, num_games in [(0, 1), (3, 1), (2, 4), (6, 1)]:
        games = slice(first_game, first_game + num_games)
        alone = make(name, num_games, **config)
        np.testing.assert_array_equal(alone.reset(21, first_game), first[games])
        assert_same(columns(alone, actions[:, games]), expected, games)


@every_case
def test_threads_change_nothing(name: str, config: dict[str, Any]) -> None:
    alone, shared, crowded = (make(name, 7, num_threads=threads, **config) for threads in (1, 3, 16))
    actions = random_actions(alone, 60)
    for world in (shared, crowded):
        np.testing.assert_array_equal(alone.reset(5), world.reset(5))
        assert_same(columns(world, actions), columns(alone, actions))


@every_case
def test_same_seed_same_games(name: str, config: dict[str, Any]) -> None:
    some, others = make(name, 3, **config), make(name, 3, **config)
    actions = random_actions(some, 60)
    for world in (some, others):
        world.reset(2**70 + 9)
        columns(world, actions[:20])
        world.reset()  # the streams go on
    assert_same(columns(some, actions), columns(others, actions))


@pytest.mark.parametrize("name", [name for name in WORLDS if "num_agents" not in VARIANTS.get(name, [{}])[0]])
def test_other_seeds_and_later_resets_give_other_streams(name: str) -> None:
    world = make(name, 50)
    assert isinstance(world, Game)
    world.reset(1)
    streams = world.streams.copy()
    assert len(np.unique(streams)) == 50
    world.reset(2)
    assert not np.isin(world.streams, streams).any()


@every_case
def test_continues_bit_equal_from_a_saved_state(name: str, config: dict[str, Any]) -> None:
    world, other = make(name, 4, **config), make(name, 4, **config)
    actions = random_actions(world, 50)
    world.reset(8)
    shown = columns(world, actions[:23])[-1]["observations"]
    state = world.get_state()
    expected = columns(world, actions[23:])
    np.testing.assert_array_equal(other.set_state(state), shown)
    assert_same(columns(other, actions[23:]), expected)


@every_world
def test_a_state_of_other_shape_is_refused(name: str) -> None:
    world, larger = make(name, 2), make(name, 3)
    world.reset(0), larger.reset(0)
    before = world.get_state()
    with pytest.raises(ValueError, match="with 2 games"):
        world.set_state(larger.get_state())
    with pytest.raises(ValueError, match="does not fit"):
        world.set_state({})
    assert all((before[key] == value).all() for key, value in world.get_state().items())


@every_world
def test_time_limit(name: str) -> None:
    world = make(name, 3, episode_length=5)
    world.reset(0)
    still = np.zeros((3, world.num_agents), np.int64)
    for number in range(1, 12):
        step = world.step(still)
        assert not step.terminated.any()
        assert (step.truncated == (number % 5 == 0)).all()
        assert (step.final_observations is not None) == (number % 5 == 0)


@every_world
def test_wrong_actions_are_refused(name: str) -> None:
    world = make(name, 2)
    world.reset(0)
    right = np.zeros((2, world.num_agents), np.int64)
    for wrong in (right[0], right[:, :0], right.astype(np.float32), right.astype(bool), np.zeros((2, 99), int)):
        with pytest.raises(ValueError, match=r"needed are integers of shape \(2, "):
            world.step(wrong)
    for number in (-1, int(world.action_space.n), 2**40):
        wrong = right.copy()
        wrong[1, -1] = number
        with pytest.raises(ValueError, match=f"Action {number} is out of range. Actions of .*: 0 "):
            world.step(wrong)
    for good in (right.astype(np.uint8), right.astype(np.int32), right[:, ::-1]):
        world.step(good)


@every_world
def test_no_games_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="num_games = 0"):
        make(name, 0)


def bad_values() -> list[tuple[str, str, Any]]:
    """For each parameter: a value of another type, one on the wrong side of each bound, and what is no finite number."""
    cases = []
    for name, world in WORLDS.items():
        for key, field in world.Parameters.model_fields.items():  # type: ignore[attr-defined]
            values: list[Any] = ["nonsense", object()]
            if field.annotation in (float, float | None):
                values += [math.nan, math.inf]
            for bound in field.metadata:
                assert not isinstance(bound, Gt | Lt), "a bound of a kind that is not tried here"
                values += [bound.ge - 1] if isinstance(bound, Ge) else []  # type: ignore[operator]
                values += [bound.le + 1] if isinstance(bound, Le) else []  # type: ignore[operator]
            cases += [(name, key, value) for value in values]
    return cases


@pytest.mark.parametrize(("name", "key", "value"), bad_values(), ids=lambda value: str(value)[:20])
def test_impossible_values_are_refused_by_name(name: str, key: str, value: Any) -> None:
    with pytest.raises(SettingError, match=f"'{key}(\\.|')"):
        make(name, 1, **{key: value})


@every_world
def test_unknown_keys_are_refused_by_name(name: str) -> None:
    with pytest.raises(SettingError, match=r"Unknown key 'episode_lenght'. Did you mean 'episode_length'\?"):
        make(name, 1, episode_lenght=3)


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("iterated_prisoners_dilemma", {"payoffs": (1, 2, 3, 4)}, "needs T > R > P > S"),
        ("cleanup", {"river_rows": 6}, "river_rows = 6 and orchard_rows = 2 leave no row"),
        ("cleanup", {"max_waste": 17}, "max_waste = 17 is more than the river's 16 cells"),
        ("cleanup", {"initial_waste": 9}, "initial_waste = 9 is more than max_waste = 8"),
        (
            "cleanup",
            {"blocking": True, "height": 5, "width": 4, "num_agents": 5},
            "do not fit on the 4 cells of the rows",
        ),
        ("snowdrift", {"drifts": 65}, "drifts = 65 is more than the map's 64 cells"),
        ("snowdrift", {"height": 1, "width": 3, "drifts": 1}, "num_agents = 4 .* do not fit on the 3 cells of the map"),
        ("stag_hunt", {"stags": 0, "hares": 0}, "leave nothing to hunt"),
        ("stag_hunt", {"stags": 60, "hares": 5}, "more than the map's 64 cells"),
        ("stag_hunt", {"hunters_needed": 5}, "hunters_needed = 5 is more than num_agents = 4"),
        ("stag_hunt", {"blocking": True}, "cannot stand on a stag's cell"),
        ("coin_game", {"blocking": True, "height": 1, "width": 1}, "do not fit on the 1 cells"),
    ],
)
def test_parameters_that_do_not_go_together(name: str, config: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        make(name, 1, **config)


@pytest.mark.parametrize(
    ("name", "preset", "expected"),
    [
        ("iterated_prisoners_dilemma", "lase", {"payoffs": (1.0, -0.2, 1.2, 0.0), "episode_length": 100}),
        ("iterated_prisoners_dilemma", "reciprocator", {"payoffs": (-1.0, -3.0, 0.0, -2.0), "episode_length": 32}),
        ("coin_game", "lase", {"num_agents": 2, "height": 5, "torus": False, "episode_length": 100, "coins": "one"}),
        ("coin_game", "reciprocator", {"num_agents": 2, "height": 3, "torus": True, "episode_length": 32}),
        ("cleanup", "lase", {"num_agents": 4, "height": 8, "max_waste": 8, "initial_waste": 8, "episode_length": 100}),
        ("cleanup", "extended", {"num_agents": 8, "height": 12, "episode_length": 200}),
        ("stag_hunt", "explicit", {"num_agents": 4, "height": 8, "stags": 2, "hares": 4, "episode_length": 30}),
        ("stag_hunt", "wait", {"num_agents": 4, "height": 5, "rule": "wait", "episode_length": 30}),
        ("snowdrift", "lase", {"num_agents": 4, "height": 8, "drifts": 6, "blocking": True, "episode_length": 50}),
        ("snowdrift", "extended", {"num_agents": 8, "height": 12, "blocking": True, "episode_length": 100}),
    ],
)
def test_presets_fill_what_is_not_given(name: str, preset: str, expected: dict[str, Any]) -> None:
    game = WORLDS[name](1, preset=preset)
    assert isinstance(game, Game)
    assert {key: getattr(game.parameters, key) for key in expected} == expected
    own = WORLDS[name](1, preset=preset, episode_length=3)
    assert isinstance(own, Game)
    assert own.parameters == game.parameters.model_copy(update={"episode_length": 3})


@every_case
def test_pictures(name: str, config: dict[str, Any]) -> None:
    world = WORLDS[name](2, **config)
    assert isinstance(world, Game)
    world.reset(4)
    before = [world.render(0), world.render(1)]
    assert all(picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3 for picture in before)
    for actions in random_actions(world, 3):
        world.step(actions)
    assert any((world.render(game) != before[game]).any() for game in range(2))


def test_the_package_names_its_contract() -> None:
    assert {"Game", "Step", "World", "make"} <= set(env_registry.__all__)
