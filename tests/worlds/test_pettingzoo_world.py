"""PettingZoo environments as batched worlds, held against the environments themselves."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import numpy as np
import pytest
import supersuit
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Sequence, Tuple
from gymnasium.spaces.utils import flatten
from pettingzoo.utils.conversions import aec_to_parallel
from pettingzoo.utils.wrappers import BaseWrapper, OrderEnforcingWrapper

import env_registry
from env_registry import SettingError, Step, World, parallel_env
from env_registry.pettingzoo_world import PettingZooWorld
from env_registry.unchecked import CHECKS, unchecked
from tests.worlds.small_games import ScriptedGame, UnlikeGame, unlike_game

KNIGHTS = "butterfly/knights_archers_zombies-v11"
ENVIRONMENTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "spread": ("mpe2.simple_spread_v3", {"max_cycles": 6}),
    "speaker and listener": ("mpe2.simple_speaker_listener_v4", {"max_cycles": 6}),
    "agents that die": (KNIGHTS, {"spawn_delay": 2, "max_cycles": 150, "max_zombies": 40}),
    "two players": ("classic/rps-v2", {"max_cycles": 6}),
    "by module": ("tests.worlds.small_games:ScriptedGame", {"deaths": {"bob": 2, "cid": 4}, "length": 6}),
    "agents that join": (ScriptedGame, {"joins": {"ann": 2, "cid": 3}, "deaths": {"bob": 3}}),
    "by callable": (unlike_game, {}),
    "registered, wrapped": ("cleanup", {"wrappers": ["agent_indicator_v0", "frame_stack_v1"], "episode_length": 6}),
    "reused": ("mpe2.simple_spread_v3", {"max_cycles": 6, "reuse": True}),
}


def random_actions(world, rng):
    return rng.integers(0, world.action_space.n, (world.num_games, world.num_agents))


def as_shown(world, agent, number, seen):
    """What the world has to show of an agent's own observation, by another way than the world's."""
    space = world.observation_spaces[number]
    array = np.moveaxis(seen, -1, 0) if len(world.observation_space.shape) == 3 else flatten(space, seen)
    padded = np.zeros(world.observation_space.shape, world.observation_space.dtype)
    padded[tuple(slice(size) for size in array.shape)] = array
    return padded


def all_as_shown(world, observations):
    agents = enumerate(world.possible_agents)
    nothing = np.zeros(world.observation_space.shape, world.observation_space.dtype)
    return [as_shown(world, a, number, observations[a]) if a in observations else nothing for number, a in agents]


def expected(world, env, actions):
    """What the world has to answer for a game that `env` plays: a row of each column of `Step`, and who acted."""
    acting = list(env.agents)
    chosen = {
        agent: space.start + (action if action < space.n else 0)
        for agent, space, action in zip(world.possible_agents, world.action_spaces, actions, strict=True)
        if agent in acting
    }
    observations, rewards, terminations, truncations, infos = env.step(chosen)
    cut_off = [agent for agent in acting if not env.agents and truncations[agent] and not terminations[agent]]
    step = Step(
        observations=np.array(all_as_shown(world, observations)),
        rewards=np.array([rewards[agent] if agent in acting else 0 for agent in world.possible_agents], np.float32),
        terminated=np.array(not env.agents and not cut_off),
        truncated=np.array(not env.agents and len(cut_off) > 0),
        alive=np.array([agent in [*env.agents, *cut_off] for agent in world.possible_agents]),
        events={
            event: np.array(
                [infos[agent]["events"][event] if agent in acting else 0 for agent in world.possible_agents]
            )
            for event in world.event_names
        },
        final_observations=None,
    )
    return step, acting


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_plays_what_the_environment_plays(name):
    env, config = ENVIRONMENTS[name]
    world = PettingZooWorld(env, num_games=2, **config)
    assert isinstance(world, World)
    make_one = partial(parallel_env, env, **{key: value for key, value in config.items() if key != "reuse"})
    rng = np.random.default_rng(0)
    shown = world.reset(seed=1)
    playing: dict[int, Any] = {}
    ended, died = 0, 0
    for _ in range(160 if name == "agents that die" else 20):
        for game in {0, 1} - set(playing):
            playing[game] = make_one()
            observations, _ = playing[game].reset(seed=int(world.get_state()["episode_seeds"][game]))
            np.testing.assert_array_equal(shown[game], all_as_shown(world, observations))
            assert world.alive[game].tolist() == [agent in playing[game].agents for agent in world.possible_agents]
        actions = random_actions(world, rng)
        step = world.step(actions)
        for game, single in dict(playing).items():
            wanted, acting = expected(world, single, actions[game])
            last = step.observations if single.agents else step.final_observations
            assert last is not None
            np.testing.assert_array_equal(last[game], wanted.observations)
            for ours, theirs in zip(step[1:5], wanted[1:5], strict=True):
                np.testing.assert_array_equal(ours[game], theirs)
            assert step.events.keys() == wanted.events.keys()
            for event, counts in wanted.events.items():
                np.testing.assert_array_equal(step.events[event][game], counts)
            died += bool(single.agents and set(acting) - set(single.agents))
            if not single.agents:
                del playing[game]
                ended += 1
        assert step.observations.dtype == world.observation_space.dtype
        assert (step.final_observations is None) == (not (step.terminated | step.truncated).any())
        shown = step.observations
    assert ended >= 2
    assert (died > 0) == (name in ("agents that die", "by module", "agents that join"))


def test_nobody_checks_what_the_world_guarantees():
    env = parallel_env("mpe2.simple_spread_v3", ["frame_stack_v1"])
    checked, inside = env.env.aec_env, env.unwrapped
    assert isinstance(checked, CHECKS)
    assert isinstance(checked.env, CHECKS)
    assert unchecked(env) is env
    assert env.env.aec_env is inside

    class Own(BaseWrapper):
        """Somebody else's wrapper, which may do anything."""

    own = Own(inside)
    env = aec_to_parallel(OrderEnforcingWrapper(own))
    assert unchecked(env).aec_env is own
    for other in (ScriptedGame(), parallel_env("cleanup")):
        assert unchecked(other) is other


def test_agrees_with_supersuits_vectorisation_where_that_works():
    world = PettingZooWorld("mpe2.simple_spread_v3", num_games=3, max_cycles=5)
    shown = world.reset(seed=0)
    vector = supersuit.pettingzoo_env_to_vec_env_v1(parallel_env("mpe2.simple_spread_v3", max_cycles=5))
    vector = supersuit.concat_vec_envs_v1(vector, 3)
    seeds = world.get_state()["episode_seeds"].tolist()
    theirs = [game.reset(seed=seed)[0] for game, seed in zip(vector.vec_envs, seeds, strict=True)]
    np.testing.assert_array_equal(shown, theirs)
    rng = np.random.default_rng(0)
    for time in range(5):
        actions = random_actions(world, rng)
        step = world.step(actions)
        observations, rewards, terminations, truncations, infos = vector.step(actions.ravel())
        np.testing.assert_array_equal(step.rewards, rewards.reshape(3, 3))
        np.testing.assert_array_equal(step.truncated, truncations.reshape(3, 3).all(axis=1))
        np.testing.assert_array_equal(step.terminated, terminations.reshape(3, 3).all(axis=1))
        if time < 4:
            np.testing.assert_array_equal(step.observations, observations.reshape(3, 3, -1))
    finals = [info["terminal_observation"] for info in infos]
    assert step.final_observations is not None
    np.testing.assert_array_equal(step.final_observations.reshape(9, -1), finals)


@pytest.mark.parametrize("name", ["spread", "agents that die", "by module", "registered, wrapped"])
def test_a_game_plays_the_same_whatever_the_batch(name):
    env, config = ENVIRONMENTS[name]
    everything, part = PettingZooWorld(env, num_games=4, **config), PettingZooWorld(env, num_games=2, **config)
    rng = np.random.default_rng(0)
    for seed in (5, 6):
        np.testing.assert_array_equal(everything.reset(seed)[1:3], part.reset(seed, first_game=1))
        for _ in range(15):
            actions = random_actions(everything, rng)
            whole, some = everything.step(actions), part.step(actions[1:3])
            np.testing.assert_array_equal(whole.observations[1:3], some.observations)
            np.testing.assert_array_equal(whole.rewards[1:3], some.rewards)


def test_games_differ_and_so_do_seeds_that_are_neighbours():
    world = PettingZooWorld(ScriptedGame, num_games=4)
    first, second = world.reset(1)[:, 0, 0], world.reset(2)[:, 0, 0]
    assert len({*first.tolist(), *second.tolist()}) == 8


@pytest.mark.parametrize("steps", [0, 1, 5, 6, 17])
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_continues_bit_equal_from_its_state(name, steps):
    env, config = ENVIRONMENTS[name]
    world, copy = PettingZooWorld(env, num_games=2, **config), PettingZooWorld(env, num_games=2, **config)
    rng = np.random.default_rng(steps)
    shown = world.reset(seed=3)
    for _ in range(steps):
        shown = world.step(random_actions(world, rng)).observations
    state = world.get_state()
    np.testing.assert_array_equal(copy.set_state(state), shown)
    np.testing.assert_array_equal(copy.alive, world.alive)
    for _ in range(8):
        actions = random_actions(world, rng)
        one, other = world.step(actions), copy.step(actions)
        for ours, theirs in zip(one[:5], other[:5], strict=True):
            np.testing.assert_array_equal(ours, theirs)
        for ours, theirs in zip(world.get_state().values(), copy.get_state().values(), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_a_state_is_not_changed_by_going_on():
    world = PettingZooWorld(ScriptedGame, num_games=1)
    world.reset(seed=0)
    state = world.get_state()
    kept = {name: values.copy() for name, values in state.items()}
    world.set_state(state)
    for _ in range(7):
        world.step(np.ones((1, 3), int))
    for name, values in kept.items():
        np.testing.assert_array_equal(state[name], values)


def test_what_an_environment_keeps_from_earlier_episodes_shows_only_if_it_is_reused():
    for reuse in (False, True):
        world = PettingZooWorld(ScriptedGame, num_games=1, reuse=reuse, forgets=False)
        first, again = world.reset(seed=1), world.reset(seed=1)
        assert (first == again).all() == (not reuse)


def test_environments_that_do_not_keep_to_their_seed_are_named(caplog):
    make_game = partial(UnlikeGame, {"one": Box(0, 1, (3,))}, {"one": Discrete(2)}, length=4, repeats=False)
    world = PettingZooWorld(make_game, num_games=2)
    world.reset(seed=0)
    world.step(np.zeros((2, 1), int))
    with caplog.at_level(logging.WARNING):
        shown = world.set_state(world.get_state())
    assert "does not play the same again" in caplog.text
    assert [world.step(np.zeros((2, 1), int)).truncated.all() for _ in range(3)] == [False, False, True]
    assert shown.shape == (2, 1, 3)


def test_ends_by_death_by_time_and_by_both():
    for deaths, expected in (
        ({}, ([False] * 4, [True] * 3)),
        ({"ann": 1, "bob": 3, "cid": 4}, ([True] * 4, [False] * 3)),
        ({"ann": 5, "bob": 2}, ([False] * 4, [False, False, True])),
        ({"ann": 5, "bob": 5, "cid": 5}, ([True] * 4, [False] * 3)),
    ):
        world = PettingZooWorld(ScriptedGame, deaths=deaths, length=5)
        world.reset(seed=0)
        while not ((step := world.step(np.ones((1, 3), int))).terminated | step.truncated).any():
            assert step.alive[0].tolist() == [deaths.get(agent, 9) > world._clock[0] for agent in world.possible_agents]
        assert step.terminated[0] == expected[0][0]
        assert step.truncated[0] != step.terminated[0]
        assert step.alive[0].tolist() == expected[1]
        assert world.alive.all()


def test_the_dead_see_zeros_earn_nothing_and_are_not_asked():
    world = PettingZooWorld(ScriptedGame, deaths={"bob": 2})
    world.reset(seed=0)
    steps = [world.step(np.ones((1, 3), int)) for _ in range(4)]
    assert [step.observations[0, 1].any() for step in steps] == [True, True, False, False]
    assert [step.rewards[0, 1] for step in steps] == [11, 12, 0, 0]
    assert [step.events["odd_actions"][0].tolist() for step in steps] == [[1, 1, 1]] * 2 + [[1, 0, 1]] * 2


# -- spaces


def test_unlike_spaces_are_padded_and_the_own_ones_kept():
    world = PettingZooWorld(unlike_game, num_games=1)
    shown = world.reset(seed=0)
    assert world.observation_space.shape == (7,)  # four numbers and a side, one of three
    assert world.observation_space.dtype == np.float32
    assert shown[0, 0, 3:].tolist() == [0, 0, 0, 0]
    assert world.observation_space.contains(shown[0, 1])
    assert world.action_space == Discrete(5)
    assert world.action_spaces == (Discrete(2), Discrete(3), Discrete(5, start=7))
    assert [type(space) for space in world.observation_spaces] == [Box, Dict, Discrete]


def test_actions_that_an_agent_does_not_have_count_as_its_first():
    world = PettingZooWorld(unlike_game, num_games=1)
    world.reset(seed=0)
    for actions in ([0, 0, 0], [1, 2, 4], [2, 3, 1]):
        world.step(np.array([actions]))
    done = [[int(actions[agent]) for agent in world.possible_agents] for actions in world.envs[0].done]
    assert done == [[0, 0, 7], [1, 2, 11], [0, 0, 8]]


@pytest.mark.parametrize(
    ("spaces", "shape", "dtype"),
    [
        ([Box(0, 255, (4, 6, 3), np.uint8)] * 2, (3, 4, 6), np.uint8),
        ([Box(0, 255, (4, 6, 3), np.uint8), Box(0, 1, (5, 2, 1), np.uint8)], (3, 5, 6), np.uint8),
        ([Box(0, 255, (4, 6, 3), np.uint8), Box(0, 1, (5,), np.uint8)], (72,), np.uint8),
        ([Box(0, 255, (4, 6, 3), np.uint8), Box(0, 1, (5, 2, 1), np.float64)], (3, 5, 6), np.float32),
        ([Box(-1, 1, (4, 6), np.float64)] * 2, (24,), np.float32),
        ([Tuple([Discrete(3), Discrete(2)]), MultiDiscrete([2, 5])], (7,), np.float32),
    ],
)
def test_shapes_and_types_of_observations(spaces, shape, dtype):
    sees = {f"agent {number}": space for number, space in enumerate(spaces)}
    world = PettingZooWorld(lambda: UnlikeGame(sees, dict.fromkeys(sees, Discrete(2))), num_games=2)
    shown = world.reset(seed=0)
    assert (world.observation_space.shape, world.observation_space.dtype) == (shape, dtype)
    assert (shown.shape, shown.dtype) == ((2, 2, *shape), dtype)
    assert all(world.observation_space.contains(seen) for game in shown for seen in game)
    for number, (agent, space) in enumerate(sees.items()):
        single = world.envs[0]
        expected = as_shown(world, agent, number, single.seen[agent])
        np.testing.assert_array_equal(shown[0, number], expected)
        assert space is world.observation_spaces[number]


@pytest.mark.parametrize("name", env_registry.WORLDS)
def test_a_wrapped_world_shows_its_own_shape(name):
    native, wrapped = (
        env_registry.make(name, num_games=2),
        PettingZooWorld(name, num_games=2, wrappers=[lambda env: env]),
    )
    assert wrapped.observation_space == native.observation_space
    assert wrapped.action_space == native.action_space
    assert wrapped.event_names == native.event_names
    assert wrapped.reset(seed=0).shape == native.reset(seed=0).shape


def test_renders_the_game_that_is_asked_for():
    world = PettingZooWorld(ScriptedGame, num_games=2, deaths={"ann": 1, "bob": 1, "cid": 1}, render_mode="rgb_array")
    world.reset(seed=0)
    assert world.render(1).shape == (4, 4, 3)
    with pytest.raises(SettingError, match="render_mode='rgb_array'"):
        PettingZooWorld(ScriptedGame).render()


# -- what cannot be handled


def test_spaces_that_cannot_be_handled_name_themselves():
    with pytest.raises(SettingError, match=r"simple_spread.*'agent_0' are Box.*only discrete actions"):
        PettingZooWorld("mpe2.simple_spread_v3", continuous_actions=True)
    with pytest.raises(SettingError, match="'one' observes Sequence"):
        PettingZooWorld(lambda: UnlikeGame({"one": Sequence(Discrete(5))}, {"one": Discrete(2)}))


@pytest.mark.parametrize("reward", [np.nan, np.inf, 1e300])
def test_rewards_have_to_be_finite(reward):
    world = PettingZooWorld(
        lambda: UnlikeGame({"one": Box(0, 1, (3,))}, {"one": Discrete(2)}, reward=reward), num_games=2
    )
    world.reset(seed=0)
    with pytest.raises(ValueError, match=r"gave 'one' the reward .* in game 0: rewards have to be finite"):
        world.step(np.zeros((2, 1), int))


class Negligent(ScriptedGame):
    """Leaves bob out of one of its answers, or lets a stranger play."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault

    def reset(self, seed=None, options=None):
        observations, infos = super().reset(seed, options)
        if self.fault == "no first observation":
            del observations["bob"]
        return observations, infos

    def step(self, actions):
        answer = super().step(actions)
        if self.fault in ("no observation", "no reward"):
            del answer[self.fault == "no reward"]["bob"]
        if self.fault == "stranger":
            self.agents = [*self.agents, "dan"]
        return answer


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no first observation", "gave 'bob' no observation, though it plays on"),
        ("no observation", "gave 'bob' no observation, though it plays on"),
        ("no reward", "gave 'bob' no reward, though it plays on"),
        ("stranger", r"lets \['dan'\] play, who are not among its possible_agents"),
    ],
)
def test_missing_agents_are_named(fault, message):
    world = PettingZooWorld(Negligent, num_games=2, fault=fault)

    def play_a_step():
        world.reset(seed=0)
        world.step(np.zeros((2, 3), int))

    with pytest.raises(SettingError, match=f"Negligent {message}"):
        play_a_step()


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (np.zeros((1, 3), int), r"shape \(1, 3\)"),
        (np.zeros((2, 3)), "type float64"),
        (np.full((2, 3), 4), "Action 4 is out of range"),
        (np.full((2, 3), -1), "Action -1 is out of range"),
    ],
)
def test_actions_are_checked(actions, message):
    world = PettingZooWorld(ScriptedGame, num_games=2)
    world.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        world.step(actions)


def test_a_state_of_another_world_is_refused():
    world = PettingZooWorld(ScriptedGame, num_games=2)
    with pytest.raises(ValueError, match="does not fit 2 games of ScriptedGame"):
        world.set_state(PettingZooWorld(ScriptedGame, num_games=3).get_state())
    with pytest.raises(ValueError, match="'streams' has shape None"):
        world.set_state({})
    with pytest.raises(ValueError, match="num_games = 0"):
        PettingZooWorld(ScriptedGame, num_games=0)
