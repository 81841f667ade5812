"""The same training by rllib_empathy, by stock RLlib, and by a plain PyTorch loop: Cleanup, PPO, a network per agent."""

from __future__ import annotations

from typing import NamedTuple

from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

import env_registry
from benchmarks.plain_ppo import PlainPPO, Settings
from rllib_empathy.learning.config import EmpathyConfig

WORLD = "cleanup"
SETTINGS = Settings()
"""Hyperparameters of all contenders."""


class Batch(NamedTuple):
    """Env steps of one iteration."""

    games: int
    steps: int

    @property
    def env_steps(self) -> int:
        """Of all games."""
        return self.games * self.steps

    def __str__(self) -> str:
        return f"{self.games} games x {self.steps} steps"


def empathy(batch: Batch, agents: int = 4, runners: int = 0) -> EmpathyConfig:
    """This project's algorithm.

    Args:
        batch: of one iteration; its games are shared by the runners.
        agents: number of agents.
        runners: remote runners; 0: the driver samples.
    """
    return (
        EmpathyConfig()
        .environment(WORLD, env_config={"num_agents": agents})
        .population("ppo")
        .env_runners(
            num_env_runners=runners,
            num_envs_per_env_runner=batch.games // max(1, runners),
            rollout_fragment_length=batch.steps,
        )
        .training(
            num_epochs=SETTINGS.epochs,
            minibatch_size=batch.env_steps // SETTINGS.minibatches,
            lr=SETTINGS.lr,
            gamma=SETTINGS.gamma,
            lambda_=SETTINGS.lambda_,
            clip_param=SETTINGS.clip,
            entropy_coeff=SETTINGS.entropy_coeff,
            vf_loss_coeff=SETTINGS.value_coeff,
            grad_clip=SETTINGS.grad_clip,
            adam_epsilon=SETTINGS.adam_epsilon,
            network={"conv_filters": SETTINGS.filters, "hidden": (SETTINGS.hidden,)},
        )
    )


def stock(batch: Batch, agents: int = 4) -> PPOConfig:
    """RLlib's PPO and MultiAgentEnvRunner with their default networks in the same sizes.

    These have a hidden layer each for policy and value, where the other contenders' networks share one.
    """
    env_registry.register_all()
    ids = [f"agent_{agent}" for agent in range(agents)]
    return (
        PPOConfig()
        .environment(WORLD, env_config={"num_agents": agents, "flatten_observations": False})
        .env_runners(num_env_runners=0, num_envs_per_env_runner=batch.games, rollout_fragment_length=batch.steps)
        .multi_agent(policies=set(ids), policy_mapping_fn=lambda agent_id, *args, **kwargs: agent_id)
        .rl_module(
            model_config=DefaultModelConfig(
                conv_filters=[[filters, 3, 1, "valid"] for filters in SETTINGS.filters],
                conv_activation="relu",
                head_fcnet_hiddens=[SETTINGS.hidden],
                head_fcnet_activation="relu",
                vf_share_layers=True,
            )
        )
        .training(
            train_batch_size_per_learner=batch.env_steps,
            minibatch_size=batch.env_steps // SETTINGS.minibatches,
            num_epochs=SETTINGS.epochs,
            lr=SETTINGS.lr,
            gamma=SETTINGS.gamma,
            lambda_=SETTINGS.lambda_,
            clip_param=SETTINGS.clip,
            entropy_coeff=SETTINGS.entropy_coeff,
            vf_loss_coeff=SETTINGS.value_coeff,
            vf_clip_param=float("inf"),
            use_kl_loss=False,
            grad_clip=SETTINGS.grad_clip,
            grad_clip_by="norm",
        )
    )


def plain(batch: Batch, agents: int = 4) -> PlainPPO:
    """The loop of `benchmarks/plain_ppo.py`."""
    return PlainPPO(env_registry.make(WORLD, batch.games, num_agents=agents), batch.steps, SETTINGS)
