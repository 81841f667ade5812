"""Options of social-relationship inference and of how its networks learn."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from env_registry.parameters import Settings
from rllib_empathy.policies.actor_critic import Schedule


class SocialOptions(Settings):
    """What LASE agents have beside the options of their acting network."""

    perspective_taking: bool = Field(
        True, description="predict co-players by taking their perspective; if not, every action is held equally likely"
    )
    social_policy: Literal["off_policy", "actor_critic", "imitation"] = Field(
        "off_policy",
        description="how the policy that predicts co-players learns: from the critic's errors, with importance weights or, as "
        "published, without; or to do what the agent does",
    )
    visible_only: bool = Field(False, description="no gifts to co-players outside the own window (grid worlds only)")
    shuffled: bool = Field(False, description="control: hand the inferred shares to co-players in a random order")
    minimum_range: float = Field(0.0, ge=0, description="ranges of action values up to this give no relationship")
    noise_guard: float = Field(
        0.0, ge=0, description="multiple of the critic's typical error that is added to the range of action values"
    )
    averaging: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="decay of an average of relationships over the steps of an episode; 0: each step alone",
    )
    social_lr: Schedule = Field(2e-3, description="learning rate of the social-relationship networks")
    conversion_lr: Schedule = Field(2e-3, description="learning rate of the observation conversion network")
    social_gamma: float = Field(0.99, ge=0, le=1, description="discount of the joint-action critic")
    social_hidden: int = Field(128, ge=1, description="width of the auxiliary networks")
    social_epochs: int = Field(1, ge=1, description="passes of the auxiliary networks over a batch")
    social_minibatches: int = Field(4, ge=1, description="gradient steps of the auxiliary networks per pass")
    delta: float = Field(
        0.1, ge=0, le=1, description="weight of staying close to the own observation in perspective taking"
    )
    conversion_share: float = Field(
        0.15, gt=0, le=1, description="share of the rows that perspective taking learns from"
    )
    update_frequency: int = Field(
        2, ge=1, description="iterations from one update of the auxiliary networks to the next"
    )
    buffer_size: int = Field(1, ge=1, description="recent joint trajectories to learn from; 1: the newest only")
