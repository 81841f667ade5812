"""Models of other agents: what each co-player will do next, given what the agent sees and what all do now.

Shapes: G agents, M rows, N players in order of place (see `social_networks`), F features, H hidden units. Predictions for all
co-players stand side by side, in C columns: the sum of their numbers of actions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rllib_empathy.policies.networks import Architecture, Parameters, linear
from rllib_empathy.policies.social_networks import convolutions_only, initialise, joint_one_hot


class OtherModels(nn.Module):
    """Parameters of one agent's models of all its co-players, on shared convolutions and one hidden layer.

    Args:
        architecture: of a network for the agent's observations; of it the observations and the convolutions count.
        joint_actions: number of actions of the agent itself, then of its co-players in order of place.
        hidden: H.
    """

    def __init__(self, architecture: Architecture, joint_actions: Sequence[int], hidden: int) -> None:
        super().__init__()
        self.architecture = convolutions_only(architecture, architecture.options.conv_filters)
        self.joint_actions = tuple(joint_actions)
        self.convolutions = nn.ModuleList(nn.Conv2d(c, f, 3) for c, f, _, _ in self.architecture.convolutions)
        self.hidden = nn.Linear(self.architecture.features, hidden)
        self.actions = nn.Linear(sum(joint_actions), hidden, bias=False)
        self.out = nn.Linear(hidden, sum(joint_actions[1:]))
        initialise(self, small=("out",))


def next_action_logits(
    parameters: Parameters, features: Tensor, actions: Tensor, joint_actions: Sequence[int]
) -> Tensor:
    """Logits `[G, M, C]` of the co-players' next actions, after joint actions `[G, M, N]`."""
    hidden = torch.relu(_hidden(parameters, features, actions, joint_actions))
    return linear(hidden, parameters["out.weight"], parameters["out.bias"])


def counterfactual_logits(
    parameters: Parameters, features: Tensor, actions: Tensor, joint_actions: Sequence[int]
) -> Tensor:
    """The same `[G, M, A, C]` for each of the agent's own actions in place of the one taken.

    A rank-one change of the hidden layer for each (see `social_networks.counterfactual_values`).
    """
    columns = parameters["actions.weight"].transpose(1, 2)[:, : joint_actions[0]]  # [G, A, H]
    taken = torch.nn.functional.one_hot(actions[..., 0], joint_actions[0]).to(columns.dtype)
    without = _hidden(parameters, features, actions, joint_actions) - torch.bmm(taken, columns)
    hidden = torch.relu(without.unsqueeze(2) + columns.unsqueeze(1))
    logits = linear(hidden.flatten(1, 2), parameters["out.weight"], parameters["out.bias"])
    return logits.unflatten(1, hidden.shape[1:3])


def by_co_player(predictions: Tensor, joint_actions: Sequence[int]) -> tuple[Tensor, ...]:
    """Predictions `[..., C]` for each co-player in order of place, `[..., A_j]`."""
    return predictions.split(list(joint_actions[1:]), -1)


def _hidden(parameters: Parameters, features: Tensor, actions: Tensor, joint_actions: Sequence[int]) -> Tensor:
    state = linear(features, parameters["hidden.weight"], parameters["hidden.bias"])
    one_hot = joint_one_hot(actions, joint_actions).to(state.dtype)
    return torch.baddbmm(state, one_hot, parameters["actions.weight"].transpose(1, 2))
