"""Every wrapper by its name: what it makes of observations, rewards and actions, number by number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Space

from env_registry import SettingError, parallel_env
from env_registry.wrappers import FAULTS, OWN, supersuit_wrappers
from tests.worlds.small_games import ScriptedGame, UnlikeGame

BYTES = Box(0, 255, (2, 2, 3), np.uint8)
PAIR = Box(np.array([0, -1], np.float32), np.array([99, np.finfo(np.float32).max], np.float32))


class Counting(UnlikeGame):
    """Agents see the clock times their number from 1 on, in all places; they earn 3 x clock x number; `taken` keeps actions."""

    def __init__(self, space: Space[Any] = PAIR, actions: Space[Any] | None = None, agents: int = 3) -> None:
        names = [f"agent_{number}" for number in range(agents)]
        super().__init__(dict.fromkeys(names, space), dict.fromkeys(names, actions or Discrete(4)), length=6)
        self.taken: list[dict[str, Any]] = []

    def look(self):
        numbers = {agent: self.clock * (number + 1) for number, agent in enumerate(self.possible_agents)}
        return {agent: _filled(self.sees[agent], number) for agent, number in numbers.items()}

    def step(self, actions):
        self.taken.append(dict(actions))
        observations, _, *others = super().step(actions)
        rewards = {agent: 3.0 * self.clock * (n + 1) for n, agent in enumerate(self.possible_agents)}
        for agent, info in others[-1].items():
            info["events"] = {"acts": int(agent[-1]) + 1}
        return observations, rewards, *others


def _filled(space: Space[Any], number: int) -> Any:
    if isinstance(space, Discrete):
        return int(space.start) + number % int(space.n)
    return np.full(space.shape, number, space.dtype)


def played(name: str, arguments: dict[str, Any], space: Space[Any] = PAIR, actions: Any = 1, **config: Any):
    """Observations (from reset on) and rewards of agent_1, the game itself, and the wrapped environment."""
    env = parallel_env(lambda: Counting(space, **config), [{name: arguments}] if name else None)
    seen, _ = env.reset(seed=0)
    shown, rewards, infos = [np.array(seen["agent_1"])], [], []
    while env.agents:
        seen, paid, _, _, told = env.step(dict.fromkeys(env.agents, actions))
        shown.append(np.array(seen["agent_1"]))
        rewards.append(paid["agent_1"])
        infos.append(told["agent_1"])
        assert env.observation_space("agent_1").contains(seen["agent_1"])
    return shown, rewards, infos, env.unwrapped


def first(values: list[Any]) -> list[Any]:
    return [one.ravel()[0].item() for one in values]


PLAIN = [0, 2, 4, 6, 8, 10, 12]
EARNED = [6.0, 12.0, 18.0, 24.0, 30.0, 36.0]

# name -> arguments, space, and what is right: the first number of each observation, its shape, the rewards.
RIGHT: dict[str, tuple[dict[str, Any], Space[Any], list[Any], tuple[int, ...], list[float]]] = {
    "agent_indicator_v0": ({}, PAIR, PLAIN, (5,), EARNED),
    "black_death_v3": ({}, PAIR, PLAIN, (2,), EARNED),
    "clip_reward_v0": ({"lower_bound": 7, "upper_bound": 20}, PAIR, PLAIN, (2,), [7, 12, 18, 20, 20, 20]),
    "color_reduction_v0": ({}, BYTES, PLAIN, (2, 2), EARNED),
    "delay_observations_v0": ({"delay": 2}, PAIR, [0, 0, *PLAIN[:5]], (2,), EARNED),
    "dtype_v0": ({"dtype": "int32"}, BYTES, PLAIN, (2, 2, 3), EARNED),
    "flatten_v0": ({}, BYTES, PLAIN, (12,), EARNED),
    "frame_skip_v0": ({"num_frames": 2}, PAIR, [0, 4, 8, 12], (2,), [18, 42, 66]),
    "frame_stack_v1": ({"stack_size": 2}, PAIR, [0, 0, *PLAIN[1:6]], (4,), EARNED),
    "frame_stack_v2": ({"stack_size": 2}, PAIR, [0, 0, *PLAIN[1:6]], (4,), EARNED),
    "max_observation_v0": ({"memory": 2}, PAIR, PLAIN, (2,), EARNED),
    "nan_noop_v0": ({"no_op_action": 0}, PAIR, PLAIN, (2,), EARNED),
    "nan_random_v0": ({}, PAIR, PLAIN, (2,), EARNED),
    "nan_zeros_v0": ({}, PAIR, PLAIN, (2,), EARNED),
    "normalize_obs_v0": ({}, Box(0, 100, (2,), np.float32), [one / 100 for one in PLAIN], (2,), EARNED),
    "pad_action_space_v0": ({}, PAIR, PLAIN, (2,), EARNED),
    "pad_observations_v0": ({}, PAIR, PLAIN, (2,), EARNED),
    "reshape_v0": ({"shape": [4, 3]}, BYTES, PLAIN, (4, 3), EARNED),
    "resize_v1": ({"x_size": 4, "y_size": 3}, BYTES, PLAIN, (3, 4, 3), EARNED),
    "sticky_actions_v0": ({"repeat_action_probability": 0.5}, PAIR, PLAIN, (2,), EARNED),
    "action_lambda_v1": (
        {"change_action_fn": lambda action, _: 3 - action, "change_space_fn": lambda space: space},
        PAIR,
        PLAIN,
        (2,),
        EARNED,
    ),
    "observation_lambda_v0": (
        {"change_observation_fn": lambda seen, _: 2 * seen, "change_obs_space_fn": lambda space: Box(0, 99, (2,))},
        PAIR,
        [2 * one for one in PLAIN],
        (2,),
        EARNED,
    ),
    "reward_lambda_v0": ({"change_reward_fn": lambda reward: reward + 1}, PAIR, PLAIN, (2,), [r + 1 for r in EARNED]),
}
CONTINUOUS = {
    "clip_actions_v0": ({}, 1.0),
    "scale_actions_v0": ({"scale": 2}, 4.0),
}  # arguments, what an action of 2 becomes


def test_every_wrapper_has_a_right_value():
    assert set(RIGHT) | set(CONTINUOUS) == set(supersuit_wrappers())
    assert set(OWN) | set(FAULTS) <= set(supersuit_wrappers())


@pytest.mark.parametrize("name", RIGHT)
def test_every_wrapper_gives_what_its_name_promises(name):
    arguments, space, seen, shape, rewards = RIGHT[name]
    shown, earned, _, game = played(name, arguments, space)
    np.testing.assert_allclose(first(shown), seen, rtol=1e-6)
    assert {one.shape for one in shown} == {shape}
    assert earned == rewards
    taken = 2 if name == "action_lambda_v1" else 1
    assert game.taken == [dict.fromkeys(game.possible_agents, taken)] * 6


@pytest.mark.parametrize("name", CONTINUOUS)
def test_wrappers_of_continuous_actions_are_refused_for_others(name):
    arguments, becomes = CONTINUOUS[name]
    with pytest.raises(SettingError, match=rf"'{name}'.*continuous actions, some are Discrete\(4\)"):
        parallel_env(Counting, [{name: arguments}])
    game = continuous(name, arguments)
    assert all(action == becomes for step in game.taken for action in step.values())


def continuous(name, arguments):
    env = parallel_env(lambda: Counting(PAIR, Box(-1, 1, (1,))), [{name: arguments}])
    env.reset(seed=0)
    env.step(dict.fromkeys(env.agents, np.array([2.0], np.float32)))
    return env.unwrapped


# -- agent indicators


@pytest.mark.parametrize(
    ("space", "one", "bounds"),
    [
        (PAIR, 1, 1),
        (Box(-np.inf, np.inf, (2,)), 1, 1),
        (Box(-np.finfo(np.float32).max, np.finfo(np.float32).max, (2,)), 1, 1),
        (Box(0, 1000, (2,), np.int32), 1, 1),
        (Box(0, 255, (2, 2, 1), np.uint8), 255, 255),
        (Box(0, 9, (2, 2), np.uint8), 9, 9),
        (Box(np.array([0, 0], np.uint8), np.array([1, 200], np.uint8), dtype=np.uint8), 200, 200),
    ],
)
def test_indicators_are_of_the_size_of_what_is_beside_them(space, one, bounds):
    env = parallel_env(lambda: Counting(space), ["agent_indicator_v0"])
    for number, (agent, seen) in enumerate(env.reset(seed=0)[0].items()):
        mark = seen[..., -3:]
        assert (mark == one * np.eye(3)[number]).all()
        assert (env.observation_space(agent).high[..., -3:] == bounds).all()
        assert (env.observation_space(agent).low[..., -3:] == 0).all()
        assert seen.dtype == space.dtype
        assert env.observation_space(agent).contains(seen)


def test_indicators_of_discrete_observations_and_of_types():
    env = parallel_env(lambda: Counting(Discrete(4, start=2)), ["agent_indicator_v0"])
    env.reset(seed=0)
    seen, *_ = env.step(dict.fromkeys(env.agents, 0))  # the first 1 above its start, the second 2, the third 3
    assert seen == {"agent_0": 1 * 3 + 0, "agent_1": 2 * 3 + 1, "agent_2": 3 * 3 + 2}
    assert env.observation_space("agent_0") == Discrete(12)
    types = parallel_env(Counting, [{"agent_indicator_v0": {"type_only": True}}]).reset(seed=0)[0]
    assert [seen[2:].tolist() for seen in types.values()] == [[1]] * 3


# -- chance


def test_agents_stick_each_by_itself_and_as_seeded():
    def sticks(seed: int, probability: float) -> np.ndarray:
        env = parallel_env(
            lambda: Counting(agents=3), [{"sticky_actions_v0": {"repeat_action_probability": probability}}]
        )
        rows = []
        for episode in range(200):
            env.reset(seed=seed + episode)
            game = env.unwrapped
            game.taken.clear()
            for clock in range(6):
                env.step(dict.fromkeys(env.agents, clock % 4))
            taken = np.array([[step[agent] for agent in game.possible_agents] for step in game.taken])
            assert (taken[0] == 0).all()
            rows.append(taken[1:] == taken[:-1])
        return np.concatenate(rows)  # [steps, agents]

    stuck = sticks(0, 0.25)
    np.testing.assert_array_equal(stuck, sticks(0, 0.25))
    assert (stuck != sticks(1000, 0.25)).any()
    assert not sticks(0, 0.0).any()
    # 1000 draws with a deviation of .014 each: five deviations.
    np.testing.assert_allclose(stuck.mean(0), 0.25, atol=0.07)
    together = np.corrcoef(stuck.T)[np.triu_indices(3, 1)]
    assert np.abs(together).max() < 0.16


def test_frames_are_skipped_as_seeded_and_events_are_summed():
    _, _, infos, _ = played("frame_skip_v0", {"num_frames": 4})
    assert [info["events"]["acts"] for info in infos] == [8, 4]  # the second is cut short by the end
    lengths = []
    for seed in range(40):
        env = parallel_env(Counting, [{"frame_skip_v0": {"num_frames": [1, 3]}}])
        for _ in range(2):
            env.reset(seed=seed)
            env.step(dict.fromkeys(env.agents, 0))
            lengths.append(env.unwrapped.clock)
    assert lengths[::2] == lengths[1::2]
    assert set(lengths) == {1, 2, 3}


def test_frames_are_skipped_where_agents_die_and_join():
    env = parallel_env(ScriptedGame, [{"frame_skip_v0": {"num_frames": 3}}], deaths={"bob": 2})
    env.reset(seed=0)
    seen, rewards, died, cut_off, _ = env.step(dict.fromkeys(env.agents, 1))
    assert rewards == {"ann": 6, "bob": 11 + 12, "cid": 21 + 22 + 23}
    assert died == {"ann": False, "bob": True, "cid": False}
    assert not any(cut_off.values())
    assert [one[1] for one in seen.values()] == [3, 2, 3]
    joins: dict[str, Any] = {"joins": {"cid": 1}}
    env = parallel_env(ScriptedGame, [{"frame_skip_v0": {"num_frames": 2}}], **joins)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="'cid' joined between two actions: give 'frame_skip_v0' a default_action"):
        env.step(dict.fromkeys(env.agents, 1))
    env = parallel_env(ScriptedGame, [{"frame_skip_v0": {"num_frames": 2, "default_action": 3}}], **joins)
    env.reset(seed=0)
    seen, rewards, *_ = env.step(dict.fromkeys(env.agents, 1))
    assert set(seen) == {"ann", "bob", "cid"}
    assert rewards == {"ann": 3, "bob": 23}


# -- memory


@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize("name", ["frame_stack_v1", "frame_stack_v2"])
@pytest.mark.parametrize("space", [Box(0, 99, (2,)), Box(0, 99, (2, 3)), Box(0, 99, (2, 3, 4), np.uint8), Discrete(20)])
def test_stacks_hold_the_last_frames_the_newest_last(space, name, axis):
    shown, *_ = played(name, {"stack_size": 3, "stack_dim": axis}, space)
    start = _filled(space, 0)
    frames = [start, start, *(_filled(space, number) for number in PLAIN)]
    for time, stack in enumerate(shown):
        last = frames[time : time + 3]
        if isinstance(space, Discrete):
            assert stack == last[0] * 400 + last[1] * 20 + last[2]
        else:
            join: Callable[..., Any] = np.stack if len(space.shape) == 2 else np.concatenate
            np.testing.assert_array_equal(stack, join(last, axis=axis))


def test_stacks_begin_with_zeros_or_with_the_first_frame():
    for name, before in (("frame_stack_v1", 0), ("frame_stack_v2", 7)):
        env = parallel_env(lambda: Shown(7), [{name: {"stack_size": 3}}])
        first_stack = env.reset(seed=0)[0]["agent_0"]
        assert first_stack.tolist() == [before, before, 7]
        env.step(dict.fromkeys(env.agents, 0))
        assert first_stack.tolist() == [before, before, 7]  # what has been seen does not change afterwards
        assert env.reset(seed=0)[0]["agent_0"].tolist() == [before, before, 7]


class Shown(Counting):
    """Always shows one number, in one array that it writes to."""

    def __init__(self, number: int) -> None:
        super().__init__(Box(0, 99, (1,)))
        self.array = np.full(1, number, np.float32)

    def look(self):
        return dict.fromkeys(self.agents, self.array)


def test_delays_keep_what_was_seen_then():
    env = parallel_env(lambda: Shown(7), [{"delay_observations_v0": {"delay": 1}}])
    assert env.reset(seed=0)[0]["agent_0"] == 0
    env.unwrapped.array[:] = 8
    assert env.step(dict.fromkeys(env.agents, 0))[0]["agent_0"] == 7
    masked = Dict({"observation": Box(0, 9, (2,)), "action_mask": Box(0, 1, (4,), np.int8)})
    env = parallel_env(
        lambda: UnlikeGame({"one": masked}, {"one": Discrete(4)}), [{"delay_observations_v0": {"delay": 1}}]
    )
    seen = env.reset(seed=0)[0]["one"]
    assert seen["observation"].tolist() == [0, 0]
    assert seen["action_mask"].tolist() == [1, 1, 1, 1]
    shown, *_ = played("delay_observations_v0", {"delay": 1}, Discrete(20, start=5))
    assert first(shown) == [5, *(5 + number for number in PLAIN[:-1])]


# -- refused before anything is played


@pytest.mark.parametrize(
    ("name", "arguments", "space", "message"),
    [
        ("agent_indicator_v0", {}, Dict({"x": PAIR}), "discrete or boxes of one to three dimensions"),
        ("clip_reward_v0", {"lower_bound": 2, "upper_bound": 1}, PAIR, "lower_bound = 2 is above upper_bound = 1"),
        ("color_reduction_v0", {}, Box(0, 1, (2, 2, 3)), "have to be bytes .*mode 'R', 'G' or 'B' keeps numbers"),
        ("delay_observations_v0", {"delay": -1}, PAIR, "delay = -1"),
        ("frame_skip_v0", {"num_frames": 0}, PAIR, "num_frames = 0"),
        ("frame_skip_v0", {"num_frames": [3, 1]}, PAIR, "num_frames"),
        ("frame_stack_v1", {"stack_size": 0}, PAIR, "stack_size = 0"),
        ("frame_stack_v2", {"stack_dim": 1}, PAIR, "stack_dim = 1"),
        ("max_observation_v0", {"memory": 0}, PAIR, "'memory' = 0"),
        ("max_observation_v0", {"memory": 2}, Discrete(9), "have to be boxes"),
        ("normalize_obs_v0", {}, Box(np.zeros(2, np.float32), np.array([0, 1], np.float32)), "they would become NaN"),
        ("normalize_obs_v0", {}, Box(-np.inf, np.inf, (2,)), "infinite bounds"),
        ("pad_observations_v0", {}, Discrete(9), "leave this wrapper out"),
        ("resize_v1", {"x_size": 2, "y_size": 2}, Discrete(9), "have to be boxes"),
        ("reward_lambda_v0", {"change_reward_fn": 3}, PAIR, "a function is needed"),
        ("sticky_actions_v0", {"repeat_action_probability": 1.0}, PAIR, r"a number in \[0, 1\) is needed"),
    ],
)
def test_what_would_go_wrong_while_playing_is_refused_before(name, arguments, space, message):
    with pytest.raises(SettingError, match=f"Wrapper '{name}'.*{message}"):
        parallel_env(lambda: Counting(space), [{name: arguments}])


def test_actions_that_do_not_begin_with_zero_are_not_padded():
    with pytest.raises(SettingError, match="actions to begin with 0"):
        parallel_env(lambda: Counting(actions=Discrete(3, start=5)), ["pad_action_space_v0"])


def test_the_docs_speak_of_every_wrapper():
    page = (Path(__file__).parents[2] / "docs" / "own_world.md").read_text()
    rows = [line.split("|")[1:3] for line in page.splitlines() if line.startswith("| `")]
    here = {name.strip(" `"): what for names, what in rows for name in names.split(",")}
    assert set(supersuit_wrappers()) | {"own_generators"} <= set(here)
    for name in supersuit_wrappers():
        assert ("SuperSuit's" in here[name]) == (name not in OWN and name not in CONTINUOUS)
