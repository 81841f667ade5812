"""One game as a PettingZoo parallel environment, and SuperSuit's wrappers around it."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from pettingzoo.test import parallel_api_test, parallel_seed_test, render_test
from pettingzoo.utils.conversions import parallel_to_aec

import env_registry
from env_registry import SettingError, parallel_env
from env_registry.wrappers import supersuit_wrappers
from tests.worlds.small_games import ScriptedGame, unlike_game

FADING = "tests.worlds.small_games:FadingWorld"
NAMES = [*env_registry.WORLDS, FADING]


@pytest.mark.parametrize("name", NAMES)
def test_passes_the_api_test_without_a_warning(name):
    parallel_api_test(parallel_env(name, episode_length=7), num_cycles=40)


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_plays_the_same(name):
    parallel_seed_test(partial(parallel_env, name), num_cycles=50)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive")
def test_renders(name):
    render_test(lambda render_mode: parallel_to_aec(parallel_env(name, render_mode=render_mode)))


@pytest.mark.parametrize("name", NAMES)
def test_shows_what_the_batched_world_shows(name):
    world = env_registry.make(name, num_games=1, episode_length=6)
    env = parallel_env(name, episode_length=6)
    rng = np.random.default_rng(0)
    seen, (shown, _) = world.reset(seed=3), env.reset(seed=3)
    while env.agents:
        acting = list(env.agents)
        actions = rng.integers(0, world.action_space.n, (1, world.num_agents))
        step = world.step(actions)
        shown, rewards, terminations, truncations, infos = env.step(
            dict(zip(env.possible_agents, actions[0], strict=True))
        )
        seen = step.observations if step.final_observations is None else step.final_observations
        for number, agent in enumerate(env.possible_agents):
            assert (agent in shown) == (agent in acting)
            if agent not in acting:
                continue
            expected = np.moveaxis(seen[0, number], 0, -1) if seen.ndim == 5 else seen[0, number]
            np.testing.assert_array_equal(shown[agent], expected)
            assert shown[agent].dtype == world.observation_space.dtype
            assert env.observation_space(agent).contains(shown[agent])
            assert type(rewards[agent]) is float
            assert rewards[agent] == step.rewards[0, number]
            assert infos[agent]["events"] == {event: counts[0, number] for event, counts in step.events.items()}
            assert terminations[agent] == (step.terminated[0] or not step.alive[0, number])
            assert truncations[agent] == (step.truncated[0] and step.alive[0, number])
    assert step.terminated[0] or step.truncated[0]


def test_agents_die_one_by_one_with_a_last_observation():
    env = parallel_env(FADING, picture=(2, 3, 4))
    env.reset(seed=0)
    alive = []
    for clock, dying in enumerate(("agent_0", "agent_1", "agent_2"), start=1):
        shown, _, terminations, truncations, _ = env.step(dict.fromkeys(env.agents, 1))
        assert [agent for agent, dead in terminations.items() if dead] == [dying]
        assert not any(truncations.values())
        assert dying not in env.agents
        assert shown[dying].shape == (3, 4, 2)
        assert (shown[dying][..., 0] == clock).all()
        alive.append(list(env.agents))
    assert alive == [["agent_1", "agent_2"], ["agent_2"], []]
    assert env.step({}) == ({}, {}, {}, {}, {})


def test_who_lives_at_the_time_limit_is_cut_off_and_does_not_die():
    env = parallel_env(FADING, episode_length=2)
    env.reset(seed=0)
    env.step(dict.fromkeys(env.agents, 0))
    _, _, terminations, truncations, _ = env.step(dict.fromkeys(env.agents, 0))
    assert (terminations, truncations) == ({"agent_1": True, "agent_2": False}, {"agent_1": False, "agent_2": True})


def test_without_a_seed_the_next_game_is_another_one():
    env = parallel_env("cleanup")
    first, _ = env.reset(seed=1)
    second, _ = env.reset()
    again, _ = env.reset(seed=1)
    assert any((first[agent] != second[agent]).any() for agent in first)
    assert all((first[agent] == again[agent]).all() for agent in first)


def test_state_is_all_observations():
    env = parallel_env("cleanup")
    shown, _ = env.reset(seed=1)
    np.testing.assert_array_equal(env.state(), np.stack(list(shown.values())))
    assert env.state_space.contains(env.state())


def test_missing_and_impossible_actions_are_refused():
    env = parallel_env("iterated_prisoners_dilemma")
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"\['agent_1'\] are missing"):
        env.step({"agent_0": 0})
    with pytest.raises(ValueError, match="Action 2 is out of range"):
        env.step({"agent_0": 0, "agent_1": 2})


def test_wrong_settings_name_themselves():
    with pytest.raises(SettingError, match="Did you mean 'cleanup'"):
        parallel_env("clean_up")
    with pytest.raises(SettingError, match="num_agent"):
        parallel_env("cleanup", num_agent=4)
    with pytest.raises(SettingError, match="'render_mode' = 'ansi'"):
        parallel_env("cleanup", render_mode="ansi")
    with pytest.raises(SettingError, match="render_mode='rgb_array'"):
        parallel_env("cleanup").render()
    with pytest.raises(SettingError, match=r"ScriptedGame.*cannot be made.*lenght"):
        parallel_env(ScriptedGame, lenght=3)
    with pytest.raises(SettingError, match="makes a dict, not a PettingZoo parallel environment"):
        parallel_env(dict)
    with pytest.raises(SettingError, match=r"makes a .*, not a PettingZoo parallel environment"):
        parallel_env("pettingzoo.classic.tictactoe.tictactoe:env")


# -- wrappers

WRAPPERS: dict[str, dict[str, Any]] = {
    "agent_indicator_v0": {},
    "black_death_v3": {},
    "clip_reward_v0": {},
    "color_reduction_v0": {},
    "delay_observations_v0": {"delay": 2},
    "dtype_v0": {"dtype": "float32"},
    "flatten_v0": {},
    "frame_skip_v0": {"num_frames": 2},
    "frame_stack_v1": {"stack_size": 3},
    "frame_stack_v2": {"stack_size": 3},
    "max_observation_v0": {"memory": 2},
    "nan_noop_v0": {"no_op_action": 0},
    "nan_random_v0": {},
    "nan_zeros_v0": {},
    "pad_action_space_v0": {},
    "pad_observations_v0": {},
    "reshape_v0": {"shape": (12, 2)},
    "resize_v1": {"x_size": 8, "y_size": 6},
    "sticky_actions_v0": {"repeat_action_probability": 0.5},
    "action_lambda_v1": {"change_action_fn": lambda action, _: 1 - action, "change_space_fn": lambda space: space},
    "observation_lambda_v0": {"change_observation_fn": lambda seen, _: seen},
    "reward_lambda_v0": {"change_reward_fn": lambda reward: 2 * reward},
}
FOR_OTHER_SPACES = {"clip_actions_v0", "normalize_obs_v0", "scale_actions_v0"}  # continuous actions, float observations


def test_every_wrapper_of_the_installed_supersuit_is_tried():
    assert set(WRAPPERS) | FOR_OTHER_SPACES == set(supersuit_wrappers())


def played(env, action=1):
    """Of each step of a game: what is seen, the rewards, who terminates, who is cut off."""
    env.reset(seed=0)
    steps: list[tuple[dict, ...]] = []
    while env.agents:
        assert len(steps) < 10
        shown, rewards, terminations, truncations, _ = env.step(dict.fromkeys(env.agents, action))
        assert all(env.observation_space(agent).contains(seen) for agent, seen in shown.items())
        steps.append(({agent: seen.copy() for agent, seen in shown.items()}, rewards, terminations, truncations))
    return steps


def outcome(steps):
    """Who terminated and who was cut off in the course of a game."""
    return [{agent for step in steps for agent, flag in step[flags].items() if flag} for flags in (2, 3)]


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("episode_length", [2, 9])
def test_every_wrapper_leaves_the_ends_as_they_are(wrapper, episode_length):
    make = partial(parallel_env, FADING, picture=(3, 2, 4), episode_length=episode_length)
    plain, steps = played(make()), played(make(wrappers=[{wrapper: WRAPPERS[wrapper]}]))
    assert len(steps) == (-(-len(plain) // 2) if wrapper == "frame_skip_v0" else len(plain))
    if wrapper == "black_death_v3":  # all stay until the end, which is the same for all
        assert [len(ended) for ended in outcome(steps)] == ([0, 3] if episode_length == 2 else [3, 0])
    else:
        assert outcome(steps) == outcome(plain)


def test_frame_stack_shows_the_last_frames_in_their_order():
    env = parallel_env(FADING, [{"frame_stack_v1": {"stack_size": 2}}], picture=(2, 3, 4))
    stacks = [shown["agent_2"] for shown, *_ in played(env)]
    assert [stack.shape for stack in stacks] == [(3, 4, 4)] * 3
    assert [stack[0, 0].tolist() for stack in stacks] == [[0, 2, 1, 2], [1, 2, 2, 2], [2, 2, 3, 2]]


def test_agent_indicator_tells_agents_apart():
    shown, _ = parallel_env(ScriptedGame, ["agent_indicator_v0"]).reset(seed=0)
    assert [seen[2:].tolist() for seen in shown.values()] == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_black_death_shows_zeros_to_the_dead_until_the_game_is_over():
    env = parallel_env(ScriptedGame, ["black_death_v3"], deaths={"bob": 2}, length=4)
    assert set(env.reset(seed=0)[1]) == {"ann", "bob", "cid"}
    steps = played(env)
    assert [seen["bob"][1] for seen, *_ in steps] == [1, 2, 0, 0]
    assert [rewards["bob"] for _, rewards, *_ in steps] == [11, 12, 0, 0]
    assert [any(truncations.values()) for *_, truncations in steps] == [False, False, False, True]
    assert outcome(steps) == [set(), {"ann", "bob", "cid"}]
    assert env.agents == []


def test_wrappers_are_applied_from_the_inside_out():
    env = parallel_env(ScriptedGame, ["agent_indicator_v0", {"frame_stack_v1": {"stack_size": 2}}, lambda env: env])
    assert env.observation_space("ann").shape == (10,)


@pytest.mark.parametrize(
    ("wrappers", "message"),
    [
        (["frame_stak_v1"], "Unknown SuperSuit wrapper 'frame_stak_v1'. Did you mean 'frame_stack_v1'"),
        (["frame_stack_v0"], "Did you mean"),
        (["concat_vec_envs_v1"], "Unknown SuperSuit wrapper"),
        (
            [{"frame_stack_v1": {"size": 2}}],
            "'frame_stack_v1' with {'size': 2} cannot be applied to scripted",
        ),
        ([{"frame_stack_v1": 2}], "its arguments are 2; write {frame_stack_v1: {argument: value}}"),
        ([{"frame_stack_v1": None, "flatten_v0": None}], "write its name, or"),
        ([3], "Wrapper 3"),
        ("frame_stack_v1", "a list of wrappers is needed"),
        ({"frame_stack_v1": {}}, "a list of wrappers is needed"),
        ([{"resize_v1": {"x_size": 2, "y_size": 2}}], "its spaces do not suit it"),
    ],
)
def test_wrong_wrappers_name_themselves(wrappers, message):
    with pytest.raises(SettingError) as error:
        parallel_env(ScriptedGame, wrappers)
    assert message in str(error.value)


def test_black_death_needs_boxes():
    with pytest.raises(SettingError, match=r"observations have to be boxes, those of 'mapping'"):
        parallel_env(unlike_game, ["black_death_v3"])
