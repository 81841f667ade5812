"""Every grid world against its plain version: same draws, same actions, the same game."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from env_registry import make
from env_registry.grid import GridWorld
from tests.worlds.plain_games import PlainCleanup, PlainCoinGame, PlainGame, PlainSnowdrift, PlainStagHunt

CASES: list[tuple[str, type[PlainGame], dict[str, Any]]] = [
    ("cleanup", PlainCleanup, {}),
    ("cleanup", PlainCleanup, {"preset": "extended", "episode_length": 40}),
    ("cleanup", PlainCleanup, {"blocking": True, "initial_waste": 0, "cleaning_cost": 0.5, "apple_reward": 2.0}),
    (
        "cleanup",
        PlainCleanup,
        {
            "num_agents": 3,
            "height": 3,
            "width": 2,
            "river_rows": 1,
            "orchard_rows": 1,
            "max_waste": 2,
            "initial_waste": 1,
            "waste_probability": 0.5,
            "apple_probability": 0.7,
            "window_radius": 0,
        },
    ),
    ("snowdrift", PlainSnowdrift, {}),
    ("snowdrift", PlainSnowdrift, {"preset": "extended", "episode_length": 40}),
    (
        "snowdrift",
        PlainSnowdrift,
        {"height": 2, "width": 3, "num_agents": 5, "removal_cost": 1.5, "removal_reward": 2.0},
    ),
    (
        "snowdrift",
        PlainSnowdrift,
        {"height": 3, "width": 3, "num_agents": 3, "drifts": 2, "blocking": False, "ends_when_cleared": False},
    ),
    ("stag_hunt", PlainStagHunt, {}),
    ("stag_hunt", PlainStagHunt, {"preset": "wait", "window_radius": 1}),
    (
        "stag_hunt",
        PlainStagHunt,
        {"height": 2, "width": 3, "num_agents": 6, "stags": 2, "hares": 1, "stag_reward": 9.0},
    ),
    ("stag_hunt", PlainStagHunt, {"height": 2, "width": 2, "rule": "wait", "stags": 2, "hares": 0, "num_agents": 3}),
    ("stag_hunt", PlainStagHunt, {"height": 3, "width": 3, "blocking": True, "hunters_needed": 1, "hare_reward": 3.0}),
    ("coin_game", PlainCoinGame, {}),
    ("coin_game", PlainCoinGame, {"preset": "reciprocator"}),
    ("coin_game", PlainCoinGame, {"preset": "reciprocator", "num_agents": 3, "view": "absolute"}),
    (
        "coin_game",
        PlainCoinGame,
        {"preset": "reciprocator", "height": 2, "width": 4, "num_agents": 4, "contested": "one"},
    ),
    ("coin_game", PlainCoinGame, {"height": 2, "width": 2, "num_agents": 4, "contested": "all", "theft_penalty": 0.5}),
    ("coin_game", PlainCoinGame, {"height": 3, "width": 2, "stay": True, "blocking": True, "view": "absolute"}),
    ("coin_game", PlainCoinGame, {"num_agents": 9, "coins": "one_each", "coin_reward": 2.0, "window_radius": 1}),
]


@pytest.mark.parametrize(("name", "plain_game", "config"), CASES, ids=lambda value: str(value))
def test_plays_like_the_plain_game(name: str, plain_game: type[PlainGame], config: dict[str, Any]) -> None:
    seed, num_games, first_game = 11, 4, 5
    world = make(name, num_games, **config)
    assert isinstance(world, GridWorld)
    games = [plain_game(world.parameters, seed, first_game + number) for number in range(num_games)]
    generator = np.random.default_rng(0)
    happened = dict.fromkeys(world.event_names, 0)

    np.testing.assert_array_equal(world.reset(seed, first_game), [game.look() for game in games])
    for _ in range(150):
        actions = generator.integers(world.action_space.n, size=(num_games, world.num_agents))
        step = world.step(actions)
        for game, its_actions in zip(games, actions.tolist(), strict=True):
            game.step(its_actions)
        np.testing.assert_array_equal(step.observations, [game.look() for game in games])
        np.testing.assert_allclose(step.rewards, [game.rewards for game in games], atol=1e-5)
        np.testing.assert_array_equal(step.terminated, [game.terminated for game in games])
        np.testing.assert_array_equal(step.truncated, [game.truncated for game in games])
        np.testing.assert_array_equal(step.alive, [game.alive for game in games])
        for event, counts in step.events.items():
            np.testing.assert_array_equal(counts, [game.events[event] for game in games])
            happened[event] += int(counts.sum())
        ended = step.terminated | step.truncated
        assert (step.final_observations is not None) == ended.any()
        for number in np.flatnonzero(ended):
            assert step.final_observations is not None
            np.testing.assert_array_equal(step.final_observations[number], games[number].last)
    assert any(happened.values()), "the comparison has seen no event at all"
