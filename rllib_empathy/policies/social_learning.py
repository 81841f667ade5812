"""How the networks of social-relationship inference learn.

SARSA for the critic of joint actions, policy gradient or imitation for the social policy, perspective taking for the
conversion network.
Kong et al. 2024 (arXiv 2410.07863). Needs agents' `SocialNetworks` and nothing of how they act.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from rllib_empathy.joint import JointTrajectory, rows_of, some_rows
from rllib_empathy.policies.kind import Statistics
from rllib_empathy.policies.networks import (
    Parameters,
    encode,
    in_pieces,
    log_policies,
    masked,
    prepare,
    scaled,
    stack_parameters,
)
from rllib_empathy.policies.social_networks import SocialNetworks, joint_action_values, perspective, social_logits
from rllib_empathy.policies.social_options import SocialOptions

ROWS_AT_ONCE = 1600
"""Rows of each agent that are evaluated at a time (measured: benchmarks, "social")."""


def social_losses(
    networks: Sequence[SocialNetworks],
    options: Sequence[SocialOptions],
    agents: Tensor,
    joint: JointTrajectory,
    generator: torch.Generator,
) -> Iterator[tuple[Tensor, Statistics]]:
    """Losses `[G]`, one for each gradient step, and what to log. Take each step before asking for the next loss.

    Args:
        networks: of G agents, of one group (`SocialNetworks.group`).
        options: of the same agents; how many steps and rows there are is said by the first.
        agents: `[G, n]`, which agents (indices into N) use each of the networks.
        joint: torch columns.
        generator: of minibatches and of the co-players whose perspective is taken.
    """
    batch = SocialBatch.of(agents, joint)
    for _ in range(options[0].social_epochs):
        games = torch.randperm(batch.rewards.shape[2], generator=generator)
        for chosen in games.tensor_split(min(options[0].social_minibatches, len(games))):
            part = batch.games(chosen.to(joint.rewards.device))
            social = stack_parameters([each.relationship for each in networks])
            loss, statistics = relationship_loss(networks[0], options, social, part)
            for each, error in zip(networks, statistics["social_critic_error"], strict=True):
                each.critic_error.copy_(error)
            if any(each.perspective_taking for each in options):
                frozen = {name: parameter.detach() for name, parameter in social.items()}
                conversion = stack_parameters([each.conversion for each in networks])
                further, more = perspective_loss(networks[0], options, frozen, conversion, part, generator)
                loss, statistics = loss + further, {**statistics, **more}
            yield loss, statistics


class SocialBatch(NamedTuple):
    """What the networks of G agents learn from: `[G, T, M, ...]`, players in order of place."""

    observations: Tensor  # flat: rows of many axes are picked four times more slowly
    actions: Tensor  # [G, T, M, N]
    log_probs: Tensor  # [G, T, M], of the own actions, under the policy that took them
    rewards: Tensor  # [G, T, M], the own extrinsic one
    alive: Tensor  # [G, T, M, N]
    goes_on: Tensor  # [G, T, M], the own future goes on in the next row in which the agent is alive
    ends: Tensor  # [G, T, M], it ends here
    masks: Tensor | None = None  # [G, T, M, N, A], what all might do; None: everything

    @classmethod
    def of(cls, agents: Tensor, joint: JointTrajectory) -> SocialBatch:
        """The rows of the agents `[G, n]`."""
        ended = (joint.terminated | joint.truncated).unsqueeze(-1)
        masks = joint.masks_by_place()
        return cls(
            observations=rows_of(agents, joint.observations).flatten(3),
            actions=rows_of(agents, joint.by_place(joint.actions.long())),
            log_probs=rows_of(agents, joint.log_probs),
            rewards=rows_of(agents, joint.rewards),
            alive=rows_of(agents, joint.by_place(joint.alive)),
            goes_on=rows_of(agents, joint.alive & joint.survives & ~ended),
            ends=rows_of(agents, joint.alive & (~joint.survives | joint.terminated.unsqueeze(-1))),
            masks=None if masks is None else rows_of(agents, masks),
        )

    def games(self, chosen: Tensor) -> SocialBatch:
        """Some of the M rows, over all steps."""
        return SocialBatch(*(some_rows(column, chosen) for column in self if column is not None))


def relationship_loss(
    networks: SocialNetworks, options: Sequence[SocialOptions], social: Parameters, batch: SocialBatch
) -> tuple[Tensor, Statistics]:
    """SARSA:  d_t = r_t + gamma Q(o_t+1, a_t+1) - Q(o_t, a_t);  the critic lowers d^2, the policy follows d grad log pi.

    The actions are those of another policy b, the acting one. As published ("actor_critic" as `social_policy`) nothing holds pi
    where it would rather not have acted so: its logits can grow without end. "off_policy" (the default, our addition) follows
    d min(1, pi / b) grad log pi, with importance weights that are cut at 1 (Degris et al. 2012; Espeholt et al. 2018) and vanish
    with pi. "imitation" (ours, too) follows grad log pi, in every step of the agent: pi becomes the agent's own behaviour,
    whatever that brings.

    Rewards are extrinsic, before gifts. Steps at a limit, or where the data end, do not count: their successor's joint action
    was never taken, and what the others would have done there is not known to the agent. No other step is biased by it.

    Args:
        networks: any one of the group; says of what shape they are.
        options: of the G agents.
        social: stacked parameters of their social-relationship networks.
        batch: of the G agents.
    """
    groups, steps, rows = batch.rewards.shape
    seen, actions = batch.observations.flatten(1, 2), batch.actions.flatten(1, 2)
    own_masks = () if batch.masks is None else (batch.masks[..., 0, : networks.joint_actions[0]].flatten(1, 2),)
    prepared = prepare(networks.relationship_architecture, social, steps * rows)

    def evaluate(seen: Tensor, actions: Tensor, allowed: Tensor | None = None) -> tuple[Tensor, Tensor]:
        features = encode(networks.relationship_architecture, prepared, seen)
        log_policy = log_policies(masked(social_logits(prepared, features), allowed))
        values = joint_action_values(prepared, features, actions, networks.joint_actions)
        return values, log_policy.gather(-1, actions[..., :1]).squeeze(-1)

    values, log_probs = (
        column.reshape(groups, steps, rows) for column in in_pieces(evaluate, ROWS_AT_ONCE, seen, actions, *own_masks)
    )
    gamma = values.new_tensor([each.social_gamma for each in options]).view(-1, 1, 1)
    following = _next_rows(batch.alive[..., 0])
    goes_on = batch.goes_on & (following < steps)
    after = torch.cat([values, torch.zeros_like(values[:, :1])], 1).detach().gather(1, following) * goes_on
    counts = (goes_on | batch.ends).to(values.dtype)
    errors = (batch.rewards + gamma * after - values) * counts
    critic_loss = _mean(errors**2, counts)
    imitates, corrects = (
        torch.tensor([each.social_policy == way for each in options], device=values.device)
        for way in ("imitation", "off_policy")
    )
    ratios = (log_probs.detach() - batch.log_probs).exp().clamp(max=1)
    advantages = errors.detach() * torch.where(corrects.view(-1, 1, 1), ratios, 1.0)
    own_steps = batch.alive[..., 0].to(values.dtype)
    policy_loss = -torch.where(imitates, _mean(log_probs, own_steps), _mean(advantages * log_probs, counts))
    return critic_loss + policy_loss, {"social_critic_error": critic_loss.detach().sqrt()}


def _mean(x: Tensor, counts: Tensor) -> Tensor:
    """The mean `[G]` of x over the rows `[G, T, M]` that count (1, others 0); 0 where none does."""
    return (x * counts).sum((1, 2)) / counts.sum((1, 2)).clamp(min=1)


def _next_rows(alive: Tensor) -> Tensor:
    """The next row `[G, T, M]` in which each agent is alive, T where there is none: some wait between their steps."""
    steps = alive.shape[1]
    rows = torch.arange(steps, device=alive.device).view(1, -1, 1)
    coming = torch.where(alive, rows, steps).flip(1).cummin(1).values.flip(1)
    return torch.cat([coming[:, 1:], torch.full_like(coming[:, :1], steps)], 1)


def perspective_loss(
    networks: SocialNetworks,
    options: Sequence[SocialOptions],
    social: Parameters,
    conversion: Parameters,
    batch: SocialBatch,
    generator: torch.Generator,
) -> tuple[Tensor, Statistics]:
    """(1 - delta) CE(a^j, pi(. | o^j)) + delta |o^j - o^i|_1, a mean over rows and over one co-player drawn for each.

    Args:
        networks: any one of the group; says of what shape they are.
        options: of the G agents.
        social: stacked parameters of their social-relationship networks; detached, for only the conversion networks learn.
        conversion: stacked parameters of their conversion networks.
        batch: of the G agents.
        generator: of rows and co-players.
    """
    groups, players = batch.actions.shape[0], batch.actions.shape[-1]
    seen, actions, alive = (column.flatten(1, 2) for column in (batch.observations, batch.actions, batch.alive))
    alike = [place for place in range(1, players) if networks.joint_actions[place] == networks.joint_actions[0]]
    count = max(1, int(seen.shape[1] * options[0].conversion_share))
    rows = torch.randperm(seen.shape[1], generator=generator)[:count].to(seen.device)
    if not alike:
        zero = torch.zeros(groups, device=seen.device)
        return zero, {}
    places = torch.tensor(alike)[torch.randint(len(alike), (count,), generator=generator)].to(seen.device)
    seen = seen.index_select(1, rows)
    converted, logits = perspective(
        networks,
        prepare(networks.relationship_architecture, social, count),
        prepare(networks.conversion_architecture, conversion, count),
        seen,
        places.unsqueeze(1),
    )
    converted, logits = converted.squeeze(2), logits.squeeze(2)
    if batch.masks is not None:
        open_to = batch.masks.flatten(1, 2)[:, rows, places, : networks.joint_actions[0]]
        logits = masked(logits, open_to)
    taken = actions[:, rows, places]
    counts = (alive[:, rows, places] & alive[:, rows, torch.zeros_like(places)]).to(logits.dtype)
    weight = counts / counts.sum(1, keepdim=True).clamp(min=1)
    cross_entropy = functional.cross_entropy(logits.flatten(0, 1), taken.flatten(), reduction="none").view(groups, -1)
    own = scaled(networks.relationship_architecture.scale, seen.flatten(2).to(converted.dtype))
    distance = (converted - own).abs().mean(-1)
    delta = logits.new_tensor([each.delta for each in options]).unsqueeze(1)
    right = (logits.argmax(-1) == taken).to(logits.dtype)
    return (((1 - delta) * cross_entropy + delta * distance) * weight).sum(1), {
        "perspective_cross_entropy": (cross_entropy * weight).sum(1).detach(),
        "perspective_accuracy": (right * weight).sum(1),
    }
