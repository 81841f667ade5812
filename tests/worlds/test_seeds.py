"""Environments that do not play what their seeds say are named before training starts."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

import env_registry
from env_registry import heeds_seed
from env_registry.heeds_seed import DEAF, SHARED, SHARED_UNSEEDED, UNREPEATABLE, fault_of_seeding
from env_registry.pettingzoo_world import PettingZooWorld
from rllib_empathy import EmpathyConfig
from tests.worlds.small_games import ScriptedGame


class Chance(ScriptedGame):
    """Agents see a number that is drawn in every step, from one source or another."""

    def __init__(self, source: str, length: int = 5) -> None:
        super().__init__(length=length)
        self.source = source
        self.engine = np.random.default_rng(7)  # as magent2's: its seed is its own, whatever reset is told

    def reset(self, seed=None, options=None):
        if self.source == "both, seeded":
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002
        if self.source == "seeded engine" and seed is not None:
            self.engine = np.random.default_rng(seed)
        self.draw()
        return super().reset(0, options)

    def draw(self):
        sources: dict[str, Callable[[], float]] = {
            "none": lambda: 0.5,
            "engine": lambda: self.engine.random(),
            "seeded engine": lambda: self.engine.random(),
            "NumPy": np.random.random,
            "Python": random.random,
            "both, seeded": lambda: np.random.random() + random.random(),  # noqa: NPY002
            "system": lambda: np.random.default_rng().random(),
        }
        self.drawn = sources[self.source]()

    def look(self):
        return {agent: np.array([self.drawn, self.clock], np.float32) for agent in self.agents}

    def step(self, actions):
        self.draw()
        return super().step(actions)


FAULTS = {
    "none": None,
    "seeded engine": None,
    "engine": DEAF,
    "NumPy": SHARED_UNSEEDED,
    "Python": SHARED_UNSEEDED,
    "both, seeded": SHARED,
    "system": UNREPEATABLE,
}


@pytest.mark.parametrize("source", FAULTS)
def test_what_is_wrong_with_a_seed_is_found_and_nothing_else(source):
    np.random.seed(3)  # noqa: NPY002
    random.seed(3)
    expected = np.random.RandomState(3).random_sample(), random.Random(3).random()
    assert fault_of_seeding(PettingZooWorld(Chance, source=source)._make_env) == FAULTS[source]
    assert (np.random.random(), random.random()) == expected  # noqa: NPY002  # nobody else's chance is touched


@pytest.mark.parametrize("env", [*env_registry.WORLDS, "mpe2.simple_spread_v3", "classic/rps-v2"])
def test_worlds_that_are_shipped_or_well_known_are_not_accused(env):
    wrappers = ["frame_stack_v1"] if env in env_registry.WORLDS else None
    assert fault_of_seeding(PettingZooWorld(env, wrappers=wrappers)._make_env) is None


def test_all_games_of_a_deaf_world_are_one_game():
    """What the warning says."""
    world = PettingZooWorld(Chance, num_games=3, source="engine")
    shown = world.reset(seed=0)
    for _ in range(8):
        assert (shown == shown[0]).all()
        shown = world.step(np.zeros((3, 3), int)).observations


@pytest.mark.parametrize("source", ["NumPy", "Python", "both, seeded"])
def test_own_generators_make_games_repeat_whatever_is_played_beside_them(source):
    make = partial(PettingZooWorld, Chance, wrappers=["own_generators"], source=source)
    assert fault_of_seeding(make()._make_env) is None
    many, one = make(num_games=4), make(num_games=1)
    before = random.getstate(), np.random.random()  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    random.seed(1)
    shown, alone = many.reset(seed=5), one.reset(seed=5, first_game=2)
    assert len(np.unique(shown[:, 0, 0])) == 4
    seen = [shown[2]]
    for _ in range(8):
        np.testing.assert_array_equal(seen[-1], alone[0])
        random.random()  # others draw as well
        alone = one.step(np.zeros((1, 3), int)).observations
        seen.append(many.step(np.zeros((4, 3), int)).observations[2])
    assert len({float(one[0, 0]) for one in seen}) == 9
    assert np.random.random() == np.random.RandomState(1).random_sample()  # noqa: NPY002
    restored = make(num_games=4)
    np.testing.assert_array_equal(restored.set_state(many.get_state())[2], seen[-1])
    random.setstate(before[0])


def test_training_says_once_what_is_wrong(caplog):
    heeds_seed._told.clear()
    config = EmpathyConfig().environment(Chance, env_config={"source": "engine"}).population("ppo")
    with caplog.at_level(logging.WARNING):
        config.check_population()
        config.check_population()
    assert caplog.text.count("Chance does not listen to its seed") == 1
    assert "one and the same game" in caplog.text


def test_what_an_environment_raises_is_left_to_those_who_play_in_it(caplog):
    class Failing(ScriptedGame):
        def step(self, actions):
            raise ZeroDivisionError

    with caplog.at_level(logging.WARNING):
        PettingZooWorld(Failing).check_seeds()
    assert not caplog.text
