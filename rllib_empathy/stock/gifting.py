"""Reward reshaping for episodes of RLlib's own runners: kinds of agents, their auxiliary networks, and how these learn."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.utils.numpy import convert_to_numpy
from ray.rllib.utils.torch_utils import convert_to_torch_tensor
from torch import Tensor, nn

from env_registry.parameters import SettingError
from rllib_empathy.joint import JointTrajectory
from rllib_empathy.learning.distributed import average, average_buffers, average_gradients, broadcast_parameters
from rllib_empathy.learning.finite import check_gradients, check_rewards
from rllib_empathy.learning.groups import LearningGroup
from rllib_empathy.learning.rewards import reshape, reward_statistics
from rllib_empathy.policies.actor_critic import ActorCriticKind, scheduled
from rllib_empathy.policies.kind import AgentKind, WorldFacts
from rllib_empathy.stock.episodes import EpisodeAdapter
from rllib_empathy.stock.kinds import KindSpec, needs_networks, reshaping_of
from rllib_empathy.stock.seats import Seat, agents_of

Metrics = dict[tuple[str, str], float]
"""(policy, name) -> value."""


class Gifting:
    """All that the Learner needs to reshape rewards.

    Policies without a kind keep what they are paid, and may be given to.

    Args:
        kinds: policy -> its kind.
        seats: all agents.
        env_config: of the environment.
        seed: of the auxiliary networks' weights and minibatches; None: they differ from run to run.
        device: where trajectories and networks are.
        discounts: policy -> its discount, for kinds that value what is to come and are not given a `gamma` of their own.

    Raises:
        SettingError: a kind or option that does not exist, a policy that plays nobody, or spaces that a kind cannot handle.
    """

    def __init__(
        self,
        kinds: Mapping[str, KindSpec],
        seats: Sequence[Seat],
        env_config: Mapping[str, Any],
        seed: int | None = None,
        device: torch.device | str = "cpu",
        discounts: Mapping[str, float] | None = None,
    ) -> None:
        self.seats = tuple(seats)
        self.adapter = EpisodeAdapter(seats)
        self.device = device
        self.kinds: dict[str, AgentKind] = {}
        self.networks: dict[str, nn.ModuleDict] = {}
        self.optimizers: dict[str, dict[str, torch.optim.Optimizer]] = {}
        actions = [seat.action_space for seat in seats]
        space = self.adapter.layout.space
        self.world = WorldFacts(None, env_config, MultiAgentEnv, len(seats), space, actions, title="the environment")
        policies = sorted({seat.module_id for seat in seats})
        for module_id, spec in kinds.items():
            if module_id not in policies:
                raise SettingError(f"Policy {module_id!r} plays nobody. Policies that play: {', '.join(policies)}.")
            reshaping = reshaping_of(module_id, spec, (discounts or {}).get(module_id))
            self.kinds[module_id] = reshaping.kind(module_id, reshaping.options, agents_of(seats, module_id))
        for module_id in set(policies) - set(kinds):
            self.kinds[module_id] = AgentKind(module_id, None, agents_of(seats, module_id))
        with torch.random.fork_rng(devices=[]):  # acting networks draw what they would draw without gifts
            if seed is not None:
                torch.manual_seed(seed)
            for module_id in kinds:
                if needs_networks(type(self.kinds[module_id])):
                    self.networks[module_id] = _networks(self.kinds[module_id], self.world).to(device)
        for module_id, networks in self.networks.items():
            learning = self._learning_kind(module_id)
            self.optimizers[module_id] = {
                name: torch.optim.Adam(parameters, eps=learning.options.adam_epsilon)
                for name, (parameters, _) in learning.auxiliary_parameters(networks).items()
            }
        self._generator = torch.Generator()
        self._generator.seed() if seed is None else self._generator.manual_seed(seed)
        self._joint: JointTrajectory | None = None
        broadcast_parameters(list(self._all_parameters()))

    def reshape(self, episodes: Sequence[MultiAgentEpisode]) -> tuple[list[MultiAgentEpisode], Metrics]:
        """Copies of the episodes with the rewards that the policies learn from, and what to log.

        Raises:
            SettingError: see `EpisodeAdapter.joint`.
            NonFiniteError: a reward is no finite number.
        """
        columns, steps = self.adapter.joint(episodes)
        joint = self._joint = columns.to_tensors(self.device)
        check_rewards(joint)
        reshaped = reshape(joint, self.kinds, self.networks)
        with_rewards = self.adapter.with_rewards(episodes, steps, reshaped.rewards.cpu().numpy())
        return with_rewards, reward_statistics(joint, reshaped, self.kinds)

    def learn(self, env_steps: int, is_trained: Callable[[str], bool]) -> Metrics:
        """Trains the auxiliary networks on the trajectory that was reshaped last, and says what to log.

        Args:
            env_steps: sampled so far; learning rates may depend on it.
            is_trained: which policies are trained.

        Raises:
            NonFiniteError: a gradient is no finite number.
        """
        metrics: Metrics = {}
        if self._joint is None:
            return metrics
        for module_id in sorted(self.networks):
            if is_trained(module_id):
                statistics = self._train(module_id, self._joint, env_steps)
                metrics |= {(module_id, name): value for name, value in statistics.items()}
        self._joint = None
        return metrics

    def get_state(self) -> dict[str, Any]:
        """What a checkpoint needs: networks, optimisers, what kinds keep, the source of minibatches."""
        return {
            "networks": {module_id: _as_arrays(networks) for module_id, networks in self.networks.items()},
            "optimizers": {
                module_id: {name: _as_arrays(optimizer) for name, optimizer in of_module.items()}
                for module_id, of_module in self.optimizers.items()
            },
            "kinds": {module_id: kind.get_state() for module_id, kind in self.kinds.items()},
            "generator": self._generator.get_state().numpy(),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continues from `get_state`'s answer.

        Raises:
            SettingError: it is of other policies, or of other networks.
        """
        if set(state["kinds"]) != set(self.kinds):
            raise SettingError(
                f"The checkpoint holds gifts of the policies {', '.join(sorted(state['kinds']))}; playing now are "
                f"{', '.join(sorted(self.kinds))}."
            )
        for module_id, networks in self.networks.items():
            networks.load_state_dict(convert_to_torch_tensor(state["networks"][module_id], self.device))
            for name, optimizer in self.optimizers[module_id].items():
                saved = state["optimizers"][module_id][name]
                moments = convert_to_torch_tensor(saved["state"], self.device)
                # What optimisers are set to is what the options of now say.
                optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
        for module_id, kind in self.kinds.items():
            kind.set_state(state["kinds"][module_id])
        self._generator.set_state(torch.from_numpy(state["generator"].copy()))

    def _learning_kind(self, module_id: str) -> ActorCriticKind:
        return cast(ActorCriticKind, self.kinds[module_id])

    def _all_parameters(self) -> Iterator[Tensor]:
        for module_id in sorted(self.networks):
            yield from self.networks[module_id].parameters()

    def _train(self, module_id: str, joint: JointTrajectory, env_steps: int) -> dict[str, float]:
        """All gradient steps of one policy's networks in this iteration."""
        kind, networks, optimizers = (
            self._learning_kind(module_id),
            self.networks[module_id],
            self.optimizers[module_id],
        )
        trained = kind.auxiliary_parameters(networks)
        for name, (_, schedule) in trained.items():
            for group in optimizers[name].param_groups:
                group["lr"] = scheduled(schedule, env_steps)
        parameters = [parameter for own, _ in trained.values() for parameter in own]
        losses = kind.auxiliary_losses(LearningGroup((kind,), (networks,)), joint, self._generator)  # type: ignore[arg-type]
        statistics: dict[str, float] = {}
        for loss, current in _in_step(losses, self.device):
            for parameter in parameters:
                parameter.grad = None
            if loss is not None:
                loss.sum().backward()
                statistics = {name: value.item() for name, value in current.items()}
            average_gradients(parameters)
            norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
            check_gradients({module_id: norm})
            if kind.options.grad_clip is not None:
                torch.nn.utils.clip_grads_with_norm_(parameters, kind.options.grad_clip, norm)
            for optimizer in optimizers.values():
                optimizer.step()
        average_buffers(networks.buffers())
        return statistics


def _networks(kind: AgentKind, world: WorldFacts) -> nn.ModuleDict:
    """A kind's auxiliary networks, if it can live with the environment."""
    for space in world.action_spaces:
        kind.check_spaces(world.observation_space, space, kind.options)
    kind.check_world(world, kind.options)
    networks = kind.auxiliary_networks(kind.options, world.observation_space, world, kind.agents)
    assert networks is not None
    return networks


def _in_step(losses: Iterator[tuple[Tensor, Any]], device: Any) -> Iterator[tuple[Tensor | None, Any]]:
    """The losses, and None where only other Learners have further ones: theirs may be more, as episodes are no equal shares."""
    while True:
        loss, statistics = next(losses, (None, {}))
        if average(torch.tensor([float(loss is not None)], device=device)).item() == 0:
            return
        yield loss, statistics


def _as_arrays(owner: nn.Module | torch.optim.Optimizer) -> Any:
    """The state with arrays of its own: what goes on learning does not change it."""
    return convert_to_numpy(copy.deepcopy(owner.state_dict()))
