"""PPO agents (Schulman et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from rllib_empathy.policies.actor_critic import ActorCriticKind, ActorCriticOptions, Minibatch
from rllib_empathy.policies.kind import register_kind


class PPOOptions(ActorCriticOptions):
    """Options of PPO agents."""

    num_epochs: int = Field(2, ge=1, description="passes over a batch")
    minibatch_size: int | None = Field(
        None, ge=1, description="env steps per gradient step; null: a quarter of the batch"
    )
    clip_param: float = Field(0.2, gt=0, description="how far the probability ratio may leave 1")
    vf_clip_param: float | None = Field(None, gt=0, description="largest squared error of the value; null: no limit")


@register_kind
class PPO(ActorCriticKind):
    """Maximises  min(r A, clip(r, 1 - clip, 1 + clip) A)  with the probability ratio r (equation 7)."""

    name = "ppo"
    Options = PPOOptions
    options: PPOOptions

    @property
    def num_epochs(self) -> int:
        return self.options.num_epochs

    def num_minibatches(self, env_steps: int) -> int:
        return ceil(env_steps / (self.options.minibatch_size or ceil(env_steps / 4)))

    @classmethod
    def policy_loss(cls, kinds: Sequence[Any], log_probs: Tensor, batch: Minibatch) -> Tensor:
        clip = log_probs.new_tensor([kind.options.clip_param for kind in kinds]).view(-1, 1, 1)
        ratio = torch.exp(log_probs - batch.log_probs)
        clipped = torch.minimum(torch.maximum(ratio, 1 - clip), 1 + clip)
        return -torch.minimum(ratio * batch.advantages, clipped * batch.advantages)

    @classmethod
    def value_loss(cls, kinds: Sequence[Any], values: Tensor, batch: Minibatch) -> Tensor:
        limits = [kind.options.vf_clip_param or float("inf") for kind in kinds]
        return torch.minimum((values - batch.returns) ** 2, values.new_tensor(limits).view(-1, 1, 1))
