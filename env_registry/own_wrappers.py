"""Wrappers of our own that stand in for SuperSuit's (3.11) where these give other numbers than their names promise.

What is otherwise than in SuperSuit stands at each of them. All keep who is in the game, who dies and who is cut off as they are,
but `BlackDeath`, whose purpose it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, Space
from pettingzoo.utils.wrappers import BaseParallelWrapper

from env_registry import global_generators
from env_registry.contract import Answer, Environment


class ObservationWrapper(BaseParallelWrapper[str, Any, Any]):
    """Changes what agents see, each agent by itself; what it remembers begins anew with every episode.

    Args:
        env: the environment.
        spaces: agent -> what its observations are changed into.
    """

    def __init__(self, env: Environment, spaces: Mapping[str, Space[Any]]) -> None:
        super().__init__(env)
        self._spaces = dict(spaces)

    def observation_space(self, agent: str) -> Space[Any]:
        return self._spaces[agent]

    def forget(self) -> None:
        """An episode begins."""

    def shown(self, agent: str, seen: Any) -> Any:
        """What the agent sees instead of `seen`."""
        raise NotImplementedError

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        observations, infos = self.env.reset(seed=seed, options=options)
        self.forget()
        return {agent: self.shown(agent, seen) for agent, seen in observations.items()}, infos

    def step(self, actions: dict[str, Any]) -> Answer:
        observations, *others = self.env.step(actions)
        return ({agent: self.shown(agent, seen) for agent, seen in observations.items()}, *others)


class AgentIndicator(ObservationWrapper):
    """Shows every agent which one it is: a number for each agent (for pictures: a channel), 1 for the own one, else 0.

    SuperSuit writes the largest bound of the whole space in place of the 1, which is 3.4e38 for boxes that have no real bounds.
    Here it is 1, and in bytes, whose scale is the space's, the largest bound. Discrete observations become s * N + i.

    Args:
        env: the environment, whose observation spaces are all alike.
        type_only: tell types apart, the part of names before "_", not agents.

    Raises:
        ValueError: spaces that are unlike, or neither discrete nor boxes of one to three dimensions.
    """

    def __init__(self, env: Environment, type_only: bool = False) -> None:
        names = [agent.rsplit("_", 1)[0] if type_only else agent for agent in env.possible_agents]
        groups = list(dict.fromkeys(names))
        self._of_agent = {agent: groups.index(name) for agent, name in zip(env.possible_agents, names, strict=True)}
        self._count = len(groups)
        spaces = [env.observation_space(agent) for agent in env.possible_agents]
        if any(space != spaces[0] for space in spaces):
            raise ValueError("the agents' observation spaces are unlike; put 'pad_observations_v0' before it")
        self._inner = spaces[0]
        self._one: Any = 1
        super().__init__(env, dict.fromkeys(env.possible_agents, self._space(spaces[0])))

    def _space(self, space: Space[Any]) -> Space[Any]:
        if isinstance(space, Discrete):
            return Discrete(int(space.n) * self._count)
        if not isinstance(space, Box) or not 1 <= len(space.shape) <= 3:
            raise ValueError(f"observations have to be discrete or boxes of one to three dimensions, they are {space}")
        dtype: Any = space.dtype
        self._one = space.high.max() if dtype == np.uint8 else dtype.type(1)
        low, high = ((bound[..., None] if bound.ndim == 2 else bound) for bound in (space.low, space.high))
        own = (*low.shape[:-1], self._count)
        return Box(
            np.concatenate([low, np.zeros(own, dtype)], -1),
            np.concatenate([high, np.full(own, self._one, dtype)], -1),
            dtype=dtype.type,
        )

    def shown(self, agent: str, seen: Any) -> Any:
        number = self._of_agent[agent]
        if isinstance(self._inner, Discrete):
            return (int(seen) - int(self._inner.start)) * self._count + number
        array = np.asarray(seen, self._inner.dtype)
        array = array[..., None] if array.ndim == 2 else array
        mark = np.zeros((*array.shape[:-1], self._count), array.dtype)
        mark[..., number] = self._one
        return np.concatenate([array, mark], -1)


class FrameStack(ObservationWrapper):
    """Shows the last observations side by side, the newest last.

    SuperSuit hands out the same array in every step, so that what was seen changes afterwards, and fills stacks of matrices along
    `stack_dim` 0 with the newest one only. Here every stack is an array of its own, for every dimension.

    Args:
        env: the environment.
        stack_size: how many observations, 1 or more.
        stack_dim: along which axis, -1 or 0; matrices get an axis of their own there.
        repeat_first: before the first steps, show the first observation again (`frame_stack_v2`), else zeros (`_v1`).

    Raises:
        ValueError: an impossible argument, or spaces that are neither discrete nor boxes of one to three dimensions.
    """

    def __init__(self, env: Environment, stack_size: int = 4, stack_dim: int = -1, repeat_first: bool = False) -> None:
        if not isinstance(stack_size, int) or stack_size < 1:
            raise ValueError(f"stack_size = {stack_size!r}: a whole number of at least 1 is needed")
        if stack_dim not in (0, -1):
            raise ValueError(f"stack_dim = {stack_dim!r}: 0 or -1 is needed")
        self._size, self._axis, self._repeat = stack_size, stack_dim, repeat_first
        self._inner = {agent: env.observation_space(agent) for agent in env.possible_agents}
        self._frames: dict[str, deque[Any]] = {}
        super().__init__(env, {agent: self._space(space) for agent, space in self._inner.items()})

    def _space(self, space: Space[Any]) -> Space[Any]:
        if isinstance(space, Discrete):
            return Discrete(int(space.n) ** self._size)
        if not isinstance(space, Box) or not 1 <= len(space.shape) <= 3:
            raise ValueError(f"observations have to be discrete or boxes of one to three dimensions, they are {space}")
        low, high = (self._stacked([bound] * self._size) for bound in (space.low, space.high))
        dtype: Any = space.dtype
        return Box(low, high, dtype=dtype.type)

    def _stacked(self, frames: Sequence[Any]) -> Any:
        join = np.stack if frames[0].ndim == 2 else np.concatenate
        return join(frames, axis=self._axis)

    def forget(self) -> None:
        self._frames = {}

    def shown(self, agent: str, seen: Any) -> Any:
        space = self._inner[agent]
        discrete = isinstance(space, Discrete)
        frame: Any = int(seen) - int(space.start) if isinstance(space, Discrete) else np.array(seen, space.dtype)
        if agent not in self._frames:
            before = frame if self._repeat else (0 if discrete else np.zeros_like(frame))
            self._frames[agent] = deque([before] * self._size, self._size)
        frames = self._frames[agent]
        frames.append(frame)
        if isinstance(space, Discrete):
            return sum(one * int(space.n) ** place for place, one in enumerate(reversed(frames)))
        return self._stacked(list(frames))


class DelayObservations(ObservationWrapper):
    """Shows what was to be seen some steps ago; before that zeros, in an action mask ones.

    SuperSuit keeps the arrays themselves, which environments may write to later, and fails in the first step on discrete
    observations.

    Args:
        env: the environment.
        delay: steps, 0 or more.

    Raises:
        ValueError: an impossible delay, or spaces other than boxes, discrete ones and dictionaries of these.
    """

    def __init__(self, env: Environment, delay: int) -> None:
        if not isinstance(delay, int) or delay < 0:
            raise ValueError(f"delay = {delay!r}: a whole number of at least 0 is needed")
        spaces = {agent: env.observation_space(agent) for agent in env.possible_agents}
        for space in spaces.values():
            _nothing(space)
        self._delay = delay
        self._queues: dict[str, deque[Any]] = {}
        super().__init__(env, spaces)

    def forget(self) -> None:
        self._queues = {}

    def shown(self, agent: str, seen: Any) -> Any:
        queue = self._queues.setdefault(agent, deque())
        queue.append(_copied(seen))
        return queue.popleft() if len(queue) > self._delay else _nothing(self._spaces[agent])


class StickyActions(BaseParallelWrapper[str, Any, Any]):
    """Repeats an agent's last action in place of its new one, with a probability, for each agent and step by itself.

    SuperSuit seeds all agents alike, so that all of them stick in the same steps.

    Args:
        env: the environment.
        repeat_action_probability: 0 or more, below 1.

    Raises:
        ValueError: it is no such number.
    """

    def __init__(self, env: Environment, repeat_action_probability: float) -> None:
        if not isinstance(repeat_action_probability, (int, float)) or not 0 <= repeat_action_probability < 1:
            raise ValueError(f"repeat_action_probability = {repeat_action_probability!r}: a number in [0, 1) is needed")
        super().__init__(env)
        self._probability = repeat_action_probability
        self._random = np.random.default_rng()
        self._last: dict[str, Any] = {}

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        if seed is not None:
            self._random = _generator(seed, b"sticky actions")
        self._last = {}
        return self.env.reset(seed=seed, options=options)

    def step(self, actions: dict[str, Any]) -> Answer:
        draws = self._random.random(len(self.env.possible_agents))  # one each, whoever plays
        sticks = dict(zip(self.env.possible_agents, draws < self._probability, strict=True))
        self._last = {
            agent: self._last[agent] if sticks[agent] and agent in self._last else action
            for agent, action in actions.items()
        }
        return self.env.step(dict(self._last))


class FrameSkip(BaseParallelWrapper[str, Any, Any]):
    """Plays every action several times; rewards and events are summed, the last observations shown.

    SuperSuit asks the environment for a generator `np_random`, which most have not, and drops the events of all steps but
    the last.

    Args:
        env: the environment.
        num_frames: how many steps are played, or (fewest, most), drawn evenly in each step.
        default_action: what an agent does that joins between two actions.

    Raises:
        ValueError: impossible numbers. `step` raises it if an agent joins and there is no default action.
    """

    def __init__(self, env: Environment, num_frames: int | Sequence[int], default_action: Any = None) -> None:
        fewest, most = (num_frames, num_frames) if isinstance(num_frames, int) else tuple(num_frames)
        if not all(isinstance(number, int) for number in (fewest, most)) or not 1 <= fewest <= most:
            raise ValueError(f"num_frames = {num_frames!r}: a whole number of at least 1, or two, is needed")
        super().__init__(env)
        self._fewest, self._most, self._default = fewest, most, default_action
        self._random = np.random.default_rng()

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        if seed is not None:
            self._random = _generator(seed, b"frame skip")
        return self.env.reset(seed=seed, options=options)

    def step(self, actions: dict[str, Any]) -> Answer:
        seen: dict[str, Any] = {}
        rewards: dict[str, float] = {}
        terminations: dict[str, bool] = {}
        truncations: dict[str, bool] = {}
        infos: dict[str, dict[str, Any]] = {}
        for _ in range(int(self._random.integers(self._fewest, self._most + 1))):
            observations, paid, died, cut_off, told = self.env.step(self._chosen(actions))
            seen.update(observations)
            for agent, reward in paid.items():
                rewards[agent] = rewards.get(agent, 0.0) + reward
            terminations.update(died)
            truncations.update(cut_off)
            for agent, info in told.items():
                infos[agent] = _with_events(infos.get(agent, {}), info)
            over = {agent for agent in terminations if terminations[agent] or truncations.get(agent)}
            if not set(self.env.agents) - over:
                break
        staying = set(self.env.agents)
        return (
            # Who came and went between two actions has never acted: nobody hears of it.
            {agent: one for agent, one in seen.items() if agent in actions or agent in staying},
            {agent: one for agent, one in rewards.items() if agent in actions},
            {agent: one for agent, one in terminations.items() if agent in actions or agent in staying},
            {agent: one for agent, one in truncations.items() if agent in actions or agent in staying},
            {agent: one for agent, one in infos.items() if agent in actions or agent in staying},
        )

    def _chosen(self, actions: Mapping[str, Any]) -> dict[str, Any]:
        joined = [agent for agent in self.env.agents if agent not in actions]
        if joined and self._default is None:
            raise ValueError(
                f"{', '.join(map(repr, joined))} joined between two actions: give 'frame_skip_v0' a default_action for that."
            )
        return {agent: actions.get(agent, self._default) for agent in self.env.agents}


class RewardLambda(BaseParallelWrapper[str, Any, Any]):
    """Changes rewards by a function, once in each step.

    SuperSuit turns the game into one of turns and back, and changes the reward of every turn: of N agents, each gets
    f(reward) + (N - 1) f(0).

    Args:
        env: the environment.
        change_reward_fn: a reward -> what is paid instead.

    Raises:
        ValueError: it cannot be called.
    """

    def __init__(self, env: Environment, change_reward_fn: Callable[[float], float]) -> None:
        if not callable(change_reward_fn):
            raise ValueError(f"change_reward_fn = {change_reward_fn!r}: a function is needed")
        super().__init__(env)
        self._change = change_reward_fn

    def step(self, actions: dict[str, Any]) -> Answer:
        observations, rewards, *others = self.env.step(actions)
        return (observations, {agent: self._change(reward) for agent, reward in rewards.items()}, *others)


class OwnGenerators(BaseParallelWrapper[str, Any, Any]):
    """Gives an environment that draws from Python's `random` and NumPy's `np.random` states of these of its own.

    They begin anew with the seed of `reset`, are put in place while the environment plays, and taken out again: games no longer
    depend on what is played beside them, and repeat from their seeds. Costs some 50 microseconds a step. Has to be innermost.

    Args:
        env: the environment.
    """

    def __init__(self, env: Environment) -> None:
        super().__init__(env)
        self._states = global_generators.states()

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        if seed is not None:
            self._states = global_generators.fresh(int(_generator(seed, b"own generators").integers(1 << 32)))
        with self._own():
            return self.env.reset(seed=seed, options=options)

    def step(self, actions: dict[str, Any]) -> Answer:
        with self._own():
            return self.env.step(actions)

    @contextmanager
    def _own(self) -> Iterator[None]:
        with global_generators.kept():
            global_generators.put(self._states)
            try:
                yield
            finally:
                self._states = global_generators.states()


def clip_reward(env: Environment, lower_bound: float = -1, upper_bound: float = 1) -> RewardLambda:
    """Rewards within bounds; see `RewardLambda`."""
    if lower_bound > upper_bound:
        raise ValueError(f"lower_bound = {lower_bound} is above upper_bound = {upper_bound}")
    return RewardLambda(env, lambda reward: max(min(reward, upper_bound), lower_bound))


def frame_stack_v1(env: Environment, stack_size: int = 4, stack_dim: int = -1) -> FrameStack:
    """Zeros before the first observation; see `FrameStack`."""
    return FrameStack(env, stack_size, stack_dim)


def frame_stack_v2(env: Environment, stack_size: int = 4, stack_dim: int = -1) -> FrameStack:
    """The first observation again before the first; see `FrameStack`."""
    return FrameStack(env, stack_size, stack_dim, repeat_first=True)


def _generator(seed: int, what: bytes) -> np.random.Generator:
    """A source of chance of a wrapper's own: the environment draws others from the same seed."""
    return np.random.default_rng([seed, *what])


def _with_events(before: Mapping[str, Any], info: Mapping[str, Any]) -> dict[str, Any]:
    """An agent's newest info, with the events of both."""
    if "events" not in before or "events" not in info:
        return {**before, **info}
    return {**info, "events": {name: count + before["events"].get(name, 0) for name, count in info["events"].items()}}


def _nothing(space: Space[Any], ones: bool = False) -> Any:
    """What is seen where there is nothing to see."""
    if isinstance(space, Box) or (ones and space.shape is not None):
        return (np.ones if ones else np.zeros)(space.shape, space.dtype)
    if isinstance(space, Discrete):
        return int(space.start)
    if isinstance(space, Dict):
        return {name: _nothing(part, ones=name == "action_mask") for name, part in space.spaces.items()}
    raise ValueError(f"observations have to be boxes, discrete, or dictionaries of these, they are {space}")


def _copied(seen: Any) -> Any:
    if isinstance(seen, Mapping):
        return {name: _copied(part) for name, part in seen.items()}
    return np.array(seen) if isinstance(seen, np.ndarray) else seen
