"""Who gave what to whom, and in which steps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from rllib_empathy.joint import JointTrajectory


def gift_statistics(
    joint: JointTrajectory, weights: Tensor, seats: Mapping[str, Sequence[int]]
) -> dict[tuple[str, str], float]:
    """What is worth logging of gifts, by (module, name); i are the agents of the module, j all of their co-players.

    - `gift_share/agent_i_to_j`, `gift_share_std/agent_i_to_j`: mean and standard deviation of w^ij over the steps in which i
      had a reward to share;
    - `gift_amount/agent_i_to_j`: reward per step that i gives to j;
    - `gift_given/agent_i`, `gift_received/agent_i`: reward per step, the sum over co-players;
    - `gift_share_when/EVENT`, `gift_share_otherwise/EVENT`: mean of w^ij over those of these steps in which j had this event,
      and over those in which it had not; left out where there was no such step.

    Args:
        joint: torch columns.
        weights: `[T, B, N, N]`, w^ij is the share of i's reward that goes to j; rows sum to 1.
        seats: the agents (indices into N) of each module.
    """
    steps, games, agents = joint.shape
    shares_something = joint.alive & (joint.rewards != 0)
    counts = shares_something.sum((0, 1)).clamp(min=1).unsqueeze(-1)
    counted = weights * shares_something.unsqueeze(-1)
    mean = counted.sum((0, 1)) / counts
    deviation = ((counted * weights).sum((0, 1)) / counts - mean**2).clamp(min=0).sqrt()
    others = ~torch.eye(agents, dtype=torch.bool, device=weights.device)
    amounts = torch.einsum("tbi,tbij->ij", joint.rewards, weights) * others / (steps * games)
    columns = [mean, deviation, amounts, amounts.sum(1, keepdim=True), amounts.sum(0).unsqueeze(1)]
    pairs = (shares_something.unsqueeze(-1) & joint.alive.unsqueeze(-2) & others).to(
        weights.dtype
    )  # [T, B, giver, other]
    for event in joint.events.values():
        for happened in (event > 0, event == 0):
            chosen = happened.to(weights.dtype)
            columns += [
                torch.einsum("tbij,tbij,tbj->i", pairs, weights, chosen).unsqueeze(1),
                torch.einsum("tbij,tbj->i", pairs, chosen).unsqueeze(1),
            ]
    of_agents = [_named(agent, row, list(joint.events)) for agent, row in enumerate(torch.cat(columns, 1).tolist())]
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for module_id, agents_of_module in seats.items():
        for agent in agents_of_module:
            for name, value in of_agents[agent].items():
                found[module_id, name].append(value)
    return {key: sum(values) / len(values) for key, values in found.items()}


def _named(agent: int, numbers: list[float], events: list[str]) -> dict[str, float]:
    agents = (len(numbers) - 2 - 4 * len(events)) // 3
    mean, deviation, amount = (numbers[agents * n : agents * (n + 1)] for n in range(3))
    rest = numbers[3 * agents :]
    found = {f"gift_given/agent_{agent}": rest[0], f"gift_received/agent_{agent}": rest[1]}
    for other in range(agents):
        if other != agent:
            found[f"gift_share/agent_{agent}_to_{other}"] = mean[other]
            found[f"gift_share_std/agent_{agent}_to_{other}"] = deviation[other]
            found[f"gift_amount/agent_{agent}_to_{other}"] = amount[other]
    for number, event in enumerate(events):
        when, when_count, otherwise, otherwise_count = rest[2 + 4 * number : 6 + 4 * number]
        if when_count:
            found[f"gift_share_when/{event}"] = when / when_count
        if otherwise_count:
            found[f"gift_share_otherwise/{event}"] = otherwise / otherwise_count
    return found
