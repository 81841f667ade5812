"""Objects of other kinds than environments to play are recognised, and told where to go."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from pettingzoo.classic import rps_v2, tictactoe_v3
from pettingzoo.utils.conversions import aec_to_parallel, turn_based_aec_to_parallel
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.tune.registry import register_env

import env_registry
from env_registry import SettingError
from rllib_empathy import EmpathyConfig
from tests.worlds.small_games import FadingWorld, ScriptedGame


class Ours(MultiAgentEnv):
    """A team's environment of RLlib's."""


class Alone(gymnasium.Env):
    """A game of one."""

    observation_space, action_space = Box(0, 1, (2,)), Discrete(2)


FOREIGN: dict[str, tuple[Any, str]] = {
    "MultiAgentEnv, class": (Ours, "is RLlib's MultiAgentEnv: .*with_gifting"),
    "MultiAgentEnv, made": (Ours(), "is RLlib's MultiAgentEnv: .*with_gifting"),
    "Gymnasium, class": (Alone, "has one agent only"),
    "Gymnasium, made": (Alone(), "has one agent only"),
    "vector": (gymnasium.vector.SyncVectorEnv([Alone]), "a vector of Gymnasium environments.*num_envs_per_env_runner"),
    "space": (Discrete(2), "a space, not an environment"),
    "PettingZoo, made": (ScriptedGame(), "has been made already.*a name or a callable is needed"),
    "turns, made": (tictactoe_v3.env(), "has been made already"),
    "world, made": (FadingWorld(), "has been made already"),
}
ONCE_MADE: dict[str, tuple[Any, str]] = {
    "MultiAgentEnv": (lambda: Ours(), "is RLlib's MultiAgentEnv"),
    "Gymnasium": (lambda: Alone(), "has one agent only"),
    "turns": (tictactoe_v3.env, "its agents take turns.*turn_based_aec_to_parallel"),
    "lost moves": (
        lambda: turn_based_aec_to_parallel(rps_v2.env()),
        "all moves but one would be lost.*aec_to_parallel",
    ),
    "Gymnasium's name": ("CartPole-v1", "'CartPole-v1' is a Gymnasium environment"),
    "number": (3, "a name or a callable is needed"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_known_foreign_objects_are_refused_where_they_are_named(kind):
    env, message = FOREIGN[kind]
    for take in (EmpathyConfig().environment, env_registry.make, env_registry.parallel_env):
        with pytest.raises(SettingError, match=message):
            take(env)


@pytest.mark.parametrize("kind", ONCE_MADE)
def test_what_is_known_by_making_it_is_refused_when_the_config_is_checked(kind):
    env, message = ONCE_MADE[kind]
    with pytest.raises(SettingError, match=message):
        EmpathyConfig().environment(env).population("ppo").check_population()


def test_names_registered_with_rllib_are_recognised():
    register_env("ours_of_the_tests", lambda config: Ours())
    with pytest.raises(SettingError, match=r"registered with RLlib \(register_env\): .*with_gifting"):
        EmpathyConfig().environment("ours_of_the_tests").population("ppo").check_population()
    env_registry.register_all()
    EmpathyConfig().environment("coin_game").population("ppo").check_population()


@pytest.mark.parametrize(
    "env", [rps_v2.env, rps_v2.parallel_env, lambda: aec_to_parallel(rps_v2.env()), partial(rps_v2.env, max_cycles=4)]
)
def test_games_that_can_be_converted_without_loss_are(env):
    world = env_registry.make(env, num_games=2)
    world.reset(seed=0)
    step = world.step(np.array([[0, 1], [2, 0]]))  # rock and paper; scissors and rock
    assert step.rewards.tolist() == [[-1, 1], [-1, 1]]


@pytest.mark.parametrize(
    ("env", "remote"),
    [(lambda **config: ScriptedGame(length=4, **config), 1), (partial(ScriptedGame, length=4), 0)],
    ids=["a lambda, remote", "a partial"],
)
def test_functions_train_as_environments(env, remote, ray_local):
    config = EmpathyConfig().environment(env, env_config={"deaths": {"bob": 2}}).population("ppo")
    config.env_runners(num_env_runners=remote, num_envs_per_env_runner=2, rollout_fragment_length=8)
    algorithm = config.build_algo()
    try:
        assert algorithm.train()["env_runners"]["episode_len_mean"] == 4
    finally:
        algorithm.stop()
