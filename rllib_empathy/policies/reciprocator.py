"""Reciprocators: PPO agents that are rewarded for doing unto others as these have done unto them.

Zhou, Hong and Kao 2024, "Reciprocal Reward Influence Encourages Cooperation From Self-Interested Agents" (arXiv 2406.01641).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from env_registry.matrix_game import MatrixGame
from env_registry.parameters import SettingError, checked
from rllib_empathy.joint import JointTrajectory, in_order_of_place
from rllib_empathy.learning.distributed import average, total
from rllib_empathy.policies.actor_critic import EPISODE, ActorCriticModule, Schedule, architecture_for, scheduled
from rllib_empathy.policies.influence import (
    ESTIMATORS,
    Estimator,
    EstimatorOptions,
    Lessons,
    Views,
    elapsed_steps,
    received,
)
from rllib_empathy.policies.kind import AgentKind, Statistics, WorldFacts, register_kind
from rllib_empathy.policies.networks import Architecture, Parameters, Prepared, stack_parameters
from rllib_empathy.policies.ppo import PPO, PPOOptions
from rllib_empathy.reshaping.reciprocity import RewardForm, influence_balance, reciprocal_reward

if TYPE_CHECKING:
    from rllib_empathy.learning.groups import LearningGroup

PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "paper": {
        "balance_input": False,
        "pay_back": True,
        "frozen_iterations": 2,
        "lr": 0.005,
        "gamma": 0.99,
        "lambda_": 1.0,
        "entropy_coeff": 0.01,
        "clip_param": 0.15,
        "num_epochs": 40,
        "minibatch_size": 2**31,  # the whole batch
        "grad_clip": None,
        "network": {"conv_filters": (8, 8), "padding": "circular", "hidden": (32,), "memory": "gru", "memory_size": 32},
        "estimator": {
            "form": "twins",
            "lr": 0.01,
            "refit_every": 2,
            "buffer_size": 4,
            "epochs": 20,
            "minibatch_size": 4096,
        },
    },
}
PRESETS["authors_code"] = {
    **PRESETS["paper"],
    "decay": 0.99,
    "estimator": {**PRESETS["paper"]["estimator"], "buffer_size": 3},
}
"""Name -> options that differ from the defaults. "paper" is the paper's set-up for Coins as far as it is reported, else its
authors' code; in theirs, the balance decays by the discount."""


class ReciprocatorOptions(PPOOptions):
    """Options of Reciprocators; what a preset says are defaults: options that are given win."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS

    preset: Literal["default", "paper", "authors_code"] = Field("default", description="whose defaults")
    critic_sees_time: bool = Field(
        True,
        description="whether the value, though not the policy, knows how much of the episode is left, and that its limit ends it",
    )
    reciprocal_weight: Schedule = Field(
        1.0, description="of the reciprocal reward beside the extrinsic one, or points (env steps, weight)"
    )
    reward_form: RewardForm = Field("product", description="how balance and influence make a reward")
    normalize_reciprocal: bool = Field(False, description="whether the reciprocal reward is scaled to deviation 1")
    pay_back: bool | None = Field(
        None,
        description="whether what an agent does for others lowers its balance; null: not in matrix games, else yes",
    )
    decay: float = Field(1.0, ge=0, le=1, description="of the balance per step; 0: only the last step counts")
    balance_input: bool = Field(True, description="whether the policy sees the agent's balances")
    balance_limit: float = Field(5.0, gt=0, description="balances are clipped there and scaled to [-1, 1] as inputs")
    frozen_iterations: int = Field(
        1, ge=0, description="first iterations in which only the estimator learns, from what the first policies do"
    )
    estimator: EstimatorOptions = Field(EstimatorOptions(), description="of the value influence")

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, values: dict[str, Any]) -> dict[str, Any]:
        preset = cls.presets.get(str(values.get("preset", "default")), {})
        nested = {
            name: {**default, **values[name]}
            for name, default in preset.items()
            if isinstance(default, Mapping) and isinstance(values.get(name), Mapping)
        }
        return {**preset, **values, **nested}


class ReciprocatorModule(ActorCriticModule):
    """The acting network and the estimator of value influence, which runners have only if the policy sees its balances.

    Context: the balances of all co-players in order of place, if the policy sees them, and the number of steps; behind them,
    noted for the Learner, what these co-players did for the agent in the step before, and what it did for them.
    """

    def setup(self) -> None:
        self.reciprocity = self.model_config["reciprocity"]
        super().setup()
        self.estimator = estimator_for(self.architecture, self.reciprocity)

    def get_non_inference_attributes(self) -> list[str]:
        """Runners need the estimator only to keep balances."""
        return [] if self.reciprocity["balance_input"] else ["estimator"]

    @property
    def num_balances(self) -> int:
        """Balances that the policy sees."""
        return self.reciprocity["players"] - 1 if self.reciprocity["balance_input"] else 0

    @property
    def num_inputs(self) -> tuple[int, int]:
        return self.num_balances, 1

    @property
    def context_size(self) -> int:
        return sum(self.num_inputs) + 2 * self.num_balances

    def inputs(self, context: Tensor) -> Tensor:
        limit = self.reciprocity["balance_limit"]
        balances, steps = context.split((self.num_balances, 1), -1)
        seen = steps / self.time_unit if self.sees_time else torch.zeros_like(steps)
        return torch.cat([balances.clamp(-limit, limit) / limit, seen], -1)

    @property
    def group(self) -> Hashable:
        return (super().group, repr(self.reciprocity))

    @classmethod
    def stacked(cls, modules: Sequence[ReciprocatorModule], rows: int) -> Prepared:
        """The acting networks' parameters and, where balances are kept, beside them the estimators'."""
        parameters = super().stacked(modules, rows)
        if modules[0].num_balances and not torch.is_grad_enabled():
            parameters.beside = stack_parameters(_distinct([module.estimator for module in modules]))
        return parameters

    @classmethod
    def notice(
        cls,
        modules: Sequence[ReciprocatorModule],
        parameters: Parameters,
        agents: Tensor,
        observations: Tensor,
        actions: Tensor,
        alive: Tensor,
        context: Tensor,
        masks: Tensor | None = None,
    ) -> Tensor:
        first = modules[0]
        balances, steps, _ = context.split((first.num_balances, 1, 2 * first.num_balances), -1)
        exchanged: tuple[Tensor, ...] = ()
        if first.num_balances:
            assert isinstance(parameters, Prepared)
            time = steps[0, : len(actions), 0] / first.time_unit
            views = Views.of(observations, actions, alive, time, masks)
            influence = first.estimator.influence(parameters.beside, views)
            each = torch.arange(len(modules)).unsqueeze(1) % len(influence)  # shared estimators are one
            exchanged = tuple(c[each, :, agents].flatten(1, 2) for c in (received(influence), influence))
            change = exchanged[0] - exchanged[1] if first.reciprocity["pay_back"] else exchanged[0]
            balances = first.reciprocity["decay"] * balances + change
        return torch.cat([balances, steps + 1, *exchanged], -1)


class EstimatorAlone(nn.ModuleDict):
    """An estimator of value influence beside an acting network that is none of ours."""

    time_unit = EPISODE

    def __init__(self, architecture: Architecture, reciprocity: dict[str, Any]) -> None:
        super().__init__({"estimator": estimator_for(architecture, reciprocity)})
        self.reciprocity = reciprocity


def estimator_for(architecture: Architecture, reciprocity: dict[str, Any]) -> Estimator:
    """The estimator that `model_config["reciprocity"]` asks for, for observations as in this architecture."""
    options = checked(EstimatorOptions, reciprocity["estimator"], "estimator options")
    without_layers = architecture.options.model_copy(update={"hidden": (), "memory": "none"})
    architecture = architecture._replace(options=without_layers, inputs=0, critic_inputs=0)
    sizes = (reciprocity["players"], reciprocity["actions"], reciprocity["gamma"])
    return ESTIMATORS[options.form](architecture, *sizes, options)


@register_kind
class Reciprocator(PPO):
    """PPO on the extrinsic reward plus  weight * mean over co-players i of B_i(t - 1) VI_rc|i(t)  (`reshaping.reciprocity`).

    Each has an estimator of its own, fitted after every few iterations to recent joint trajectories, so that the reward
    does not follow the policy at once. Rewards and policies use the estimator that was there when the games were played.
    """

    name = "reciprocator"
    Options = ReciprocatorOptions
    Module = ReciprocatorModule
    options: ReciprocatorOptions
    needs_whole_episodes = True

    def __init__(self, module_id: str, options: ReciprocatorOptions, agents: tuple[int, ...]) -> None:
        super().__init__(module_id, options, agents)
        self.iteration = 0
        self.env_steps = 0
        self.recent: deque[JointTrajectory] = deque(maxlen=options.estimator.buffer_size)
        self._influence: Tensor | None = None  # [T, B, N, N - 1], if it was worked out here
        self._twin: Reciprocator | None = None  # whose estimator is the same
        self.balances: dict[int, Tensor] = {}  # agent -> [T, B, N - 1] before each step, in order of place
        self._reciprocal: dict[int, Tensor] = {}
        self._statistics: dict[str, float] = {}

    @classmethod
    def check_world(cls, world: WorldFacts, options: ReciprocatorOptions) -> None:
        form = options.estimator.form
        if world.num_agents < 2:
            raise SettingError("Reciprocators need somebody to reciprocate with: the world has one agent only.")
        if form == "tabular" and not issubclass(world.type, MatrixGame):
            raise SettingError(
                "estimator.form = 'tabular' counts states one by one, which only matrix games have few enough of. Use 'auto', "
                "'counterfactual' or 'twins' in this world."
            )
        if options.estimator.shared and not world.fully_observed:
            raise SettingError(
                "estimator.shared = True needs a world in which every agent sees the whole state: matrix games, grids on a torus "
                "or with view 'absolute'. In this one, give each Reciprocator its own estimator (shared: false)."
            )

    @classmethod
    def model_config(cls, options: Any, world: WorldFacts, agents: tuple[int, ...]) -> dict[str, Any]:
        matrix_game = issubclass(world.type, MatrixGame)
        form = options.estimator.form
        if form == "auto":
            form = "tabular" if matrix_game else "counterfactual"
        shared = world.fully_observed if options.estimator.shared is None else options.estimator.shared
        reciprocity = {
            "players": world.num_agents,
            "actions": max(int(space.n) for space in world.action_spaces),
            "gamma": options.gamma,
            "decay": options.decay,
            "pay_back": not matrix_game if options.pay_back is None else options.pay_back,
            "balance_input": options.balance_input,
            "balance_limit": options.balance_limit,
            "estimator": options.estimator.model_copy(update={"form": form, "shared": shared}).model_dump(),
        }
        return {**super().model_config(options, world, agents), "reciprocity": reciprocity}

    @classmethod
    def auxiliary_networks(
        cls, options: Any, observation_space: Any, world: WorldFacts, agents: tuple[int, ...]
    ) -> nn.ModuleDict:
        architecture = architecture_for(observation_space, world.action_spaces[agents[0]], options.network)
        return EstimatorAlone(architecture, cls.model_config(options, world, agents)["reciprocity"])

    def auxiliary_parameters(self, module: Any) -> dict[str, tuple[list[Tensor], Schedule]]:
        fitted: list[Tensor] = [parameter for parameter in module.estimator.parameters() if parameter.requires_grad]
        return {"estimator": (fitted, self.options.estimator.lr)} if fitted else {}

    @property
    def num_epochs(self) -> int:
        """Passes over a batch, none in the frozen iterations."""
        return 0 if 0 < self.iteration <= self.options.frozen_iterations else super().num_epochs

    # -- the reciprocal reward

    @torch.no_grad()
    def observe(self, joint: JointTrajectory, modules: dict[str, Any], population: dict[str, AgentKind]) -> None:
        if not joint.starts[0].all():
            raise SettingError(
                "Reciprocators add up what others did since an episode's start, but the trajectory begins within episodes. Set "
                "batch_mode: complete_episodes."
            )
        if joint.seats is not None and joint.shape[2] > 2:
            raise SettingError(
                "Reciprocators tell co-players apart by their places, which do not stay the same where more than two agents "
                "shuffle their seats. Set shuffle_seats: false."
            )
        self.iteration += 1
        self.env_steps += int(total(torch.tensor(float(joint.env_steps()))))
        self.recent.append(_without_what_is_not_needed(joint))
        self._statistics = {}
        self._influence = None
        module: ReciprocatorModule = modules[self.module_id]
        for agent in self.agents:
            self._reciprocal[agent] = self._reciprocal_reward(joint, agent, module)

    def reward(self, joint: JointTrajectory, agent: int, received: Tensor) -> Tensor:
        return received + self._reciprocal[agent]

    def statistics(self) -> dict[str, float]:
        return self._statistics

    def _reciprocal_reward(self, joint: JointTrajectory, agent: int, module: ReciprocatorModule) -> Tensor:
        """The weighted reciprocal reward of one agent, `[T, B]`."""
        others = in_order_of_place(joint.shape[2], joint.alive.device)[agent, 1:]
        present = joint.alive[..., others] & joint.alive[..., agent : agent + 1]
        got, gave = (column * present for column in self._exchanged(joint, agent, module))
        balance = influence_balance(got, gave, self.options.decay, joint.starts, module.reciprocity["pay_back"])
        self.balances[agent] = balance
        reward = reciprocal_reward(balance, gave, self.options.reward_form, present)
        there = joint.alive[..., agent]
        if self.options.normalize_reciprocal:
            squares, rows = average(torch.stack([(reward[there] ** 2).sum(), there.sum()]))
            reward = reward / (squares / rows.clamp(min=1)).sqrt().clamp(min=1e-8)
        reward = scheduled(self.options.reciprocal_weight, self.env_steps) * reward
        self._note("reciprocal_reward", f"agent_{agent}", reward, there)
        for place, other in enumerate(others.tolist()):
            self._note("influence", f"agent_{agent}_to_{other}", gave[..., place], there)
            self._note("influence", f"agent_{other}_to_{agent}", got[..., place], there)
            self._note("balance", f"agent_{agent}_to_{other}", balance[..., place], there)
        return reward

    def _note(self, name: str, whose: str, column: Tensor, there: Tensor) -> None:
        """To be logged: mean and deviation over the steps in which the agent takes part."""
        rows = column[there] if there.any() else column.new_zeros(1)
        self._statistics[f"{name}/{whose}"] = rows.mean().item()
        self._statistics[f"{name}_std/{whose}"] = rows.std(correction=0).item()

    def _exchanged(self, joint: JointTrajectory, agent: int, module: ReciprocatorModule) -> tuple[Tensor, Tensor]:
        """What an agent received from its co-players and gave to them, both `[T, B, N - 1]` in order of place.

        Runners that kept balances have noted it; else it is worked out, once for all who share an estimator.
        """
        noted = joint.context_after()
        if noted is not None and self.options.balance_input:
            others = joint.shape[2] - 1
            got, gave = noted[:, :, agent, others + 1 : 3 * others + 1].chunk(2, -1)
            return got, gave
        if self._influence is None and self._twin is not None and self._twin.iteration == self.iteration:
            self._influence = self._twin._influence
        if self._influence is None:
            time = elapsed_steps(joint.starts) / module.time_unit
            views = Views.of(joint.observations, joint.actions, joint.alive, time, joint.action_masks)
            self._influence = module.estimator.influence(stack_parameters([module.estimator]), views)[0]
        return received(self._influence)[:, :, agent], self._influence[:, :, agent]

    # -- the estimator

    @classmethod
    def auxiliary_losses(
        cls, group: LearningGroup, joint: JointTrajectory, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Statistics]]:
        """Fits the estimators, in every frozen iteration and then in every few."""
        kinds = cast(tuple[Reciprocator, ...], group.kinds)
        modules = cast(tuple[ReciprocatorModule, ...], group.modules)
        first, options = kinds[0], kinds[0].options.estimator
        if first.iteration > first.options.frozen_iterations and first.iteration % options.refit_every:
            return
        estimators = [module.estimator for module in modules]
        if modules[0].reciprocity["estimator"]["shared"]:
            estimators = estimators[:1]
        size, device = len(kinds), joint.rewards.device  # trajectories from a checkpoint are on the CPU
        recent = [each.to_tensors(device) for each in first.recent]
        lessons = Lessons.side_by_side([Lessons.of(each, modules[0].time_unit) for each in recent])
        for loss, statistics in type(estimators[0]).fit(estimators, lessons, generator):
            yield loss.expand(size) * len(loss) / size, {name: value.expand(size) for name, value in statistics.items()}
        for kind, module in zip(kinds[len(estimators) :], modules[len(estimators) :], strict=True):
            module.estimator.load_state_dict(estimators[0].state_dict())
            kind._twin = first

    def get_state(self) -> dict[str, Any]:
        """Iteration, env steps and recent trajectories, but the oldest one, which the next one takes the place of."""
        others = self.options.estimator.buffer_size - 1
        kept = list(self.recent)[-others:] if others else []
        return {
            "iteration": self.iteration,
            "env_steps": self.env_steps,
            "recent": [joint.map(lambda column: column.cpu().numpy()) for joint in kept],
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues from `get_state`'s answer."""
        self.iteration, self.env_steps = state["iteration"], state["env_steps"]
        self.recent.clear()
        self.recent.extend(joint.to_tensors() for joint in state["recent"])


def _without_what_is_not_needed(joint: JointTrajectory) -> JointTrajectory:
    """What estimators are fitted to, without the rest."""
    return replace(joint, states=(), events={}, context=None, tail_context=None)


def _distinct(estimators: list[Estimator]) -> list[Estimator]:
    """The first one, if all are alike (shared estimators are), else all."""
    states = [estimator.state_dict() for estimator in estimators]
    alike = all(torch.equal(state[name], value) for state in states[1:] for name, value in states[0].items())
    return estimators[:1] if alike else estimators
