"""Social-relationship inference: what each co-player's action did for an agent, from a joint trajectory.

Kong et al. 2024 (arXiv 2410.07863). Needs an agent's `SocialNetworks` and nothing of how it acts.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rllib_empathy.joint import JointTrajectory
from rllib_empathy.policies.networks import Parameters, encode, prepare, stack_parameters
from rllib_empathy.policies.social_networks import (
    SocialNetworks,
    counterfactual_values,
    perspective,
)
from rllib_empathy.policies.social_options import SocialOptions
from rllib_empathy.reshaping.gifting import social_relationship

ROWS_AT_ONCE = 4096
"""Rows whose counterfactuals are computed at a time; bounds the memory."""


class Inference(NamedTuple):
    """An agent's relationships to all agents."""

    relationships: Tensor  # [T, B, N] in [-1, 1]; 0 to itself, to absent agents, and where nothing was inferred
    inferred: Tensor  # [T, B], where something was


@torch.no_grad()
def infer_relationships(
    networks: SocialNetworks, options: SocialOptions, joint: JointTrajectory, agent: int
) -> Inference:
    """Relationships of `agent` to all (`reshaping.gifting.gift_row` makes shares of reward of them).

    A gift is a share of the reward, so nothing is inferred where there is none: exact, and nearly free where rewards are rare.

    Args:
        networks: of the agent.
        options: how it infers.
        joint: torch columns.
        agent: index into N.
    """
    players = joint.shape[2]
    inferred = (joint.rewards[..., agent] != 0) & joint.alive[..., agent]
    relationships = torch.zeros_like(joint.rewards)
    order = joint.places()[:, :, agent][inferred]  # [rows, place] -> agent
    found = torch.zeros(order.shape).to(relationships)  # by place
    observations, alive = joint.observations[:, :, agent][inferred], joint.alive[inferred].gather(1, order)
    actions = joint.actions[inferred].long().gather(1, order)
    social = prepare(networks.relationship_architecture, stack_parameters([networks.relationship]), ROWS_AT_ONCE)
    conversion = prepare(networks.conversion_architecture, stack_parameters([networks.conversion]), ROWS_AT_ONCE)
    for first in range(0, len(found), ROWS_AT_ONCE):
        rows = slice(first, first + ROWS_AT_ONCE)
        seen, taken = observations[rows].unsqueeze(0), actions[rows].unsqueeze(0)
        features = encode(networks.relationship_architecture, social, seen)
        for place in range(1, players):
            values = counterfactual_values(social, features, taken, networks.joint_actions, place)[0]
            chosen = taken[0, :, place : place + 1]
            prediction = _prediction(networks, options, social, conversion, seen, place)
            relationship = social_relationship(
                values.gather(1, chosen).squeeze(1), values, prediction, options.minimum_range
            )
            there = alive[rows, place]
            if options.visible_only:
                there = there & seen[0, :, place].flatten(1).any(1)
            found[rows, place] = (relationship * there).to(found.dtype)
    if options.shuffled:
        shuffle = torch.rand(len(found), players - 1, device=found.device).argsort(1)
        found[:, 1:] = found[:, 1:].gather(1, shuffle)
    relationships[inferred] = torch.zeros_like(found).scatter(1, order, found)
    return Inference(relationships, inferred)


def _prediction(
    networks: SocialNetworks,
    options: SocialOptions,
    social: Parameters,
    conversion: Parameters,
    seen: Tensor,
    place: int,
) -> Tensor:
    """Predicted policy `[M, A_k]` of the co-player in this place."""
    choices = networks.joint_actions[place]
    if not options.perspective_taking or choices != networks.joint_actions[0]:
        return torch.full((seen.shape[1], choices), 1 / choices, device=seen.device)
    places = torch.full((seen.shape[1],), place, device=seen.device)
    return perspective(networks, social, conversion, seen, places)[1][0].softmax(-1)
