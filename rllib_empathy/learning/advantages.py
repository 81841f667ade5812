"""Generalised advantage estimation over a joint trajectory, all games and agents at once."""

from __future__ import annotations

import torch
from torch import Tensor

from rllib_empathy.joint import JointTrajectory


def discounted(x: Tensor, goes_on: Tensor, decay: Tensor | float) -> Tensor:
    """Discounted sums  S_t = x_t + decay S_{t+1},  which end where the future does not go on, `[T, ...]`.

    Args:
        x: `[T, ...]`.
        goes_on: `[T, ...]`, 0 where nothing follows the step.
        decay: per step, a number or of a shape that fits `[...]`.
    """
    sums, total = torch.empty_like(x), torch.zeros_like(x[0])
    for step in reversed(range(len(x))):
        total = x[step] + decay * goes_on[step] * total
        sums[step] = total
    return sums


def next_values(joint: JointTrajectory, values: Tensor, tail_values: Tensor) -> Tensor:
    """The value of the state after each step, `[T, B, N]`: 0 where the agent's future is over, not where it is cut off.

    Args:
        joint: the trajectory (torch columns).
        values: `[T, B, N]` of the rows' states.
        tail_values: `[K, N]` of the tails.
    """
    after = torch.cat([values[1:], torch.zeros_like(values[:1])])
    after[joint.tail_steps.long(), joint.tail_games.long()] = tail_values
    has_future = joint.survives if joint.cut_off is None else joint.survives | joint.cut_off
    return after * (has_future & ~joint.terminated.unsqueeze(-1))


def generalized_advantages(
    joint: JointTrajectory, rewards: Tensor, values: Tensor, tail_values: Tensor, gamma: Tensor, lambda_: Tensor
) -> Tensor:
    """A_t = d_t + gamma lambda A_{t+1},  d_t = r_t + gamma V(s_{t+1}) - V(s_t)   (Schulman et al. 2016, equations 11 and 16).

    An agent's sum ends with its episode, with its leaving the game, and with the last row; a truncated future counts by its
    value. Rows in which an agent is not alive get 0.

    Args:
        joint: the trajectory (torch columns).
        rewards: `[T, B, N]`, reshaped or not.
        values: `[T, B, N]`.
        tail_values: `[K, N]`.
        gamma: discount, `[N]`.
        lambda_: `[N]`, 0: one-step temporal differences, 1: Monte Carlo.

    Returns:
        `[T, B, N]`.
    """
    errors = rewards + gamma * next_values(joint, values, tail_values) - values
    errors = torch.where(joint.alive, errors, 0.0)
    goes_on = joint.alive & joint.survives & ~(joint.terminated | joint.truncated).unsqueeze(-1)
    return discounted(errors, goes_on, gamma * lambda_)
