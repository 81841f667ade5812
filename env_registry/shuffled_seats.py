"""Agents that take other seats in every episode, so that nobody owns a position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from env_registry.game import Array, Step, World
from env_registry.parameters import SettingError
from env_registry.random_streams import below, seed_streams

_OWN_STREAM = 0x5EA75
"""Added to the seed, so that seats are drawn from other streams than the world's chances."""


@njit(cache=True, nogil=True)
def _draw(seats: Any, streams: Any, games: Any) -> None:
    """A random order of seats, each equally likely, in the games of the mask (Fisher and Yates, inside out)."""
    for game in range(seats.shape[0]):
        if games[game]:
            for agent in range(seats.shape[1]):
                other = below(streams, game, agent + 1)
                seats[game, agent] = seats[game, other]
                seats[game, other] = agent


class ShuffledSeats:
    """A world whose agents sit on seats drawn afresh for each episode of each game, all orders equally likely.

    Observations, actions, rewards, events and the alive mask are the agent's, wherever it sits. What an agent sees is what its
    seat sees: in grid worlds, channel k shows the agent on the k-th seat behind its own (`JointTrajectory.by_place`).

    Args:
        world: its seats must be alike.

    Attributes:
        seats: `[B, N]`, where each agent sits now.

    Raises:
        SettingError: seats see or do unlike things.
    """

    def __init__(self, world: World) -> None:
        for what in ("observation_spaces", "action_spaces"):
            spaces: Sequence[Any] = getattr(world, what, ())
            if any(space != spaces[0] for space in spaces):
                raise SettingError(
                    f"shuffle_seats needs seats that are alike; here {what.replace('_spaces', 's')} differ: "
                    f"{', '.join(map(str, spaces))}. Leave shuffle_seats off in this world."
                )
        self.world = world
        self.num_games, self.num_agents = world.num_games, world.num_agents
        self.observation_space, self.action_space = world.observation_space, world.action_space
        self.event_names = world.event_names
        self.seats = np.zeros((self.num_games, self.num_agents), np.int8)
        self._streams = np.zeros(self.num_games, np.uint64)
        self._seeded = False

    @property
    def alive(self) -> NDArray[np.bool_]:
        """`[B, N]`, who takes part in what is shown now."""
        return self._of_agents(self.world.alive)

    @property
    def action_masks(self) -> NDArray[np.bool_] | None:
        """`[B, N, A]`, what each agent may do now; None: everything."""
        masks = getattr(self.world, "action_masks", None)
        return None if masks is None else self._of_agents(masks)

    def reset(self, seed: int | None = None, first_game: int = 0) -> Array:
        """See `World.reset`."""
        if seed is not None or not self._seeded:
            seed_streams(self._streams, None if seed is None else seed + _OWN_STREAM, first_game)
            self._seeded = True
        observations = self.world.reset(seed, first_game)
        self._take_seats(np.ones(self.num_games, np.bool_))
        return self._of_agents(observations)

    def step(self, actions: Array) -> Step:
        """See `World.step`."""
        by_seat = np.empty_like(actions)
        np.put_along_axis(by_seat, self.seats.astype(np.intp), actions, 1)
        step = self.world.step(by_seat)
        final = step.final_observations
        shown = step._replace(
            rewards=self._of_agents(step.rewards),
            alive=self._of_agents(step.alive),
            events={name: self._of_agents(counts) for name, counts in step.events.items()},
            final_observations=None if final is None else self._of_agents(final),
            cut_off=None if step.cut_off is None else self._of_agents(step.cut_off),
        )
        self._take_seats(step.terminated | step.truncated)
        return shown._replace(observations=self._of_agents(step.observations))

    def get_state(self) -> dict[str, Array]:
        """See `World.get_state`."""
        return {**self.world.get_state(), "seats": self.seats.copy(), "seat_streams": self._streams.copy()}

    def set_state(self, state: Mapping[str, Array]) -> Array:
        """See `World.set_state`."""
        self.seats = state["seats"].copy()
        self._streams = state["seat_streams"].copy()
        self._seeded = True
        return self._of_agents(self.world.set_state(state))

    def __getattr__(self, name: str) -> Any:
        """All else is the world's."""
        if name == "world":  # not there yet, while this object is being copied
            raise AttributeError(name)
        return getattr(self.world, name)

    def _take_seats(self, games: NDArray[np.bool_]) -> None:
        if games.any():
            self.seats = self.seats.copy()  # the old ones may lie in a trajectory
            _draw(self.seats, self._streams, games)

    def _of_agents(self, by_seat: Array) -> Array:
        """`[B, N, ...]` in the order of agents."""
        return by_seat[np.arange(self.num_games)[:, None], self.seats]
