"""Why networks are evaluated as they are: several ways to evaluate like agents, and to compute a small convolution."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.measure import Row, Scale, benchmark, one_thread, row, seconds
from rllib_empathy.policies import networks
from rllib_empathy.policies.networks import (
    ActorCritic,
    Architecture,
    NetworkOptions,
    evaluate,
    linear,
    stack_parameters,
)

AGENTS, ACTIONS = 4, 7
CLEANUP_WINDOW = (7, 5, 5)

Answer = tuple[Tensor, Tensor]
"""Logits [G, M, A] and values [G, M]."""

Evaluate = Callable[[Tensor], Answer]
"""From observations [G, M, channels, height, width]."""


class OneAgent(nn.Module):
    """An agent's network through the layers of `torch.nn`."""

    def __init__(self, network: ActorCritic) -> None:
        super().__init__()
        self.network = network

    def forward(self, observations: Tensor) -> Answer:
        """Logits `[M, A]` and values `[M]` of `[M, channels, height, width]`."""
        x = observations
        for convolution in self.network.convolutions:
            x = torch.relu(convolution(x))
        x = x.flatten(1)
        for layer in self.network.linears:
            x = torch.relu(layer(x))
        return self.network.policy(x), self.network.value(x).squeeze(-1)


def stacked(architecture: Architecture, agents: Sequence[OneAgent], rows: int) -> Evaluate:
    """As the project does it: one batched product per layer; convolutions see `networks.prepare`."""
    parameters = networks.prepare(architecture, stack_parameters([agent.network for agent in agents]), rows)

    def answer(observations: Tensor) -> Answer:
        found = evaluate(architecture, parameters, observations.unsqueeze(1))
        return found.logits.squeeze(1), found.values.squeeze(1)

    return answer


def loop(architecture: Architecture, agents: Sequence[OneAgent], rows: int) -> Evaluate:
    """One agent after the other."""

    def answer(observations: Tensor) -> Answer:
        logits, values = zip(*(agent(mine) for agent, mine in zip(agents, observations, strict=True)), strict=True)
        return torch.stack(logits), torch.stack(values)

    return answer


def vmap(architecture: Architecture, agents: Sequence[OneAgent], rows: int) -> Evaluate:
    """`torch.func.vmap` over stacked parameters."""
    parameters = stack_parameters(agents)
    call = torch.func.vmap(partial(torch.func.functional_call, agents[0]))
    return lambda observations: call(parameters, (observations,))


def grouped(architecture: Architecture, agents: Sequence[OneAgent], rows: int) -> Evaluate:
    """Convolutions with a group of channels for each agent, then batched products."""
    parameters = stack_parameters([agent.network for agent in agents])

    def layer(x: Tensor, name: str) -> Tensor:
        return linear(x, parameters[f"{name}.weight"], parameters[f"{name}.bias"])

    def answer(observations: Tensor) -> Answer:
        x = observations.transpose(0, 1).flatten(1, 2)  # [M, G * channels, height, width]
        for index in range(len(architecture.convolutions)):
            weight, bias = (parameters[f"convolutions.{index}.{part}"].flatten(0, 1) for part in ("weight", "bias"))
            x = torch.relu(functional.conv2d(x, weight, bias, groups=len(agents)))
        x = x.reshape(len(x), len(agents), -1).transpose(0, 1)
        for index in range(len(architecture.options.hidden)):
            x = torch.relu(layer(x, f"linears.{index}"))
        return layer(x, "policy"), layer(x, "value").squeeze(-1)

    return answer


def up_to(largest: int, architecture: Architecture, agents: Sequence[OneAgent], rows: int) -> Evaluate:
    """`stacked` as it is where a window of `largest` cells is the largest whose convolution is a matrix."""
    with patch.multiple(networks, LARGEST_WINDOW_AS_MATRIX=largest, MOST_ROWS_AS_MATRIX=math.inf):
        return stacked(architecture, agents, rows)


WAYS: dict[str, Callable[[Architecture, Sequence[OneAgent], int], Evaluate]] = {
    "stacked": stacked,
    "loop": loop,
    "vmap": vmap,
    "grouped": grouped,
}
"""Ways to evaluate like agents, called with about how many rows there will be; they give the same numbers."""


def example(
    rows: int, observation_shape: tuple[int, ...] = CLEANUP_WINDOW
) -> tuple[Architecture, list[OneAgent], Tensor]:
    """Four agents with LASE's network and what they see, `[G, M, channels, height, width]` of 0 and 1."""
    architecture = Architecture.of(observation_shape, 1.0, ACTIONS, NetworkOptions())
    agents = [OneAgent(ActorCritic(architecture)) for _ in range(AGENTS)]
    return architecture, agents, (torch.rand(AGENTS, rows, *observation_shape) < 0.1).float()


Use = Callable[[Callable[[], Evaluate], Tensor], Callable[[], None]]


def acting(way: Callable[[], Evaluate], observations: Tensor) -> Callable[[], None]:
    """Evaluates without gradients; parameters are readied once."""
    with torch.no_grad():
        answer = way()
    return torch.no_grad()(lambda: answer(observations) and None)


def learning(way: Callable[[], Evaluate], observations: Tensor) -> Callable[[], None]:
    """Readies parameters, evaluates and computes gradients."""

    def step() -> None:
        logits, values = way()(observations)
        (torch.log_softmax(logits, -1)[..., 0].sum() + (values**2).sum()).backward()

    return step


USES: tuple[Use, ...] = (acting, learning)


@benchmark
def like_agents(scale: Scale) -> list[Row]:
    """Four agents with LASE's network at Cleanup's window: stacked against a loop, vmap and grouped convolutions."""
    sizes = (64, 256, 800, 3200) if scale == "full" else (4,)
    repeats = 15 if scale == "full" else 1
    found = []
    with one_thread():
        for use, rows in ((use, rows) for use in USES for rows in sizes):
            architecture, agents, observations = example(rows)
            ways = {name: partial(way, architecture, agents, rows) for name, way in WAYS.items()}
            times = seconds({name: use(way, observations) for name, way in ways.items()}, repeats)
            for name, time in times.items():
                found.append(row(f"{use.__name__}, {rows} rows: {name}", time * 1e3, "ms", time / times["stacked"]))
    return found


@benchmark
def convolutions(scale: Scale) -> list[Row]:
    """The same network's convolutions as matrix products against conv2d, over window sizes and rows."""
    windows, sizes = ((5, 7, 9), (64, 128, 256, 512, 1024)) if scale == "full" else ((5,), (4,))
    repeats = 9 if scale == "full" else 1
    found = []
    with one_thread():
        for use, window, rows in ((use, window, rows) for use in USES for window in windows for rows in sizes):
            architecture, agents, observations = example(rows, (7, window, window))
            ways = {"matrix": window**2, "conv2d": networks.ALWAYS_AS_MATRIX}
            contenders = {
                name: use(partial(up_to, largest, architecture, agents, rows), observations)
                for name, largest in ways.items()
            }
            times = seconds(contenders, repeats)
            ratio = times["matrix"] / times["conv2d"]
            name = f"{use.__name__}, {window}x{window}, {rows} rows: matrix against conv2d"
            found.append(row(name, times["matrix"] * 1e3, "ms", ratio))
    return found
