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

MORTAL = "butterfly/knights_archers_zombies-v11"
ENVIRONMENTS: dict[str, dict[str, Any]] = {"mpe2.simple_spread_v3": {"max_cycles": 15}, MORTAL: {"max_cycles": 60}}

PLAYED: dict[str, dict[str, Any]] = {
    **ENVIRONMENTS,
    MORTAL: {"max_cycles": 120, "spawn_delay": 2, "max_zombies": 40, "max_arrows": 1},
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


@pytest.mark.parametrize("name", PLAYED)
@pytest.mark.parametrize("kind", ["lase", "reciprocator"])
def test_social_agents_train_on_the_fast_path(ray_local, kind, name):
    config = small_config(name, kind, games=3).environment(env_config=PLAYED[name])
    check_learning(name, kind, config.env_runners(batch_mode="complete_episodes"))


@pytest.mark.filterwarnings("ignore::UserWarning")  # RLlib's own
@pytest.mark.parametrize("name", PLAYED)
@pytest.mark.parametrize("kind", ["lase", "reciprocator"])
def test_social_agents_train_in_a_users_own_ppo(ray_local, kind, name):
    register_env(name, lambda env_config: rllib_env(name, **env_config))
    agents = parallel_env(name, **PLAYED[name]).possible_agents
    config = (
        PPOConfig()
        .environment(name, env_config=PLAYED[name])
        .env_runners(num_env_runners=0, num_envs_per_env_runner=2, batch_mode="complete_episodes")
        .multi_agent(policies=set(agents), policy_mapping_fn=lambda agent, *args, **kwargs: agent)
        .rl_module(model_config=DefaultModelConfig(fcnet_hiddens=[16]))
        .training(train_batch_size_per_learner=30, minibatch_size=30, num_epochs=1)
        .debugging(seed=3, log_level="ERROR")
    )
    check_learning(name, kind, with_gifting(config, dict.fromkeys(agents, kind)))


def check_learning(name: str, kind: str, config: Any) -> None:
    """Two iterations, in which rewards are reshaped and the networks that do it learn, also where agents die."""
    algorithm = config.build_algo()
    results = [algorithm.train() for _ in range(2)]
    algorithm.stop()
    for iteration, result in enumerate(results):
        learned = [values for mid, values in sorted(result["learners"].items()) if mid != "__all_modules__"]
        assert len(learned) >= 2
        if kind == "lase":
            check_gifts(learned, updated=iteration == 1)
        else:
            check_reciprocity(learned, fitted=iteration == 0)
    sampled = result["env_runners"]
    agent_steps = sum(sampled["num_agent_steps_sampled_lifetime"].values())
    assert (agent_steps < len(learned) * sampled["num_env_steps_sampled_lifetime"]) == (name == MORTAL)


def check_gifts(learned: list[dict[str, float]], updated: bool) -> None:
    """Something was given, within bounds, and the networks that infer gifts learned, in every second iteration."""
    shares = [value for values in learned for name, value in values.items() if name.startswith("gift_share/")]
    assert len(shares) == len(learned) * (len(learned) - 1)
    assert all(0 <= share <= 1 / (len(learned) - 1) for share in shares)
    assert all(np.isfinite(values.get("social_critic_error", np.nan)) == updated for values in learned)
    if any(values["extrinsic_reward_mean"] for values in learned):
        assert max(shares) > 0


def check_reciprocity(learned: list[dict[str, float]], fitted: bool) -> None:
    """All agents have influence on all others and are rewarded for paying back; whether their estimators were fitted."""
    for agent, values in enumerate(learned):
        assert np.isfinite(values["estimator/policy_cross_entropy"]) == fitted
        for other in range(len(learned)):
            if other != agent:
                assert values[f"influence_std/agent_{agent}_to_{other}"] > 0
                assert values[f"balance_std/agent_{agent}_to_{other}"] > 0
        assert values[f"reciprocal_reward_std/agent_{agent}"] > 0
        added = values["reshaped_reward_mean"] - values["extrinsic_reward_mean"]
        assert added == pytest.approx(values[f"reciprocal_reward/agent_{agent}"], abs=1e-5)
