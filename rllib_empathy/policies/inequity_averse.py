"""Agents that dislike unequal rewards (Hughes et al. 2018, arXiv 1803.08884)."""

from __future__ import annotations

from typing import Any

from pydantic import Field
from torch import Tensor

from rllib_empathy.joint import JointTrajectory
from rllib_empathy.policies.kind import AgentKind, register_kind
from rllib_empathy.policies.ppo import PPO, PPOOptions
from rllib_empathy.reshaping.inequity import inequity, smoothed_rewards


class InequityAverseOptions(PPOOptions):
    """Options of inequity-averse agents."""

    envy: float = Field(5.0, ge=0, description="alpha, dislike of being behind others")
    guilt: float = Field(0.05, ge=0, description="beta, dislike of being ahead of others")
    smoothing: float = Field(
        0.975, ge=0, le=1, description="lambda: rewards of the past count smoothing * gamma a step"
    )


@register_kind
class InequityAverse(PPO):
    """PPO on  r_i - envy / (N - 1) sum_j max(e_j - e_i, 0) - guilt / (N - 1) sum_j max(e_i - e_j, 0).

    e are everybody's extrinsic rewards, smoothed over the episode (see `reshaping.inequity`).
    """

    name = "inequity_averse"
    Options = InequityAverseOptions
    options: InequityAverseOptions
    needs_whole_episodes = True

    def observe(self, joint: JointTrajectory, modules: dict[str, Any], population: dict[str, AgentKind]) -> None:
        self._smoothed = smoothed_rewards(joint.rewards, joint.starts, self.options.gamma * self.options.smoothing)

    def reward(self, joint: JointTrajectory, agent: int, received: Tensor) -> Tensor:
        return received - inequity(self._smoothed, agent, self.options.envy, self.options.guilt)
