"""The one place where rewards are reshaped: gifts first, then each agent's own view of what it received."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rllib_empathy.joint import JointTrajectory
from rllib_empathy.policies.kind import AgentKind
from rllib_empathy.reshaping.gifting import transfer


def rewards_after_gifts(joint: JointTrajectory, kinds: Sequence[AgentKind]) -> Tensor | None:
    """What each agent has of the extrinsic rewards after all gifts, `[T, B, N]`; None where nobody is of a kind that gives.

    Args:
        joint: torch columns.
        kinds: the kind of each of the N agents.
    """
    weights = gift_matrix(joint, kinds)
    return None if weights is None else transfer(joint.rewards, weights)


def gift_matrix(joint: JointTrajectory, kinds: Sequence[AgentKind]) -> Tensor | None:
    """The shares `[T, B, N, N]` of every agent's reward that go to every agent; None where nobody is of a kind that gives.

    Args:
        joint: torch columns.
        kinds: the kind of each of the N agents.
    """
    gifts = [kind.gift_weights(joint, agent) for agent, kind in enumerate(kinds)]
    if all(weights is None for weights in gifts):
        return None
    keep = torch.eye(len(gifts), device=joint.rewards.device)
    rows = [keep[i].expand(joint.shape) if weights is None else weights for i, weights in enumerate(gifts)]
    return torch.stack(rows, 2)


def own_views(joint: JointTrajectory, kinds: Sequence[AgentKind], received: Tensor | None) -> Tensor:
    """What each agent makes of what it received, `[T, B, N]`.

    Args:
        joint: torch columns.
        kinds: the kind of each of the N agents.
        received: from `rewards_after_gifts`.
    """
    rewards = joint.rewards if received is None else received
    return torch.stack([kind.reward(joint, i, rewards[..., i]) for i, kind in enumerate(kinds)], -1)


def reshape_rewards(joint: JointTrajectory, kinds: Sequence[AgentKind]) -> Tensor:
    """The rewards `[T, B, N]` that the agents learn from; the trajectory's own stay as they are.

    Args:
        joint: torch columns.
        kinds: the kind of each of the N agents.
    """
    return own_views(joint, kinds, rewards_after_gifts(joint, kinds))


def mean_per_step(joint: JointTrajectory, rewards: Tensor) -> Tensor:
    """Means `[N]` of rewards `[T, B, N]` over the steps in which the agent is alive."""
    return (rewards * joint.alive).sum((0, 1)) / joint.alive.sum((0, 1)).clamp(min=1)
