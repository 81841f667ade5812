"""Social-relationship inference: what each co-player's action did for an agent, from a joint trajectory.

Kong et al. 2024 (arXiv 2410.07863). Needs an agent's `SocialNetworks` and nothing of how it acts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rllib_empathy.joint import JointTrajectory
from rllib_empathy.policies.networks import Parameters, encode, masked, prepare, renormalised, stack_parameters
from rllib_empathy.policies.social_networks import (
    SocialNetworks,
    allowed_by_place,
    counterfactual_values,
    perspective,
)
from rllib_empathy.policies.social_options import SocialOptions
from rllib_empathy.reshaping.gifting import averaged, social_relationship

ROWS_AT_ONCE = 1024
"""Rows whose counterfactuals are computed at a time; bounds the memory."""


class Inference(NamedTuple):
    """An agent's relationships to all agents."""

    relationships: Tensor  # [T, B, N] in [-1, 1]; 0 to itself, to absent agents, and where nothing was inferred
    inferred: Tensor  # [T, B], where something was


@torch.no_grad()
def infer_relationships(
    networks: SocialNetworks,
    options: SocialOptions,
    joint: JointTrajectory,
    agent: int,
    generator: torch.Generator | None = None,
) -> Inference:
    """Relationships of `agent` to all (`reshaping.gifting.gift_row` makes shares of reward of them).

    A gift is a share of the reward, so nothing is inferred where there is none: exact, and nearly free where rewards are rare.
    An average over time needs all steps in which the agent is alive.

    Args:
        networks: of the agent.
        options: how it infers.
        joint: torch columns.
        agent: index into N.
        generator: of the order in which co-players are `shuffled`.
    """
    players = joint.shape[2]
    inferred = joint.alive[..., agent]
    if not options.averaging:
        inferred = inferred & (joint.rewards[..., agent] != 0)
    noise = options.noise_guard * networks.critic_error
    relationships = torch.zeros_like(joint.rewards)
    order = joint.places()[:, :, agent][inferred]  # [rows, place] -> agent
    found = torch.zeros(order.shape).to(relationships)  # by place
    observations, alive = joint.observations[:, :, agent][inferred], joint.alive[inferred].gather(1, order)
    actions = joint.actions[inferred].long().gather(1, order)
    masks = None if joint.action_masks is None else joint.action_masks[inferred]
    if masks is not None:  # [rows, N, A] by place
        masks = masks.gather(1, order.unsqueeze(-1).expand(masks.shape))
    social = prepare(networks.relationship_architecture, stack_parameters([networks.relationship]), ROWS_AT_ONCE)
    conversion = prepare(networks.conversion_architecture, stack_parameters([networks.conversion]), ROWS_AT_ONCE)
    for first in range(0, len(found), ROWS_AT_ONCE):
        rows = slice(first, first + ROWS_AT_ONCE)
        seen, taken = observations[rows].unsqueeze(0), actions[rows].unsqueeze(0)
        features = encode(networks.relationship_architecture, social, seen)
        values = counterfactual_values(social, features, taken, networks.joint_actions)
        allowed = allowed_by_place(masks if masks is None else masks[rows].unsqueeze(0), networks.joint_actions)
        predictions = _predictions(networks, options, social, conversion, seen, allowed)
        for place, (alternatives, predicted) in enumerate(zip(values, predictions, strict=True), 1):
            chosen = taken[..., place : place + 1]
            of_taken = alternatives.gather(-1, chosen).squeeze(-1)
            relationship = social_relationship(
                of_taken, alternatives, predicted, options.minimum_range, noise, allowed[place]
            )[0]
            there = alive[rows, place]
            if options.visible_only:
                there = there & seen[0, :, place].flatten(1).any(1)
            found[rows, place] = (relationship * there).to(found.dtype)
    relationships[inferred] = torch.zeros_like(found).scatter(1, order, found)
    if options.averaging:
        relationships = averaged(relationships, joint.starts, options.averaging) * joint.alive * inferred.unsqueeze(-1)
    if options.shuffled:
        others = [other for other in range(players) if other != agent]
        order = torch.rand(*joint.shape[:2], players - 1, generator=generator).argsort(-1).to(found.device)
        relationships[..., others] = relationships[..., others].gather(-1, order)
    return Inference(relationships, inferred)


def _predictions(
    networks: SocialNetworks,
    options: SocialOptions,
    social: Parameters,
    conversion: Parameters,
    seen: Tensor,
    allowed: Sequence[Tensor | None],
) -> list[Tensor]:
    """Predicted policies `[1, M, A_k]` of the co-players in places 1 .. N-1, over what is allowed to them.

    An agent can imagine itself only in places with as many actions as it has; elsewhere all actions are equally likely.
    """
    own, *others = networks.joint_actions
    rows = seen.shape[1]
    predictions = [
        renormalised(torch.full((1, rows, choices), 1 / choices, device=seen.device), open_to)
        for choices, open_to in zip(others, allowed[1:], strict=True)
    ]
    alike = [place for place, choices in enumerate(others, 1) if choices == own]
    if options.perspective_taking and alike:
        places = torch.tensor(alike, device=seen.device).expand(rows, -1)
        logits = perspective(networks, social, conversion, seen, places)[1]
        for place, of_place in zip(alike, logits.unbind(2), strict=True):
            predictions[place - 1] = masked(of_place, allowed[place]).softmax(-1)
    return predictions
