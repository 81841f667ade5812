"""Observations of any kind as rows of one array."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
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


def _channels_first(picture: Any) -> Array:
    return np.moveaxis(np.asarray(picture), -1, 0)


def _row(observations: Any, row: int) -> Any:
    """One of many observations."""
    if isinstance(observations, Mapping):
        return {name: _row(part, row) for name, part in observations.items()}
    if isinstance(observations, tuple):
        return tuple(_row(part, row) for part in observations)
    return observations[row]
