"""Observations of any kind as rows of one array."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.spaces import Box, Space
from gymnasium.spaces.utils import flatten, flatten_space

from env_registry.game import Array
from env_registry.parameters import SettingError


class ObservationLayout:
    """Where everything that the agents see goes in an array whose shape they share.

    Pictures `[height, width, channels]` become `[channels, height, width]`, everything else a vector (Gymnasium's
    `flatten`); so do pictures if not all agents see some. Bytes stay bytes if all agents see bytes; all other numbers
    become float32. Smaller observations are padded with zeros at the end of each axis.

    Args:
        spaces: agent -> its observation space.

    Attributes:
        space: the common box.

    Raises:
        SettingError: a space without a fixed size.
    """

    def __init__(self, spaces: Mapping[Any, Space[Any]]) -> None:
        self._spaces = dict(spaces)
        self._pictures = all(isinstance(space, Box) and len(space.shape) == 3 for space in spaces.values())
        boxes = {agent: self._box(agent, space) for agent, space in spaces.items()}
        self._places = {agent: tuple(slice(size) for size in box.shape) for agent, box in boxes.items()}
        shape = tuple(max(sizes) for sizes in zip(*(box.shape for box in boxes.values()), strict=True))
        low, high = np.zeros((2, len(boxes), *shape))
        for number, (agent, box) in enumerate(boxes.items()):
            low[number][self._places[agent]] = box.low
            high[number][self._places[agent]] = box.high
        dtype = np.uint8 if all(box.dtype == np.uint8 for box in boxes.values()) else np.float32
        with np.errstate(over="ignore"):  # bounds beyond float32 become infinite
            self.space = Box(low.min(axis=0).astype(dtype), high.max(axis=0).astype(dtype), dtype=dtype)

    @property
    def agents(self) -> tuple[Any, ...]:
        """In order of their numbers."""
        return tuple(self._spaces)

    def original_space(self, agent: Hashable) -> Space[Any]:
        """What the environment shows this agent.

        Raises:
            ValueError: there is no such agent.
        """
        if agent not in self._spaces:
            raise ValueError(f"There is no agent {agent!r}; the agents are {', '.join(map(repr, self._spaces))}.")
        return self._spaces[agent]

    def row(self, agent: Hashable, observation: Any) -> Array:
        """One observation, as the environment shows it, in the common shape.

        Raises:
            ValueError: there is no such agent, or the observation is not of its space (`check_observation`).
        """
        space = self.original_space(agent)
        check_observation(space, observation, f"The observation of {agent!r}")
        out = np.zeros(self.space.shape, self.space.dtype)
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused below
            self.write(agent, observation, out)
        check_finite(out, f"The observation of {agent!r}")
        return out

    def write(self, agent: Hashable, observation: Any, out: Array) -> None:
        """Writes what one agent sees to `out`, zeros of the common shape."""
        space = self._spaces[agent]
        out[self._places[agent]] = _channels_first(observation) if self._pictures else flatten(space, observation)

    def write_rows(self, agent: Hashable, observations: Any, out: Array) -> None:
        """Writes many observations of one agent.

        Args:
            agent: whose.
            observations: batched: what one observation holds, with a leading axis at every array. Boxes may have lost or
                gained axes since; what is no box may be flattened already.
            out: zeros of the common shape, behind the same leading axis.

        Raises:
            ValueError: they are of another size than the agent's space.
        """
        space, places = self._spaces[agent], (slice(None), *self._places[agent])
        size = flatten_space(space).shape[0]
        flat = isinstance(observations, np.ndarray) and observations[0].size == size
        if self._pictures:
            out[places] = np.moveaxis(np.asarray(observations).reshape(len(out), *space.shape), -1, 1)
        elif flat and (isinstance(space, Box) or np.ndim(observations) == 2):
            out[places] = observations.reshape(len(out), size)
        else:
            for row, seen in enumerate(out):
                seen[self._places[agent]] = flatten(space, _row(observations, row))

    def _box(self, agent: Hashable, space: Space[Any]) -> Box:
        if self._pictures and isinstance(space, Box):
            return Box(_channels_first(space.low), _channels_first(space.high), dtype=space.dtype.type)
        flat = flatten_space(space)
        if not isinstance(flat, Box):
            raise SettingError(
                f"{agent!r} observes {space}, which has no fixed size; only observations of a fixed size work."
            )
        return flat


class PicturesLastLayout:
    """The layout of a batched world, whose single games (`parallel_env`) show pictures channels last.

    Args:
        space: what the world shows each agent.
        agents: the names of the agents in single games.
    """

    def __init__(self, space: Box, agents: Sequence[str]) -> None:
        self.space, self.agents = space, tuple(agents)
        low, high = (channels_last(bound) for bound in (space.low, space.high))
        self._original = Box(low, high, dtype=space.dtype.type)

    def original_space(self, agent: Hashable) -> Space[Any]:
        """See `ObservationLayout`."""
        if agent not in self.agents:
            raise ValueError(f"There is no agent {agent!r}; the agents are {', '.join(map(repr, self.agents))}.")
        return self._original

    def row(self, agent: Hashable, observation: Any) -> Array:
        """See `ObservationLayout`."""
        check_observation(self.original_space(agent), observation, f"The observation of {agent!r}")
        seen = np.asarray(observation).astype(self.space.dtype)
        return _channels_first(seen) if seen.ndim == 3 else seen


Layout = ObservationLayout | PicturesLastLayout
"""From what one game's environment shows an agent to what agents see in trajectories."""


def layout_of(world: Any) -> Layout:
    """How observations of the environment behind a batched world become the world's rows.

    Worlds that are batched themselves have single games by `parallel_env`.
    """
    layout = getattr(world, "layout", None)
    if isinstance(layout, ObservationLayout):
        return layout
    return PicturesLastLayout(world.observation_space, [f"agent_{number}" for number in range(world.num_agents)])


def check_observation(space: Space[Any], observation: Any, what: str) -> None:
    """Checks one observation, part by part, against the space that it should be of.

    Numbers may be of another type if the space's type can hold them, and boxes' bounds may be exceeded, as environments do.

    Args:
        space: what it should be of.
        observation: what came.
        what: names it in messages ("The observation of 'a'").

    Raises:
        ValueError: keys, shape, type or range are others, or a number is not finite; names part, what came and what is needed.
    """
    if isinstance(space, spaces.Dict):
        if not isinstance(observation, Mapping) or set(observation) != set(space.spaces):
            came = sorted(map(str, observation)) if isinstance(observation, Mapping) else _described(observation)
            raise ValueError(
                f"{what} is {came}; needed is a dictionary with the keys {sorted(map(str, space.spaces))}."
            )
        for name, part in space.spaces.items():
            check_observation(part, observation[name], f"{what}, part {name!r},")
    elif isinstance(space, spaces.Tuple):
        if not isinstance(observation, tuple | list) or len(observation) != len(space.spaces):
            raise ValueError(f"{what} is {_described(observation)}; needed is a tuple of {len(space.spaces)} parts.")
        for number, (part, own) in enumerate(zip(space.spaces, observation, strict=True)):
            check_observation(part, own, f"{what}, part {number},")
    elif isinstance(space, Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        _check_numbers(space, observation, what)
    elif not space.contains(observation):
        raise ValueError(f"{what} is {_described(observation)}; needed is one of {space}.")


def check_finite(numbers: Array, what: str) -> None:
    """Passes finite numbers.

    Raises:
        ValueError: one of the numbers is not finite; says where.
    """
    if not np.isfinite(numbers).all():
        place = tuple(np.argwhere(~np.isfinite(numbers))[0].tolist())
        raise ValueError(
            f"{what} holds {numbers[place]} at {list(place)}, which is no finite number: agents cannot act on it. Find out where "
            "the environment, a wrapper or a sensor makes such numbers, and replace them as was done in training."
        )


def _check_numbers(space: Any, observation: Any, what: str) -> None:
    numbers = np.asarray(observation)
    if numbers.shape != space.shape:
        raise ValueError(
            f"{what} has shape {numbers.shape}; needed is {space.shape}, as in {space}. Give one at a time."
        )
    if numbers.dtype.kind not in "biuf":
        raise ValueError(f"{what} is of type {numbers.dtype}; needed are numbers, as in {space}.")
    check_finite(numbers, what)
    if not np.issubdtype(space.dtype, np.integer):
        return
    if isinstance(space, Box):
        limits = np.iinfo(space.dtype)
        low, high = np.array(limits.min), np.array(limits.max)
    elif isinstance(space, spaces.MultiBinary):
        low, high = np.array(0), np.array(1)
    else:
        sizes = space.n if isinstance(space, spaces.Discrete) else space.nvec
        low, high = np.asarray(space.start), np.asarray(space.start + sizes - 1)
    wrong = (numbers < low) | (numbers > high) | (numbers % 1 != 0)
    if wrong.any():
        raise ValueError(
            f"{what} holds {numbers[wrong].flat[0]}; needed are whole numbers from {low.tolist()} to {high.tolist()}, "
            f"as in {space}."
        )


def _described(observation: Any) -> str:
    if isinstance(observation, np.ndarray):
        return f"an array of shape {observation.shape}"
    return f"a {type(observation).__name__}"


def channels_last(picture: Array) -> Array:
    """A picture `[channels, height, width]` as `[height, width, channels]`; other arrays as they are."""
    return picture.transpose(1, 2, 0) if picture.ndim == 3 else picture


def _channels_first(picture: Any) -> Array:
    return np.moveaxis(np.asarray(picture), -1, 0)


def _row(observations: Any, row: int) -> Any:
    """One of many observations."""
    if isinstance(observations, Mapping):
        return {name: _row(part, row) for name, part in observations.items()}
    if isinstance(observations, tuple):
        return tuple(_row(part, row) for part in observations)
    return observations[row]
