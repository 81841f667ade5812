"""LASE's auxiliary networks, evaluated for several agents at once (see `networks`).

The social-relationship network has a policy (what would I do?) and a critic of joint actions on shared convolutions; the
observation conversion network turns the own observation into what a co-player may be seeing.

Shapes: G agents, M rows, N players, F features, H hidden units, A actions. Joint actions are seen from the focal agent: place 0
is itself, place k its co-player (i + k) mod N, as in the grid worlds' observations.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional

from env_registry.parameters import SettingError
from rllib_empathy.policies.kind import WorldFacts
from rllib_empathy.policies.networks import Architecture, Parameters, encode, linear


class SocialNetworks(nn.Module):
    """All networks with which one agent infers its social relationships, whatever network it acts with.

    `social_inference` and `social_learning` say how they are used and trained.

    Args:
        architecture: of a network for the agent's observations; of it the observations and the convolutions count.
        joint_actions: number of actions of the agent itself, then of its co-players in order of place.
        hidden: H.

    Attributes:
        critic_error: `[1]`, root of the critic's mean squared error when it was last updated.
    """

    critic_error: Tensor

    def __init__(self, architecture: Architecture, joint_actions: Sequence[int], hidden: int) -> None:
        super().__init__()
        self.register_buffer("critic_error", torch.zeros(1))
        filters = architecture.options.conv_filters
        self.joint_actions = tuple(joint_actions)
        self.hidden = hidden
        self.relationship_architecture = convolutions_only(architecture, filters)
        self.conversion_architecture = convolutions_only(architecture, filters[:1])
        self.relationship = SocialRelationship(self.relationship_architecture, self.joint_actions, hidden)
        self.conversion = ObservationConversion(self.conversion_architecture, len(self.joint_actions), hidden)

    @property
    def group(self) -> Hashable:
        """Networks can be stacked if and only if their groups are equal."""
        return (self.relationship_architecture, self.joint_actions, self.hidden)


class SocialRelationship(nn.Module):
    """Parameters of one agent's social-relationship policy and joint-action critic.

    Args:
        architecture: of the convolutions; its `num_actions` are the agent's own.
        joint_actions: number of actions of the agent itself, then of its co-players in order of place.
        hidden: H.
    """

    def __init__(self, architecture: Architecture, joint_actions: Sequence[int], hidden: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(c, f, 3) for c, f, _, _ in architecture.convolutions)
        self.policy_hidden = nn.Linear(architecture.features, hidden)
        self.policy_out = nn.Linear(hidden, architecture.num_actions)
        self.critic_hidden = nn.Linear(architecture.features, hidden)
        self.critic_actions = nn.Linear(sum(joint_actions), hidden, bias=False)
        self.critic_out = nn.Linear(hidden, 1)
        initialise(self, small=("policy_out",))


class ObservationConversion(nn.Module):
    """Parameters of one agent's observation conversion network: a convolution, the co-player's place, two layers, sigmoid.

    Args:
        architecture: of the observation; of its convolutions the first is used.
        players: N.
        hidden: H.
    """

    def __init__(self, architecture: Architecture, players: int, hidden: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(c, f, 3) for c, f, _, _ in architecture.convolutions)
        self.hidden_1 = nn.Linear(architecture.features + players - 1, hidden)
        self.hidden_2 = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, prod(architecture.observation_shape))
        initialise(self, small=())


def convolutions_only(architecture: Architecture, filters: tuple[int, ...]) -> Architecture:
    """The architecture of networks that have these convolutions, and go on in ways of their own."""
    options = architecture.options.model_copy(update={"conv_filters": filters, "hidden": (), "memory": "none"})
    return architecture._replace(options=options)


def initialise(network: nn.Module, small: tuple[str, ...]) -> None:
    """Orthogonal weights, those of the `small` layers a hundredth of the usual, and no biases."""
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            nn.init.orthogonal_(parameter, 0.01 if name.split(".")[0] in small else 2**0.5)
        else:
            nn.init.zeros_(parameter)


def joint_actions_of(world: WorldFacts, agents: Sequence[int]) -> tuple[int, ...]:
    """Numbers of actions in order of place, for a network that all of these agents use.

    Raises:
        SettingError: they would be different ones for some of the agents.
    """
    counts = [int(space.n) for space in world.action_spaces]
    by_agent = {tuple(counts[agent:] + counts[:agent]) for agent in agents}
    if len(by_agent) > 1:
        raise SettingError(
            "Agents that share networks need co-players with like actions in the same order of seats. Give "
            "them separate networks (shared: false)."
        )
    return by_agent.pop()


def social_logits(parameters: Parameters, features: Tensor) -> Tensor:
    """Logits `[G, M, A]` of the social-relationship policy from features `[G, M, F]`."""
    hidden = torch.relu(linear(features, parameters["policy_hidden.weight"], parameters["policy_hidden.bias"]))
    return linear(hidden, parameters["policy_out.weight"], parameters["policy_out.bias"])


def allowed_by_place(masks: Tensor | None, joint_actions: Sequence[int]) -> list[Tensor | None]:
    """Masks `[..., N, A]` in order of place as one for each place, `[..., A_k]`; Nones where there are none."""
    if masks is None:
        return [None] * len(joint_actions)
    return [masks[..., place, :choices] for place, choices in enumerate(joint_actions)]


def joint_one_hot(actions: Tensor, joint_actions: Sequence[int]) -> Tensor:
    """One-hot joint actions `[..., sum of all A]` from actions `[..., N]` in order of place."""
    first = torch.tensor([sum(joint_actions[:place]) for place in range(len(joint_actions))], device=actions.device)
    one_hot = torch.zeros(*actions.shape[:-1], sum(joint_actions), device=actions.device)
    return one_hot.scatter_(-1, actions + first, 1.0)


def joint_action_values(
    parameters: Parameters, features: Tensor, actions: Tensor, joint_actions: Sequence[int]
) -> Tensor:
    """Q(o, a) `[G, M]` of joint actions `[G, M, N]` (in order of place)."""
    hidden = torch.relu(_critic_hidden(parameters, features, actions, joint_actions))
    return linear(hidden, parameters["critic_out.weight"], parameters["critic_out.bias"]).squeeze(2)


def counterfactual_values(
    parameters: Parameters, features: Tensor, actions: Tensor, joint_actions: Sequence[int]
) -> list[Tensor]:
    """Q(o, a_-k, a') `[G, M, A_k]` for every action a' of each co-player k; the list is by place, 1 .. N-1.

    The joint action enters the critic's hidden layer as a sum of one column per player. Replacing one player's action is
    therefore a rank-one change of what the layer has computed already: exact, and nothing before it runs again.

    Args:
        parameters: of the social-relationship networks.
        features: `[G, M, F]`.
        actions: `[G, M, N]`; it is not changed.
        joint_actions: number of actions by place.
    """
    hidden = _critic_hidden(parameters, features, actions, joint_actions)
    of_actions = parameters["critic_actions.weight"].transpose(1, 2).contiguous()
    columns = of_actions.split(list(joint_actions), 1)  # by place [G, A_k, H]
    out, bias = parameters["critic_out.weight"].transpose(1, 2), parameters["critic_out.bias"].unsqueeze(1)
    values = []
    for place in range(1, len(joint_actions)):
        taken = actions[..., place : place + 1].expand_as(hidden)
        without = hidden - columns[place].gather(1, taken)
        alternatives = columns[place].unsqueeze(2).unbind(1)  # one after the other: what stays in the cache is fast
        values.append(torch.cat([torch.bmm((without + column).relu_(), out) for column in alternatives], -1) + bias)
    return values


def perspective(
    networks: SocialNetworks, social: Parameters, conversion: Parameters, observations: Tensor, places: Tensor
) -> tuple[Tensor, Tensor]:
    """What co-players may see `[G, M, P, size]`, and the logits `[G, M, P, A]` of what the agent itself would do there.

    Args:
        networks: any one of the group; says of what shape they are.
        social: parameters of the social-relationship networks.
        conversion: parameters of the observation conversion networks.
        observations: `[G, M, *observation_shape]` of the focal agents.
        places: `[M, P]`, whose perspectives are taken in each row: 1 .. N-1.
    """
    converted = converted_observations(networks.conversion_architecture, conversion, observations, places)
    architecture = networks.relationship_architecture._replace(scale=1.0)
    there = converted.reshape(len(converted), -1, *architecture.observation_shape)
    logits = social_logits(social, encode(architecture, social, there))
    return converted, logits.reshape(*converted.shape[:3], -1)


def converted_observations(
    architecture: Architecture, parameters: Parameters, observations: Tensor, places: Tensor
) -> Tensor:
    """What co-players may see, `[G, M, P, prod(observation_shape)]` in (0, 1).

    Args:
        architecture: of the conversion network's convolution.
        parameters: of the observation conversion networks.
        observations: `[G, M, *observation_shape]` of the focal agents.
        places: `[M, P]`, whose views are asked for in each row: 1 .. N-1.
    """
    features = encode(architecture, parameters, observations)
    weight = parameters["hidden_1.weight"]
    of_state, of_place = weight.split((features.shape[-1], weight.shape[-1] - features.shape[-1]), -1)
    who = functional.one_hot(places.flatten() - 1, of_place.shape[-1]).to(weight.dtype)
    there = torch.matmul(who, of_place.transpose(1, 2)).unflatten(1, places.shape)  # [G, M, P, H]
    x = torch.relu(linear(features, of_state, parameters["hidden_1.bias"]).unsqueeze(2) + there).flatten(1, 2)
    x = torch.relu(linear(x, parameters["hidden_2.weight"], parameters["hidden_2.bias"]))
    x = torch.sigmoid(linear(x, parameters["out.weight"], parameters["out.bias"]))
    return x.reshape(len(x), *places.shape, -1)


def _critic_hidden(parameters: Parameters, features: Tensor, actions: Tensor, joint_actions: Sequence[int]) -> Tensor:
    state = linear(features, parameters["critic_hidden.weight"], parameters["critic_hidden.bias"])
    one_hot = joint_one_hot(actions, joint_actions).to(state.dtype)
    return torch.baddbmm(state, one_hot, parameters["critic_actions.weight"].transpose(1, 2))
