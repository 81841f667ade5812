"""Any PettingZoo parallel environment as a batched world.

Why not through SuperSuit's vectorisation (`pettingzoo_env_to_vec_env_v1`, `concat_vec_envs_v1`, 3.11): it refuses games
in which agents die unless they are blackened before, and then who is alive is lost; unlike spaces are refused too; game
b of seed s is game b - 1 of seed s + 1; restarts draw from the environment's own generator, which cannot be saved; and
it copies environments by pickling, which those that draw with pygame do not survive. SuperSuit's wrappers are welcome
(`wrappers`); the loop over games is our own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete, Space
from numpy.typing import NDArray

from env_registry.action_masks import ACTION_MASK, ActionMasks, check_mask_space, has_mask, parted, without_mask
from env_registry.contract import first_unfinite
from env_registry.ends import came_back
from env_registry.failures import raise_told
from env_registry.game import Array, Share, Step, checked_actions
from env_registry.heeds_seed import warn_if_deaf
from env_registry.observations import ObservationLayout
from env_registry.parallel_env import parallel_env
from env_registry.parameters import SettingError
from env_registry.random_streams import below, seed_streams
from env_registry.registry import name_of
from env_registry.unchecked import unchecked
from env_registry.wrappers import Environment, Wrapper

logger = logging.getLogger(__name__)


class PettingZooWorld:
    """B games of a PettingZoo parallel environment, following the contract `World`.

    Observations: of any kind, put into a common shape by `ObservationLayout`. Who is not in the game sees zeros.

    Actions: the common space is the largest of the agents' own. An action that an agent does not have counts as its
    first. The agents' own spaces are kept in `observation_spaces` and `action_spaces`.

    Masks of actions, in observations or in infos (see `env_registry.action_masks`), become `action_masks`. They are no part of
    the observations, nor of their spaces here.

    Ends: a game is over when nobody is left. It counts as truncated if somebody was cut off at its end and did not die.
    An agent that is cut off while others play on is dead to the game, but its future counts by the value of what it saw
    last (`Step.cut_off`).

    Seeding: each episode is played by a new environment, reset with a seed from the game's stream, because environments
    carry things over from one episode to the next (in knights_archers_zombies the time until the next zombie comes).
    Making one costs little against playing an episode; where it does not, `reuse` keeps the environments, and episodes
    repeat as exactly as their `reset(seed)` does.

    Saving: what an environment holds inside cannot be saved in general, but it follows from the seed and the actions
    since. These are the state, and `set_state` plays the unfinished episodes again.

    Events: those that the environment names in `event_names` and counts in `infos[agent]["events"]`, as registered
    worlds do; measures made of them: those in its `cooperation`, as in `Game`.

    Args:
        env: see `parallel_env`.
        num_games: B >= 1.
        wrappers: see `parallel_env`.
        reuse: reset environments for the next episode instead of making new ones.
        env_config: keyword arguments of the environment; `render_mode="rgb_array"` is needed for `render`.

    Raises:
        SettingError: no such environment, or its spaces cannot be handled.
    """

    def __init__(
        self,
        env: str | Callable[..., Any],
        num_games: int = 1,
        wrappers: Sequence[Wrapper] | None = None,
        reuse: bool = False,
        **env_config: Any,
    ) -> None:
        if num_games < 1:
            raise ValueError(f"num_games = {num_games}: at least one game is needed.")
        self.name = name_of(env)
        self.reuse = reuse
        self._make_checked_env = partial(parallel_env, env, wrappers, **env_config)
        self._played = np.zeros(num_games, np.bool_)  # whose environment has been used already
        self.envs = [self._make_env() for _ in range(num_games)]
        first = self.envs[0]
        self.possible_agents = list(first.possible_agents)
        self.num_games, self.num_agents = num_games, len(self.possible_agents)
        self.event_names: tuple[str, ...] = tuple(getattr(first.unwrapped, "event_names", ()))
        self.cooperation: Mapping[str, Share] = getattr(first.unwrapped, "cooperation", {})
        shown = [first.observation_space(agent) for agent in self.possible_agents]
        self.observation_spaces = tuple(map(without_mask, shown))
        self.action_spaces = tuple(self._discrete(agent, first.action_space(agent)) for agent in self.possible_agents)
        for agent, space, actions in zip(self.possible_agents, shown, self.action_spaces, strict=True):
            check_mask_space(agent, space, actions)
        by_agent = dict(zip(self.possible_agents, self.action_spaces, strict=True))
        self._masks = ActionMasks(num_games, by_agent, announced=any(map(has_mask, shown)))
        self.action_space = Discrete(max(int(space.n) for space in self.action_spaces))
        self._layout = ObservationLayout(dict(zip(self.possible_agents, self.observation_spaces, strict=True)))
        self.observation_space = self._layout.space
        self.alive = np.zeros((num_games, self.num_agents), np.bool_)
        self._cut_off = np.zeros((num_games, self.num_agents), np.bool_)
        self._left = np.zeros((num_games, self.num_agents), np.int64)  # with which step each left, 0: it did not
        self._streams = np.zeros(num_games, np.uint64)
        self._episode_seeds = np.zeros(num_games, np.int64)
        self._clock = np.zeros(num_games, np.int64)
        self._actions = np.zeros((num_games, 1, self.num_agents), np.int32)  # [B, time, N] of the unfinished episodes
        self._observations = self._zeros()
        self._seeded = False

    @property
    def layout(self) -> ObservationLayout:
        """From what the environment shows its agents to the rows of this world."""
        return self._layout

    # -- the contract

    @property
    def action_masks(self) -> NDArray[np.bool_] | None:
        """`[B, N, A]`, what is allowed now; None: nobody has said so far that something is not."""
        return self._masks.now

    def reset(self, seed: int | None = None, first_game: int = 0) -> Array:
        """See `World.reset`."""
        if seed is not None or not self._seeded:
            seed_streams(self._streams, seed, first_game)
            self._seeded = True
        self._observations = self._zeros()
        for game in range(self.num_games):
            self._restart(game)
        self._check_finite()
        return self._observations.copy()

    def step(self, actions: Array) -> Step:
        """See `World.step`.

        Raises:
            ValueError: actions of a wrong shape, type or range; a reward or an observation that is not finite.
            SettingError: agents who play are missing in what the environment says of a step, or were not announced, or are
                back in an episode that they have left.
        """
        choices = int(self.action_space.n)
        described = f"Actions of {self.name}: 0 ... {choices - 1}"
        actions = checked_actions(actions, (self.num_games, self.num_agents), choices, described)
        self._record(actions)
        self._observations = self._zeros()
        rewards = np.zeros((self.num_games, self.num_agents), np.float32)
        events = np.zeros((self.num_games, len(self.event_names), self.num_agents), np.uint8)
        over = np.zeros(self.num_games, np.bool_)
        self._cut_off[:] = False
        with np.errstate(over="ignore"):  # a reward beyond float32 becomes infinite, and is refused below
            for game in range(self.num_games):
                over[game] = self._play(game, actions[game], rewards[game], events[game])
        self._check_finite()
        if not np.isfinite(rewards).all():
            where, who = np.argwhere(~np.isfinite(rewards))[0].tolist()
            raise ValueError(
                f"{self.name} gave {self.possible_agents[who]!r} the reward {rewards[where, who]} in game {where}: "
                "rewards have to be finite."
            )
        alive = self.alive.copy()
        truncated = over & alive.any(axis=1)
        final = None
        if over.any():
            final = self._observations.copy()
            for game in np.flatnonzero(over).tolist():
                self._observations[game] = 0
                self._restart(game)
            self._check_finite()
        return Step(
            self._observations.copy(),
            rewards,
            over & ~truncated,
            truncated,
            alive,
            {name: events[:, number] for number, name in enumerate(self.event_names)},
            final,
            self._cut_off.copy() if self._cut_off.any() else None,
        )

    def get_state(self) -> dict[str, Array]:
        """Streams, and of the unfinished episodes: seeds, actions `[B, time, N]`, clocks, and the observations shown."""
        return {
            "streams": self._streams.copy(),
            "episode_seeds": self._episode_seeds.copy(),
            "clock": self._clock.copy(),
            "actions": self._actions[:, : max(1, self._clock.max())].copy(),
            "observations": self._observations.copy(),
        }

    def set_state(self, state: Mapping[str, Array]) -> Array:
        """Plays the unfinished episodes again, up to where they were.

        Where an environment does not keep to its seed, a warning is logged, and its games go on from what was reached now.

        Raises:
            ValueError: the state belongs to another world or number of games.
        """
        for name, values in self.get_state().items():
            if name not in state or (name != "actions" and state[name].shape != values.shape):
                raise ValueError(
                    f"The state does not fit {self.num_games} games of {self.name}: {name!r} has shape "
                    f"{getattr(state.get(name), 'shape', None)}, needed is {values.shape}."
                )
        self._streams[:] = state["streams"]
        self._actions = np.array(state["actions"], np.int32)
        self._observations = self._zeros()
        self._seeded = True
        for game in range(self.num_games):
            self._replay(game, int(state["episode_seeds"][game]), int(state["clock"][game]))
        differ = [
            game for game in range(self.num_games) if (self._observations[game] != state["observations"][game]).any()
        ]
        if differ:
            logger.warning(
                "%s does not play the same again from the same seed and actions (games %s): training continues, but not "
                "bit-equal.",
                self.name,
                differ,
            )
        return self._observations.copy()

    def render(self, game: int = 0) -> NDArray[np.uint8]:
        """A picture of one game, `[height, width, 3]`."""
        picture = self.envs[game].render() if getattr(self.envs[game], "render_mode", None) == "rgb_array" else None
        if picture is None:
            raise SettingError(
                f"{self.name} draws no pictures: give env_config render_mode='rgb_array', if it knows that mode."
            )
        return np.asarray(picture, np.uint8)

    def check_seeds(self) -> None:
        """Logs a warning if the environment does not play what its seeds say; see `heeds_seed`."""
        warn_if_deaf(self.name, self._make_env)

    # -- one game

    def _make_env(self) -> Environment:
        return unchecked(self._make_checked_env())

    def _restart(self, game: int) -> None:
        with np.errstate(over="ignore"):  # as in `step`
            self._start(game, below(self._streams, game, 1 << 31))

    def _start(self, game: int, seed: int) -> None:
        self._episode_seeds[game] = seed
        self._clock[game] = 0
        self._left[game] = 0
        if self._played[game] and not self.reuse:
            self.envs[game].close()
            self.envs[game] = self._make_env()
        self._played[game] = True
        env = self.envs[game]
        try:
            observations, infos = env.reset(seed=seed)
        except Exception as error:
            raise_told(error, f"World {self.name!r} failed when game {game} began")
        self.alive[game] = [agent in env.agents for agent in self.possible_agents]
        self._see(game, observations, set(env.agents), infos)

    def _replay(self, game: int, seed: int, clock: int) -> None:
        self._start(game, seed)
        rewards, events = np.zeros(self.num_agents), np.zeros((len(self.event_names), self.num_agents))
        for time in range(clock):
            self._clock[game] = time + 1
            self._observations[game] = 0
            if self._play(game, self._actions[game, time], rewards, events):
                self._start(game, seed)
                break

    def _play(self, game: int, actions: Array, rewards: Array, events: Array) -> bool:
        """One step of one game; fills rewards `[N]`, events `[E, N]`, observations and the alive mask. True if it is over."""
        env = self.envs[game]
        taking_part = set(env.agents)
        chosen = {
            agent: int(space.start + (action if action < space.n else 0))
            for agent, space, action in zip(self.possible_agents, self.action_spaces, actions, strict=True)
            if agent in taking_part
        }
        try:
            observations, paid, terminations, truncations, infos = env.step(chosen)
        except Exception as error:
            where = (
                f"World {self.name!r} failed in game {game}, step {self._clock[game]} of its episode, actions {chosen}"
            )
            raise_told(error, where)
        ended = {a for a in self.possible_agents if terminations.get(a) or truncations.get(a)}
        staying = set(env.agents) - ended
        for number, agent in enumerate(self.possible_agents):
            if agent in taking_part & staying and agent not in paid:
                raise self._missing(agent, "no reward")
            rewards[number] = paid.get(agent, 0.0)
            cut_off = not staying and agent in ended and not terminations.get(agent)
            if agent in staying and self._left[game, number]:
                raise came_back(self.name, agent, int(self._left[game, number]), int(self._clock[game]))
            if self.alive[game, number] and agent not in staying:
                self._left[game, number] = self._clock[game]
                cut = truncations.get(agent) and not terminations.get(agent) and agent in observations
                self._cut_off[game, number] = bool(staying and cut)
            self.alive[game, number] = agent in staying or cut_off
            if self.event_names and "events" in infos.get(agent, ()):
                events[:, number] = [infos[agent]["events"][name] for name in self.event_names]
        self._see(game, observations, staying, infos)
        return not staying

    def _see(
        self, game: int, observations: Mapping[str, Any], playing: set[str], infos: Mapping[str, Mapping[str, Any]]
    ) -> None:
        for number, agent in enumerate(self.possible_agents):
            seen, mask = parted(observations.get(agent))
            if mask is None:
                mask = (infos.get(agent) or {}).get(ACTION_MASK)
            self._masks.allow(game, number, mask if agent in playing else None)
            if agent in observations:
                self._layout.write(agent, seen, self._observations[game, number])
            elif agent in playing:
                raise self._missing(agent, "no observation")
        strangers = playing.difference(self.possible_agents)
        if strangers:
            raise SettingError(
                f"{self.name} lets {sorted(strangers)} play, who are not among its possible_agents {self.possible_agents}. List "
                "there everybody who may ever appear."
            )

    def _check_finite(self) -> None:
        where = first_unfinite(self._observations)
        if where is not None:
            game, who, *place = where
            raise ValueError(
                f"{self.name} shows {self.possible_agents[who]!r} {self._observations[where]} (number {place} of its "
                f"observation) in game {game}, step {self._clock[game]}: observations have to be finite."
            )

    def _missing(self, agent: str, what: str) -> SettingError:
        return SettingError(
            f"{self.name} gave {agent!r} {what}, though it plays on. Give everybody in `agents` one in every step, or take who "
            "leaves the game out of `agents`."
        )

    def _record(self, actions: Array) -> None:
        if self._clock.max() == self._actions.shape[1]:
            self._actions = np.concatenate([self._actions, np.zeros_like(self._actions)], axis=1)
        self._actions[np.arange(self.num_games), self._clock] = actions
        self._clock += 1

    # -- spaces

    def _discrete(self, agent: str, space: Space[Any]) -> Discrete:
        if not isinstance(space, Discrete):
            raise SettingError(
                f"{self.name}: the actions of {agent!r} are {space}; only discrete actions can be handled."
            )
        return space

    def _zeros(self) -> Array:
        return np.zeros((self.num_games, self.num_agents, *self.observation_space.shape), self.observation_space.dtype)
