"""Which actions a world allows: masks beside observations, as PettingZoo and RLlib write them, and what worlds make of them.

A mask has a 1 (or True) for each action that its agent may take now. It comes as the part `"action_mask"` of a `Dict` observation
(PettingZoo: beside "observation", RLlib: beside "observations"), or as `infos[agent]["action_mask"]`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Dict, Discrete, Space
from gymnasium.spaces.utils import flatdim
from numpy.typing import NDArray

from env_registry.game import Array, World
from env_registry.parameters import SettingError

logger = logging.getLogger(__name__)

ACTION_MASK = "action_mask"
"""The key, in observations and in infos."""

Masks = NDArray[np.bool_]


def has_mask(space: Any) -> bool:
    """Whether observations of this space hold a mask."""
    return isinstance(space, Dict) and ACTION_MASK in space.spaces


def without_mask(space: Space[Any]) -> Space[Any]:
    """The space of what is beside the mask: the only other part itself, or a `Dict` of all others.

    Raises:
        SettingError: there is nothing beside the mask.
    """
    if not has_mask(space):
        return space
    assert isinstance(space, Dict)
    others = {name: part for name, part in space.spaces.items() if name != ACTION_MASK}
    if not others:
        raise SettingError(
            f"The observation {space} holds an {ACTION_MASK!r} and nothing else. Put what the agent sees beside it, for instance "
            '{"observation": ..., "action_mask": ...}.'
        )
    return next(iter(others.values())) if len(others) == 1 else Dict(others)


def parted(observation: Any) -> tuple[Any, Array | None]:
    """What is seen, and the mask beside it; None where there is none."""
    if not isinstance(observation, Mapping) or ACTION_MASK not in observation:
        return observation, None
    others = {name: part for name, part in observation.items() if name != ACTION_MASK}
    return next(iter(others.values())) if len(others) == 1 else others, observation[ACTION_MASK]


def parted_rows(space: Space[Any], observations: Any) -> tuple[Any, Array | None]:
    """Many observations of a space that holds a mask, apart: what is seen, and the masks, both with the leading axis.

    Args:
        space: of one observation, with its mask.
        observations: each part with a leading axis, or `[rows, size]` where they were flattened (Gymnasium's `flatten`).
    """
    if not has_mask(space) or isinstance(observations, Mapping):
        return parted(observations)
    assert isinstance(space, Dict)
    ends = np.cumsum([flatdim(part) for part in space.spaces.values()])
    name = list(space.spaces).index(ACTION_MASK)
    first, last = int(ends[name - 1]) if name else 0, int(ends[name])
    if np.ndim(observations) != 2 or observations.shape[1] != ends[-1]:
        return observations, None
    return np.delete(observations, slice(first, last), 1), observations[:, first:last]


def check_mask_space(agent: Any, space: Space[Any], actions: Any) -> None:
    """Raises SettingError if the observations hold a mask that is none of the agent's actions."""
    if has_mask(space) and isinstance(actions, Discrete) and space[ACTION_MASK].shape != (actions.n,):
        raise SettingError(
            f"The {ACTION_MASK!r} that {agent!r} observes is {space[ACTION_MASK]}; its actions are {actions}. "
            f"Needed is one number for each action, in a space of shape ({actions.n},), for instance MultiBinary({actions.n})."
        )


def as_mask(agent: Any, mask: Any, choices: int) -> Masks:
    """One agent's mask as `[choices]` bool.

    Raises:
        SettingError: it is of another length.
    """
    found = np.asarray(mask)
    if found.shape != (choices,):
        raise SettingError(
            f"The {ACTION_MASK!r} of {agent!r} has the shape {found.shape}; needed is a number for each of its {choices} actions."
        )
    return found != 0


class ActionMasks:
    """What B games allow each of N agents now, by what their observations or infos say.

    Args:
        num_games: B.
        actions: agent -> its actions, in order of their number.
        announced: agents' observation spaces hold masks.

    Attributes:
        now: `[B, N, A]`, A of the agent that has most actions; None until a mask comes. Actions that an agent does not have are
            not allowed; where an agent's mask is missing, all that it has are.
    """

    def __init__(self, num_games: int, actions: Mapping[Any, Discrete], announced: bool) -> None:
        self._num_games = num_games
        self._agents = list(actions)
        self._choices = [int(space.n) for space in actions.values()]
        self._own = np.arange(max(self._choices)) < np.array(self._choices)[:, None]
        self.now: Masks | None = self._everything() if announced else None

    def allow(self, game: int, number: int, mask: Any) -> None:
        """Notes one agent's mask; None: all of its actions.

        Raises:
            SettingError: it is of another length than its actions are.
        """
        if self.now is None:
            if mask is None:
                return
            self.now = self._everything()
        self.now[game, number] = self._own[number]
        if mask is not None:
            choices = self._choices[number]
            self.now[game, number, :choices] = as_mask(self._agents[number], mask, choices)

    def _everything(self) -> Masks:
        return np.tile(self._own, (self._num_games, 1, 1))


def allowed_actions(world: World, steps: Sequence[int] | Array | None = None) -> Masks | None:
    """What a world allows now, `[B, N, A]`, everything to who is absent; None: everything to everybody, at all times.

    Args:
        world: what its `action_masks` say; worlds without them allow everything.
        steps: `[B]`, how many steps of its episode each game has behind it; for messages.

    Raises:
        SettingError: the masks have another shape, or an agent that takes part may do nothing.
    """
    shown = getattr(world, "action_masks", None)
    if shown is None:
        return None
    name = getattr(world, "name", type(world).__name__)
    needed = (world.num_games, world.num_agents, int(world.action_space.n))
    masks = np.array(shown) != 0
    if masks.shape != needed:
        raise SettingError(
            f"The action_masks of {name} have the shape {masks.shape}; needed is {needed} (games, agents, actions)."
        )
    masks |= ~world.alive[..., None]
    stuck = ~masks.any(-1)
    if stuck.any():
        game, agent = np.argwhere(stuck)[0].tolist()
        who = getattr(world, "possible_agents", range(world.num_agents))[agent]
        when = "" if steps is None else f", after {int(steps[game])} steps of its episode"
        raise SettingError(
            f"{name} allows {who!r} no action in game {game}{when}: its {ACTION_MASK} is all zeros, though it takes part. Allow "
            "at least one action (one that does nothing, if need be), or let the agent leave the game."
        )
    return masks


def tell_if_lost(inner: Any, outer: Any) -> None:
    """Logs a warning if the observations of a wrapped environment hold no masks, though without wrappers they did."""
    lost = [
        agent
        for agent in inner.possible_agents
        if has_mask(inner.observation_space(agent)) and not has_mask(outer.observation_space(agent))
    ]
    if lost:
        logger.warning(
            "The wrappers take the %r out of the observations of %s: unless infos hold it, agents choose among all actions, the "
            "forbidden ones included. Leave out the wrapper that changes Dict observations, or let it keep the mask.",
            ACTION_MASK,
            ", ".join(map(repr, lost)),
        )
