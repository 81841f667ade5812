"""The networks of acting agents, evaluated for several agents at once.

Agents usually own separate networks of one architecture. Looping over them wastes most of the time on calling small kernels;
here the parameters of G agents are stacked along a leading axis and every layer is one batched matrix product. A convolution
over a small window is a product with a matrix too (`convolution_matrix`), which for few rows beats a convolution per agent.

Shapes: G agents, T steps, M rows (games), A actions.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from math import prod
from typing import Annotated, Any, Literal, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from env_registry.parameters import SettingError, Settings

ALWAYS_AS_MATRIX = 9
"""Cells of a window up to which a convolution's matrix has (nearly) no zeros: it is always used."""

LARGEST_WINDOW_AS_MATRIX = 25
"""Cells of a window up to which the matrix, zeros and all, beats one convolution per agent for few rows ..."""

LARGEST_BOUND = 1e9
"""A larger announced bound stands for "none", as the largest number of a type does, and says nothing of a feature's size."""

FEW_OUTPUTS = 16
"""Width of a layer up to which `linear` puts the weights on the left."""

MOST_ROWS_AS_MATRIX = 256
"""... namely up to this many (measured: benchmarks, "convolutions")."""

State = dict[str, Tensor]
"""Recurrent state, name -> [G, M, size]; empty without memory."""

Scale = float | tuple[float, ...]
"""Factors on observations: one for all elements, or one for each of a flat observation. Hashable, unlike arrays."""

Parameters = Mapping[str, Tensor]
"""Name -> stacked parameters [G, ...]."""

Width = Annotated[int, Field(ge=1)]
"""Of a layer."""


class NetworkOptions(Settings):
    """Sizes of an agent's acting network; the defaults are LASE's."""

    conv_filters: tuple[Width, ...] = Field((16, 32), description="3x3 convolutions, if observations are grids")
    padding: Literal["auto", "none", "zeros", "circular"] = Field(
        "auto", description="of the convolutions; auto: none where the window is large enough, else zeros"
    )
    hidden: tuple[Width, ...] = Field((128,), description="widths of the fully connected ReLU layers")
    memory: Literal["none", "lstm", "gru"] = Field("none", description="recurrent layer after them")
    memory_size: Width = Field(128, description="width of the recurrent layer")


class Architecture(NamedTuple):
    """Everything that decides the shapes of a network: networks with equal architectures can be stacked."""

    observation_shape: tuple[int, ...]
    scale: Scale  # observations are multiplied by it
    num_actions: int
    options: NetworkOptions
    inputs: int = 0  # numbers beside the observation that policy and value see
    critic_inputs: int = 0  # further ones that the value alone sees; it is linear in them

    @classmethod
    def of(
        cls,
        observation_shape: Sequence[int],
        high: float | NDArray[Any],
        num_actions: int,
        options: NetworkOptions,
        inputs: int = 0,
        critic_inputs: int = 0,
    ) -> Architecture:
        """The architecture for observations of this shape, and numbers beside them.

        Args:
            observation_shape: `[features]` or `[channels, height, width]`.
            high: the largest magnitude that is announced: of all elements, or of each, `[*observation_shape]` (`scale_of`).
            num_actions: A.
            options: sizes.
            inputs: numbers beside the observation that policy and value see.
            critic_inputs: further ones that the value alone sees.

        Raises:
            SettingError: convolutions without padding shrink the window to nothing.
        """
        shape = tuple(observation_shape)
        if len(shape) == 3:
            margin = 2 * len(options.conv_filters)
            fits = min(shape[1:]) > margin
            if options.padding == "auto":
                options = options.model_copy(update={"padding": "none" if fits else "zeros"})
            elif options.padding == "none" and not fits:
                raise SettingError(
                    f"{len(options.conv_filters)} convolutions without padding need windows larger than {margin} cells, "
                    f"observations are {shape[1]} x {shape[2]}. Use padding 'zeros' or 'circular', or fewer conv_filters."
                )
        elif options.conv_filters:
            options = options.model_copy(update={"conv_filters": ()})
        return cls(shape, scale_of(high), num_actions, options, inputs, critic_inputs)

    @property
    def convolutions(self) -> list[tuple[int, int, int, int]]:
        """Each convolution's (input channels, filters, height, width of the input)."""
        layers = []
        if self.options.conv_filters:
            channels, height, width = self.observation_shape
            shrink = 2 if self.options.padding == "none" else 0
            for filters in self.options.conv_filters:
                layers.append((channels, filters, height, width))
                channels, height, width = filters, height - shrink, width - shrink
        return layers

    @property
    def features(self) -> int:
        """Numbers that convolutions make of an observation."""
        if not self.convolutions:
            return prod(self.observation_shape)
        _, filters, height, width = self.convolutions[-1]
        shrink = 2 if self.options.padding == "none" else 0
        return filters * (height - shrink) * (width - shrink)


def scale_of(high: float | NDArray[Any]) -> Scale:
    """Factors that bring every element of an observation to at most 1, each by its own announced bound.

    An element without a bound, or with one above `LARGEST_BOUND`, is left as it is, and so is one within [-1, 1]. One that is
    always 0, such as padding, takes the factor of the others.

    Args:
        high: the largest announced magnitude, of all elements or of each; >= 0, may be infinite.

    Returns:
        one number where one does for all elements, otherwise a number for each, in flat order.
    """
    bounds = np.asarray(high, np.float64).ravel()
    factors = np.ones_like(bounds)
    np.divide(1.0, bounds, out=factors, where=(bounds > 1) & (bounds <= LARGEST_BOUND))
    kinds = np.unique(factors[bounds != 0])
    if len(kinds) <= 1:
        return float(kinds[0]) if len(kinds) else 1.0
    return tuple(factors.tolist())


def scaled(scale: Scale, x: Tensor) -> Tensor:
    """Flat observations `[..., features]`, multiplied by `Architecture.scale`."""
    if isinstance(scale, tuple):
        return x * torch.from_numpy(_factors(scale)).to(x)
    return x if scale == 1.0 else x * scale


@lru_cache(maxsize=64)
def _factors(scale: tuple[float, ...]) -> NDArray[np.float64]:
    return np.array(scale)


class Evaluation(NamedTuple):
    """Answer of `evaluate`."""

    logits: Tensor  # [G, T, M, A]
    values: Tensor  # [G, T, M]
    state: State  # after the last step


class ActorCritic(nn.Module):
    """Parameters of one agent's acting actor-critic: convolutions, fully connected layers, memory, policy and value head."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        options = architecture.options
        self.convolutions = nn.ModuleList(nn.Conv2d(c, f, 3) for c, f, _, _ in architecture.convolutions)
        sizes = [architecture.features + architecture.inputs, *options.hidden]
        self.linears = nn.ModuleList(nn.Linear(i, o) for i, o in itertools.pairwise(sizes))
        width = sizes[-1]
        if options.memory != "none":
            recurrent = nn.LSTM if options.memory == "lstm" else nn.GRU
            self.memory = recurrent(width, options.memory_size)
            width = options.memory_size
        self.policy = nn.Linear(width, architecture.num_actions)
        self.value = nn.Linear(width, 1 + architecture.critic_inputs)
        gains = {"policy": 0.01, "value": 1.0, "memory": 1.0}
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                nn.init.orthogonal_(parameter, gains.get(name.split(".")[0], 2**0.5))
            else:
                nn.init.zeros_(parameter)


def stack_parameters(networks: Sequence[nn.Module]) -> dict[str, Tensor]:
    """Parameters of G networks of one architecture, stacked along a new first axis; gradients flow back to each."""
    named = [dict(network.named_parameters()) for network in networks]
    return {name: torch.stack([parameters[name] for parameters in named]) for name in named[0]}


def initial_state(architecture: Architecture, agents: int, rows: int, device: torch.device | None = None) -> State:
    """The recurrent state at the start of an episode: zeros `[G, M, size]`."""
    names = {"none": (), "lstm": ("h", "c"), "gru": ("h",)}[architecture.options.memory]
    return {name: torch.zeros(agents, rows, architecture.options.memory_size, device=device) for name in names}


def evaluate(
    architecture: Architecture,
    parameters: Parameters,
    observations: Tensor,
    state: State | None = None,
    starts: Tensor | None = None,
    inputs: Tensor | None = None,
) -> Evaluation:
    """Policies and values of G agents.

    A value is  v_0(x) + sum_k c_k v_k(x)  with the last layer's features x and critic inputs c: time left, for instance, has a
    worth per step that depends on what is seen.

    Args:
        architecture: of all G networks.
        parameters: stacked, from `stack_parameters`, `prepare`d or not.
        observations: `[G, T, M, *observation_shape]`, any number type.
        state: before the first step; needed with memory only.
        starts: `[T, M]` or `[G, T, M]`, true where a step is an episode's first: memory is cleared before it.
        inputs: `[G, T, M, inputs + critic_inputs]`, the numbers beside the observation; default: zeros.
    """
    agents, steps, rows = observations.shape[:3]
    if not isinstance(parameters, Prepared):
        parameters = prepare(architecture, parameters, steps * rows)
    x = encode(architecture, parameters, observations.flatten(1, 2))
    if inputs is None:
        inputs = x.new_zeros(agents, steps, rows, architecture.inputs + architecture.critic_inputs)
    inputs, critic_inputs = inputs.flatten(1, 2).split((architecture.inputs, architecture.critic_inputs), -1)
    if architecture.inputs:
        x = torch.cat([x, inputs.to(x.dtype)], -1)
    for index in range(len(architecture.options.hidden)):
        x = torch.relu(linear(x, parameters[f"linears.{index}.weight"], parameters[f"linears.{index}.bias"]))
    if architecture.options.memory == "none":
        state = {}
    else:
        assert state is not None
        x, state = _remember(architecture, parameters, x.reshape(agents, steps, rows, -1), state, starts)
        x = x.reshape(agents, steps * rows, -1)
    heads = linear(x, parameters["heads.weight"], parameters["heads.bias"])
    logits, values, slopes = heads.split((architecture.num_actions, 1, architecture.critic_inputs), -1)
    if architecture.critic_inputs:
        values = values + (slopes * critic_inputs).sum(-1, keepdim=True)
    logits = logits.reshape(agents, steps, rows, -1)
    return Evaluation(logits.contiguous(), values.reshape(agents, steps, rows), state)


def encode(architecture: Architecture, parameters: Parameters, observations: Tensor) -> Tensor:
    """What the convolutions make of observations `[G, M, *observation_shape]`: `[G, M, features]`."""
    dtype = next(iter(parameters.values())).dtype
    x = observations.reshape(*observations.shape[:2], -1).to(dtype)
    x = scaled(architecture.scale, x)
    for index in range(len(architecture.convolutions)):
        x = torch.relu(_convolve(architecture, parameters, index, x))
    return x


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x W' + b for G agents: `[G, M, in]`, `[G, out, in]`, `[G, out]` -> `[G, M, out]`."""
    if weight.shape[1] <= FEW_OUTPUTS:
        return cast(Tensor, _FewOutputs.apply(x, weight, bias))
    return torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))


FORBIDDEN = -1e30
"""Logit of an action that is not allowed: its probability is exactly 0, and products of the two stay finite."""


def masked(logits: Tensor, allowed: Tensor | None) -> Tensor:
    """Logits or log-probabilities `[..., A]` in which actions that are not allowed have no probability, and learn nothing.

    Args:
        logits: `[..., A]`.
        allowed: bool, of a shape that fits; None: everything, and the logits stay what they are.
    """
    return logits if allowed is None else logits.masked_fill(~allowed, FORBIDDEN)


def num_allowed(num_actions: int, allowed: Tensor | None) -> Tensor | int:
    """How many of A actions are allowed, `[...]` for masks `[..., A]`; A without a mask."""
    return num_actions if allowed is None else allowed.sum(-1).clamp(min=1)


def renormalised(policy: Tensor, allowed: Tensor | None) -> Tensor:
    """Probabilities `[..., A]` given that an allowed action is taken; even ones over these, if the policy takes none of them."""
    if allowed is None:
        return policy
    kept = policy * allowed
    total, even = kept.sum(-1, keepdim=True), allowed / num_allowed(0, allowed).unsqueeze(-1)  # type: ignore[union-attr]
    return torch.where(total > 0, kept / torch.where(total > 0, total, 1.0), even.to(kept.dtype))


def log_policies(logits: Tensor) -> Tensor:
    """log softmax of logits `[G, ..., A]`, one row of actions after the other: along so short a last axis it is slow."""
    return torch.log_softmax(logits.movedim(-1, 1).contiguous(), 1).movedim(1, -1)


def drawn(log_policy: Tensor, generator: torch.Generator) -> Tensor:
    """Actions `[...]` of policies `[..., A]`; Gumbel-max: the largest of log p - log(exponential noise) is distributed as p."""
    return (log_policy - torch.empty_like(log_policy).exponential_(generator=generator).log()).argmax(-1)


class _FewOutputs(torch.autograd.Function):
    """`linear` for few outputs: products with so few columns on the right, as autograd makes them of it, are very slow."""

    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        context.save_for_backward(x, weight)
        return torch.baddbmm(bias.unsqueeze(2), weight, x.transpose(1, 2)).transpose(1, 2).contiguous()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = context.saved_tensors
        of_x, of_weight, of_bias = context.needs_input_grad
        return (
            torch.bmm(gradient, weight) if of_x else None,
            torch.bmm(gradient.transpose(1, 2), x) if of_weight else None,
            gradient.sum(1) if of_bias else None,
        )


def in_pieces(function: Callable[..., tuple[Tensor, ...]], rows: int, *columns: Tensor) -> tuple[Tensor, ...]:
    """`function(*columns)` computed for so many rows at a time, so that what lies between its layers stays in the cache.

    Args:
        function: columns `[G, M, ...]` -> columns `[G, M, ...]`, row by row.
        rows: at most this many.
        columns: what it is given.
    """
    pieces = [function(*piece) for piece in zip(*(column.split(rows, 1) for column in columns), strict=True)]
    return tuple(torch.cat(column, 1) for column in zip(*pieces, strict=True))


def convolution_matrix(weight: Tensor, height: int, width: int, padding: str) -> Tensor:
    """The matrix that does to a flat window what a 3x3 convolution does to the window.

    Args:
        weight: `[G, F, C, 3, 3]`.
        height: of the input window.
        width: of the input window.
        padding: "none", "zeros" or "circular".

    Returns:
        `[G, C * height * width, F * out_height * out_width]`.
    """
    placement = _placement(height, width, padding).to(weight)
    agents, filters, channels = weight.shape[:3]
    cells, out_cells = placement.shape[1:]
    matrix = weight.reshape(-1, 9) @ placement.reshape(9, -1)
    matrix = matrix.reshape(agents, filters, channels, cells, out_cells)
    return matrix.permute(0, 2, 3, 1, 4).reshape(agents, channels * cells, filters * out_cells)


@lru_cache(maxsize=64)
def _placement(height: int, width: int, padding: str) -> Tensor:
    """`[9, input cells, output cells]`: 1 where the kernel's tap k of an output cell lies on an input cell."""
    rows, columns = np.arange(height), np.arange(width)
    if padding == "none":
        rows, columns = rows[1:-1], columns[1:-1]
    placement = np.zeros((9, height * width, len(rows) * len(columns)), np.float32)
    for out_cell, (row, column) in enumerate((r, c) for r in rows for c in columns):
        for tap in range(9):
            y, x = row + tap // 3 - 1, column + tap % 3 - 1
            if padding == "circular":
                y, x = y % height, x % width
            if 0 <= y < height and 0 <= x < width:
                placement[tap, y * width + x, out_cell] += 1
    return torch.from_numpy(placement)


class Prepared(dict[str, Tensor]):
    """Stacked parameters with what `evaluate` derives from them: matrices of convolutions, both heads as one layer.

    Attributes:
        beside: stacked parameters of networks that go along with these.
    """

    def __init__(self, parameters: Parameters) -> None:
        super().__init__(parameters)
        self.beside: Parameters = {}


def prepare(architecture: Architecture, parameters: Parameters, rows: int) -> Prepared:
    """Readies stacked parameters for evaluations of about `rows` rows; worth calling once where many of them follow."""
    prepared = Prepared(parameters)
    if "policy.weight" in parameters:
        for name in ("weight", "bias"):
            prepared[f"heads.{name}"] = torch.cat([parameters[f"policy.{name}"], parameters[f"value.{name}"]], 1)
    largest = LARGEST_WINDOW_AS_MATRIX if rows <= MOST_ROWS_AS_MATRIX else ALWAYS_AS_MATRIX
    for index, (_, _, height, width) in enumerate(architecture.convolutions):
        weight, bias = parameters[f"convolutions.{index}.weight"], parameters[f"convolutions.{index}.bias"]
        if height * width <= largest:
            matrix = convolution_matrix(weight, height, width, architecture.options.padding)
            prepared[f"convolutions.{index}.matrix"] = matrix
            cells = matrix.shape[2] // weight.shape[1]
            prepared[f"convolutions.{index}.matrix_bias"] = bias.repeat_interleave(cells, 1)
    return prepared


def _convolve(architecture: Architecture, parameters: Parameters, index: int, x: Tensor) -> Tensor:
    matrix = parameters.get(f"convolutions.{index}.matrix")
    if matrix is not None:
        return torch.baddbmm(parameters[f"convolutions.{index}.matrix_bias"].unsqueeze(1), x, matrix)
    weight, bias = parameters[f"convolutions.{index}.weight"], parameters[f"convolutions.{index}.bias"]
    channels, _, height, width = architecture.convolutions[index]
    windows = x.reshape(*x.shape[:2], channels, height, width)
    if architecture.options.padding != "none":
        mode = "constant" if architecture.options.padding == "zeros" else "circular"
        windows = torch.stack([functional.pad(agent, (1, 1, 1, 1), mode=mode) for agent in windows])
    outputs = [functional.conv2d(agent, w, b) for agent, w, b in zip(windows, weight, bias, strict=True)]
    return torch.stack(outputs).flatten(2)


def _remember(
    architecture: Architecture, parameters: Parameters, x: Tensor, state: State, starts: Tensor | None
) -> tuple[Tensor, State]:
    """Runs the recurrent layer over `[G, T, M, width]`.

    Memory is cleared where an episode starts. Games mostly start together, so time is cut at those few steps and each piece
    runs through the library's fused kernel.
    """
    agents, steps, rows = x.shape[:3]
    training = torch.is_grad_enabled()  # on a GPU the kernel keeps what gradients need only then
    if starts is None:
        starts = torch.zeros(steps, rows, dtype=torch.bool, device=x.device)
    starts = starts.expand(agents, steps, rows)
    cuts = [0, *(t for t in range(1, steps) if bool(starts[:, t].any())), steps]
    run: Any = torch.lstm if architecture.options.memory == "lstm" else torch.gru
    names = [name for name in ("h", "c") if name in state]
    outputs: list[list[Tensor]] = [[] for _ in range(agents)]
    last = {name: list(state[name].unbind(0)) for name in names}
    for agent in range(agents):
        weights = [parameters[f"memory.{name}_l0"][agent] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        for begin, end in itertools.pairwise(cuts):
            keep = (~starts[agent, begin]).unsqueeze(-1)
            before = [(last[name][agent] * keep).unsqueeze(0) for name in names]
            hidden: Any = before if run is torch.lstm else before[0]
            output, *after = run(x[agent, begin:end], hidden, weights, True, 1, 0.0, training, False, False)
            outputs[agent].append(output)
            for name, value in zip(names, after, strict=True):
                last[name][agent] = value.squeeze(0)
    return torch.stack([torch.cat(pieces) for pieces in outputs]), {n: torch.stack(v) for n, v in last.items()}
