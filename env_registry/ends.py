"""How a game ends for each agent, said so that RLlib keeps it; and that an agent's part in a game ends once.

RLlib 2.60 (`MultiAgentEpisode.add_env_step`, `ray/rllib/env/multi_agent_episode.py`) calls an episode terminated as soon as every
agent in it has a terminated or truncated flag of its own, and then all agents that were left: nothing is bootstrapped at a time
limit. It keeps a truncation that is said by `"__all__"` alone, beside the own flags of those who died.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping
from functools import cache
from typing import Any, TypeVar, cast

from env_registry.parameters import SettingError

logger = logging.getLogger(__name__)

ALL = "__all__"
Answer = tuple[dict[Any, Any], dict[Any, Any], dict[Any, Any], dict[Any, Any], dict[Any, Any]]
"""What a `MultiAgentEnv` says of a step: observations, rewards, terminateds, truncateds, infos, by agent."""

E = TypeVar("E")


def came_back(world: str, agent: Hashable, left: int, now: int) -> SettingError:
    """The error for an agent that plays again in an episode in which its part had ended.

    Args:
        world: its name.
        agent: who.
        left: the step of the episode, counted from 1, with which the agent's part ended.
        now: the step after which it is there again.
    """
    return SettingError(
        f"{world}: agent {agent!r} left the game in step {left} and is back after step {now} of the same episode. Who was "
        "terminated or truncated, or is no longer among the agents, stays out until the next reset: what an agent learns from "
        "has one end. Let it stay in the game while it is out (with an observation that says so) and do not set its flag, or "
        "let it come back under another name that possible_agents lists."
    )


class Ends:
    """The ends of one game, episode after episode.

    A flag of an agent's own counts before `"__all__"`, and terminated before truncated.

    Args:
        world: the name, for messages.

    Attributes:
        closes: end the episode where an agent comes back, and keep the error in `fault`, instead of raising it. A runner on
            another machine cannot raise to the user: RLlib logs the error, restarts the runner, and goes on.
        fault: the first such error's text.
    """

    def __init__(self, world: str) -> None:
        self.world = world
        self.closes = False
        self.fault: str | None = None
        self.begin({})

    def begin(self, observations: Mapping[Any, Any]) -> None:
        """A new episode, with what is observed first."""
        self._seen = set(observations)
        self._left: dict[Any, int] = {}
        self._step = 0

    def kept(self, answer: Answer) -> Answer:
        """The same step, with flags that RLlib takes as they are meant.

        Of agents that have left before, nothing is passed on: environments may go on reporting them with their flag set, without
        a reward.

        Raises:
            SettingError: an agent comes back; or a newcomer arrives as everybody else leaves, which RLlib takes for the end.
        """
        observations, rewards, terminateds, truncateds, infos = answer
        self._step += 1
        died = {agent for agent, flag in terminateds.items() if flag and agent != ALL}
        cut = {agent for agent, flag in truncateds.items() if flag and agent != ALL} - died
        out = self._left.keys()
        back = [a for a in self._left if (a in observations and a not in died | cut) or rewards.get(a)]
        if back:
            return self._refused(came_back(self.world, back[0], self._left[back[0]], self._step), answer)
        died, cut, playing = died - out, cut - out, self._seen - out
        newcomers = set(observations) - self._seen
        everybody = bool(playing) and playing <= died | cut
        if everybody and newcomers - died - cut and not (terminateds.get(ALL) or truncateds.get(ALL)):
            return self._refused(self._alone(newcomers - died - cut), answer)
        over = everybody or bool(terminateds.get(ALL)) or bool(truncateds.get(ALL))
        if over:
            rest = playing - died - cut
            died, cut = (died | rest, cut) if terminateds.get(ALL) else (died, cut | rest)
        cut_off = over and bool(cut & playing)
        passed_on = [{a: value for a, value in part.items() if a not in out} for part in (observations, rewards, infos)]
        terminated = {agent: agent in died for agent in terminateds.keys() | died if agent not in out}
        truncated = {agent: not over and agent in cut for agent in truncateds if agent not in out}
        self._seen |= set(observations)
        self._left |= dict.fromkeys((died | cut) & self._seen, self._step)
        return (
            passed_on[0],
            passed_on[1],
            {**terminated, ALL: over and not cut_off},
            {**truncated, ALL: cut_off},
            passed_on[2],
        )

    def _refused(self, error: SettingError, answer: Answer) -> Answer:
        if not self.closes:
            raise error
        logger.error("%s", error)
        self.fault = self.fault or str(error)
        observations, rewards, _, _, infos = (
            {agent: value for agent, value in part.items() if agent not in self._left} for part in answer
        )
        return observations, rewards, {ALL: True}, {ALL: False}, infos

    def _alone(self, newcomers: set[Any]) -> SettingError:
        names = ", ".join(map(repr, sorted(newcomers, key=str)))
        return SettingError(
            f"{self.world}: {names} arrives in step {self._step}, in which everybody else leaves. RLlib takes the leaving of all "
            "who were there for the end of the episode. Show newcomers a step earlier."
        )


def keep_ends(env: E) -> E:
    """Makes RLlib keep how a `MultiAgentEnv`'s games end: who is cut off is bootstrapped, who dies is not.

    The environment itself is changed, and given back: the class stays a subclass of its own, attributes stay where they are.
    An environment that `rllib_env` made is left as it is.

    >>> register_env("my_world", lambda env_config: keep_ends(ParallelPettingZooEnv(make(**env_config))))

    Its `step` raises SettingError where an agent comes back in an episode that it has left.

    Args:
        env: any environment with RLlib's `reset` and `step`.
    """
    if not isinstance(getattr(env, "ends", None), Ends):
        kind: Any = type(env)
        env.__class__ = _keeping(kind)
        cast(Any, env).ends = Ends(kind.__name__)
    return env


@cache
def _keeping(kind: Any) -> type:
    """A subclass; with `kind` as only base, so that objects of that class can be given it."""

    def reset(self: Any, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        observations, infos = kind.reset(self, seed=seed, options=options)
        self.ends.begin(observations)
        return observations, infos

    def step(self: Any, action_dict: dict[Any, Any]) -> Answer:
        return self.ends.kept(kind.step(self, action_dict))

    own = {"reset": reset, "step": step, "__doc__": kind.__doc__, "__module__": kind.__module__}
    return type(kind.__name__, (kind,), own)
