"""Agents that give a constant share of their reward, whatever the others do: the control for inferred gifts."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from rllib_empathy.joint import JointTrajectory
from rllib_empathy.policies.kind import register_kind
from rllib_empathy.policies.ppo import PPO, PPOOptions
from rllib_empathy.reshaping.gifting import keeping_the_rest


class BlindGiftOptions(PPOOptions):
    """Options of agents that give blindly."""

    share: float = Field(
        0.2, ge=0, le=1, description="share of the reward that is given away, split evenly over co-players"
    )


@register_kind
class BlindGift(PPO):
    """PPO with gifts  w^ij = share / (N - 1)  to every co-player that is still in the game."""

    name = "blind_gift"
    Options = BlindGiftOptions
    options: BlindGiftOptions

    def gift_weights(self, joint: JointTrajectory, agent: int) -> Tensor:
        return keeping_the_rest(joint.alive * (self.options.share / max(1, joint.shape[2] - 1)), agent)
