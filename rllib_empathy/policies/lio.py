"""LIO agents: they pay others, and learn what to pay for from how the others learn from it.

Yang et al. 2020, "Learning to Incentivize Other Learning Agents" (arXiv 2006.06051).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from pydantic import Field, field_validator
from ray.rllib.core.learner.learner import DEFAULT_OPTIMIZER
from torch import Tensor

from env_registry.parameters import SettingError
from rllib_empathy.joint import JointTrajectory, rows_of
from rllib_empathy.learning.advantages import discounted
from rllib_empathy.learning.distributed import average
from rllib_empathy.policies.a2c import A2C
from rllib_empathy.policies.actor_critic import (
    ActorCriticModule,
    ActorCriticOptions,
    Minibatch,
    Schedule,
    exploring,
    scheduled,
)
from rllib_empathy.policies.incentive_network import IncentiveNetwork, paid
from rllib_empathy.policies.influence import elapsed_steps
from rllib_empathy.policies.kind import AgentKind, Statistics, WorldFacts, register_kind
from rllib_empathy.policies.networks import (
    Architecture,
    Evaluation,
    Parameters,
    evaluate,
    log_policies,
    masked,
    num_allowed,
    prepare,
    stack_parameters,
)
from rllib_empathy.policies.social_networks import joint_actions_of
from rllib_empathy.reshaping.incentives import directional_derivatives, less_the_others_mean, worth_of_rewards

if TYPE_CHECKING:
    from rllib_empathy.learning.groups import LearningGroup


class LIOOptions(ActorCriticOptions):
    """Options of LIO agents."""

    lr: Schedule = Field(0.1, description="size of the policy's plain gradient step, or points (env steps, size)")
    lambda_: float = Field(1.0, ge=0, le=1, description="of generalised advantage estimation")
    grad_clip: float | None = Field(None, gt=0, description="null: the policy's step is plain")
    normalize_advantages: bool = Field(False, description="false: the policy's step is plain")
    value_lr: Schedule = Field(1e-3, description="Adam's learning rate of the value")
    incentive_lr: Schedule = Field(1e-3, description="Adam's learning rate of the incentive function")
    largest_incentive: float = Field(3.0, gt=0, description="what a co-player is paid in a step at most")
    incentive_cost: float = Field(
        0.0, ge=0, description="weight of discounted payments in the loss of the incentive function"
    )
    incentive_hidden: tuple[int, int] = Field((64, 16), description="widths of the incentive function's layers")

    @field_validator("grad_clip", "normalize_advantages")
    @classmethod
    def _is_plain(cls, value: Any) -> Any:
        if value:
            raise ValueError("is not for LIO agents, whose co-players foresee plain gradient steps; leave it out")
        return value

    @field_validator("incentive_hidden")
    @classmethod
    def _has_width(cls, widths: tuple[int, int]) -> tuple[int, int]:
        if min(widths) < 1:
            raise ValueError("widths are at least 1")
        return widths


class LIOModule(ActorCriticModule):
    """The acting network and, on the Learner only, the incentive function."""

    def setup(self) -> None:
        super().setup()
        config = self.model_config
        self.incentives = IncentiveNetwork(
            self.architecture, config["joint_actions"], config["incentive_hidden"], config["largest_incentive"]
        )

    def get_non_inference_attributes(self) -> list[str]:
        """Runners act; they pay nobody."""
        return ["incentives"]

    @property
    def group(self) -> Hashable:
        names = ("joint_actions", "incentive_hidden", "largest_incentive")
        return (super().group, repr([self.model_config[name] for name in names]))


class Step(NamedTuple):
    """What an agent's last step was made of."""

    parameters: dict[str, Tensor]  # of the acting network before it
    exploration: Tensor  # [1], share of even actions in the games that it learned from
    size: float  # learning rate times reward_scale


@register_kind
class LIO(A2C):
    """Plain policy gradient steps on extrinsic rewards plus all incentives; the others' steps teach what to pay for.

    An incentive function  r_i(o_i, a_-i) in (0, largest)  pays each other LIO agent, out of nothing: what i pays is not taken
    from its reward, but may count in the function's loss. Who is of another kind is not paid, for its step is not foreseen.

    An iteration k has one batch of games. It was played after the step that the agents took on the batch before, so it shows
    what the incentives paid there were worth (`reshaping.incentives`); the incentive functions take one step of Adam on

        - sum_j sum_t dJ_i / dr_j(t) r_i^j(t) + cost / steps sum_t gamma^t |r_i(t)|_1    over the batch before, J_i in this one,

    and then pay for this batch, on which the policies take their step. It is the paper's algorithm 1, whose second batch of an
    iteration is the first one of the next. What is otherwise unlike the authors' code: batches are many episodes, and losses
    means over them, not one episode's sum, so that learning rates are larger; policies have a value as baseline (with lambda 1
    it does not change the expected step), and J_i one too; the value is linear in the policy's features and learned by Adam, so
    that rewards change the policy in the foreseen way only; the cost has no optimiser of its own; and the policies of the others
    are always known, not modelled.
    """

    name = "lio"
    Options = LIOOptions
    Module = LIOModule
    options: LIOOptions
    needs_whole_episodes = True

    def __init__(self, module_id: str, options: LIOOptions, agents: tuple[int, ...]) -> None:
        super().__init__(module_id, options, agents)
        self.step: Step | None = None
        self.batch: JointTrajectory | None = None  # of that step; the first LIO agent keeps it for all
        self._paid: dict[int, Tensor] = {}  # agent -> to each agent, [T, B, N]
        self._payers: list[LIO] = []
        self._statistics: dict[str, float] = {}

    @classmethod
    def check_spaces(cls, observation_space: Any, action_space: Any, options: Any) -> None:
        super().check_spaces(observation_space, action_space, options)
        if options.network.memory != "none":
            raise SettingError(
                f"network.memory = {options.network.memory!r}: LIO agents differentiate through each other's gradient steps, "
                "which recurrent layers do not allow on all devices. Use memory 'none'."
            )

    @classmethod
    def check_world(cls, world: WorldFacts, options: Any) -> None:
        if world.num_agents < 2:
            raise SettingError("LIO agents need somebody to pay: the world has one agent only.")

    @classmethod
    def model_config(cls, options: Any, world: WorldFacts, agents: tuple[int, ...]) -> dict[str, Any]:
        own = {
            "joint_actions": joint_actions_of(world, agents),
            "incentive_hidden": options.incentive_hidden,
            "largest_incentive": options.largest_incentive,
        }
        return {**super().model_config(options, world, agents), **own}

    # -- the policy

    def acting_parameters(self, module: Any) -> dict[str, tuple[list[Tensor], Schedule]]:
        named = list(module.actor_critic.named_parameters())
        return {
            DEFAULT_OPTIMIZER: ([p for name, p in named if not _of_value(name)], self.options.lr),
            "value": ([p for name, p in named if _of_value(name)], self.options.value_lr),
        }

    def auxiliary_parameters(self, module: Any) -> dict[str, tuple[list[Tensor], Schedule]]:
        return {"incentives": (list(module.incentives.parameters()), self.options.incentive_lr)}

    def optimizer(self, name: str, parameters: list[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters) if name == DEFAULT_OPTIMIZER else super().optimizer(name, parameters)

    @classmethod
    def evaluation(cls, architecture: Architecture, parameters: Parameters, batch: Minibatch) -> Evaluation:
        """The value learns to read the policy's features, which learn nothing from it."""
        fixed = {name: p if _of_value(name) else p.detach() for name, p in parameters.items()}
        fixed = prepare(architecture, fixed, batch.actions[0].numel())
        values = super().evaluation(architecture, fixed, batch).values
        return super().evaluation(architecture, parameters, batch)._replace(values=values)

    @classmethod
    def less_baseline(cls, kinds: Sequence[Any], advantages: Tensor, alive: Tensor) -> Tensor:
        """Less the mean over the other games in the same step: plain steps know no normalisation."""
        games = (len(kinds[0].agents), -1)
        return less_the_others_mean(advantages.unflatten(-1, games), alive.unflatten(-1, games)).flatten(-2)

    # -- paying

    @torch.no_grad()
    def observe(self, joint: JointTrajectory, modules: dict[str, Any], population: dict[str, AgentKind]) -> None:
        self._payers = [kind for kind in population.values() if type(kind) is type(self)]
        recipients = [agent for kind in self._payers for agent in kind.agents]
        agents = torch.tensor([self.agents])
        by_place = paid([modules[self.module_id].incentives], agents, joint, recipients)
        by_agent = torch.zeros_like(by_place).scatter(-1, rows_of(agents, joint.places()), by_place)[0]  # [T, M, N]
        self._paid = dict(zip(self.agents, by_agent.split(joint.shape[1], 1), strict=True))
        self._statistics = {}
        for agent, to_each in self._paid.items():
            there = joint.alive & joint.alive[..., agent : agent + 1]
            means = (to_each.sum((0, 1)) / there.sum((0, 1)).clamp(min=1)).tolist()
            others = [other for other in recipients if other != agent]
            self._statistics |= {f"incentive/agent_{agent}_to_{other}": means[other] for other in others}

    def reward(self, joint: JointTrajectory, agent: int, received: Tensor) -> Tensor:
        return received + self._incentives_to(agent)

    def statistics(self) -> dict[str, float]:
        """Incentive per step in which both are there, for all pairs; per step of all games, what each gives and receives."""
        for agent, to_each in self._paid.items():
            self._statistics[f"incentive_given/agent_{agent}"] = to_each.sum(-1).mean().item()
            self._statistics[f"incentive_received/agent_{agent}"] = self._incentives_to(agent).mean().item()
        return self._statistics

    def _incentives_to(self, agent: int) -> Tensor:
        return torch.stack([to_each[..., agent] for payer in self._payers for to_each in payer._paid.values()]).sum(0)

    # -- learning what to pay for

    @classmethod
    def losses_before_rewards(
        cls, groups: Sequence[LearningGroup], joint: JointTrajectory, env_steps: int
    ) -> list[tuple[LearningGroup, Tensor, Statistics]]:
        members = _members(groups)
        first, device = members[0][0], joint.rewards.device
        losses = []
        if first.batch is not None and all(kind.step is not None for kind, _ in members):
            batch = first.batch.to_tensors(device)
            worth = worth_of_incentives(groups, batch, joint)
            recipients = [agent for kind, _ in members for agent in kind.agents]
            losses = [(group, *incentive_loss(group, batch, worth, recipients)) for group in groups]
        for kind, module in members:
            parameters = {name: p.detach().clone() for name, p in module.actor_critic.named_parameters()}
            size = kind.options.reward_scale * scheduled(kind.options.lr, env_steps)
            kind.step = Step(parameters, module.exploration.clone(), size)
            kind.batch = None
        first.batch = replace(joint, states=(), events={}, origin={}, context=None, tail_context=None)
        return losses

    def get_state(self) -> dict[str, Any]:
        """What the last step was made of."""
        if self.step is None:
            return {}
        batch = None if self.batch is None else self.batch.map(lambda column: column.cpu().numpy())
        parameters = {name: parameter.cpu().numpy() for name, parameter in self.step.parameters.items()}
        return {
            "agents": self.agents,
            "batch": batch,
            "step": (parameters, self.step.exploration.cpu().numpy(), self.step.size),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues from `get_state`'s answer; an agent that sits elsewhere now forgets its last step."""
        self.step = self.batch = None
        if state and tuple(state["agents"]) == self.agents:
            parameters, exploration, size = state["step"]
            parameters = {name: torch.from_numpy(parameter.copy()) for name, parameter in parameters.items()}
            self.step = Step(parameters, torch.from_numpy(exploration.copy()), size)
            self.batch = None if state["batch"] is None else state["batch"].to_tensors()


def worth_of_incentives(groups: Sequence[LearningGroup], before: JointTrajectory, now: JointTrajectory) -> Tensor:
    """What a reward to each agent would have done for the extrinsic return of each, `[T, B, N, N]`: dJ_i / dr_j at [..., i, j].

    J_i is the mean over env steps of the return from there on. 0 for agents that are in none of the groups.

    Args:
        groups: all LIO agents, with the acting networks that played `now`.
        before: the games that the last steps were learned from (see `LIO.step`).
        now: the games after these steps.
    """
    members = _members(groups)
    gamma = now.rewards.new_zeros(now.shape[2])
    for kind, _ in members:
        gamma[list(kind.agents)] = kind.options.gamma
    goes_on = ~(now.terminated | now.truncated).unsqueeze(-1)
    returns = discounted(now.rewards * now.alive, goes_on, gamma).transpose(1, 2)  # [T, N, B]
    returns = less_the_others_mean(returns, now.alive.any(2).unsqueeze(1)).transpose(1, 2)
    givers = sorted(agent for kind, _ in members for agent in kind.agents)
    goes_on = before.alive & before.survives & ~(before.terminated | before.truncated).unsqueeze(-1)
    worth = before.rewards.new_zeros(*before.shape, before.shape[2])
    for group in groups:
        own = _members([group])
        wishes = _wishes(group, now, returns, givers)
        steps = [cast(Step, kind.step) for kind, _ in own]
        parameters = {
            name: torch.stack([step.parameters[name] for step in steps]).to(worth.device).requires_grad_()
            for name in steps[0].parameters
        }
        exploration = torch.cat([step.exploration for step in steps]).to(worth.device)
        log_probs = _log_probs(group, before, parameters, exploration)
        alignments = directional_derivatives(log_probs, list(parameters.values()), wishes)
        alive = group.gather(before.alive)
        rows = average(alive.to(worth.dtype).sum((1, 2))).clamp(min=1)
        sizes = worth.new_tensor([step.size for step in steps]) / rows
        decay = worth.new_tensor([kind.options.gamma * kind.options.lambda_ for kind, _ in own]).view(-1, 1)
        alignments = type(own[0][0]).less_baseline(group.kinds, alignments * sizes.view(-1, 1, 1), alive)
        found = worth_of_rewards(alignments, alive, group.gather(goes_on), decay)
        for giver, of_giver in zip(givers, found, strict=True):
            group.scatter(of_giver, worth[:, :, giver])
    return worth


def incentive_loss(
    group: LearningGroup, joint: JointTrajectory, worth: Tensor, recipients: Sequence[int]
) -> tuple[Tensor, Statistics]:
    """- sum of worth times payment + cost * discounted payments per env step, `[G]`, and its two sums.

    Args:
        group: the payers.
        joint: the games that they pay for.
        worth: `[T, B, N, N]`, see `worth_of_incentives`.
        recipients: agents (indices into N) that are paid.
    """
    own = _members([group])
    payments = paid([module.incentives for _, module in own], group.agents, joint, recipients)
    of_place = rows_of(group.agents, worth).gather(-1, rows_of(group.agents, joint.places()))
    gain = (of_place * payments).sum((1, 2, 3))
    gamma = payments.new_tensor([kind.options.gamma for kind, _ in own]).view(-1, 1, 1)
    discount = gamma ** elapsed_steps(joint.starts).repeat(1, group.agents.shape[1])
    env_steps = average(joint.alive.any(2).sum().to(payments.dtype))
    cost = (discount.unsqueeze(-1) * payments).sum((1, 2, 3)) / env_steps
    weight = payments.new_tensor([kind.options.incentive_cost for kind, _ in own])
    return weight * cost - gain, {"incentive_gain": gain.detach(), "incentive_cost": cost.detach()}


def _wishes(group: LearningGroup, joint: JointTrajectory, returns: Tensor, givers: Sequence[int]) -> list[list[Tensor]]:
    """grad J_i by the group's stacked parameters, for each giver i: how it wants the group's policies to change.

    J_i = 1 / steps sum over all other agents j, and their rows:  log pi_j(a | o) * return of i  (policy gradient theorem).
    """
    parameters = stack_parameters([module.actor_critic for module in group.modules])
    parameters = {name: parameter.detach().requires_grad_() for name, parameter in parameters.items()}
    exploration = torch.cat([module.exploration for module in group.modules])
    log_probs = _log_probs(group, joint, parameters, exploration) * group.gather(joint.alive)
    agents = group.agents.to(returns.device).repeat_interleave(joint.shape[1], 1).unsqueeze(1)  # [G, 1, M], of the rows
    env_steps = average(joint.alive.any(2).sum().to(returns.dtype))
    wishes = []
    for giver in givers:
        of_others = log_probs * (agents != giver) * returns[..., giver].repeat(1, group.agents.shape[1])
        gradients = torch.autograd.grad(of_others.sum() / env_steps, list(parameters.values()), retain_graph=True)
        wishes.append([average(gradient) for gradient in gradients])
    return wishes


def _log_probs(group: LearningGroup, joint: JointTrajectory, parameters: Parameters, exploration: Tensor) -> Tensor:
    """log pi(a | o) of the group's rows, `[G, T, M]`, under the policy that explores."""
    answer = evaluate(group.modules[0].architecture, parameters, group.gather(joint.observations))
    allowed = group.allowed(joint)
    log_policy = log_policies(masked(answer.logits, allowed))
    taken = log_policy.gather(-1, group.gather(joint.actions).long().unsqueeze(-1)).squeeze(-1)
    return exploring(taken, exploration, num_allowed(log_policy.shape[-1], allowed))


def _members(groups: Sequence[LearningGroup]) -> list[tuple[LIO, LIOModule]]:
    return [pair for group in groups for pair in zip(group.kinds, group.modules, strict=True)]  # type: ignore[misc]


def _of_value(name: str) -> bool:
    return name.startswith("value.")
