"""PPO for G agents at once, each with a network and games of its own: parameters are stacked, nothing is shared.

Shapes: G agents, T steps, M rows (games, or pieces of them). Whatever an agent learns from is its own: advantages are normalised,
and losses averaged, over its rows alone, and Adam treats every parameter by itself.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rllib_empathy.policies.networks import (
    ActorCritic,
    Architecture,
    State,
    drawn,
    evaluate,
    log_policies,
    stack_parameters,
)
from rllib_empathy.theory.mfos import clipped_surrogate


class Learning(NamedTuple):
    """How an agent learns.

    Args:
        learning_rate: of Adam.
        epochs: passes over what was played.
        minibatches: of a pass.
        clip: of PPO's ratio.
        discount: of rewards, per step.
        trace: lambda of generalised advantage estimation.
        entropy: weight of the policy's entropy.
        reward_scale: factor on rewards; values of about 1 do not drown the policy in the loss.
    """

    learning_rate: float
    epochs: int
    minibatches: int
    clip: float
    discount: float
    trace: float
    entropy: float
    reward_scale: float


class Acted(NamedTuple):
    """What agents did in a step, each `[G, M]`, and the memory that is left."""

    actions: Tensor
    log_probs: Tensor
    values: Tensor
    state: State


class Rows(NamedTuple):
    """What agents learn from; T is 1 without memory."""

    state: State  # memory before the first step, [G, M, size]
    observations: Tensor  # [G, T, M, *observation_shape]
    inputs: Tensor  # [G, T, M, numbers beside the observation]
    actions: Tensor  # [G, T, M]
    log_probs: Tensor  # [G, T, M] under the policy that acted
    advantages: Tensor  # [G, T, M]
    targets: Tensor  # [G, T, M] of the values

    def chosen(self, rows: Tensor) -> Rows:
        """Some of the M rows."""
        columns = (column[:, :, rows] for column in self[1:])
        return Rows({name: value[:, rows] for name, value in self.state.items()}, *columns)


class Agents:
    """G actor-critics of one architecture.

    Args:
        architecture: of their networks.
        count: G.
        learning: how they learn.
        random: of first weights, actions and minibatches.
    """

    def __init__(self, architecture: Architecture, count: int, learning: Learning, random: torch.Generator) -> None:
        self.architecture, self.learning, self.random = architecture, learning, random
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**62, (), generator=random)))
            stacked = stack_parameters([ActorCritic(architecture) for _ in range(count)])
        self.parameters = {name: value.detach().requires_grad_() for name, value in stacked.items()}
        self._optimizer = torch.optim.Adam(self.parameters.values(), learning.learning_rate, eps=1e-5, fused=True)

    @torch.no_grad()
    def copy_from(self, other: Agents) -> None:
        """Takes over the parameters of others, not how they moved."""
        for name, parameter in self.parameters.items():
            parameter.copy_(other.parameters[name])

    @torch.no_grad()
    def act(self, observations: Tensor, inputs: Tensor, state: State) -> Acted:
        """Actions drawn from the policies.

        Args:
            observations: `[G, M, *observation_shape]`.
            inputs: `[G, M, numbers beside the observation]`.
            state: memory.
        """
        answer = evaluate(
            self.architecture, self.parameters, observations.unsqueeze(1), state, inputs=inputs.unsqueeze(1)
        )
        log_policy = torch.log_softmax(answer.logits.squeeze(1), -1)
        actions = drawn(log_policy, self.random)
        log_probs = log_policy.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
        return Acted(actions, log_probs, answer.values.squeeze(1), answer.state)

    def improve(self, rows: Rows) -> None:
        """Some epochs of PPO (clipped ratios)."""
        advantages = rows.advantages - rows.advantages.mean((1, 2), keepdim=True)
        rows = rows._replace(advantages=advantages / (advantages.std((1, 2), keepdim=True) + 1e-8))
        for _ in range(self.learning.epochs):
            order = torch.randperm(rows.actions.shape[2], generator=self.random)
            for chosen in order.chunk(self.learning.minibatches):
                self._optimizer.zero_grad()
                # A sum over agents: the gradient of each is that of its own loss.
                self._loss(rows.chosen(chosen)).sum().backward()
                self._optimizer.step()

    def _loss(self, rows: Rows) -> Tensor:
        answer = evaluate(self.architecture, self.parameters, rows.observations, rows.state, inputs=rows.inputs)
        log_policy = log_policies(answer.logits)
        ratio = (log_policy.gather(-1, rows.actions.unsqueeze(-1)).squeeze(-1) - rows.log_probs).exp()
        surrogate = clipped_surrogate(ratio, rows.advantages, self.learning.clip)
        entropy = -(log_policy.exp() * log_policy).sum(-1)
        error = (answer.values - rows.targets).square()
        return (0.5 * error - surrogate - self.learning.entropy * entropy).mean((1, 2))
