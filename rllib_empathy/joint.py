"""The joint trajectory: what all agents of all games saw, did and got, step by step and side by side.

It is the one currency between sampling, reward reshaping and learning. Shapes: T steps, B games, N agents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any, TypeVar

import numpy as np
import torch

Column = Any
"""A numpy array or a torch tensor; all columns of one trajectory are of the same sort."""

C = TypeVar("C")


@dataclass(frozen=True)
class JointTrajectory:
    """T steps of B games with N agents.

    An episode may begin and end anywhere in it, and may begin before it or end after it. The observation that follows an
    episode's last step, and the one that follows the last row, are in no row; they are kept as tails.
    """

    observations: Column  # [T, B, N, *shape], uint8 where the world's are
    actions: Column  # [T, B, N] integers
    log_probs: Column  # [T, B, N] of the actions, under the policy that took them
    rewards: Column  # [T, B, N] extrinsic
    alive: Column  # [T, B, N] takes part in the step: acts, is observed, is learned from
    survives: Column  # [T, B, N] takes part after the step too
    starts: Column  # [T, B] the step is its episode's first
    terminated: Column  # [T, B] the rules ended the episode with this step
    truncated: Column  # [T, B] a limit ended the episode with this step, or data stop here though it goes on
    tail_steps: Column  # [K] and
    tail_games: Column  # [K]: the step and game after which a tail follows
    tail_observations: Column  # [K, N, *shape]
    states: tuple[dict[str, Column], ...] = ()  # per agent: state before the first step, name -> [B, size]
    events: dict[str, Column] = field(default_factory=dict)  # name -> [T, B, N]
    seats: Column = None  # [T, B, N] where in the world each agent sits; None: agent i on seat i
    origin: dict[str, Column] = field(default_factory=dict)
    """Which games these are, name -> [B]: "game", its number among all of the run; "steps_before", steps that it has played
    before the first row, over all its episodes; "steps", rows that are its own (behind them is padding); "goes_on", whether the
    last one's episode goes on behind it."""
    context: Column | None = None  # [T, B, N, E] what agents keep of the episode beside observations, if any does
    tail_context: Column | None = None  # [K, N, E]
    action_masks: Column | None = None  # [T, B, N, A] bool, what each agent might do; None: everything
    cut_off: Column | None = (
        None  # [T, B, N] bool, a limit of its own took the agent out with this step: the next row shows
    )
    # what it saw last, and its future counts by the value of that; None: nobody

    @property
    def shape(self) -> tuple[int, int, int]:
        """(T, B, N)."""
        steps, games, agents = self.rewards.shape
        return steps, games, agents

    def env_steps(self) -> int:
        """Steps of games in which somebody took part."""
        return int(self.alive.any(2).sum())

    def agent_steps(self) -> int:
        """Steps of agents that took part."""
        return int(self.alive.sum())

    def nbytes(self) -> int:
        """Bytes of all columns."""
        sizes: list[int] = []
        self.map(lambda column: sizes.append(column.nbytes))
        return sum(sizes)

    def places(self) -> torch.Tensor:
        """Who is in which place for whom, `[T, B, N, N]` (torch columns).

        Place 0 of agent i is itself, place k the agent on the k-th seat behind its own, in a circle: the order in which grid
        worlds show co-players.
        """
        steps, games, agents = self.shape
        around = in_order_of_place(agents, self.rewards.device)
        if self.seats is None:
            return around.expand(steps, games, agents, agents)
        seats = self.seats.long()
        occupants = seats.argsort(-1).unsqueeze(-2).expand(steps, games, agents, agents)
        return occupants.gather(-1, around[seats])

    def by_place(self, column: torch.Tensor) -> torch.Tensor:
        """A column `[T, B, N]` as each agent sees it, `[T, B, N, N]`: own entry first, then co-players in order of place."""
        return column.unsqueeze(2).expand(*column.shape, column.shape[2]).gather(-1, self.places())

    def masks_by_place(self) -> torch.Tensor | None:
        """What each agent and its co-players might do, `[T, B, N, N, A]`: own entry first, then in order of place."""
        if self.action_masks is None:
            return None
        steps, games, agents = self.shape
        every = self.action_masks.unsqueeze(2).expand(steps, games, agents, agents, -1)
        return every.gather(3, self.places().unsqueeze(-1).expand(every.shape))

    def context_after(self) -> torch.Tensor | None:
        """What agents kept after each step, `[T, B, N, E]` (torch columns); behind a game's own rows it means nothing."""
        if self.context is None or self.tail_context is None:
            return None
        after = torch.zeros_like(self.context)
        after[:-1] = self.context[1:]
        after[self.tail_steps.long(), self.tail_games.long()] = self.tail_context
        return after

    def map(self, function: Callable[[Column], C]) -> JointTrajectory:
        """The trajectory with `function` applied to every column."""
        values: dict[str, Any] = {}
        for entry in fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, dict):
                values[entry.name] = {name: function(column) for name, column in value.items()}
            elif isinstance(value, tuple):
                values[entry.name] = tuple({n: function(c) for n, c in state.items()} for state in value)
            elif value is not None:
                values[entry.name] = function(value)
        return replace(self, **values)

    def to_tensors(self, device: torch.device | str | None = None) -> JointTrajectory:
        """The same as torch tensors on `device`; types stay as they are, read-only memory is copied."""

        def to_tensor(column: Column) -> torch.Tensor:
            if isinstance(column, np.ndarray) and not column.flags.writeable:
                column = column.copy()
            return torch.as_tensor(column, device=device)

        return self.map(to_tensor)

    def games(self, first: int, last: int) -> JointTrajectory:
        """Games first .. last-1, with all their agents (numpy or torch; views where possible)."""
        chosen = (self.tail_games >= first) & (self.tail_games < last)
        per_game = {name: column[:, first:last] for name in _PER_GAME if (column := getattr(self, name)) is not None}
        return JointTrajectory(
            **per_game,
            tail_steps=self.tail_steps[chosen],
            tail_games=self.tail_games[chosen] - first,
            tail_observations=self.tail_observations[chosen],
            tail_context=None if self.tail_context is None else self.tail_context[chosen],
            states=tuple({name: column[first:last] for name, column in state.items()} for state in self.states),
            events={name: column[:, first:last] for name, column in self.events.items()},
            origin={name: column[first:last] for name, column in self.origin.items()},
        )


STEP_COLUMNS = (
    "observations",
    "actions",
    "log_probs",
    "rewards",
    "alive",
    "survives",
    "starts",
    "terminated",
    "truncated",
)
"""Columns [T, B, ...] that every trajectory has."""

_PER_GAME = (*STEP_COLUMNS, "seats", "context", "action_masks", "cut_off")
"""Columns [T, B, ...]."""


@cache
def in_order_of_place(agents: int, device: torch.device) -> torch.Tensor:
    """`[seat, place]` -> seat: place 0 is the own seat, place k the k-th behind it, in a circle."""
    numbers = torch.arange(agents, device=device)
    return (numbers.unsqueeze(1) + numbers) % agents


def rows_of(agents: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
    """A column `[T, B, N, ...]` as `[G, T, M, ...]`, for agents `[G, n]`: rows are the first one's B games, the second's ..."""
    return torch.stack([torch.cat([column[:, :, agent] for agent in row], 1) for row in agents.tolist()])


def some_rows(column: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """The rows `chosen` of a column `[G, T, M, ...]`, as `[G, T, chosen, ...]`.

    Picked behind one axis instead of two, which takes a seventh of the time.
    """
    return column.flatten(0, 1).index_select(1, chosen).unflatten(0, column.shape[:2])


def _form(trajectory: JointTrajectory) -> tuple[Any, ...]:
    """What trajectories of one world have in common."""
    return (
        trajectory.rewards.shape[2],
        trajectory.observations.shape[3:],
        tuple(trajectory.events),
        trajectory.seats is None,
    )


def _with_masks(trajectories: Sequence[JointTrajectory]) -> Sequence[JointTrajectory]:
    """Masks for all, if one has some: a world may say for the first time in the middle of a game that something is closed."""
    sizes = [t.action_masks.shape[-1] for t in trajectories if t.action_masks is not None]
    if len(sizes) in (0, len(trajectories)):
        return trajectories
    return [
        replace(t, action_masks=np.ones((*t.shape, sizes[0]), np.bool_)) if t.action_masks is None else t
        for t in trajectories
    ]


def _with_limits(trajectories: Sequence[JointTrajectory]) -> Sequence[JointTrajectory]:
    """`cut_off` for all, if one has it."""
    if len({t.cut_off is None for t in trajectories}) == 1:
        return trajectories
    return [replace(t, cut_off=np.zeros(t.shape, np.bool_)) if t.cut_off is None else t for t in trajectories]


def concatenate(trajectories: Sequence[JointTrajectory]) -> JointTrajectory:
    """Puts the games of several trajectories (numpy columns) side by side.

    Shorter ones are padded at their end with steps in which nobody is alive. Those without masks of actions get some that allow
    everything, if others have masks.

    Raises:
        ValueError: nothing to concatenate, or trajectories of different worlds.
    """
    if not trajectories:
        raise ValueError("There is no trajectory to concatenate.")
    if len({_form(t) for t in trajectories}) > 1:
        raise ValueError("Trajectories of different worlds cannot be put side by side.")
    if len(trajectories) == 1:
        return trajectories[0]
    trajectories = _with_limits(_with_masks(trajectories))
    first = trajectories[0]
    steps = max(t.rewards.shape[0] for t in trajectories)
    offsets = np.cumsum([0, *(t.rewards.shape[1] for t in trajectories[:-1])])

    def along_games(columns: Sequence[Column], filled_with: int = 0) -> Column:
        padded = [
            np.pad(c, [(0, steps - len(c)), *[(0, 0)] * (c.ndim - 1)], constant_values=filled_with)
            if len(c) < steps
            else c
            for c in columns
        ]
        return np.concatenate(padded, axis=1)

    per_game = {
        name: along_games([getattr(t, name) for t in trajectories], filled_with=int(name == "action_masks"))
        for name in _PER_GAME
        if getattr(first, name) is not None
    }
    return JointTrajectory(
        **per_game,
        tail_steps=np.concatenate([t.tail_steps for t in trajectories]),
        tail_games=np.concatenate([t.tail_games + offset for t, offset in zip(trajectories, offsets, strict=True)]),
        tail_observations=np.concatenate([t.tail_observations for t in trajectories]),
        tail_context=None if first.tail_context is None else np.concatenate([t.tail_context for t in trajectories]),
        states=tuple(
            {name: np.concatenate([t.states[agent][name] for t in trajectories]) for name in state}
            for agent, state in enumerate(first.states)
        ),
        events={name: along_games([t.events[name] for t in trajectories]) for name in first.events},
        origin={name: np.concatenate([t.origin[name] for t in trajectories]) for name in first.origin},
    )
