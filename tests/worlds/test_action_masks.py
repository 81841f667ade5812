"""What worlds say about which actions are allowed, and what becomes of it on the way to agents."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary

import env_registry
from env_registry.action_masks import allowed_actions, parted, parted_rows, without_mask
from env_registry.game import World
from env_registry.parallel_env import WorldEnv, parallel_env
from env_registry.parameters import SettingError
from env_registry.pettingzoo_world import PettingZooWorld
from env_registry.rllib_env import rllib_env
from env_registry.shuffled_seats import ShuffledSeats
from tests.worlds.masked_games import Locks, MaskedGame
from tests.worlds.small_games import ScriptedGame, UnlikeGame

PLACES = ["observation", "observations", "infos"]


def random_allowed(world: Any, rng: np.random.Generator) -> np.ndarray:
    masks = allowed_actions(world)
    assert masks is not None
    return (rng.random(masks.shape) * masks).argmax(-1)


@pytest.mark.parametrize("where", PLACES)
def test_masks_are_the_environments_and_no_part_of_what_is_seen(where):
    world = PettingZooWorld(MaskedGame, 3, where=where, choices=(3, 5))
    observations = world.reset(7)
    rng = np.random.default_rng(0)
    assert world.observation_space.shape == (2,)
    assert world.observation_spaces == (Box(0, 1, (2,), np.float32),) * 2
    for _ in range(20):  # over the ends of episodes
        assert world.action_masks is not None
        for game, env in enumerate(world.envs):
            for agent, name in enumerate(env.possible_agents):
                own = len(env.masks[name])
                np.testing.assert_array_equal(world.action_masks[game, agent, :own], env.masks[name] != 0)
                assert not world.action_masks[game, agent, own:].any()  # it has no such actions
                np.testing.assert_allclose(observations[game, agent], [env.clock / 9, agent == 0], rtol=1e-6)
        observations = world.step(random_allowed(world, rng)).observations


def test_shape_of_masks_follows_the_contract_and_the_protocol_stays_what_it_was():
    world: Any = PettingZooWorld(MaskedGame, 2)
    world.reset(0)
    assert world.action_masks.shape == (2, 2, 3)
    assert world.action_masks.dtype == np.bool_
    worlds: list[Any] = [env_registry.make("stag_hunt", 2), PettingZooWorld(ScriptedGame, 2)]
    for plain in worlds:
        plain.reset(0)
        assert plain.action_masks is None
        assert allowed_actions(plain) is None
        assert isinstance(plain, World)


def test_what_is_beside_a_mask_is_seen_as_if_it_were_alone():
    picture = Box(0, 255, (5, 4, 3), np.uint8)
    sees = {"one": Dict({"observation": picture, "action_mask": MultiBinary(2)}), "two": picture}
    world = PettingZooWorld(partial(UnlikeGame, sees, {"one": Discrete(2), "two": Discrete(2)}))
    assert world.observation_space == Box(0, 255, (3, 5, 4), np.uint8)
    parts = Dict({"a": Box(0, 1, (2,)), "b": Discrete(3), "action_mask": MultiBinary(2)})
    assert without_mask(parts) == Dict({"a": Box(0, 1, (2,)), "b": Discrete(3)})
    mask = np.ones(2)
    assert parted({"a": 1, "b": 2, "action_mask": mask})[0] == {"a": 1, "b": 2}
    assert parted({"a": 1, "action_mask": mask})[0] == 1
    assert parted({"a": 1, "action_mask": mask})[1] is mask
    assert parted({"a": 1}) == ({"a": 1}, None)


def test_masks_are_found_in_flattened_observations():
    space = Dict({"a": Box(0, 1, (2,)), "action_mask": MultiBinary(3), "z": Discrete(2)})
    rows = np.arange(14.0).reshape(2, 7)
    seen, masks = parted_rows(space, rows)
    assert list(space.spaces) == ["a", "action_mask", "z"]
    np.testing.assert_array_equal(masks, rows[:, 2:5])
    np.testing.assert_array_equal(seen, rows[:, [0, 1, 5, 6]])


def test_state_and_replay_bring_the_masks_back():
    world, twin = (PettingZooWorld(MaskedGame, 3, where="infos") for _ in range(2))
    world.reset(5)
    rng = np.random.default_rng(1)
    for _ in range(13):
        world.step(random_allowed(world, rng))
    twin.set_state(world.get_state())
    np.testing.assert_array_equal(twin.action_masks, world.action_masks)


def test_agents_without_a_mask_may_do_all_that_they_have():
    sees = {"one": Dict({"observation": Box(0, 1, (2,)), "action_mask": MultiBinary(2)}), "two": Box(0, 1, (2,))}
    world = PettingZooWorld(partial(UnlikeGame, sees, {"one": Discrete(2), "two": Discrete(4)}), 1)
    world.reset(3)
    assert world.action_masks is not None
    assert world.action_masks[0, 1].tolist() == [True] * 4
    assert (
        world.action_masks[0, 0].tolist() == [bool(x) for x in world.envs[0].seen["one"]["action_mask"]] + [False] * 2
    )


def test_to_the_dead_nothing_is_forbidden():
    world = PettingZooWorld(MaskedGame, 2, deaths={"player_0": 2}, choices=(4, 4))
    world.reset(0)
    rng = np.random.default_rng(0)
    for _ in range(3):
        world.step(random_allowed(world, rng))
    masks = allowed_actions(world)
    assert masks is not None
    assert not world.alive[:, 0].any()
    assert masks[:, 0].all()


@pytest.mark.parametrize("where", PLACES)
def test_who_may_do_nothing_is_named_with_game_and_step(where):
    world = PettingZooWorld(MaskedGame, 2, where=where, stuck=3)
    world.reset(0)
    rng = np.random.default_rng(0)
    for _ in range(3):
        world.step(random_allowed(world, rng))
    with pytest.raises(SettingError, match=r"MaskedGame allows 'player_0' no action in game 0, after 3 steps"):
        allowed_actions(world, np.array([3, 3]))


def test_a_mask_of_another_length_is_refused():
    sees = {"one": Dict({"observation": Box(0, 1, (2,)), "action_mask": MultiBinary(5)})}
    with pytest.raises(SettingError, match=r"'action_mask' that 'one' observes .*shape \(2,\)"):
        PettingZooWorld(partial(UnlikeGame, sees, {"one": Discrete(2)}))
    with pytest.raises(SettingError, match="and nothing else"):
        PettingZooWorld(partial(UnlikeGame, {"one": Dict({"action_mask": MultiBinary(2)})}, {"one": Discrete(2)}))

    class Longer(MaskedGame):
        def look(self):
            seen, infos = super().look()
            return seen, {agent: {"action_mask": np.ones(7)} for agent in infos}

    with pytest.raises(SettingError, match=r"of 'player_0' has the shape \(7,\); needed is a number for each of its 3"):
        PettingZooWorld(partial(Longer, where="infos")).reset(0)


def test_masks_of_a_batched_world_of_a_wrong_shape_are_refused():
    world = Locks(2)
    world.reset(0)
    world.action_masks = world.action_masks[:, :2]
    with pytest.raises(SettingError, match=r"shape \(2, 2, 4\); needed is \(2, 3, 4\)"):
        allowed_actions(world)


def test_shuffled_seats_have_the_masks_of_their_seats():
    world: Any = ShuffledSeats(Locks(6))
    world.reset(3)
    rng = np.random.default_rng(0)
    assert not (world.seats == np.arange(3)).all()
    for _ in range(12):  # over the ends of episodes; Locks stops where something forbidden is done
        masks = world.action_masks
        assert masks is not None
        for game, agent in np.ndindex(6, 3):
            np.testing.assert_array_equal(masks[game, agent], world.world.action_masks[game, world.seats[game, agent]])
        world.step(random_allowed(world, rng))


def test_batched_worlds_show_masks_as_pettingzoo_does_and_are_read_back():
    env = WorldEnv(Locks(1), "locks")
    seen, _ = env.reset(1)
    assert env.observation_space("agent_1") == Dict(
        {"observation": Box(0, 255, (2,), np.uint8), "action_mask": Box(0, 1, (4,), np.int8)}
    )
    assert env.observation_space("agent_1").contains(seen["agent_1"])
    assert seen["agent_1"]["action_mask"].tolist() == [1, 0, 1, 1]
    batched, again = Locks(2), PettingZooWorld(lambda: WorldEnv(Locks(1), "locks"), 2)
    batched.reset(0)
    again.reset(0)
    rng = np.random.default_rng(0)
    for _ in range(11):
        np.testing.assert_array_equal(batched.action_masks, again.action_masks)
        actions = random_allowed(batched, rng)
        np.testing.assert_array_equal(batched.step(actions).observations, again.step(actions).observations)


@pytest.mark.parametrize("where", ["observation", "observations"])
@pytest.mark.parametrize("flat", [True, False])
def test_rllib_is_shown_what_its_masking_modules_want(where, flat):
    env = rllib_env(lambda **more: MaskedGame(where=where, **more), flatten_observations=flat)
    space = env.observation_spaces["player_0"]
    assert space == Dict({"observations": Box(0, 1, (2,), np.float32), "action_mask": Box(0, 1, (3,), np.float32)})
    seen, _ = env.reset(seed=0)
    assert space.contains(seen["player_0"])
    np.testing.assert_array_equal(seen["player_0"]["action_mask"], env.env.masks["player_0"])


def test_wrappers_that_lose_the_mask_are_told_of(caplog):
    def without(env):
        from pettingzoo.utils.wrappers import BaseParallelWrapper

        class Without(BaseParallelWrapper):
            def observation_space(self, agent):
                return env.observation_space(agent)["observation"]

        return Without(env)

    with caplog.at_level(logging.WARNING):
        parallel_env(MaskedGame, [without])
    assert "take the 'action_mask' out of the observations of 'player_0', 'player_1'" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        parallel_env(MaskedGame)
        parallel_env(ScriptedGame, [lambda env: env])
    assert not caplog.records
