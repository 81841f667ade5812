"""What a team that is on RLlib already pays for gifts, and what it gains on the fast path with an environment of its own."""

from __future__ import annotations

from functools import partial
from typing import Any

from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
from ray.tune.registry import register_env

from benchmarks.contenders import Batch
from benchmarks.contenders import stock as stock_cleanup
from benchmarks.measure import Row, Scale, benchmark, local_ray, one_thread, row, seconds
from env_registry.parallel_env import parallel_env
from env_registry.rllib_env import rllib_env
from rllib_empathy import EmpathyConfig, with_gifting
from rllib_empathy.sampling.joint_env_runner import JointEnvRunner

SPREAD = "mpe2.simple_spread_v3"
PAPER = "classic/rps-v2"
SIZES: dict[Scale, tuple[Batch, int]] = {"full": (Batch(16, 50), 7), "tiny": (Batch(2, 5), 1)}
"""Batch, and how often each contender works on one."""


def own_ppo(batch: Batch, env: str = SPREAD) -> PPOConfig:
    """A user's PPO in a PettingZoo environment: RLlib's runner and default networks, a policy for each agent."""
    register_env(env, lambda env_config: rllib_env(env, **env_config))
    agents = parallel_env(env).possible_agents
    return (
        PPOConfig()
        .environment(env)
        .env_runners(num_env_runners=0, num_envs_per_env_runner=batch.games, rollout_fragment_length=batch.steps)
        .multi_agent(policies=set(agents), policy_mapping_fn=lambda agent, *args, **kwargs: agent)
        .rl_module(model_config=DefaultModelConfig(fcnet_hiddens=[64, 64]))
        .training(
            train_batch_size_per_learner=batch.env_steps, minibatch_size=max(1, batch.env_steps // 4), num_epochs=2
        )
    )


@benchmark
def gifting(scale: Scale) -> list[Row]:
    """Whole iterations of a user's PPO, with LASE for all agents against without."""
    batch, repeats = SIZES[scale]
    found = []
    with one_thread(), local_ray():
        plain: dict[str, Any] = {SPREAD: own_ppo(batch), "cleanup": stock_cleanup(batch)}
        for name, config in plain.items():
            without, gifted = (
                config.build_algo(),
                with_gifting(config, dict.fromkeys(config.policies, "lase")).build_algo(),
            )
            times = seconds({"without": without.train, "with": gifted.train}, repeats, warm_up=2)
            without.stop()
            gifted.stop()
            found += [
                row(f"own PPO, {name}, {batch}: without gifts", batch.env_steps / times["without"], "env steps/s"),
                row(
                    f"own PPO, {name}, {batch}: time with LASE",
                    batch.env_steps / times["with"],
                    "env steps/s",
                    times["with"] / times["without"],
                    at_most=1.3,
                ),
            ]
    return found


@benchmark
def pettingzoo(scale: Scale) -> list[Row]:
    """Sampling PettingZoo environments, whose steps are Python: RLlib's runner against ours."""
    batch, repeats = SIZES[scale]
    found = []
    with one_thread(), local_ray():
        for env in (SPREAD, PAPER):
            stock = own_ppo(batch, env)
            fast = (
                EmpathyConfig()
                .environment(env, env_config={"reuse": True})  # as RLlib's runner does
                .population("ppo")
                .env_runners(num_envs_per_env_runner=batch.games, rollout_fragment_length=batch.steps)
                .training(network={"hidden": (64, 64)})
            )
            stock.validate()
            fast.validate()
            theirs, ours = MultiAgentEnvRunner(config=stock), JointEnvRunner(config=fast)
            sample = partial(theirs.sample, num_timesteps=batch.env_steps, random_actions=False)
            times = seconds({"stock": sample, "ours": ours.sample}, repeats)
            theirs.stop()
            ours.stop()
            speed = {name: batch.env_steps / time for name, time in times.items()}
            ratio = speed["ours"] / speed["stock"]
            found += [
                row(f"{env}, {batch}, RLlib's runner", speed["stock"], "env steps/s"),
                row(f"{env}, {batch}, JointEnvRunner", speed["ours"], "env steps/s", ratio, at_least=2),
            ]
    return found
