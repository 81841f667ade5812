"""The one place where rewards are reshaped: gifts first, then each agent's own view of what it received.

The Learner, the Learner of a user's own PPO and the replay of an episode all go through `reshape`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rllib_empathy.joint import JointTrajectory
from rllib_empathy.policies.kind import AgentKind
from rllib_empathy.reshaping.gift_statistics import gift_statistics
from rllib_empathy.reshaping.gifting import transfer


class Reshaped(NamedTuple):
    """What a population makes of the extrinsic rewards of a trajectory."""

    rewards: Tensor  # [T, B, N], what agents learn from
    received: Tensor  # [T, B, N], extrinsic rewards after all gifts
    gifts: (
        Tensor | None
    )  # [T, B, N, N], share of the row's reward that goes to the column; None: nobody is of a kind that gives


def reshape(joint: JointTrajectory, population: Mapping[str, AgentKind], modules: Mapping[str, Any]) -> Reshaped:
    """Lets all agents look at the trajectory, give, and make of what they received what they learn from.

    Args:
        joint: torch columns; its rewards stay as they are.
        population: module id -> kind; together they hold all N agents.
        modules: module id -> RLModule, or what the kind's `auxiliary_networks` gave.
    """
    for kind in population.values():
        kind.observe(joint, dict(modules), dict(population))
    of_agent = {agent: kind for kind in population.values() for agent in kind.agents}
    kinds = [of_agent[agent] for agent in range(joint.shape[2])]
    gifts = _gifts(joint, kinds)
    received = joint.rewards if gifts is None else transfer(joint.rewards, gifts)
    rewards = torch.stack([kind.reward(joint, agent, received[..., agent]) for agent, kind in enumerate(kinds)], -1)
    return Reshaped(rewards, received, gifts)


def reward_statistics(
    joint: JointTrajectory, reshaped: Reshaped, population: Mapping[str, AgentKind]
) -> dict[tuple[str, str], float]:
    """What is worth logging of rewards, by (module id, name): extrinsic and reshaped means, gifts, and what each kind tells.

    Args:
        joint: torch columns.
        reshaped: what `reshape` made of it.
        population: module id -> kind.
    """
    found: dict[tuple[str, str], float] = {}
    extrinsic = _mean_per_step(joint, joint.rewards).tolist()
    learned_from = _mean_per_step(joint, reshaped.rewards).tolist()
    for module_id, kind in population.items():
        share = len(kind.agents)
        found[module_id, "extrinsic_reward_mean"] = sum(extrinsic[agent] for agent in kind.agents) / share
        found[module_id, "reshaped_reward_mean"] = sum(learned_from[agent] for agent in kind.agents) / share
        found |= {(module_id, name): value for name, value in kind.statistics().items()}
    if reshaped.gifts is not None:
        agents = {module_id: kind.agents for module_id, kind in population.items()}
        found |= gift_statistics(joint, reshaped.gifts, agents)
    return found


def _gifts(joint: JointTrajectory, kinds: list[AgentKind]) -> Tensor | None:
    """Rows of all agents; those of kinds that give nothing are one-hot."""
    gifts = [kind.gift_weights(joint, agent) for agent, kind in enumerate(kinds)]
    if all(weights is None for weights in gifts):
        return None
    keep = torch.eye(len(gifts), device=joint.rewards.device)
    rows = [keep[agent].expand(joint.shape) if weights is None else weights for agent, weights in enumerate(gifts)]
    return torch.stack(rows, 2)


def _mean_per_step(joint: JointTrajectory, rewards: Tensor) -> Tensor:
    """Means `[N]` of rewards `[T, B, N]` over the steps in which the agent is alive."""
    return (rewards * joint.alive).sum((0, 1)) / joint.alive.sum((0, 1)).clamp(min=1)
