"""What a runner plays, step by step, until it is a joint trajectory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from env_registry.game import Step
from rllib_empathy.joint import STEP_COLUMNS, JointTrajectory

Bools = NDArray[np.bool_]


class Recording:
    """Steps of B games with N agents.

    Args:
        states: what agents carry before the first step, see `JointTrajectory.states`.
        event_names: of the world.
    """

    def __init__(self, states: tuple[dict[str, NDArray], ...], event_names: Sequence[str]) -> None:
        self._states = states
        self._columns: dict[str, list[NDArray]] = {name: [] for name in STEP_COLUMNS}
        self._events: dict[str, list[NDArray]] = {name: [] for name in event_names}
        self._tails: list[tuple[int, NDArray, NDArray, NDArray | None]] = []  # step, games, observations, context
        self._seats: list[NDArray] = []
        self._masks: list[NDArray | None] = []
        self._contexts: list[NDArray | None] = []
        self._cut_off: dict[int, Bools] = {}  # by step

    @property
    def steps(self) -> int:
        """How many there are."""
        return len(self._contexts)

    def add(
        self,
        step: Step,
        *,
        observations: NDArray,
        actions: NDArray[np.int64],
        log_probs: NDArray[np.float32],
        alive: Bools,
        begun: Bools,
        context: NDArray | None,
        masks: NDArray | None,
        seats: NDArray | None,
    ) -> None:
        """Notes a step of all games.

        Args:
            step: the world's answer.
            observations: `[B, N, *shape]` on which agents acted.
            actions: `[B, N]`.
            log_probs: `[B, N]`.
            alive: `[B, N]`, who took part.
            begun: `[B]`, the step is its episode's first.
            context: `[B, N, E]` before the step; None: nobody keeps any.
            masks: `[B, N, A]`, what was allowed; None: everything.
            seats: `[B, N]`; None: agent i on seat i.
        """
        answers = (step.rewards, alive, step.alive, begun, step.terminated, step.truncated)
        for column, value in zip(self._columns.values(), (observations, actions, log_probs, *answers), strict=True):
            column.append(value)
        for name, counts in step.events.items():
            self._events[name].append(counts)
        if step.cut_off is not None:
            self._cut_off[self.steps] = step.cut_off & alive
        if seats is not None:
            self._seats.append(seats)
        self._contexts.append(context)
        self._masks.append(masks)

    def add_tails(self, games: NDArray, observations: NDArray, context: NDArray | None) -> None:
        """Notes what follows the last step where no row does.

        Args:
            games: numbers of these games.
            observations: `[B, N, *shape]` of all games.
            context: `[B, N, E]` of all games.
        """
        self._tails.append((self.steps - 1, games, observations[games], None if context is None else context[games]))

    def going_on(self) -> Bools:
        """`[B]`, games whose episode did not end with the last step."""
        return ~(self._columns["terminated"][-1] | self._columns["truncated"][-1])

    def trajectory(self, origin: dict[str, NDArray]) -> JointTrajectory:
        """All of it. Games that go on behind the last step are marked as cut there.

        Args:
            origin: see `JointTrajectory.origin`.
        """
        columns = {name: np.stack(column) for name, column in self._columns.items()}
        columns["truncated"][-1] |= ~columns["terminated"][-1]
        steps, games, observations, contexts = zip(*self._tails, strict=True)
        return JointTrajectory(
            **columns,
            tail_steps=np.concatenate([np.full(len(of), step) for step, of in zip(steps, games, strict=True)]),
            tail_games=np.concatenate(games),
            tail_observations=np.concatenate(observations),
            states=self._states,
            events={name: np.stack(column) for name, column in self._events.items()},
            seats=np.stack(self._seats) if self._seats else None,
            origin=origin,
            context=_joined(np.stack, self._contexts),
            tail_context=_joined(np.concatenate, contexts),
            action_masks=_all_masks(self._masks),
            cut_off=_spread(self._cut_off, columns["alive"].shape),
        )


def _joined(join: Callable[[Any], NDArray], columns: Sequence[NDArray | None]) -> NDArray | None:
    return None if columns[0] is None else join(columns)


def _all_masks(masks: Sequence[NDArray | None]) -> NDArray | None:
    """`[T, B, N, A]`; everything is allowed before the world says for the first time that something is not."""
    shown = next((mask for mask in masks if mask is not None), None)
    return None if shown is None else np.stack([np.ones_like(shown) if mask is None else mask for mask in masks])


def _spread(flags: dict[int, Bools], shape: tuple[int, ...]) -> Bools | None:
    """Flags of some steps as a column of this shape; None where there are none."""
    if not flags:
        return None
    column = np.zeros(shape, np.bool_)
    for step, values in flags.items():
        column[step] = values
    return column
