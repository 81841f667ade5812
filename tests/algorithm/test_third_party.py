"""PettingZoo environments train like our own worlds, also where agents die."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.tune.registry import register_env

from env_registry import WORLDS
from env_registry.parallel_env import parallel_env
from env_registry.rllib_env import rllib_env
from rllib_empathy import with_gifting
from rllib_empathy.learning.algorithm import Empathy
from tests.algorithm.common import small_config, weights
from tests.algorithm.worlds import BadReward

ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "mpe2.simple_spread_v3": {"max_cycles": 15},
    "butterfly/knights_archers_zombies-v11": {"max_cycles": 60},
}

PLAYED_WITH_LASE: dict[str, dict[str, Any]] = {
    **ENVIRONMENTS,
    "mpe2.simple_speaker_listener_v4": {"max_cycles": 15},  # two players with unlike observations and actions
    "mpe2.simple_tag_v3": {
        "max_cycles": 15,
        "wrappers": ["pad_observations_v0", {"frame_stack_v1": {"stack_size": 2}}],
    },
}


def test_a_registered_world_reaches_other_processes(ray_local, monkeypatch):
    monkeypatch.setitem(WORLDS, "harmless", BadReward)
    config = small_config("harmless").environment(env_config={"bad_value": "0.0"}).env_runners(num_env_runners=1)
    algorithm = config.build_algo()
    assert algorithm.train()["env_runners"]["num_env_steps_sampled"] == 8 * 20
    algorithm.stop()


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_a_pettingzoo_environment_trains_and_resumes(ray_local, tmp_path, name):
    config = small_config(name, games=3, steps=20).environment(env_config=ENVIRONMENTS[name])
    original = config.build_algo()
    for _ in range(4):
        result = original.train()
    assert np.isfinite(result["env_runners"]["episode_return_mean"])
    original.save_to_path(tmp_path)
    original.train()
    restored = Empathy.from_checkpoint(tmp_path)
    restored.train()
    np.testing.assert_array_equal(weights(restored), weights(original))
    original.stop()
    restored.stop()


@pytest.mark.parametrize("name", PLAYED_WITH_LASE)
def test_lase_trains_on_the_fast_path(ray_local, name):
    algorithm = (
        small_config(name, "lase", games=3, steps=20).environment(env_config=PLAYED_WITH_LASE[name]).build_algo()
    )
    check_gifts([algorithm.train() for _ in range(2)])
    algorithm.stop()


@pytest.mark.filterwarnings("ignore::UserWarning")  # RLlib's own
@pytest.mark.parametrize("name", PLAYED_WITH_LASE)
def test_lase_trains_in_a_users_own_ppo(ray_local, name):
    register_env(name, lambda env_config: rllib_env(name, **env_config))
    agents = parallel_env(name, **PLAYED_WITH_LASE[name]).possible_agents
    config = (
        PPOConfig()
        .environment(name, env_config=PLAYED_WITH_LASE[name])
        .env_runners(num_env_runners=0, num_envs_per_env_runner=2, rollout_fragment_length=20)
        .multi_agent(policies=set(agents), policy_mapping_fn=lambda agent, *args, **kwargs: agent)
        .rl_module(model_config=DefaultModelConfig(fcnet_hiddens=[16]))
        .training(train_batch_size_per_learner=40, minibatch_size=40, num_epochs=1)
        .debugging(seed=3, log_level="ERROR")
    )
    algorithm = with_gifting(config, dict.fromkeys(agents, "lase")).build_algo()
    check_gifts([algorithm.train() for _ in range(2)])
    algorithm.stop()


def check_gifts(results: list[dict]) -> None:
    """Something was given, within bounds, and the networks that infer gifts learned."""
    for result in results:
        learned = {mid: values for mid, values in result["learners"].items() if mid != "__all_modules__"}
        assert len(learned) >= 2
        shares = [v for values in learned.values() for k, v in values.items() if k.startswith("gift_share/")]
        assert len(shares) == len(learned) * (len(learned) - 1)
        assert all(0 <= share <= 1 / (len(learned) - 1) for share in shares)
        assert all(np.isfinite(values["social_critic_error"]) for values in learned.values())
    if any(values["extrinsic_reward_mean"] for values in learned.values()):
        assert max(shares) > 0
