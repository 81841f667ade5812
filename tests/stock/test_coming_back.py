"""An agent that has left an episode and plays on in it: one error on both paths, whichever way fragments end."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from ray.rllib.algorithms.ppo import PPOConfig

from env_registry.ends import came_back, keep_ends
from env_registry.parameters import SettingError
from env_registry.pettingzoo_world import PettingZooWorld
from env_registry.rllib_env import rllib_env
from rllib_empathy import with_gifting
from tests.stock.scripted import AGENTS, ENDS, ParallelScript, UsersScript

pytestmark = pytest.mark.filterwarnings("ignore")  # RLlib's own

SCRIPT = {**ENDS["all cut off"], "a": (2, "dies")}
ERROR = r"agent 'a' left the game in step 2 and is back after step 4 of the same episode.*under another name"


class Returning(ParallelScript):
    """Agent a dies in step 2 and plays again from step 4 on.

    Args:
        silent: it has no flag, but is no longer among the agents.
    """

    def __init__(self, silent: bool = False) -> None:
        super().__init__(script=SCRIPT)
        self.silent = silent

    def step(self, actions: Any) -> Any:
        observations, rewards, died, cut, infos = super().step(actions)
        if self.silent:
            died = {}
        if self.game.time == 4:
            self.agents = [*self.agents, "a"]
            observations, rewards = {**observations, **self.game.look("a")}, {**rewards, "a": 0.0}
        return observations, rewards, died, cut, infos


class UsersReturning(UsersScript):
    """The same as a user's own environment."""

    def __init__(self, env_config: Any = None) -> None:
        super().__init__({"script": SCRIPT})

    def step(self, action_dict: dict[str, Any]) -> Any:
        observations, *rest = super().step(action_dict)
        return {**observations, **(self.game.look("a") if self.game.time == 4 else {})}, *rest


def steps(env: Any) -> None:
    env.reset(seed=1)
    for _ in range(5):
        env.step(dict.fromkeys(AGENTS, 0))


def play(world: PettingZooWorld) -> None:
    for _ in range(5):
        world.step(np.zeros((1, 3), np.int64))


def test_both_paths_refuse_it_with_the_same_words():
    world = PettingZooWorld(Returning)
    world.reset(seed=1)
    with pytest.raises(SettingError, match=ERROR) as on_fast_path:
        play(world)
    with pytest.raises(SettingError, match=ERROR) as on_rllib:
        steps(rllib_env(Returning))
    assert str(on_fast_path.value) == str(on_rllib.value) == str(came_back("Returning", "a", 2, 4))
    with pytest.raises(SettingError, match=ERROR):
        steps(keep_ends(UsersReturning()))


def test_both_paths_refuse_who_leaves_without_a_flag():
    world = PettingZooWorld(Returning, silent=True)
    world.reset(seed=1)
    for played in (lambda: play(world), lambda: steps(rllib_env(partial(Returning, silent=True)))):
        with pytest.raises(SettingError, match="'a' is no longer in `agents`, but is flagged neither in terminations"):
            played()


def test_the_next_episode_begins_with_everybody():
    world = PettingZooWorld(partial(ParallelScript, script=SCRIPT))
    world.reset(seed=1)
    for _ in range(12):
        step = world.step(np.zeros((1, 3), np.int64))
    assert step.alive.tolist() == [[False, True, True]]


def twice(algorithm: Any) -> None:
    algorithm.train()
    algorithm.train()


@pytest.mark.parametrize(("fragment", "runners"), [(10, 0), (3, 0), (3, 1)])
def test_with_gifts_the_run_ends_with_it_wherever_fragments_end(ray_local, fragment, runners):
    config = (
        PPOConfig()
        .environment(UsersReturning)
        .env_runners(num_env_runners=runners, rollout_fragment_length=fragment)
        .multi_agent(policies=set(AGENTS), policy_mapping_fn=lambda agent, *_, **__: agent)
        .training(train_batch_size_per_learner=2 * fragment, minibatch_size=3, num_epochs=1)
        .debugging(log_level="ERROR")
    )
    algorithm = with_gifting(config, {"b": "blind_gift"}).build_algo()
    with pytest.raises(SettingError, match=ERROR):
        twice(algorithm)
    algorithm.stop()
