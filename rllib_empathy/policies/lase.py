"""LASE agents: they infer what each co-player's action did for them and give it that share of their reward.

Kong et al. 2024, "Learning to Balance Altruism and Self-interest Based on Empathy in Mixed-Motive Games" (arXiv 2410.07863).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from env_registry.parameters import SettingError
from rllib_empathy.joint import JointTrajectory
from rllib_empathy.policies.actor_critic import ActorCriticModule, Schedule
from rllib_empathy.policies.kind import AgentKind, Statistics, WorldFacts, register_kind
from rllib_empathy.policies.networks import Architecture, Parameters, encode, prepare, stack_parameters
from rllib_empathy.policies.ppo import PPO, PPOOptions
from rllib_empathy.policies.social_networks import (
    ObservationConversion,
    SocialRelationship,
    converted_observations,
    counterfactual_values,
    joint_action_values,
    social_logits,
)
from rllib_empathy.reshaping.gifting import gift_row, social_relationship

if TYPE_CHECKING:
    from rllib_empathy.learning.groups import LearningGroup

ROWS_AT_ONCE = 4096
"""Rows whose counterfactuals are computed at a time; bounds the memory."""


class LASEOptions(PPOOptions):
    """Options of LASE agents."""

    perspective_taking: bool = Field(
        True, description="predict co-players by taking their perspective; if not, every action is held equally likely"
    )
    visible_only: bool = Field(False, description="no gifts to co-players outside the own window (grid worlds only)")
    shuffled: bool = Field(False, description="control: hand the inferred shares to co-players in a random order")
    minimum_range: float = Field(0.0, ge=0, description="ranges of action values up to this give no relationship")
    social_lr: Schedule = Field(1e-3, description="learning rate of the social-relationship networks")
    conversion_lr: Schedule = Field(1e-3, description="learning rate of the observation conversion network")
    social_gamma: float = Field(0.99, ge=0, le=1, description="discount of the joint-action critic")
    social_hidden: int = Field(128, ge=1, description="width of the auxiliary networks")
    social_minibatches: int = Field(
        4, ge=1, description="gradient steps of the auxiliary networks per update of theirs"
    )
    delta: float = Field(
        0.1, ge=0, le=1, description="weight of staying close to the own observation in perspective taking"
    )
    conversion_share: float = Field(
        0.15, gt=0, le=1, description="share of the rows that perspective taking learns from"
    )
    update_frequency: int = Field(
        1, ge=1, description="iterations from one update of the auxiliary networks to the next"
    )
    buffer_size: int = Field(1, ge=1, description="recent joint trajectories to learn from; 1: the newest only")


class LASEModule(ActorCriticModule):
    """The acting network and, on the Learner only, the social-relationship and the observation conversion network."""

    def setup(self) -> None:
        super().setup()
        self.joint_actions: tuple[int, ...] = tuple(self.model_config["joint_actions"])
        hidden = self.model_config["social_hidden"]
        own = self.architecture.options
        self.social_architecture = self.architecture._replace(
            options=own.model_copy(update={"hidden": (), "memory": "none"})
        )
        self.conversion_architecture = self.social_architecture._replace(
            options=own.model_copy(update={"conv_filters": own.conv_filters[:1], "hidden": (), "memory": "none"})
        )
        self.social = SocialRelationship(self.social_architecture, self.joint_actions, hidden)
        self.conversion = ObservationConversion(self.conversion_architecture, len(self.joint_actions), hidden)

    def get_non_inference_attributes(self) -> list[str]:
        """Runners act; they need no auxiliary networks."""
        return ["social", "conversion"]

    @property
    def group(self) -> Hashable:
        return (super().group, self.joint_actions, self.model_config["social_hidden"])


@register_kind
class LASE(PPO):
    """PPO on rewards after gifts,  w^ij = max(0, relationship^ij) / (N - 1)  (see `reshaping.gifting`)."""

    name = "lase"
    Options = LASEOptions
    Module = LASEModule
    options: LASEOptions

    def __init__(self, module_id: str, options: LASEOptions, agents: tuple[int, ...]) -> None:
        super().__init__(module_id, options, agents)
        self.iteration = 0
        self.recent: deque[JointTrajectory] = deque(maxlen=options.buffer_size)
        self._shares: dict[int, Tensor] = {}
        self._statistics: dict[str, float] = {}

    @classmethod
    def check_spaces(cls, observation_space: Any, action_space: Any, options: Any) -> None:
        super().check_spaces(observation_space, action_space, options)
        if options.visible_only and len(observation_space.shape) != 3:
            raise SettingError("visible_only needs grid observations [channels, rows, columns]; the world has none.")

    @classmethod
    def check_world(cls, world: WorldFacts, options: Any) -> None:
        if world.num_agents < 2:
            raise SettingError("LASE agents need somebody to give to: the world has one agent only.")

    @classmethod
    def model_config(cls, options: Any, world: WorldFacts, agents: tuple[int, ...]) -> dict[str, Any]:
        counts = [int(space.n) for space in world.action_spaces]
        by_place = {tuple(counts[agent:] + counts[:agent]) for agent in agents}
        if len(by_place) > 1:
            raise SettingError(
                "LASE agents that share networks need co-players with like actions in the same order of seats. Give them "
                "separate networks (shared: false)."
            )
        social = {"joint_actions": by_place.pop(), "social_hidden": options.social_hidden}
        return {**super().model_config(options, world, agents), **social}

    def trained_parameters(self, module: LASEModule) -> dict[str, tuple[list[Tensor], Schedule]]:
        return {
            **super().trained_parameters(module),
            "social": (list(module.social.parameters()), self.options.social_lr),
            "conversion": (list(module.conversion.parameters()), self.options.conversion_lr),
        }

    # -- inference

    def observe(self, joint: JointTrajectory, modules: dict[str, Any], population: dict[str, AgentKind]) -> None:
        self.iteration += 1
        self.recent.append(joint)
        self._statistics = {}
        for agent in self.agents:
            relationships, inferred = self._infer(joint, modules[self.module_id], agent)
            self._shares[agent] = gift_row(relationships, agent)
            self._log_gifts(joint, agent, relationships, inferred)

    def gift_weights(self, joint: JointTrajectory, agent: int) -> Tensor:
        return self._shares[agent]

    def statistics(self) -> dict[str, float]:
        return self._statistics

    @torch.no_grad()
    def _infer(self, joint: JointTrajectory, module: LASEModule, agent: int) -> tuple[Tensor, Tensor]:
        """Relationships `[T, B, N]` of `agent` to all, and where they were inferred `[T, B]`.

        A gift is a share of the reward, so it needs no inferring where there is none: exact, and nearly free where rewards
        are rare.
        """
        players = joint.shape[2]
        order = [(agent + place) % players for place in range(players)]
        inferred = (joint.rewards[..., agent] != 0) & joint.alive[..., agent]
        relationships = torch.zeros_like(joint.rewards)
        found = torch.zeros(int(inferred.sum()), players).to(relationships)
        observations, alive = joint.observations[:, :, agent][inferred], joint.alive[inferred][:, order]
        actions = joint.actions[inferred][:, order].long()
        social = prepare(module.social_architecture, stack_parameters([module.social]), ROWS_AT_ONCE)
        conversion = prepare(module.conversion_architecture, stack_parameters([module.conversion]), ROWS_AT_ONCE)
        for first in range(0, len(found), ROWS_AT_ONCE):
            rows = slice(first, first + ROWS_AT_ONCE)
            seen, taken = observations[rows].unsqueeze(0), actions[rows].unsqueeze(0)
            features = encode(module.social_architecture, social, seen)
            for place in range(1, players):
                values = counterfactual_values(social, features, taken, module.joint_actions, place)[0]
                chosen = taken[0, :, place : place + 1]
                prediction = self._prediction(module, social, conversion, seen, place)
                relationship = social_relationship(
                    values.gather(1, chosen).squeeze(1), values, prediction, self.options.minimum_range
                )
                there = alive[rows, place]
                if self.options.visible_only:
                    there = there & seen[0, :, place].flatten(1).any(1)
                found[rows, order[place]] = (relationship * there).to(found.dtype)
        if self.options.shuffled:
            others = [other for other in range(players) if other != agent]
            shuffle = torch.rand(len(found), players - 1, device=found.device).argsort(1)
            found[:, others] = found[:, others].gather(1, shuffle)
        relationships[inferred] = found
        return relationships, inferred

    def _prediction(
        self, module: LASEModule, social: Parameters, conversion: Parameters, seen: Tensor, place: int
    ) -> Tensor:
        """Predicted policy `[M, A_k]` of the co-player in this place."""
        choices = module.joint_actions[place]
        if not self.options.perspective_taking or choices != module.joint_actions[0]:
            return torch.full((seen.shape[1], choices), 1 / choices, device=seen.device)
        places = torch.full((seen.shape[1],), place, device=seen.device)
        return _take_perspective(module, social, conversion, seen, places)[1][0].softmax(-1)

    def _log_gifts(self, joint: JointTrajectory, agent: int, relationships: Tensor, inferred: Tensor) -> None:
        count = max(1, int(inferred.sum()))
        shares, amounts = self._shares[agent], self._shares[agent] * joint.rewards[..., agent, None]
        for other in range(joint.shape[2]):
            if other != agent:
                key = f"agent_{agent}_to_{other}"
                self._statistics[f"gift_share/{key}"] = (shares[..., other] * inferred).sum().item() / count
                self._statistics[f"gift_amount/{key}"] = amounts[..., other].mean().item()
                self._statistics[f"relationship/{key}"] = relationships[..., other].sum().item() / count
                zero = (relationships[..., other] == 0) & inferred
                self._statistics[f"no_relationship/{key}"] = zero.sum().item() / count

    # -- learning

    @classmethod
    def auxiliary_losses(
        cls, group: LearningGroup, joint: JointTrajectory, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Statistics]]:
        """SARSA for the critic, policy gradient for the social policy, perspective taking for the conversion network."""
        kinds = cast(tuple[LASE, ...], group.kinds)
        module = cast(LASEModule, group.modules[0])
        first = kinds[0]
        if first.iteration % first.options.update_frequency:
            return
        if len(first.recent) > 1:
            joint = first.recent[int(torch.randint(len(first.recent), (1,), generator=generator))]
        batch = _SocialBatch.of(group, joint)
        games = torch.randperm(batch.rewards.shape[2], generator=generator)
        for chosen in games.tensor_split(min(first.options.social_minibatches, len(games))):
            part = batch.games(chosen.to(joint.rewards.device))
            parameters = stack_parameters([m.social for m in group.modules])
            relationship_loss, statistics = _relationship_loss(module, kinds, parameters, part)
            loss = relationship_loss
            if any(kind.options.perspective_taking for kind in kinds):
                frozen = {name: parameter.detach() for name, parameter in parameters.items()}
                conversion = stack_parameters([m.conversion for m in group.modules])
                perspective_loss, more = _perspective_loss(module, kinds, frozen, conversion, part, generator)
                loss, statistics = loss + perspective_loss, {**statistics, **more}
            yield loss, statistics

    def get_state(self) -> dict[str, Any]:
        """Iteration and recent trajectories."""
        recent = list(self.recent) if self.options.buffer_size > 1 else []
        return {
            "iteration": self.iteration,
            "recent": [joint.map(lambda column: column.cpu().numpy()) for joint in recent],
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues from `get_state`'s answer."""
        self.iteration = state["iteration"]
        self.recent.clear()
        self.recent.extend(joint.to_tensors() for joint in state["recent"])


class _SocialBatch(NamedTuple):
    """What the auxiliary networks of a group learn from: `[G, T, M, ...]`, players in order of place."""

    observations: Tensor
    actions: Tensor  # [G, T, M, N]
    rewards: Tensor  # [G, T, M], the own extrinsic one
    alive: Tensor  # [G, T, M, N]
    goes_on: Tensor  # [G, T, M], the own future goes on in the next row
    ends: Tensor  # [G, T, M], it ends here

    @classmethod
    def of(cls, group: LearningGroup, joint: JointTrajectory) -> _SocialBatch:
        players = joint.shape[2]
        places = (torch.arange(players).unsqueeze(1) + torch.arange(players)) % players  # [agent, place]
        places = places.to(joint.rewards.device)
        ended = (joint.terminated | joint.truncated).unsqueeze(-1)
        return cls(
            observations=group.gather(joint.observations),
            actions=group.gather(joint.actions.long()[:, :, places]),
            rewards=group.gather(joint.rewards),
            alive=group.gather(joint.alive[:, :, places]),
            goes_on=group.gather(joint.alive & joint.survives & ~ended),
            ends=group.gather(joint.alive & (~joint.survives | joint.terminated.unsqueeze(-1))),
        )

    def games(self, chosen: Tensor) -> _SocialBatch:
        """Some of the M rows, over all steps."""
        return _SocialBatch(*(column.index_select(2, chosen) for column in self))


def _relationship_loss(
    module: LASEModule, kinds: Sequence[LASE], parameters: Parameters, batch: _SocialBatch
) -> tuple[Tensor, Statistics]:
    """SARSA:  d_t = r_t + gamma Q(o_t+1, a_t+1) - Q(o_t, a_t);  the critic lowers d^2, the policy follows d grad log pi.

    Rewards are extrinsic, before gifts. Steps whose successor is unknown, at a limit, do not count.
    """
    groups, steps, rows = batch.rewards.shape
    seen, actions = batch.observations.flatten(1, 2), batch.actions.flatten(1, 2)
    prepared = prepare(module.social_architecture, parameters, steps * rows)
    features = encode(module.social_architecture, prepared, seen)
    values = joint_action_values(prepared, features, actions, module.joint_actions).reshape(groups, steps, rows)
    log_policy = torch.log_softmax(social_logits(prepared, features), -1)
    log_probs = log_policy.gather(-1, actions[..., :1]).reshape(groups, steps, rows)
    gamma = values.new_tensor([kind.options.social_gamma for kind in kinds]).view(-1, 1, 1)
    after = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], 1).detach() * batch.goes_on
    counts = (batch.goes_on | batch.ends).to(values.dtype)
    errors = (batch.rewards + gamma * after - values) * counts
    weight = 1 / counts.sum((1, 2)).clamp(min=1)
    critic_loss = (errors**2).sum((1, 2)) * weight
    policy_loss = -(errors.detach() * log_probs).sum((1, 2)) * weight
    return critic_loss + policy_loss, {"social_critic_error": critic_loss.detach().sqrt()}


def _perspective_loss(
    module: LASEModule,
    kinds: Sequence[LASE],
    social: Parameters,
    conversion: Parameters,
    batch: _SocialBatch,
    generator: torch.Generator,
) -> tuple[Tensor, Statistics]:
    """(1 - delta) CE(a^j, pi(. | o^j)) + delta |o^j - o^i|_1, a mean over rows and over one co-player drawn for each.

    `social` must be detached: only the conversion network learns from it.
    """
    groups, players = batch.actions.shape[0], batch.actions.shape[-1]
    seen, actions, alive = (column.flatten(1, 2) for column in (batch.observations, batch.actions, batch.alive))
    alike = [place for place in range(1, players) if module.joint_actions[place] == module.joint_actions[0]]
    count = max(1, int(seen.shape[1] * kinds[0].options.conversion_share))
    rows = torch.randperm(seen.shape[1], generator=generator)[:count].to(seen.device)
    if not alike:
        zero = torch.zeros(groups, device=seen.device)
        return zero, {}
    places = torch.tensor(alike)[torch.randint(len(alike), (count,), generator=generator)].to(seen.device)
    seen = seen.index_select(1, rows)
    converted, logits = _take_perspective(
        module,
        prepare(module.social_architecture, social, count),
        prepare(module.conversion_architecture, conversion, count),
        seen,
        places,
    )
    taken = actions[:, rows, places]
    counts = (alive[:, rows, places] & alive[:, rows, torch.zeros_like(places)]).to(logits.dtype)
    weight = counts / counts.sum(1, keepdim=True).clamp(min=1)
    cross_entropy = functional.cross_entropy(logits.flatten(0, 1), taken.flatten(), reduction="none").view(groups, -1)
    own = seen.flatten(2).to(converted.dtype) * module.social_architecture.scale
    distance = (converted - own).abs().mean(-1)
    delta = logits.new_tensor([kind.options.delta for kind in kinds]).unsqueeze(1)
    right = (logits.argmax(-1) == taken).to(logits.dtype)
    return (((1 - delta) * cross_entropy + delta * distance) * weight).sum(1), {
        "perspective_cross_entropy": (cross_entropy * weight).sum(1).detach(),
        "perspective_accuracy": (right * weight).sum(1),
    }


def _take_perspective(
    module: LASEModule, social: Parameters, conversion: Parameters, seen: Tensor, places: Tensor
) -> tuple[Tensor, Tensor]:
    """What co-players may see `[G, M, size]`, and the logits `[G, M, A]` of what the agent would do there."""
    players = len(module.joint_actions)
    converted = converted_observations(module.conversion_architecture, conversion, seen, places, players)
    architecture: Architecture = module.social_architecture._replace(scale=1.0)
    there = converted.reshape(*converted.shape[:2], *architecture.observation_shape)
    return converted, social_logits(social, encode(architecture, social, there))
