"""Group-oriented agents: everybody maximises what the group earns."""

from __future__ import annotations

from torch import Tensor

from rllib_empathy.joint import JointTrajectory
from rllib_empathy.policies.kind import register_kind
from rllib_empathy.policies.ppo import PPO


@register_kind
class GroupOriented(PPO):
    """PPO on the group's mean extrinsic reward,  r'_i = 1/N sum_j r_j  (the optimum of the sum, on one agent's scale)."""

    name = "go"

    def reward(self, joint: JointTrajectory, agent: int, received: Tensor) -> Tensor:
        return joint.rewards.mean(-1)
