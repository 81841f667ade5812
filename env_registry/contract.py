"""What a PettingZoo parallel environment has to answer, checked where it answers.

Harmless deviations of older environments are accepted: no `possible_agents` (then `agents` are), a `reset` without infos or
that takes no seed, rewards and flags as arrays of one number, `infos` that are None. Everything else that does not keep to
PettingZoo's parallel API is refused with an error that says what came and what is needed.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from gymnasium.spaces import Box, Dict, Space, Tuple
from pettingzoo import ParallelEnv
from pettingzoo.utils.wrappers import BaseParallelWrapper

from env_registry.parameters import SettingError

Environment: TypeAlias = ParallelEnv[str, Any, Any]
Answer: TypeAlias = tuple[dict[str, Any], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]

PARTS = ("observations", "rewards", "terminations", "truncations", "infos")
"""What a step answers with: dictionaries by agent, in this order."""


class Contracted(BaseParallelWrapper[str, Any, Any]):
    """An environment whose every answer keeps to PettingZoo's parallel API.

    Args:
        env: the environment, which nobody has reset yet.
        name: what messages call it.

    Raises:
        SettingError: it does not say who plays, or in which spaces. `reset` and `step` raise it for answers that do not fit.
    """

    def __init__(self, env: Environment, name: str) -> None:
        super().__init__(env)
        self._name = name
        self._seed: int | None = None
        self._clock = 0
        self._playing: set[str] = set()
        self.possible_agents = _possible_agents(env, name)
        self._seen = {agent: _space(env, name, "observation_space", agent) for agent in self.possible_agents}
        self._done = {agent: _space(env, name, "action_space", agent) for agent in self.possible_agents}
        self.takes_seed = _takes(env.reset, "seed")

    @property
    def agents(self) -> list[str]:
        """Who plays now, in an order."""
        agents: Any = self.env.agents
        return (
            [one for one in self.possible_agents if one in agents] if isinstance(agents, (set, frozenset)) else agents
        )

    @agents.setter
    def agents(self, agents: list[str]) -> None:
        self.env.agents = agents

    def observation_space(self, agent: str) -> Space[Any]:
        return self._seen[agent]

    def action_space(self, agent: str) -> Space[Any]:
        return self._done[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """Starts a game. An environment whose `reset` takes no seed is started without one."""
        self._seed, self._clock = seed, 0
        wanted: dict[str, Any] = {"seed": seed} if self.takes_seed else {}
        answer: Any = self.env.reset(**(wanted if options is None else {**wanted, "options": options}))
        infos: Any = {}
        if isinstance(answer, (tuple, list)) and len(answer) == 2:
            answer, infos = answer
        if not isinstance(answer, Mapping):
            raise self._refused(
                f"reset answers with {_told(answer)}; needed are two dictionaries, observations and infos, by agent"
            )
        self._playing = self._now()
        return self._as_announced(answer), {**{agent: {} for agent in self._playing}, **self._infos(infos)}

    def step(self, actions: dict[str, Any]) -> Answer:
        """Plays one step."""
        self._clock += 1
        answer: Any = self.env.step(actions)
        if not isinstance(answer, (tuple, list)) or len(answer) != len(PARTS):
            raise self._refused(
                f"step answers with {_told(answer)}; needed are five dictionaries by agent: {', '.join(PARTS)}. (Older "
                "environments answer with four: their `dones` are to be parted into who died and who was cut off by a limit)"
            )
        observations, rewards, terminations, truncations, infos = answer
        for what, part in zip(PARTS[:4], answer[:4], strict=True):
            if not isinstance(part, dict) and not isinstance(part, Mapping):
                raise self._refused(f"step answers with {_told(part)} as {what}; needed is a dictionary by agent")
        if "__all__" in terminations or "__all__" in truncations:
            raise self._refused(
                "it flags '__all__', as RLlib's MultiAgentEnv does; PettingZoo's environments flag every agent by its name, and "
                "take it out of `agents`"
            )
        observations = self._as_announced(observations)
        for reward in rewards.values():
            if not isinstance(reward, float):
                rewards = {agent: self._number(agent, reward) for agent, reward in rewards.items()}
                break
        terminations, truncations = self._flags("terminations", terminations), self._flags("truncations", truncations)
        now = self._now()
        if now != self._playing:
            for agent in sorted(self._playing - now, key=str):
                if not terminations.get(agent) and not truncations.get(agent):
                    raise self._refused(
                        f"{agent!r} is no longer in `agents`, but is flagged neither in terminations (it died, or the rules "
                        "ended the game) nor in truncations (a limit cut it off)"
                    )
            self._playing = now
        if type(infos) is not dict:
            infos = {**{agent: {} for agent in rewards}, **self._infos(infos)}
        return observations, rewards, terminations, truncations, infos

    def _as_announced(self, observations: Mapping[str, Any]) -> dict[str, Any]:
        """The observations, checked against their spaces; lists of numbers become arrays."""
        arrays = {}
        for agent, seen in observations.items():
            space = self._seen.get(agent)
            if space is None or (type(space) is Box and type(seen) is np.ndarray and seen.shape == space.shape):
                continue
            wrong = _fault(space, seen)
            if wrong:
                raise self._refused(f"the observation of {agent!r} {wrong}. Its observation_space is {space}")
            if isinstance(space, Box) and not isinstance(seen, np.ndarray):
                arrays[agent] = np.asarray(seen, space.dtype)
        return {**observations, **arrays} if arrays or type(observations) is not dict else observations

    def _number(self, agent: str, reward: Any) -> float:
        """A reward as a float."""
        if isinstance(reward, (int, float, np.number, np.bool_, np.ndarray)):
            array = np.asarray(reward)
            if array.size == 1 and array.dtype.kind in "biuf":
                return float(array.reshape(())[()])
        raise self._refused(f"the reward of {agent!r} is {_told(reward)}; needed is one number")

    def _flags(self, what: str, flags: Mapping[str, Any]) -> dict[str, bool]:
        for flag in flags.values():
            if flag is not True and flag is not False:
                return {agent: self._flag(what, agent, flag) for agent, flag in flags.items()}
        return flags  # type: ignore[return-value]

    def _flag(self, what: str, agent: str, flag: Any) -> bool:
        array = np.asarray(flag)
        if array.size == 1 and array.dtype.kind in "biuf" and array.reshape(()) in (0, 1):
            return bool(array.reshape(()))
        raise self._refused(f"{what} say {_told(flag)} of {agent!r}; needed is True or False")

    def _infos(self, infos: Any) -> dict[str, dict[str, Any]]:
        if infos is None:
            return {}
        if not isinstance(infos, Mapping):
            raise self._refused(f"infos are {_told(infos)}; needed is a dictionary by agent, empty or not")
        return dict(infos)

    def _now(self) -> set[str]:
        try:
            return set(self.env.agents)
        except (AttributeError, TypeError):
            raise self._refused("it has no list `agents` of those who play now") from None

    def _refused(self, what: str) -> SettingError:
        when = f"step {self._clock}" if self._clock else "the start"
        seeded = "" if self._seed is None else f" of the game of seed {self._seed}"
        return SettingError(f"{self._name}, {when}{seeded}: {what}. See PettingZoo's parallel API.")


def first_unfinite(observations: np.ndarray) -> tuple[int, ...] | None:
    """Where the first number is NaN or infinite, as an index; None where none is, or where all are whole numbers."""
    if observations.dtype.kind != "f" or np.isfinite(observations).all():
        return None
    return tuple(np.argwhere(~np.isfinite(observations))[0].tolist())


def _possible_agents(env: Environment, name: str) -> list[str]:
    agents: Any = getattr(env, "possible_agents", None)
    if agents is None:
        agents = getattr(env, "agents", None)
    if agents is None:
        raise SettingError(f"{name} does not say who may play: give it a list `possible_agents`, there from the start.")
    if isinstance(agents, (set, frozenset)):
        raise SettingError(
            f"The possible_agents of {name} are a set, {agents!r}, whose order is another one in each process; make it a list."
        )
    listed = list(agents)
    if not listed or len(set(listed)) < len(listed):
        raise SettingError(
            f"The possible_agents of {name} are {listed}; needed is a list of one name or more, all unlike."
        )
    return listed


def _space(env: Environment, name: str, which: str, agent: str) -> Space[Any]:
    try:
        space: Any = getattr(env, which)(agent)
    except (AttributeError, KeyError, NotImplementedError, TypeError) as error:
        raise SettingError(
            f"{name} does not say the {which} of {agent!r} ({type(error).__name__}: {error}). Needed is a method "
            f"{which}(agent) that answers with a space of Gymnasium's, always the same one."
        ) from error
    if not isinstance(space, Space):
        old = " of the old package gym" if type(space).__module__.split(".")[0] == "gym" else ""
        raise SettingError(
            f"The {which} of {agent!r} in {name} is {_told(space)}{old}; needed is a space of Gymnasium's "
            "(gymnasium.spaces)."
        )
    return space


def _takes(function: Any, argument: str) -> bool:
    """Whether a function may be called with an argument of this name."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # compiled code does not say
        return True
    return argument in parameters or any(one.kind is one.VAR_KEYWORD for one in parameters.values())


def _fault(space: Space[Any], seen: Any) -> str | None:
    """What is wrong with an observation, as the end of a sentence; None: nothing. Values beyond a box's bounds are not wrong."""
    if isinstance(space, Box):
        try:
            array = np.asarray(seen)
        except ValueError:
            return "is no array: its rows have unlike lengths"
        if array.dtype.kind not in "biuf":
            return f"is {_told(seen)}, which is no array of numbers"
        return None if array.shape == space.shape else f"has the shape {array.shape}, needed is {space.shape}"
    if isinstance(space, Dict):
        if not isinstance(seen, Mapping):
            return f"is {_told(seen)}, needed is a dictionary"
        for key, part in space.spaces.items():
            wrong = _fault(part, seen[key]) if key in seen else "is missing"
            if wrong:
                return f"[{key!r}] {wrong}"
        return None
    if isinstance(space, Tuple):
        if not isinstance(seen, (tuple, list)) or len(seen) != len(space.spaces):
            return f"is {_told(seen)}, needed is a tuple of {len(space.spaces)}"
        wrongs = (
            (number, _fault(part, one)) for number, (part, one) in enumerate(zip(space.spaces, seen, strict=True))
        )
        return next((f"[{number}] {wrong}" for number, wrong in wrongs if wrong), None)
    return None if space.contains(seen) else f"is {_told(seen)}, which is not in {space}"


def _told(what: Any) -> str:
    """A value for a message, with its type, cut where it gets long."""
    if isinstance(what, (tuple, list)):
        return f"a {type(what).__name__} of {len(what)} ({', '.join(type(part).__name__ for part in what[:6])})"
    if isinstance(what, np.ndarray):
        return f"an array of shape {what.shape} and type {what.dtype}"
    shown = repr(what)
    return f"{type(what).__name__} {shown if len(shown) <= 60 else shown[:57] + '...'}" if what is not None else "None"
