"""The one place where rewards are reshaped: gifts first, then each agent's own view of what it received."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rllib_empathy.joint import JointTrajectory
from rllib_empathy.policies.kind import AgentKind
from rllib_empathy.reshaping.gifting import transfer


def reshape_rewards(joint: JointTrajectory, kinds: Sequence[AgentKind]) -> Tensor:
    """The rewards `[T, B, N]` that the agents learn from; the trajectory's own stay as they are.

    Args:
        joint: torch columns.
        kinds: the kind of each of the N agents.
    """
    gifts = [kind.gift_weights(joint, agent) for agent, kind in enumerate(kinds)]
    received = joint.rewards
    if any(weights is not None for weights in gifts):
        steps, games, agents = joint.shape
        keep = torch.eye(agents, device=received.device)
        rows = [keep[i].expand(steps, games, agents) if weights is None else weights for i, weights in enumerate(gifts)]
        received = transfer(joint.rewards, torch.stack(rows, 2))
    return torch.stack([kind.reward(joint, i, received[..., i]) for i, kind in enumerate(kinds)], -1)
