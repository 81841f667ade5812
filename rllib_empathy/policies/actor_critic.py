"""What all learning kinds of agents share: an actor-critic module, its options, and the loss of a group of agents."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from pydantic import AfterValidator, Field, field_validator
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner import DEFAULT_OPTIMIZER
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI, ValueFunctionAPI
from torch import Tensor

from env_registry.action_masks import ACTION_MASK
from env_registry.parameters import Settings, checked
from rllib_empathy.joint import JointTrajectory
from rllib_empathy.policies.kind import CONTEXT, Action, AgentKind, AgentModule, Statistics, WorldFacts
from rllib_empathy.policies.networks import (
    ActorCritic,
    Architecture,
    Evaluation,
    NetworkOptions,
    Parameters,
    Prepared,
    State,
    drawn,
    evaluate,
    initial_state,
    log_policies,
    masked,
    num_allowed,
    prepare,
    stack_parameters,
)

if TYPE_CHECKING:
    from rllib_empathy.learning.groups import LearningGroup

SCALING = "scaling"
"""Key in `model_config` of agents that learned when all elements were scaled by the largest bound: its value is LARGEST."""

LARGEST = "largest"

FACTORS = "observation_factors"
"""Buffer with the factors on observations, where they are others than in those earlier versions."""

EPISODE = 100
"""Steps that stand for an episode in worlds that do not say how long one is."""


def _sound(schedule: float | tuple[tuple[int, float], ...]) -> float | tuple[tuple[int, float], ...]:
    points = schedule if isinstance(schedule, tuple) else ((0, schedule), (1, schedule))
    steps = [step for step, _ in points]
    if len(points) < 2 or steps[0] != 0 or steps != sorted(set(steps)) or any(number < 0 for _, number in points):
        raise ValueError(
            "needs numbers >= 0; points are two or more (env steps, number) with rising env steps that begin at 0"
        )
    return schedule


Schedule = Annotated[float | tuple[tuple[int, float], ...], AfterValidator(_sound)]
"""A number, or points (env steps, number) between which it changes linearly."""


def scheduled(schedule: Schedule, env_steps: int) -> float:
    """The schedule's value after this many env steps."""
    if isinstance(schedule, int | float):
        return float(schedule)
    steps, numbers = zip(*schedule, strict=True)
    return float(np.interp(env_steps, steps, numbers))


class ActorCriticOptions(Settings):
    """Options of every learning agent; names are RLlib's."""

    lr: Schedule = Field(1e-3, description="Adam's learning rate, or points (env steps, learning rate)")
    gamma: float = Field(0.98, ge=0, le=1, description="discount")
    lambda_: float = Field(0.95, ge=0, le=1, description="of generalised advantage estimation")
    entropy_coeff: Schedule = Field(0.01, description="weight of the entropy bonus, or points (env steps, weight)")
    vf_loss_coeff: float = Field(0.5, ge=0, description="weight of the value loss")
    grad_clip: float | None = Field(1.0, gt=0, description="largest norm of the agent's gradient; null: no limit")
    adam_epsilon: float = Field(1e-5, gt=0, description="Adam's epsilon")
    normalize_advantages: bool = Field(True, description="to mean 0 and deviation 1 over the agent's batch")
    reward_scale: float = Field(
        1.0, gt=0, description="factor on the reward that is learned from, not on what is logged"
    )
    exploration: Schedule = Field(
        0.0,
        description="share of actions that are drawn evenly, or points (env steps, share); evaluate --greedy has none",
    )
    critic_sees_time: bool = Field(
        False,
        description="whether the value, though not the policy, knows how much of the episode is left, and that its limit ends it",
    )
    network: NetworkOptions = Field(NetworkOptions(), description="sizes of the acting network")

    @field_validator("exploration")
    @classmethod
    def _is_a_share(cls, schedule: Schedule) -> Schedule:
        points = schedule if isinstance(schedule, tuple) else ((0, schedule),)
        if any(share > 1 for _, share in points):
            raise ValueError("is a share of the actions, at most 1")
        return schedule


def architecture_for(
    observation_space: Box, action_space: Discrete, options: NetworkOptions, inputs: int = 0, critic_inputs: int = 0
) -> Architecture:
    """The architecture that fits the spaces, with so many numbers beside the observation.

    Raises:
        SettingError: the options do not fit them.
    """
    high = np.maximum(
        np.abs(observation_space.low.astype(np.float64)), np.abs(observation_space.high.astype(np.float64))
    )
    return Architecture.of(observation_space.shape, high, int(action_space.n), options, inputs, critic_inputs)


def _scale_by_the_largest(observation_space: Box) -> float:
    """By what earlier versions multiplied all elements: the largest bound of any of them."""
    high = float(np.max(observation_space.high))
    return 1.0 / high if np.isfinite(high) and high > 1 else 1.0


def exploring(log_probs: Tensor, exploration: Tensor, num_actions: int | Tensor) -> Tensor:
    """log((1 - e) pi(a | o) + e / A): the policy that acts, if a share e of all actions is drawn evenly (LASE, exploration).

    Of policies over allowed actions only, it says nothing of the others: mask them once more.

    Args:
        log_probs: `[G, ...]`, log pi of any actions.
        exploration: `[G]`, e in [0, 1]; 0 changes nothing.
        num_actions: A, or how many actions are allowed, of a shape that fits `[G, ...]` (`num_allowed`).
    """
    share = exploration.view(-1, *[1] * (log_probs.ndim - 1))
    return torch.logaddexp(log_probs + torch.log1p(-share), torch.log(share / num_actions))


def _even_among(log_policy: Tensor, allowed: Tensor | None) -> int | Tensor:
    """What `exploring` needs for whole policies `[..., A]`: A, or the numbers of allowed actions `[..., 1]`."""
    choices = num_allowed(log_policy.shape[-1], allowed)
    return choices if isinstance(choices, int) else choices.unsqueeze(-1)


class ActorCriticModule(AgentModule, ValueFunctionAPI, InferenceOnlyAPI):
    """An actor-critic for Box observations and Discrete actions.

    `model_config` holds its `NetworkOptions` as "network" and the share of even actions at the start as "exploration". The
    share now is a buffer: the Learner changes it, and it travels with the weights.

    Observations are scaled by their announced bounds (`networks.scale_of`); weights that learned with other factors are refused.

    With "sees_time" the value, though not the policy, knows how much of the episode is gone, and that nothing follows its end.
    Steps are counted in the agent's context. A subclass that keeps more there, before this number, says so in `num_inputs`,
    `inputs` and `notice`.
    """

    exploration: Tensor

    def setup(self) -> None:
        self.episode_length: int | None = self.model_config.get("episode_length")
        self.sees_time = bool(self.model_config.get("sees_time"))
        options = checked(NetworkOptions, self.model_config.get("network"), "network options")
        self.architecture = architecture_for(self.observation_space, self.action_space, options, *self.num_inputs)
        largest = _scale_by_the_largest(self.observation_space)
        if self.model_config.get(SCALING) == LARGEST:
            self.architecture = self.architecture._replace(scale=largest)
        elif self.architecture.scale != largest:  # weights say by what numbers observations were multiplied
            self.register_buffer(FACTORS, torch.tensor(self.architecture.scale))
        self.actor_critic = ActorCritic(self.architecture)
        self.register_buffer("exploration", torch.tensor([self.model_config.get("exploration", 0.0)]))

    def set_state(self, state: dict[str, Any]) -> None:
        own, given = self.state_dict().get(FACTORS), state.get(FACTORS)
        same = (own is None) == (given is None) and (
            own is None or np.array_equal(own.cpu(), torch.as_tensor(given).cpu())
        )
        if not same:
            raise ValueError(
                "These weights learned with observations that were multiplied by other factors. "
                + (
                    "They are of an earlier version, which scaled all elements by the largest announced bound: such agents act "
                    "(load_agent, frozen co-players), but do not learn on. Begin the run again."
                    if given is None
                    else "The world announces other bounds than the one that they were trained in; give it the same ones."
                )
            )
        super().set_state(state)

    def get_non_inference_attributes(self) -> list[str]:
        """Nothing: value and policy share all but the value head."""
        return []

    @property
    def num_inputs(self) -> tuple[int, int]:
        """Numbers beside the observation that policy and value see, and further ones that the value alone sees."""
        return 0, int(self.sees_time)

    @property
    def context_size(self) -> int:
        """Numbers in the agent's context: those that the network sees, then what is only noted in the trajectory."""
        return sum(self.num_inputs)

    @property
    def time_unit(self) -> int:
        """Steps that count as 1."""
        return self.episode_length or EPISODE

    def inputs(self, context: Tensor) -> Tensor:
        """What the network sees of a context; both `[..., sum of num_inputs]`."""
        return context / self.time_unit

    def is_over(self, context: Tensor) -> Tensor:
        """Whether the episode ended before an observation with this context, as far as the agent knows: `[...]` bool."""
        if not self.sees_time or self.episode_length is None:
            return torch.zeros(context.shape[:-1], dtype=torch.bool, device=context.device)
        return context[..., -1] >= self.episode_length

    @classmethod
    def notice(
        cls,
        modules: Sequence[ActorCriticModule],
        parameters: Parameters,
        agents: Tensor,
        observations: Tensor,
        actions: Tensor,
        alive: Tensor,
        context: Tensor,
        masks: Tensor | None = None,
    ) -> Tensor:
        return context + 1

    @property
    def group(self) -> Hashable:
        return (type(self), self.architecture)

    @classmethod
    def stacked(cls, modules: Sequence[ActorCriticModule], rows: int) -> Prepared:
        parameters = stack_parameters([module.actor_critic for module in modules])
        prepared = prepare(modules[0].architecture, parameters, rows)
        prepared["exploration"] = torch.cat([module.exploration for module in modules])
        return prepared

    @classmethod
    def act(
        cls,
        modules: Sequence[ActorCriticModule],
        parameters: Parameters,
        observations: Tensor,
        state: State,
        generator: torch.Generator,
        explore: bool,
        allowed: Tensor | None = None,
    ) -> Action:
        context = state.get(CONTEXT)
        size = sum(modules[0].num_inputs)
        inputs = None if context is None else modules[0].inputs(context[..., :size]).unsqueeze(1)
        answer = evaluate(modules[0].architecture, parameters, observations.unsqueeze(1), state, inputs=inputs)
        log_policy = torch.log_softmax(masked(answer.logits.squeeze(1), allowed), -1)
        if explore:
            mixture = exploring(log_policy, parameters["exploration"], _even_among(log_policy, allowed))
            log_policy = masked(mixture, allowed)
        actions = drawn(log_policy, generator) if explore else log_policy.argmax(-1)
        after = answer.state if context is None else {**answer.state, CONTEXT: context}
        return Action(actions, log_policy.gather(-1, actions.unsqueeze(-1)).squeeze(-1), after)

    def initial_state(self, rows: int) -> dict[str, Tensor]:
        state = {name: value[0] for name, value in initial_state(self.architecture, 1, rows).items()}
        return {**state, CONTEXT: torch.zeros(rows, self.context_size)} if self.context_size else state

    def get_initial_state(self) -> dict[str, Tensor]:
        """RLlib's form of the recurrent state: without the batch axis."""
        return {name: value[0, 0] for name, value in initial_state(self.architecture, 1, 1).items()}

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Logits `[rows, A]`, or `[rows, T, A]` with memory; a mask of the same shape may lie beside the observations."""
        observations, allowed = batch[Columns.OBS], batch.get(ACTION_MASK)
        if not self.is_stateful():
            return {Columns.ACTION_DIST_INPUTS: masked(self._evaluate(observations.unsqueeze(0)).logits[0, 0], allowed)}
        answer = self._evaluate(observations.transpose(0, 1), batch[Columns.STATE_IN])
        state = {name: value[0] for name, value in answer.state.items()}
        logits = masked(answer.logits[0].transpose(0, 1), allowed)
        return {Columns.ACTION_DIST_INPUTS: logits, Columns.STATE_OUT: state}

    def _forward_exploration(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        outputs, allowed = self._forward(batch, **kwargs), batch.get(ACTION_MASK)
        log_policy = torch.log_softmax(outputs[Columns.ACTION_DIST_INPUTS], -1)
        log_mixture = exploring(log_policy.unsqueeze(0), self.exploration, _even_among(log_policy, allowed)).squeeze(0)
        return {**outputs, Columns.ACTION_DIST_INPUTS: masked(log_mixture, allowed)}

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Tensor:
        """State values `[rows]`, or `[rows, T]` with memory."""
        observations = batch[Columns.OBS]
        if not self.is_stateful():
            return self._evaluate(observations.unsqueeze(0)).values[0, 0]
        return self._evaluate(observations.transpose(0, 1), batch[Columns.STATE_IN]).values[0].transpose(0, 1)

    def _evaluate(self, observations: Tensor, state: State | None = None) -> Evaluation:
        state = {name: value.unsqueeze(0) for name, value in (state or {}).items()}
        rows = observations.shape[0] * observations.shape[1]
        return evaluate(self.architecture, self.stacked([self], rows), observations.unsqueeze(0), state)


class Minibatch(NamedTuple):
    """What a group of G agents learns from in one gradient step; T is 1 without memory."""

    observations: Tensor  # [G, T, M, *observation_shape], flat without memory
    actions: Tensor  # [G, T, M]
    log_probs: Tensor  # [G, T, M] under the policy that acted
    advantages: Tensor  # [G, T, M]
    returns: Tensor  # [G, T, M] targets of the value
    weights: Tensor  # [G, T, M] of the rows: 0 where the agent is not alive, their mean over the batch is 1
    starts: Tensor  # [G, T, M]
    inputs: Tensor  # [G, T, M, numbers beside the observation]
    state: State  # recurrent, before the first step
    allowed: Tensor | None = None  # [G, T, M, A] what might be done; None: everything

    def each(self, function: Callable[[Tensor], Tensor], state: State) -> Minibatch:
        """The same with `function` applied to every column, and another state."""
        named = {name: column for name, column in self._asdict().items() if name != "state" and column is not None}
        return Minibatch(**{name: function(column) for name, column in named.items()}, state=state)


class ActorCriticKind(AgentKind):
    """A kind that learns by an actor-critic; subclasses say how the policy's loss is made and how often it is stepped."""

    Options: ClassVar[type[Settings]] = ActorCriticOptions
    Module: ClassVar[type[AgentModule]] = ActorCriticModule
    options: ActorCriticOptions

    @classmethod
    def check_spaces(cls, observation_space: Any, action_space: Any, options: ActorCriticOptions) -> None:
        super().check_spaces(observation_space, action_space, options)
        architecture_for(observation_space, action_space, options.network)

    @classmethod
    def model_config(cls, options: ActorCriticOptions, world: WorldFacts, agents: tuple[int, ...]) -> dict[str, Any]:
        return {
            "network": options.network.model_dump(),
            "exploration": scheduled(options.exploration, 0),
            "sees_time": options.critic_sees_time,
            "episode_length": world.episode_length,
        }

    def trained_parameters(self, module: Any) -> dict[str, tuple[list[Tensor], Schedule]]:
        """Optimiser name -> the parameters that it steps, and its learning rate."""
        return {**self.acting_parameters(module), **self.auxiliary_parameters(module)}

    def acting_parameters(self, module: Any) -> dict[str, tuple[list[Tensor], Schedule]]:
        """The same for the acting network: one optimiser, the default one, for all of it."""
        return {DEFAULT_OPTIMIZER: (list(module.actor_critic.parameters()), self.options.lr)}

    def auxiliary_parameters(self, module: Any) -> dict[str, tuple[list[Tensor], Schedule]]:
        """The same for the networks that do not act."""
        return {}

    def optimizer(self, name: str, parameters: list[Tensor]) -> torch.optim.Optimizer:
        """The optimiser of this name; its learning rate is set by its schedule."""
        return torch.optim.Adam(parameters, eps=self.options.adam_epsilon, fused=True)

    @classmethod
    def losses_before_rewards(
        cls, groups: Sequence[LearningGroup], joint: JointTrajectory, env_steps: int
    ) -> list[tuple[LearningGroup, Tensor, Statistics]]:
        """Losses `[G]` of auxiliary networks that are stepped before this very batch's rewards are reshaped, and what to log.

        Args:
            groups: all of this kind of agent.
            joint: the new trajectory (torch columns).
            env_steps: sampled so far.
        """
        return []

    @classmethod
    def auxiliary_losses(
        cls, group: LearningGroup, joint: JointTrajectory, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Statistics]]:
        """Losses `[G]` of the group's networks that do not act, one for each gradient step of theirs, and what to log.

        They are stepped after the acting networks, with the optimisers of `auxiliary_parameters`.
        """
        return iter(())

    @property
    def together(self) -> Hashable:
        """Further options that decide which data are learned from; agents learn together if all of them are equal."""
        return ()

    @property
    def num_epochs(self) -> int:
        """Passes over a batch."""
        return 1

    def num_minibatches(self, env_steps: int) -> int:
        """Gradient steps per pass over a batch of this many env steps."""
        return 1

    @classmethod
    def less_baseline(cls, kinds: Sequence[Any], advantages: Tensor, alive: Tensor) -> Tensor:
        """Advantages `[G, T, M]` less what else than values is expected of the rows in which the agents are alive."""
        return advantages

    @classmethod
    @abstractmethod
    def policy_loss(cls, kinds: Sequence[Any], log_probs: Tensor, batch: Minibatch) -> Tensor:
        """Loss `[G, T, M]` whose gradient improves the policies; `log_probs` are those of the actions now."""

    @classmethod
    def value_loss(cls, kinds: Sequence[Any], values: Tensor, batch: Minibatch) -> Tensor:
        """Loss `[G, T, M]` of the values."""
        return (values - batch.returns) ** 2

    @classmethod
    def evaluation(cls, architecture: Architecture, parameters: Parameters, batch: Minibatch) -> Evaluation:
        """Policies and values of a group on a minibatch; what has a graph to which parameters says what learns from what."""
        return evaluate(architecture, parameters, batch.observations, batch.state, batch.starts, batch.inputs)

    @classmethod
    def losses(
        cls, kinds: Sequence[Any], modules: Sequence[ActorCriticModule], batch: Minibatch, env_steps: int
    ) -> tuple[Tensor, Statistics]:
        """The loss `[G]` of each agent of a group, a weighted mean over rows, and its parts."""
        rows = batch.actions.shape[1] * batch.actions.shape[2]
        parameters = modules[0].stacked(modules, rows)
        answer = cls.evaluation(modules[0].architecture, parameters, batch)
        log_policy = log_policies(masked(answer.logits, batch.allowed))
        log_probs = log_policy.gather(-1, batch.actions.unsqueeze(-1)).squeeze(-1)
        log_probs = exploring(log_probs, parameters["exploration"], num_allowed(log_policy.shape[-1], batch.allowed))

        def mean(x: Tensor) -> Tensor:
            return (x * batch.weights).mean((1, 2))

        policy_loss = mean(cls.policy_loss(kinds, log_probs, batch))
        value_loss = mean(cls.value_loss(kinds, answer.values, batch))
        entropy = mean(-(log_policy.exp() * log_policy).sum(-1))
        vf_coeff = policy_loss.new_tensor([kind.options.vf_loss_coeff for kind in kinds])
        entropy_coeff = policy_loss.new_tensor([scheduled(kind.options.entropy_coeff, env_steps) for kind in kinds])
        loss = policy_loss + vf_coeff * value_loss - entropy_coeff * entropy
        with torch.no_grad():
            log_ratio = log_probs - batch.log_probs
            kl = mean(log_ratio.exp() - 1 - log_ratio)
        return loss, {
            "total_loss": loss.detach(),
            "policy_loss": policy_loss.detach(),
            "vf_loss": value_loss.detach(),
            "entropy": entropy.detach(),
            "mean_kl": kl,
        }
