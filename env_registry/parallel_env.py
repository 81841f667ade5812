"""One game as a PettingZoo parallel environment: for teams that bring their own training, and for stock RLlib."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, Space
from pettingzoo import AECEnv, ParallelEnv
from pettingzoo.utils.conversions import aec_to_parallel

from env_registry import registry
from env_registry.action_masks import ACTION_MASK, tell_if_lost
from env_registry.contract import Contracted
from env_registry.foreign import refuse_foreign, refuse_lost_moves, refuse_turns
from env_registry.game import Array, Step, World
from env_registry.parameters import SettingError
from env_registry.wrappers import Environment, Wrapper, wrapped


class WorldEnv(ParallelEnv[str, Array, int]):
    """One game of a batched world.

    Agents are `agent_0 ... agent_{N-1}`, in the order of the world. Who dies leaves `agents`; its last observation
    comes with its termination. Pictures are channels last, `[height, width, channels]`, as PettingZoo, SuperSuit and
    RLlib expect them (the world itself has them first). Where a world has `action_masks`, agents observe
    `{"observation": ..., "action_mask": ...}`, as PettingZoo's environments do. `infos[agent]["events"]` counts the world's
    events of the step.

    The world restarts a finished game at once. What the agents get is still the finished game's last observation, but
    `render` then shows the new one.

    Args:
        world: one game, `num_games` = 1.
        name: shown in messages.
        render_mode: None, "rgb_array" (`render` returns a picture `[height, width, 3]` uint8) or "human" (shows it).
    """

    def __init__(self, world: World, name: str, render_mode: str | None = None) -> None:
        self.metadata: dict[str, Any] = {"name": name, "render_modes": [], "is_parallelizable": True, "render_fps": 5}
        if hasattr(world, "render"):
            self.metadata["render_modes"] = ["human", "rgb_array"]
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise SettingError(
                f"'render_mode' = {render_mode!r}: {name!r} has {self.metadata['render_modes'] or 'no render modes'}."
            )
        self.world = world
        self.render_mode = render_mode
        self.event_names = world.event_names
        self.cooperation = getattr(world, "cooperation", {})
        self.possible_agents = [f"agent_{number}" for number in range(world.num_agents)]
        self.agents: list[str] = []
        box = world.observation_space
        low, high = self._channels_last(box.low), self._channels_last(box.high)
        seen: Space[Any] = Box(low, high, dtype=box.dtype.type)
        self._masked = getattr(world, "action_masks", None) is not None
        if self._masked:
            seen = Dict({"observation": seen, ACTION_MASK: Box(0, 1, (int(world.action_space.n),), np.int8)})
        self.observation_spaces = dict.fromkeys(self.possible_agents, seen)
        self.action_spaces = {agent: Discrete(int(world.action_space.n)) for agent in self.possible_agents}
        self.state_space = Box(
            np.stack([low] * world.num_agents), np.stack([high] * world.num_agents), dtype=box.dtype.type
        )
        self._last = np.zeros(self.state_space.shape, box.dtype)
        self.np_random = np.random.default_rng()  # for wrappers: SuperSuit's frame_skip_v0 draws from it

    def observation_space(self, agent: str) -> Space[Any]:
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> Discrete:
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Array], dict[str, dict[str, Any]]]:
        """Starts a game: the one that belongs to `seed`, or the next one of the stream. `options` are ignored."""
        if seed is not None:
            self.np_random = np.random.default_rng(seed)
        observations = self.world.reset(seed)
        self.agents = [agent for agent, alive in zip(self.possible_agents, self.world.alive[0], strict=True) if alive]
        return self._by_agent(observations), {agent: {} for agent in self.agents}

    def step(
        self, actions: dict[str, int]
    ) -> tuple[dict[str, Array], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        """Plays one step. After the end of the game all answers are empty, until `reset`.

        Args:
            actions: one of each agent in `agents`; those of others are ignored.
        """
        missing = [agent for agent in self.agents if agent not in actions]
        if missing:
            raise ValueError(f"Actions of {missing} are missing; agents in the game: {self.agents}.")
        if not self.agents:
            return {}, {}, {}, {}, {}
        step = self.world.step(np.array([[actions[a] if a in self.agents else 0 for a in self.possible_agents]]))
        return self._hand_out(step)

    def state(self) -> Array:
        """All agents' observations, `[N, *observation_shape]`."""
        return self._last.copy()

    def render(self) -> Array | None:
        if self.render_mode is None:
            raise SettingError("'render_mode' = None: make the environment with render_mode='rgb_array' to see it.")
        picture: Array = self.world.render(0)  # type: ignore[attr-defined]
        if self.render_mode == "rgb_array":
            return picture
        _show(picture, str(self.metadata["name"]))
        return None

    def _hand_out(
        self, step: Step
    ) -> tuple[dict[str, Array], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        terminated, truncated = bool(step.terminated[0]), bool(step.truncated[0])
        shown = step.observations if step.final_observations is None else step.final_observations
        numbers = {agent: self.possible_agents.index(agent) for agent in self.agents}
        alive = {agent: bool(step.alive[0, number]) for agent, number in numbers.items()}
        answer = (
            self._by_agent(shown),
            {agent: float(step.rewards[0, number]) for agent, number in numbers.items()},
            {agent: terminated or not alive[agent] for agent in self.agents},
            {agent: truncated and alive[agent] for agent in self.agents},
            {
                agent: {"events": {name: int(counts[0, number]) for name, counts in step.events.items()}}
                for agent, number in numbers.items()
            },
        )
        self.agents = [agent for agent in self.agents if alive[agent] and not (terminated or truncated)]
        return answer

    def _by_agent(self, observations: Array) -> dict[str, Any]:
        """Observations `[1, N, ...]` of the world, of the agents in the game, by name."""
        self._last = np.stack([self._channels_last(observation) for observation in observations[0]])
        shown: dict[str, Any] = {a: self._last[n] for n, a in enumerate(self.possible_agents) if a in self.agents}
        if self._masked:
            masks = self.world.action_masks[0].astype(np.int8)  # type: ignore[attr-defined]
            shown = {
                agent: {"observation": seen, ACTION_MASK: masks[self.possible_agents.index(agent)]}
                for agent, seen in shown.items()
            }
        return shown

    @staticmethod
    def _channels_last(observation: Array) -> Array:
        return observation.transpose(1, 2, 0) if observation.ndim == 3 else observation


def parallel_env(
    env: str | Callable[..., Any],
    wrappers: Sequence[Wrapper] | None = None,
    render_mode: str | None = None,
    **env_config: Any,
) -> Environment:
    """One game as a PettingZoo parallel environment.

    Args:
        env: a registered world's name; or a PettingZoo environment: its module ("mpe2.simple_spread_v3"), its name in
            PettingZoo's registry ("butterfly/knights_archers_zombies-v11"), "package.module:callable", or a callable
            that makes one.
        wrappers: SuperSuit wrappers, the first one innermost: names, `{name: {argument: value}}`, or functions.
        render_mode: None, "rgb_array", or another mode that the environment has.
        env_config: the world's parameters, or the keyword arguments of a PettingZoo environment.

    Raises:
        SettingError: an unknown name or parameter, an environment that is not a parallel one, a wrapper that does not
            fit.
    """
    make_world = registry.world_factory(env)
    if make_world is not None:
        game: Any = WorldEnv(make_world(1, **env_config), registry.name_of(env), render_mode)
    else:
        if render_mode is not None:
            env_config["render_mode"] = render_mode
        try:
            game = registry.load(env)(**env_config)
        except TypeError as error:
            raise SettingError(
                f"Environment {registry.name_of(env)!r} cannot be made with {env_config}: {error}"
            ) from error
    name = registry.name_of(env)
    game = _as_parallel(game, name)
    if not wrappers:
        return game
    outer = Contracted(wrapped(game, wrappers), name)  # wrappers may be anybody's, too
    tell_if_lost(game, outer)
    return outer


def _as_parallel(game: Any, name: str) -> Environment:
    refuse_foreign(game)
    if isinstance(game, AECEnv):
        refuse_turns(game, name)
        game = aec_to_parallel(game)
    if isinstance(game, WorldEnv):
        return game
    if isinstance(game, ParallelEnv):
        refuse_lost_moves(game, name)
        return Contracted(game, name)
    raise SettingError(
        f"{name!r} makes a {type(game).__name__}, not a PettingZoo parallel environment (agents that act at once)."
    )


def _show(picture: Array, title: str) -> None:
    """Shows a picture in a window that stays open for the next one."""
    from matplotlib import pyplot

    figure = pyplot.figure(title)
    figure.clear()
    figure.add_axes((0, 0, 1, 1)).imshow(picture)
    pyplot.pause(0.001)
