"""Memory-one policies in the iterated prisoner's dilemma, exactly: returns, and gradient ascent of several kinds of learners.

A policy is five probabilities of cooperation, after [CC, CD, DC, DD] (the own action first) and at the start. Two of them make a
Markov chain of outcomes, whose discounted sums of rewards need no sampling (Foerster et al. 2018; IPD-Analytic in Zhou et al.
2024). Outcomes are numbered from the first agent's side. K pairs are computed at once.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor

Payoffs: TypeAlias = tuple[float, float, float, float]
"""[R, S, T, P]: of both cooperating, of cooperating alone, of defecting alone, of both defecting."""

PAYOFFS: Payoffs = (-1.0, -3.0, 0.0, -2.0)
"""Of the Reciprocators' game."""

SWAPPED = [0, 2, 1, 3, 4]
"""The states [CC, CD, DC, DD, start] from the other agent's side."""


class Learner(Protocol):
    """Whoever makes its next policy of both agents' last ones."""

    def step(self, logits: Tensor, agent: int, gamma: float) -> Tensor:
        """Its own next logits, `[K, 5]`.

        Args:
            logits: of both policies, `[2, K, 5]`, each from its own agent's side.
            agent: which of the two it is.
            gamma: discount of the game.
        """


class Ascent(NamedTuple):
    """A learner that follows the exact gradient by the logits of its own policy.

    Args:
        reciprocal_weight: of the reciprocal return beside the return; 0: it is no Reciprocator.
        look_ahead: how large a step of the other's it foresees (LOLA); 0: it foresees none.
        size: of its own steps, on discounted returns.
        payoffs: of the game that it plays.
    """

    reciprocal_weight: float = 0.0
    look_ahead: float = 0.0
    size: float = 1.0
    payoffs: Payoffs = PAYOFFS

    def step(self, logits: Tensor, agent: int, gamma: float) -> Tensor:
        """One step; where `logits` require gradients, so that these flow through the step."""
        through = logits.requires_grad
        logits = logits if through else logits.clone().requires_grad_()
        wanted = self._wanted(logits, agent, gamma)
        slope = torch.autograd.grad(wanted.sum(), logits, create_graph=through)[0][agent]
        following = logits[agent] + self.size * slope
        return following if through else following.detach()

    def _wanted(self, logits: Tensor, agent: int, gamma: float) -> Tensor:
        policies = logits.sigmoid()
        seen = foreseen(logits, agent, self.look_ahead, gamma, self.payoffs).sigmoid() if self.look_ahead else policies
        wanted = exact_returns(seen, gamma, self.payoffs)[agent]
        if self.reciprocal_weight:
            wanted = wanted + self.reciprocal_weight * reciprocal_returns(policies, gamma, self.payoffs)[agent]
        return wanted


NAIVE = Ascent()
LOLA = Ascent(look_ahead=1.0)
RECIPROCATOR = Ascent(reciprocal_weight=5.0)


def outcome_probabilities(policies: Tensor) -> Tensor:
    """Probability of each outcome [CC, CD, DC, DD] in each state, `[K, 5, 4]`.

    Args:
        policies: `[2, K, 5]`, each from its own agent's side.
    """
    first, second = policies[0], policies[1][:, SWAPPED]
    return torch.stack([first * second, first * (1 - second), (1 - first) * second, (1 - first) * (1 - second)], -1)


def occupancies(outcomes: Tensor, gamma: float) -> Tensor:
    """Discounted number of visits of each state, `[K, 5]`:  x = e_start (I - gamma P)^-1.

    Args:
        outcomes: `[K, 5, 4]`, from `outcome_probabilities`; nothing leads back to the start.
        gamma: discount, below 1.
    """
    transitions = torch.cat([outcomes, torch.zeros_like(outcomes[..., :1])], -1)
    identity = torch.eye(5, dtype=outcomes.dtype)
    start = identity[4].expand(len(outcomes), 5)
    return torch.linalg.solve(identity - gamma * transitions.transpose(1, 2), start.unsqueeze(-1)).squeeze(-1)


def exact_returns(policies: Tensor, gamma: float, payoffs: Payoffs = PAYOFFS) -> Tensor:
    """Discounted returns of both agents, `[2, K]`, of policies `[2, K, 5]`."""
    outcomes = outcome_probabilities(policies)
    visits = (occupancies(outcomes, gamma).unsqueeze(-1) * outcomes).sum(1)  # [K, 4]
    paid = torch.tensor(payoffs, dtype=policies.dtype)
    return torch.stack([visits @ paid, visits @ paid[SWAPPED[:4]]])


def immediate_influences(policies: Tensor, payoffs: Payoffs = PAYOFFS) -> Tensor:
    """What each agent's action does for the other's reward at once, `[2, K, 5, 4]`, by state and outcome.

    VI_i|j(s, a) = r_j(a) - sum_a' pi_i(a' | s) r_j(a_-i, a'): the future cancels in the authors' special case.
    """
    reward, sucker, temptation, punishment = payoffs
    of_second = torch.tensor(
        [[reward, temptation], [sucker, punishment]], dtype=policies.dtype
    )  # [first's, second's action]
    tables = []
    for agent in range(2):
        cooperates = policies[agent] if agent == 0 else policies[agent][:, SWAPPED]
        expected = cooperates.unsqueeze(-1) * of_second[0] + (1 - cooperates).unsqueeze(-1) * of_second[1]
        table = of_second - expected.unsqueeze(-2)  # [K, 5, own action, other's action]
        tables.append((table if agent == 0 else table.transpose(-1, -2)).flatten(-2))
    return torch.stack(tables)


def reciprocal_returns(policies: Tensor, gamma: float, payoffs: Payoffs = PAYOFFS) -> Tensor:
    """Discounted sums of  VI_j|i(t - 1) VI_i|j(t)  for both agents i, `[2, K]`.

    Influences are those of fixed policies, as those of a slow estimator: gradients flow through what happens only.
    """
    influences = immediate_influences(policies.detach(), payoffs)
    outcomes = outcome_probabilities(policies)
    visits = occupancies(outcomes, gamma)
    totals = []
    for agent in range(2):
        received = (visits.unsqueeze(-1) * outcomes * influences[1 - agent]).sum(1)  # [K, 4] by the outcome it led to
        given = (outcomes * influences[agent]).sum(-1)[:, :4]
        totals.append(gamma * (received * given).sum(-1))
    return torch.stack(totals)


def foreseen(logits: Tensor, agent: int, step: float, gamma: float, payoffs: Payoffs = PAYOFFS) -> Tensor:
    """The logits `[2, K, 5]` after a step of the other agent's gradient ascent, as a function of this agent's own.

    theta_j' = theta_j + step grad_j V_j(theta_i, theta_j): whoever follows the gradient of V_i(theta_i, theta_j') by theta_i
    shapes what the other learns (LOLA, Foerster et al. 2018).

    Args:
        logits: `[2, K, 5]`, which require gradients.
        agent: i.
        step: of the other.
        gamma: discount.
        payoffs: of the game.
    """
    returns = exact_returns(logits.sigmoid(), gamma, payoffs)[1 - agent]
    learned = torch.zeros_like(logits)
    learned[1 - agent] = torch.autograd.grad(returns.sum(), logits, create_graph=True)[0][1 - agent]
    return logits + step * learned


def course(
    starts: Tensor, pair: tuple[Learner, Learner], gamma: float, updates: int, payoffs: Payoffs = PAYOFFS
) -> tuple[Tensor, Tensor]:
    """How two learners go on from a start: each of them makes its next policy of the last two, at the same time.

    Args:
        starts: logits `[2, K, 5]`; where they require gradients, so do the answers.
        pair: the learners.
        gamma: discount.
        updates: U.
        payoffs: of the game in which rewards are told; learners have to know it as well.

    Returns:
        Rewards per step, `[U + 1, 2, K]`, and the last policies `[2, K, 5]`.
    """
    logits = starts
    rewards = [(1 - gamma) * exact_returns(logits.sigmoid(), gamma, payoffs)]
    for _ in range(updates):
        logits = torch.stack([learner.step(logits, agent, gamma) for agent, learner in enumerate(pair)])
        rewards.append((1 - gamma) * exact_returns(logits.sigmoid(), gamma, payoffs))
    return torch.stack(rewards), logits.sigmoid()
