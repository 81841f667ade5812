"""A2C agents: one policy-gradient step per batch (Mnih et al. 2016, synchronous)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from rllib_empathy.policies.actor_critic import ActorCriticKind, Minibatch
from rllib_empathy.policies.kind import register_kind


@register_kind
class A2C(ActorCriticKind):
    """Maximises  A log pi(a | o)  with one gradient step over the whole batch."""

    name = "a2c"

    @classmethod
    def policy_loss(cls, kinds: Sequence[Any], log_probs: Tensor, batch: Minibatch) -> Tensor:
        return -batch.advantages * log_probs
