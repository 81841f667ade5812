"""Agents that are rewarded for influencing what others do (Jaques et al. 2019, arXiv 1810.08647)."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING, Any, cast

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from env_registry.parameters import SettingError
from rllib_empathy.joint import JointTrajectory, rows_of
from rllib_empathy.policies.actor_critic import ActorCriticModule, Schedule
from rllib_empathy.policies.kind import AgentKind, Statistics, WorldFacts, register_kind
from rllib_empathy.policies.networks import encode, evaluate, masked, prepare, stack_parameters
from rllib_empathy.policies.other_models import (
    OtherModels,
    by_co_player,
    counterfactual_logits,
    next_action_logits,
)
from rllib_empathy.policies.ppo import PPO, PPOOptions
from rllib_empathy.policies.social_learning import SocialBatch
from rllib_empathy.policies.social_networks import joint_actions_of
from rllib_empathy.reshaping.social_influence import social_influence

if TYPE_CHECKING:
    from rllib_empathy.learning.groups import LearningGroup

ROWS_AT_ONCE = 4096
"""Rows whose counterfactuals are computed at a time; bounds the memory."""


class SocialInfluenceOptions(PPOOptions):
    """Options of agents that are rewarded for influence."""

    influence_weight: float = Field(1.0, ge=0, description="weight of influence in the reward")
    influence_clip: float = Field(10.0, gt=0, description="largest influence that is rewarded in a step")
    models_lr: Schedule = Field(1e-3, description="learning rate of the models of other agents")
    models_hidden: int = Field(128, ge=1, description="width of the models of other agents")
    models_minibatches: int = Field(4, ge=1, description="gradient steps of the models per iteration")


class SocialInfluenceModule(ActorCriticModule):
    """The acting network and, on the Learner only, the models of other agents."""

    def setup(self) -> None:
        super().setup()
        self.models = OtherModels(
            self.architecture, self.model_config["joint_actions"], self.model_config["models_hidden"]
        )

    def get_non_inference_attributes(self) -> list[str]:
        """Runners act; they model nobody."""
        return ["models"]

    @property
    def group(self) -> Hashable:
        return (super().group, tuple(self.model_config["joint_actions"]), self.model_config["models_hidden"])


@register_kind
class SocialInfluence(PPO):
    """PPO on  r + weight sum_j D_KL[p(a_j | a, s) || sum_a' pi(a' | s) p(a_j | a', s)], a_j the others' next actions.

    The decentralised form: predictions are the agent's own models of others (the paper's MOA), learned from what they did. The
    influence is a reward and constant for all gradients. What is forbidden is no alternative of the agent's (pi is 0 there). The
    others' next actions are predicted among all that they have: what will be allowed to them may depend on what it does now.
    """

    name = "social_influence"
    Options = SocialInfluenceOptions
    Module = SocialInfluenceModule
    options: SocialInfluenceOptions

    def __init__(self, module_id: str, options: SocialInfluenceOptions, agents: tuple[int, ...]) -> None:
        super().__init__(module_id, options, agents)
        self._influence: dict[int, Tensor] = {}

    @classmethod
    def check_world(cls, world: WorldFacts, options: Any) -> None:
        if world.num_agents < 2:
            raise SettingError(
                "Agents that are rewarded for influence need somebody to influence: the world has one agent."
            )

    @classmethod
    def model_config(cls, options: Any, world: WorldFacts, agents: tuple[int, ...]) -> dict[str, Any]:
        own = {"joint_actions": joint_actions_of(world, agents), "models_hidden": options.models_hidden}
        return {**super().model_config(options, world, agents), **own}

    def auxiliary_parameters(self, module: Any) -> dict[str, tuple[list[Tensor], Schedule]]:
        return {"models": (list(module.models.parameters()), self.options.models_lr)}

    @property
    def together(self) -> Hashable:
        return self.options.models_minibatches

    @torch.no_grad()
    def observe(self, joint: JointTrajectory, modules: dict[str, Any], population: dict[str, AgentKind]) -> None:
        module: SocialInfluenceModule = modules[self.module_id]
        agents = torch.tensor([self.agents])
        seen = rows_of(agents, joint.observations)
        state = {
            name: torch.cat([joint.states[agent][name] for agent in self.agents]).unsqueeze(0)
            for name in (joint.states[self.agents[0]] if module.is_stateful() else ())
        }
        starts = joint.starts.repeat(1, len(self.agents))
        parameters = module.stacked([module], seen.shape[1] * seen.shape[2])
        batch = SocialBatch.of(agents, joint)
        allowed = None if batch.masks is None else batch.masks[..., 0, : module.models.joint_actions[0]]
        policy = masked(evaluate(module.architecture, parameters, seen, state, starts).logits, allowed)
        influence = influence_on_others(module.models, seen, batch.actions, policy.softmax(-1), batch.alive)
        influence = influence.clamp(max=self.options.influence_clip).reshape(len(joint.rewards), len(self.agents), -1)
        self._influence = {agent: influence[:, place] for place, agent in enumerate(self.agents)}

    def reward(self, joint: JointTrajectory, agent: int, received: Tensor) -> Tensor:
        return received + self.options.influence_weight * self._influence[agent]

    def statistics(self) -> dict[str, float]:
        means = torch.stack([influence.mean() for influence in self._influence.values()])
        return {f"influence/agent_{agent}": mean for agent, mean in zip(self._influence, means.tolist(), strict=True)}

    @classmethod
    def auxiliary_losses(
        cls, group: LearningGroup, joint: JointTrajectory, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Statistics]]:
        """Cross-entropy of the co-players' next actions."""
        models = [cast(SocialInfluenceModule, module).models for module in group.modules]
        minibatches = cast(SocialInfluence, group.kinds[0]).options.models_minibatches
        batch = SocialBatch.of(group.agents, joint)
        games = torch.randperm(batch.rewards.shape[2], generator=generator)
        for chosen in games.tensor_split(min(minibatches, len(games))):
            yield prediction_loss(models, batch.games(chosen.to(joint.rewards.device)))


def influence_on_others(
    models: OtherModels, observations: Tensor, actions: Tensor, policy: Tensor, alive: Tensor
) -> Tensor:
    """An agent's influence on all others' next actions, summed over those that are there, `[T, M]`.

    Args:
        models: of the agent.
        observations: `[1, T, M, *shape]`.
        actions: `[1, T, M, N]` in order of place.
        policy: `[1, T, M, A]`, the agent's.
        alive: `[1, T, M, N]`.
    """
    parameters = prepare(models.architecture, stack_parameters([models]), ROWS_AT_ONCE)
    columns = (observations.flatten(1, 2)[0], actions.flatten(1, 2)[0], policy.flatten(1, 2)[0], alive.flatten(1, 2)[0])
    pieces = []
    for seen, taken, own, there in zip(*(column.split(ROWS_AT_ONCE) for column in columns), strict=True):
        features = encode(models.architecture, parameters, seen.unsqueeze(0))
        logits = counterfactual_logits(parameters, features, taken.unsqueeze(0), models.joint_actions)[0]
        influences = [
            social_influence(of_other.log_softmax(-1), own, taken[:, 0])
            for of_other in by_co_player(logits, models.joint_actions)
        ]
        pieces.append((torch.stack(influences, -1) * (there[:, 1:] & there[:, :1])).sum(-1))
    return torch.cat(pieces).reshape(actions.shape[1:3])


def prediction_loss(models: list[OtherModels], batch: SocialBatch) -> tuple[Tensor, Statistics]:
    """-log p(a_j,t+1 | o_t, a_t), a mean over co-players that are there in both steps; and the share predicted right."""
    first = models[0]
    now, after = slice(None, -1), slice(1, None)
    actions = batch.actions[:, now].flatten(1, 2)
    parameters = prepare(first.architecture, stack_parameters(models), actions.shape[1])
    features = encode(first.architecture, parameters, batch.observations[:, now].flatten(1, 2))
    logits = next_action_logits(parameters, features, actions, first.joint_actions)
    taken = batch.actions[:, after, :, 1:].flatten(1, 2)
    both = batch.goes_on[:, now].unsqueeze(-1) & batch.alive[:, now, :, 1:] & batch.alive[:, after, :, 1:]
    counts = both.flatten(1, 2).to(logits.dtype)
    total = counts.sum((1, 2)).clamp(min=1)
    loss, right = torch.zeros_like(total), torch.zeros_like(total)
    for place, predicted in enumerate(by_co_player(logits, first.joint_actions)):
        surprise = functional.cross_entropy(predicted.flatten(0, 1), taken[..., place].flatten(), reduction="none")
        loss = loss + (surprise.view_as(counts[..., place]) * counts[..., place]).sum(1) / total
        right = right + ((predicted.argmax(-1) == taken[..., place]) * counts[..., place]).sum(1) / total
    return loss, {"models_cross_entropy": loss.detach(), "models_accuracy": right}
