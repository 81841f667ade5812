"""Agents that learn alike are learned together: their rows of the joint trajectory, stacked along a group axis.

Shapes: G agents' modules in a group, T steps, M rows: the games of all agents that share the module, B for separate networks.
Without memory every step is a row of its own (T = 1).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from rllib_empathy.joint import JointTrajectory, rows_of, some_rows
from rllib_empathy.learning.distributed import average
from rllib_empathy.policies.actor_critic import ActorCriticKind, ActorCriticModule, Minibatch
from rllib_empathy.policies.networks import Parameters, State, evaluate, in_pieces

ROWS_AT_ONCE = 2048
"""Rows per forward pass when values of a whole batch are computed: what lies between layers stays in the cache."""


@dataclass(frozen=True)
class LearningGroup:
    """G modules of one architecture whose kinds make equal use of a batch."""

    kinds: tuple[ActorCriticKind, ...]
    modules: tuple[ActorCriticModule, ...]

    @property
    def agents(self) -> Tensor:
        """`[G, n]`: the agents that each module plays."""
        return torch.tensor([kind.agents for kind in self.kinds])

    def gather(self, column: Tensor) -> Tensor:
        """A column `[T, B, N, ...]` as `[G, T, M, ...]`; the rows of a module are its first agent's games, its second's ..."""
        return rows_of(self.agents, column)

    def scatter(self, column: Tensor, out: Tensor) -> None:
        """The inverse of `gather`: writes `[G, T, M]` into `out` `[T, B, N]`."""
        steps, games = out.shape[:2]
        agents = self.agents.to(out.device)
        out[:, :, agents] = column.reshape(len(self.kinds), steps, agents.shape[1], games).permute(1, 3, 0, 2)

    def starts(self, joint: JointTrajectory) -> Tensor:
        """`[G, T, M]`: the row is its episode's first."""
        return joint.starts.repeat(1, self.agents.shape[1]).expand(len(self.kinds), -1, -1)

    def allowed(self, joint: JointTrajectory) -> Tensor | None:
        """What the rows' agents might do, `[G, T, M, A]` with A of the group's agents; None: everything."""
        if joint.action_masks is None:
            return None
        return self.gather(joint.action_masks)[..., : int(self.modules[0].action_space.n)]

    def state(self, joint: JointTrajectory) -> State:
        """Recurrent state before the first step, name -> `[G, M, size]`."""
        return {
            name: torch.stack([torch.cat([joint.states[agent][name] for agent in kind.agents]) for kind in self.kinds])
            for name in self.modules[0].get_initial_state()
        }

    def inputs(self, context: Tensor | None, like: Tensor) -> Tensor:
        """What the networks see beside observations, `[G, T, M, inputs]`, given the contexts `[T, B, N, E]` of all agents.

        Args:
            context: None where no agent has any.
            like: a gathered column `[G, T, M, ...]`.
        """
        size = sum(self.modules[0].num_inputs)
        if context is None or not size:
            return torch.zeros(*like.shape[:3], size, device=like.device)
        return self.modules[0].inputs(self.gather(context[..., :size]))

    def goes_on(self, context: Tensor | None) -> Tensor:
        """0 where the modules know that nothing follows a tail, else 1: `[G, K, n]`, given `[K, N, E]`."""
        size = sum(self.modules[0].num_inputs)
        if context is None or not size:
            return torch.ones(1)
        over = self.modules[0].is_over(self.gather(context[..., :size].unsqueeze(0))[:, 0])  # [G, n * K]
        return (~over).float().view(*self.agents.shape, -1).transpose(1, 2)


def group_modules(
    kinds: dict[str, ActorCriticKind], modules: dict[str, ActorCriticModule], env_steps: int
) -> list[LearningGroup]:
    """Puts modules together that can be evaluated and stepped together, in the order of their ids."""
    groups: dict[tuple, list[str]] = {}
    for module_id in sorted(kinds):
        kind, module = kinds[module_id], modules[module_id]
        use = (type(kind), len(kind.agents), kind.num_epochs, kind.num_minibatches(env_steps), kind.together)
        groups.setdefault((module.group, use), []).append(module_id)
    return [
        LearningGroup(tuple(kinds[mid] for mid in ids), tuple(modules[mid] for mid in ids)) for ids in groups.values()
    ]


@torch.no_grad()
def trajectory_values(
    group: LearningGroup, joint: JointTrajectory, observations: Tensor, inputs: Tensor
) -> tuple[Tensor, Tensor]:
    """Values of all rows `[G, T, M]` and of the tails `[G, K, n]`, for a group's modules.

    Args:
        group: the modules.
        joint: the trajectory.
        observations: gathered, `[G, T, M, *observation_shape]`.
        inputs: `[G, T, M, numbers beside them]`, from `group.inputs`.
    """
    module = group.modules[0]
    parameters = module.stacked(group.modules, observations.shape[1] * observations.shape[2])
    tails = group.gather(joint.tail_observations.unsqueeze(0))  # [G, 1, n * K, ...]
    tail_inputs = group.inputs(None if joint.tail_context is None else joint.tail_context.unsqueeze(0), tails)
    modules, per_module = group.agents.shape
    if not module.is_stateful():
        values = _values(module, parameters, observations.flatten(1, 2), inputs.flatten(1, 2))
        last = _values(module, parameters, tails[:, 0], tail_inputs[:, 0])
        return values.reshape(observations.shape[:3]), last.reshape(modules, per_module, -1).transpose(1, 2)

    # With memory, a tail's value needs the state after the step before it: time is cut behind those steps. The last step is
    # among them but where all games of a share ended earlier.
    games = joint.shape[1]
    tails = tails.reshape(modules, per_module, -1, *tails.shape[3:])
    tail_inputs = tail_inputs.reshape(modules, per_module, len(joint.tail_steps), tail_inputs.shape[-1])
    tail_values = observations.new_zeros((modules, len(joint.tail_steps), per_module), dtype=torch.float32)
    state, starts = group.state(joint), group.starts(joint)
    pieces: list[Tensor] = []
    begin = 0
    for step in sorted({*joint.tail_steps.tolist(), joint.shape[0] - 1}):
        piece = slice(begin, step + 1)
        seen = (observations[:, piece], state, starts[:, piece], inputs[:, piece])
        answer = evaluate(module.architecture, parameters, *seen)
        pieces.append(answer.values)
        state, begin = answer.state, step + 1
        here = (joint.tail_steps == step).nonzero().squeeze(1)
        if not len(here):
            continue
        rows = torch.arange(per_module, device=here.device).unsqueeze(1) * games + joint.tail_games[here].long()
        after = {name: value[:, rows.flatten()] for name, value in state.items()}
        shown, beside = (column[:, :, here].flatten(1, 2).unsqueeze(1) for column in (tails, tail_inputs))
        tail = evaluate(module.architecture, parameters, shown, after, inputs=beside).values
        tail_values[:, here] = tail.reshape(modules, per_module, -1).transpose(1, 2)
    return torch.cat(pieces, 1), tail_values


def _values(module: ActorCriticModule, parameters: Parameters, observations: Tensor, inputs: Tensor) -> Tensor:
    """Values `[G, M]` of rows `[G, M, ...]`."""

    def values(seen: Tensor, beside: Tensor) -> tuple[Tensor]:
        seen, beside = seen.unsqueeze(1), beside.unsqueeze(1)
        return (evaluate(module.architecture, parameters, seen, inputs=beside).values[:, 0],)

    return in_pieces(values, ROWS_AT_ONCE, observations, inputs)[0]


def group_batch(
    group: LearningGroup,
    joint: JointTrajectory,
    observations: Tensor,
    inputs: Tensor,
    advantages: Tensor,
    returns: Tensor,
) -> Minibatch:
    """All a group learns from; `observations` and `inputs` are gathered, `advantages` and `returns` are `[T, B, N]`."""
    alive = group.gather(joint.alive)
    advantages = group.kinds[0].less_baseline(group.kinds, group.gather(advantages), alive)
    normalize = torch.tensor([kind.options.normalize_advantages for kind in group.kinds], device=alive.device)
    advantages = torch.where(normalize.view(-1, 1, 1), standardized(advantages, alive), advantages)
    batch = Minibatch(
        observations=observations,
        actions=group.gather(joint.actions).long(),
        log_probs=group.gather(joint.log_probs),
        advantages=advantages,
        returns=group.gather(returns),
        weights=row_weights(alive).float(),
        starts=group.starts(joint),
        inputs=inputs,
        state=group.state(joint),
        allowed=group.allowed(joint),
    )
    if group.modules[0].is_stateful():
        return batch
    rows = batch.each(lambda column: column.flatten(1, 2).unsqueeze(1), state={})
    # One axis for what an observation holds: rows of many axes are picked four times more slowly.
    return rows._replace(observations=rows.observations.reshape(*rows.actions.shape, -1))


def row_weights(alive: Tensor) -> Tensor:
    """Weights `[G, T, M]`, float64, with which a mean over rows is one over the rows in which the agent is alive.

    Their mean over the whole batch, on all Learners together, is 1: minibatches and shards with few such rows weigh little.
    """
    living = average(alive.double().mean((1, 2))).view(-1, 1, 1)
    return alive / torch.where(living > 0, living, 1.0)


def standardized(x: Tensor, mask: Tensor) -> Tensor:
    """x shifted and scaled to mean 0 and deviation 1 over the masked entries of each agent's rows, on all Learners together.

    Args:
        x: `[G, T, M]`.
        mask: `[G, T, M]`, which entries count.
    """
    weights = row_weights(mask)
    mean = average((x * weights).mean((1, 2))).view(-1, 1, 1)
    variance = average(((x - mean) ** 2 * weights).mean((1, 2))).view(-1, 1, 1)
    return ((x - mean) / variance.sqrt().clamp(min=1e-8)).to(x.dtype)


def minibatches(
    group: LearningGroup, batch: Minibatch, env_steps: int, generator: torch.Generator
) -> Iterator[Minibatch]:
    """Every minibatch of every epoch, shuffled along rows (whole sequences with memory)."""
    rows = batch.actions.shape[2]
    count = min(group.kinds[0].num_minibatches(env_steps), rows)
    for _ in range(group.kinds[0].num_epochs):
        if count == 1:
            yield batch
            continue
        order = torch.randperm(rows, generator=generator).to(batch.actions.device)
        for chosen in order.tensor_split(count):
            state = {name: value.index_select(1, chosen) for name, value in batch.state.items()}
            yield batch.each(partial(some_rows, chosen=chosen), state)


def all_parameters(modules: Sequence[torch.nn.Module]) -> list[Tensor]:
    """Trainable parameters in one fixed order."""
    return [parameter for module in modules for parameter in module.parameters() if parameter.requires_grad]
