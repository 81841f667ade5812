"""The Learner: joint trajectory -> reshaped rewards -> advantages -> gradient steps of all agents together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from itertools import chain, zip_longest
from typing import Any

import torch
from ray.rllib.core import ALL_MODULES
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.rllib.utils.metrics import (
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_ENV_STEPS_TRAINED,
    NUM_ENV_STEPS_TRAINED_LIFETIME,
    NUM_MODULE_STEPS_TRAINED,
    NUM_MODULE_STEPS_TRAINED_LIFETIME,
)
from torch import Tensor

from rllib_empathy.episode_means import sum_and_count
from rllib_empathy.joint import JointTrajectory
from rllib_empathy.learning.advantages import generalized_advantages
from rllib_empathy.learning.distributed import average_buffers, average_gradients, broadcast_parameters
from rllib_empathy.learning.episode_sums import EpisodeSums
from rllib_empathy.learning.finite import check_gradients, check_rewards
from rllib_empathy.learning.groups import (
    LearningGroup,
    all_parameters,
    group_batch,
    group_modules,
    minibatches,
    trajectory_values,
)
from rllib_empathy.learning.rewards import Reshaped, reshape, reward_statistics
from rllib_empathy.learning.statistics import explained_variance
from rllib_empathy.learning.training_data import JointTrainingData
from rllib_empathy.metrics import equality
from rllib_empathy.policies.actor_critic import ActorCriticKind, Minibatch, scheduled
from rllib_empathy.population import PopulationSpec


class EmpathyLearner(TorchLearner):
    """Learns all agents of a population from joint trajectories.

    What RLlib's Learner does per module in a Python loop happens here per group of like agents. Optimisers, learning rates,
    checkpoints, metrics and the several-learners machinery are RLlib's.
    """

    config: Any  # an EmpathyConfig

    def build(self) -> None:
        """Builds modules, kinds and optimisers; all Learners begin with the first one's weights."""
        self._kinds = self.config.resolved_population().kinds()
        self._stepped: dict[str, dict[str, list[Tensor]]] = {}  # module id -> optimiser -> its parameters
        self._acting: dict[str, set[str]] = {}  # module id -> the optimisers of its acting network
        super().build()
        for module_id, kind in self._kinds.items():
            kind.initialise(self.module[module_id])
        # RLlib's seeding makes torch fill all new memory with NaN, which costs a twentieth of the time and changes no result.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        self._generator = torch.Generator().manual_seed(self.config.seed or 0)
        self._episode_sums = EpisodeSums()
        self._env_steps: int | None = 0  # sampled before the last update
        broadcast_parameters(all_parameters(list(self._modules().values())))

    def change_population(self, population: PopulationSpec) -> None:
        """Drops agents that are gone and builds new ones; see `Empathy.change_population`."""
        config = self.config.copy(copy_frozen=False).population(population)
        config.validate()
        earlier, self._kinds = self._kinds, config.resolved_population().kinds()
        for module_id in earlier.keys() - self._kinds.keys():
            self.remove_module(module_id)
            self._stepped.pop(module_id, None)
            self._acting.pop(module_id, None)
        self.config = config
        specs = config.get_multi_rl_module_spec().rl_module_specs
        for module_id, kind in self._kinds.items():
            if module_id in earlier:
                kind.set_state(earlier[module_id].get_state())
                continue
            self.module.add_module(module_id, specs[module_id].build())
            self.configure_optimizers_for_module(module_id)
            kind.initialise(self.module[module_id])
        broadcast_parameters(all_parameters([self._modules()[module_id] for module_id in sorted(self._modules())]))

    def update(
        self, *, training_data: JointTrainingData, timesteps: dict[str, Any] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Learns from one batch of joint trajectories.

        Raises:
            NonFiniteError: rewards or gradients are not finite.
        """
        timesteps = timesteps or {}
        self.before_gradient_based_update(timesteps=timesteps)
        training_data.validate()
        training_data.solve_refs()
        self._weights_seq_no += 1
        joint = training_data.joint().to_tensors(self._device)
        check_rewards(joint)
        env_steps = self._env_steps = timesteps.get(NUM_ENV_STEPS_SAMPLED_LIFETIME, 0)

        modules = dict(self.module.items())
        self._learn_before_rewards(joint, env_steps)
        reshaped = reshape(joint, self._kinds, modules)
        self._learn(joint, reshaped.rewards, env_steps)
        for mid, kind in self._trained().items():  # the runners' next actions, and what is learned from them
            modules[mid].exploration.fill_(scheduled(kind.options.exploration, env_steps))
        for key, value in reward_statistics(joint, reshaped, self._kinds).items():
            self._log_mean(key, value)
        self._log_after_gifts(joint, reshaped)
        self._log_steps(joint)
        self.after_gradient_based_update(timesteps=timesteps)
        return self.metrics.reduce()

    def compute_loss_for_module(self, *, module_id: str, config: Any, batch: Minibatch, fwd_out: Any = None) -> Tensor:
        """The loss of one module on a minibatch of its own (G = 1)."""
        kind = self._kinds[module_id]
        return kind.losses([kind], [self._modules()[module_id]], batch, 0)[0].squeeze(0)

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """Optimisers for each agent that learns, with the agent's own learning rates."""
        kind = self._kinds[module_id]
        if not kind.learns:
            return
        self._stepped[module_id] = {}
        self._acting[module_id] = set(kind.acting_parameters(self.module[module_id]))
        for name, (parameters, schedule) in kind.trained_parameters(self.module[module_id]).items():
            self._stepped[module_id][name] = parameters
            self.register_optimizer(
                module_id=module_id,
                optimizer_name=name,
                optimizer=kind.optimizer(name, parameters),
                params=parameters,
                lr_or_lr_schedule=[list(p) for p in schedule] if isinstance(schedule, tuple) else schedule,
            )

    def get_state(
        self,
        components: str | Collection[str] | None = None,
        *,
        not_components: str | Collection[str] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The Learner's state, what the kinds of agents keep and the source of its shuffling included."""
        state = super().get_state(components, not_components=not_components, **kwargs)
        if self._check_component("generator", components, not_components):
            state["generator"] = self._generator.get_state().numpy()
            state["episode_sums"] = self._episode_sums.get_state()
            state["kinds"] = {mid: kind.get_state() for mid, kind in self._kinds.items()}
            state["env_steps"] = self._env_steps
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues from `get_state`'s answer, with the options of this configuration.

        They may be others than those that the state was made with: Tune's population based training, for instance, gives a
        trial the state of another one and new options. Learning rates, what else optimisers keep of the options, and the share
        of even actions are in the state as well.
        """
        trained = self.config.policies_to_train
        of_optimizers = {optimizer: _without_rate(optimizer) for optimizer in self._named_optimizers.values()}
        super().set_state(state)
        self.config.multi_agent(policies_to_train=trained)
        for optimizer, of_groups in of_optimizers.items():
            for group, own in zip(optimizer.param_groups, of_groups, strict=True):
                group.update(own)
        self._env_steps = state.get("env_steps")  # of older runs nobody knows it
        self._take_scheduled_options()
        if "generator" in state:
            self._generator.set_state(torch.from_numpy(state["generator"].copy()))
            self._episode_sums.set_state(state["episode_sums"])
            for mid, of_kind in state["kinds"].items():
                self._kinds[mid].set_state(of_kind)

    def restore_from_path(self, *args: Any, **kwargs: Any) -> None:
        """The same from a folder, where RLlib reads the modules last, shares of even actions with them."""
        super().restore_from_path(*args, **kwargs)
        self._take_scheduled_options()

    def _take_scheduled_options(self) -> None:
        """Sets what follows a schedule to its value after the last update, as that update did."""
        for optimizer, schedule in self._optimizer_lr_schedules.items():
            if self._env_steps:
                self._set_optimizer_lr(optimizer, schedule.update(timestep=self._env_steps))
            elif self._env_steps == 0 or not schedule.use_schedule:
                self._set_optimizer_lr(optimizer, schedule.get_current_value())
        if self._env_steps is not None:
            for mid, kind in self._trained().items():
                self.module[mid].exploration.fill_(scheduled(kind.options.exploration, self._env_steps))

    def _make_modules_ddp_if_necessary(self) -> None:
        """No wrapping: gradients are averaged in one flat all-reduce."""

    def _modules(self) -> dict[str, RLModule]:
        return {mid: self.module[mid] for mid in self._kinds if mid in self.module and self._kinds[mid].learns}

    def _trained(self) -> dict[str, ActorCriticKind]:
        return {mid: kind for mid, kind in self._kinds.items() if kind.learns and self.should_module_be_updated(mid)}

    def _learn(self, joint: JointTrajectory, rewards: Tensor, env_steps: int) -> None:
        kinds = self._trained()
        steps, games, _ = joint.shape
        groups = group_modules(kinds, self._modules(), steps * games)
        values, tail_values = torch.zeros_like(rewards), torch.zeros(len(joint.tail_steps), rewards.shape[2])
        tail_values = tail_values.to(rewards)
        gamma, lambda_, scale = (torch.ones(rewards.shape[2]).to(rewards) for _ in range(3))
        observations = [group.gather(joint.observations) for group in groups]
        inputs = [group.inputs(joint.context, seen) for group, seen in zip(groups, observations, strict=True)]
        for group, seen, beside in zip(groups, observations, inputs, strict=True):
            row_values, last_values = trajectory_values(group, joint, seen, beside)
            last_values = last_values * group.goes_on(joint.tail_context).to(last_values)
            group.scatter(row_values, values)
            group.scatter(last_values.permute(0, 2, 1).flatten(1).unsqueeze(1), tail_values.unsqueeze(0))
            for kind in group.kinds:
                agents = list(kind.agents)
                gamma[agents], lambda_[agents] = kind.options.gamma, kind.options.lambda_
                scale[agents] = kind.options.reward_scale
        advantages = generalized_advantages(joint, rewards * scale, values, tail_values, gamma, lambda_)

        plans = []
        for group, seen, beside in zip(groups, observations, inputs, strict=True):
            quality = explained_variance(*map(group.gather, (values, advantages + values, joint.alive)))
            self._log(group, {"vf_explained_var": quality})
            batch = group_batch(group, joint, seen, beside, advantages, advantages + values)
            plans.append((group, minibatches(group, batch, steps * games, self._generator)))
        sums: dict[int, dict[str, Tensor]] = defaultdict(dict)
        counts: dict[int, int] = defaultdict(int)
        for step in zip_longest(*(plan for _, plan in plans)):
            losses = []
            for index, minibatch in enumerate(step):
                if minibatch is not None:
                    group = groups[index]
                    loss, parts = group.kinds[0].losses(group.kinds, group.modules, minibatch, env_steps)
                    losses.append((group, loss))
                    counts[index] += 1
                    for name, part in parts.items():
                        sums[index][name] = sums[index].get(name, 0) + part
            self._step(losses, acting=True)
        for index, group in enumerate(groups):
            self._log(group, {name: total / counts[index] for name, total in sums[index].items()})
        self._learn_beside(groups, joint)
        average_buffers(buffer for mid in sorted(kinds) for buffer in self.module[mid].buffers())

    def _learn_before_rewards(self, joint: JointTrajectory, env_steps: int) -> None:
        """One gradient step of all networks that decide on this batch's rewards."""
        steps, games, _ = joint.shape
        groups = group_modules(self._trained(), self._modules(), steps * games)
        for of in dict.fromkeys(type(group.kinds[0]) for group in groups):
            alike = [group for group in groups if type(group.kinds[0]) is of]
            found = of.losses_before_rewards(alike, joint, env_steps)
            if found:
                self._step([(group, loss) for group, loss, _ in found], acting=False)
            for group, _, statistics in found:
                self._log(group, statistics)

    def _learn_beside(self, groups: list[LearningGroup], joint: JointTrajectory) -> None:
        """Gradient steps of all networks that do not act; what the last ones say is logged."""
        for group in groups:
            latest: dict[str, Tensor] = {}
            for loss, statistics in group.kinds[0].auxiliary_losses(group, joint, self._generator):
                self._step([(group, loss)], acting=False)
                latest |= statistics
            self._log(group, latest)

    def _step(self, losses: list[tuple[LearningGroup, Tensor]], acting: bool) -> None:
        """One gradient step of all groups that have a loss, of their acting or of their other networks."""
        kinds = [kind for group, _ in losses for kind in group.kinds]
        ids = [kind.module_id for kind in kinds]
        chosen = {mid: [name for name in self._stepped[mid] if (name in self._acting[mid]) == acting] for mid in ids}
        parameters = {mid: [p for name in chosen[mid] for p in self._stepped[mid][name]] for mid in ids}
        for parameter in chain.from_iterable(parameters.values()):
            parameter.grad = None
        torch.stack([loss.sum() for _, loss in losses]).sum().backward()
        average_gradients([parameter for mid in sorted(ids) for parameter in parameters[mid]])
        limits = {kind.module_id: kind.options.grad_clip for kind in kinds}
        norms = {}
        for mid in ids:
            gradients = [parameter.grad for parameter in parameters[mid] if parameter.grad is not None]
            norms[mid] = torch.nn.utils.get_total_norm(gradients)
            if self.config.log_gradients:
                self._log_gradients(mid, chosen[mid])
            limit = limits[mid]
            if limit is not None:
                torch.nn.utils.clip_grads_with_norm_(parameters[mid], limit, norms[mid])
        check_gradients(norms)
        for mid in ids:
            for name in chosen[mid]:
                # Networks that several agents share are fitted as the first one's.
                if any(parameter.grad is not None for parameter in self._stepped[mid][name]):
                    self.get_optimizer(mid, name).step()

    def _log_gradients(self, module_id: str, optimizers: list[str]) -> None:
        """The norm of each optimiser's gradient before it is limited, under RLlib's name for it."""
        for name in optimizers:
            gradients = [p.grad for p in self._stepped[module_id][name] if p.grad is not None]
            norm = torch.nn.utils.get_total_norm(gradients).item()
            self._log_mean((module_id, f"gradients_{name}_global_norm"), norm)

    def _log(self, group: LearningGroup, statistics: dict[str, Tensor]) -> None:
        for name, per_agent in statistics.items():
            for kind, value in zip(group.kinds, per_agent.tolist(), strict=True):
                self._log_mean((kind.module_id, name), value)

    def _log_mean(self, key: tuple[str, ...], value: float) -> None:
        self.metrics.log_value(key, value, reduce="learner_mean")

    def _log_after_gifts(self, joint: JointTrajectory, reshaped: Reshaped) -> None:
        """Returns and equality of whole episodes after all gifts, where agents give."""
        if reshaped.gifts is None:
            return
        returns = self._episode_sums.add(joint, reshaped.received)
        if not len(returns):
            return
        for agent, own in enumerate(returns.T):
            key = (ALL_MODULES, "agent_returns_after_gifts_mean", f"agent_{agent}")
            self.metrics.log_value(key, sum_and_count(own), reduce="episode_mean")
        key_of_equality = (ALL_MODULES, "equality_after_gifts_mean")
        self.metrics.log_value(key_of_equality, sum_and_count(equality(returns)), reduce="episode_mean")

    def _log_steps(self, joint: JointTrajectory) -> None:
        agent_steps = joint.alive.sum((0, 1)).tolist()
        for mid, kind in self._trained().items():
            steps = sum(agent_steps[agent] for agent in kind.agents)
            self.metrics.log_value((mid, NUM_MODULE_STEPS_TRAINED), steps, reduce="sum")
            self.metrics.log_value((mid, NUM_MODULE_STEPS_TRAINED_LIFETIME), steps, reduce="lifetime_sum")
        for name, reduce in (
            (NUM_ENV_STEPS_TRAINED, "sum"),
            (NUM_ENV_STEPS_TRAINED_LIFETIME, "lifetime_sum"),
        ):
            self.metrics.log_value((ALL_MODULES, name), joint.env_steps(), reduce=reduce)


def _without_rate(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """What an optimiser does to each group of parameters, its learning rate apart."""
    return [
        {key: value for key, value in group.items() if key not in ("params", "lr")} for group in optimizer.param_groups
    ]
