"""The contract of a batched world: B games of N agents that are stepped at once as arrays.

`World` is the contract that sampling relies on; any object that follows it can be trained on. `Game` implements all of it but
the rules: a world that derives from it is one file with its parameters, one compiled `advance` over games, and its picture.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray
from pydantic import Field, model_validator

from env_registry.parameters import Settings, checked
from env_registry.random_streams import seed_streams

Array = NDArray[Any]


class Step(NamedTuple):
    """What one step of all games gives. B games, N agents.

    Where a game has ended, `observations` already show its successor; `final_observations` hold what the ended one showed
    last (rows of games that go on are undefined). `alive` is the mask after the step and before any restart.
    """

    observations: Array  # [B, N, *observation_shape]
    rewards: NDArray[np.float32]  # [B, N]
    terminated: NDArray[np.bool_]  # [B] the rules ended the game: no future return
    truncated: NDArray[np.bool_]  # [B] the time limit ended it: the future is cut off, not zero
    alive: NDArray[np.bool_]  # [B, N]
    events: dict[str, NDArray[np.uint8]]  # name -> [B, N], how often it happened to (or was done by) each agent
    final_observations: Array | None  # [B, N, *observation_shape], None where no game has ended
    cut_off: NDArray[np.bool_] | None = None
    """`[B, N]`, whom a limit of its own took out while others play on: its future is cut off, not zero. `observations` hold what
    it saw last. None: nobody."""


class Share(NamedTuple):
    """A measure of cooperation: how often `event` happened, as a share of all events `of`, or per agent and step without such."""

    event: str
    of: tuple[str, ...] = ()


@runtime_checkable
class World(Protocol):
    """A batch of games as the sampling side sees it.

    A world in which not every action is open at all times shows, beside `alive`, `action_masks` `[B, N, A]` bool: what each
    agent may do in what is shown now. It has them from its first `reset` on. Rows of agents that are not alive mean nothing.
    """

    num_games: int
    num_agents: int
    observation_space: Box  # of one agent
    action_space: Discrete  # of one agent

    @property
    def alive(self) -> NDArray[np.bool_]:
        """`[B, N]`, who takes part in what is shown now."""
        ...

    @property
    def event_names(self) -> tuple[str, ...]: ...

    def reset(self, seed: int | None = None, first_game: int = 0) -> Array:
        """Starts all games anew and returns their observations `[B, N, ...]`.

        Args:
            seed: starts the random streams anew; None lets them go on.
            first_game: number of this batch's first game among all games of a run: game b of this batch uses the stream
                (seed, first_game + b), so that how games are spread over processes does not change them.
        """
        ...

    def step(self, actions: Array) -> Step:
        """Plays one step; `actions` are integers `[B, N]`. Actions of agents that are not alive are ignored."""
        ...

    def get_state(self) -> dict[str, Array]:
        """Everything that `set_state` needs to continue bit-equal."""
        ...

    def set_state(self, state: Mapping[str, Array]) -> Array:
        """Continues from `get_state`'s answer and returns the observations that belong to it."""
        ...


def checked_actions(actions: Array, shape: tuple[int, int], num_actions: int, described: str) -> NDArray[np.int64]:
    """The actions as contiguous int64; `described` says what a world's actions are.

    Raises:
        ValueError: they are not integers of this shape (games, agents), or not all of them are actions of the world.
    """
    actions = np.asarray(actions)
    if actions.shape != shape or not np.issubdtype(actions.dtype, np.integer):
        raise ValueError(
            f"Actions have shape {actions.shape} and type {actions.dtype}; needed are integers of shape {shape} (games, agents)."
        )
    if actions.min() < 0 or actions.max() >= num_actions:
        wrong = actions[(actions < 0) | (actions >= num_actions)][0]
        raise ValueError(f"Action {wrong} is out of range. {described}.")
    return np.ascontiguousarray(actions, np.int64)


class GameParameters(Settings):
    """Parameters that every world has.

    A world with presets has a field `preset` and fills `presets`; what a preset says are defaults: keys that are given win.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    num_agents: int = Field(2, ge=1, description="agents in a game")
    episode_length: int = Field(100, ge=1, description="steps until a game is cut off")
    num_threads: int = Field(1, ge=1, description="threads that share the games; results do not depend on it")

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, values: dict[str, Any]) -> dict[str, Any]:
        if not cls.presets:
            return values
        preset = values.get("preset", cls.model_fields["preset"].default)
        return {**cls.presets.get(str(preset), {}), **values}


class Game(ABC):
    """B games of one world: seeding, time limit, restarts, checks and state; the rules come from the subclass.

    A subclass names its `Parameters`, `action_names`, `event_names`, `observation_space`, allocates its state with `array`,
    and implements `start`, `advance`, `observe` and `render`. Compiled code is called through `run`, which shares the games among
    threads. Runs log what `cooperation` names; an event "timed_out" (in each step that an agent is) makes them log peace. Where
    actions are forbidden at times, `setup` sets `action_masks = self.array("action_masks", (N, A), np.bool_)`, and `start` and
    `advance` fill it.

    Args:
        num_games: B >= 1.
        env_config: the world's parameters by name.

    Raises:
        SettingError: an unknown or impossible parameter.
    """

    Parameters: ClassVar[type[GameParameters]]
    event_names: ClassVar[tuple[str, ...]] = ()
    cooperation: ClassVar[Mapping[str, Share]] = {}
    action_names: tuple[str, ...]
    observation_space: Box
    action_masks: NDArray[np.bool_] | None = (
        None  # [B, N, A] what is allowed now; allocated by `setup`; None: everything
    )
    fully_observed: bool = False  # every agent's observation shows all that the rules depend on, but for the clock

    def __init__(self, num_games: int = 1, **env_config: Any) -> None:
        if num_games < 1:
            raise ValueError(f"num_games = {num_games}: at least one game is needed.")
        self.parameters = checked(self.Parameters, env_config, f"env_config of {type(self).__name__}")
        self.num_games = num_games
        self.num_agents = self.parameters.num_agents
        self.episode_length = self.parameters.episode_length
        self._state: dict[str, Array] = {}
        self.streams = self.array("streams", (), np.uint64)
        self.clock = self.array("clock", (), np.int32)
        self.alive = self.array("alive", (self.num_agents,), np.bool_)
        self.terminated = np.zeros(num_games, np.bool_)
        self._every_game = np.ones(num_games, np.bool_)
        self._seeded = False
        threads = min(self.parameters.num_threads, num_games)
        edges = [num_games * thread // threads for thread in range(threads + 1)]
        self._shares = [slice(first, last) for first, last in pairwise(edges)]
        self._threads = ThreadPoolExecutor(threads) if threads > 1 else None
        self.setup()
        self.action_space = Discrete(len(self.action_names))
        numbered = ", ".join(f"{number} {name}" for number, name in enumerate(self.action_names))
        self._actions_described = f"Actions of {type(self).__name__}: {numbered}"

    # -- what a world implements

    @abstractmethod
    def setup(self) -> None:
        """Sets `action_names` and `observation_space` and allocates the state."""

    @abstractmethod
    def start(self, games: NDArray[np.bool_]) -> None:
        """Puts the games of the mask `[B]` into a start position. Clocks and alive masks are set already."""

    @abstractmethod
    def advance(self, actions: NDArray[np.int64], rewards: NDArray[np.float32], events: NDArray[np.uint8]) -> None:
        """Plays one step in all games.

        Args:
            actions: `[B, N]`, valid.
            rewards: `[B, N]` zeros, to be filled.
            events: `[B, E, N]` zeros, to be filled, in the order of `event_names`.

        Sets `self.terminated[b]` where the rules end a game, and clears `self.alive[b, i]` where an agent leaves it.
        """

    @abstractmethod
    def observe(self, out: Array, games: NDArray[np.bool_]) -> None:
        """Writes all agents' observations to `out` `[B, N, *observation_shape]`, in the games of the mask `[B]`."""

    @abstractmethod
    def render(self, game: int = 0) -> NDArray[np.uint8]:
        """A picture of one game, `[height, width, 3]`."""

    # -- what every world has

    def array(self, name: str, shape: tuple[int, ...], dtype: Any) -> Array:
        """Allocates a part of the state, `[B, *shape]`, zeros; it is saved and restored by name."""
        self._state[name] = np.zeros((self.num_games, *shape), dtype)
        return self._state[name]

    def run(self, kernel: Callable[..., None], per_game: Sequence[Array], *rules: Any) -> None:
        """Calls the compiled `kernel(*per_game, *rules)`; with several threads, each gets its share of the games.

        Args:
            kernel: compiled with `nogil=True`, a loop over games.
            per_game: arrays `[B, ...]`.
            rules: whatever all games have in common.
        """
        if self._threads is None:
            kernel(*per_game, *rules)
            return
        shares = [
            self._threads.submit(kernel, *(values[games] for values in per_game), *rules) for games in self._shares
        ]
        for share in shares:
            share.result()

    def reset(self, seed: int | None = None, first_game: int = 0) -> Array:
        if seed is not None or not self._seeded:
            seed_streams(self.streams, seed, first_game)
            self._seeded = True
        self._restart(self._every_game)
        return self._observations(self._every_game)

    def step(self, actions: Array) -> Step:
        actions = checked_actions(
            actions, (self.num_games, self.num_agents), len(self.action_names), self._actions_described
        )
        rewards = np.zeros((self.num_games, self.num_agents), np.float32)
        events = np.zeros((self.num_games, len(self.event_names), self.num_agents), np.uint8)
        self.terminated[:] = False
        self.advance(actions, rewards, events)
        self.clock += 1
        terminated = self.terminated.copy()
        truncated = (self.clock >= self.parameters.episode_length) & ~terminated
        alive = self.alive.copy()
        ended = terminated | truncated
        final = None
        if ended.any():
            final = self._observations(ended)
            self._restart(ended)
        observations = self._observations(self._every_game)
        counters = {name: events[:, number] for number, name in enumerate(self.event_names)}
        return Step(observations, rewards, terminated, truncated, alive, counters, final)

    def get_state(self) -> dict[str, Array]:
        return {name: values.copy() for name, values in self._state.items()}

    def set_state(self, state: Mapping[str, Array]) -> Array:
        for name, values in self._state.items():
            if name not in state or state[name].shape != values.shape:
                raise ValueError(
                    f"The state does not fit {type(self).__name__} with {self.num_games} games: {name!r} has shape "
                    f"{getattr(state.get(name), 'shape', None)}, needed is {values.shape}."
                )
        for name, values in self._state.items():
            values[...] = state[name]
        self._seeded = True
        return self._observations(self._every_game)

    def _restart(self, games: NDArray[np.bool_]) -> None:
        self.clock[games] = 0
        self.alive[games] = True
        self.start(games)

    def _observations(self, games: NDArray[np.bool_]) -> Array:
        out = np.empty((self.num_games, self.num_agents, *self.observation_space.shape), self.observation_space.dtype)
        self.observe(out, games)
        return out
