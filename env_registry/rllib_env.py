"""One game as a `MultiAgentEnv` for RLlib's own runners."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Space
from gymnasium.spaces.utils import flatten, flatten_space
from ray.rllib.env.multi_agent_env import MultiAgentEnv

from env_registry.action_masks import ACTION_MASK, has_mask, parted, without_mask
from env_registry.ends import Ends
from env_registry.parallel_env import parallel_env
from env_registry.parameters import SettingError
from env_registry.registry import name_of
from env_registry.wrappers import Environment


class RLlibEnv(MultiAgentEnv):
    """A PettingZoo parallel environment as RLlib's stock runners and networks take it.

    The order of agents is that of the environment; rewards are floats (RLlib's episodes keep integers only, if the
    first one was an integer); an agent that dies gets its last observation with its own termination while the others
    play on. A time limit is said so that RLlib bootstraps it (see `env_registry.ends`). An observation with a mask of actions is
    shown as `{"observations": ..., "action_mask": ...}`, as RLlib's modules for masks of actions want it (float32 both).

    Args:
        env: the environment.
        flatten_observations: show each agent its observation as a vector, which RLlib's default networks take whatever
            it was before. False keeps shapes, for networks with `conv_filters` of their own. Numbers are float32 either
            way: RLlib's default networks fail on bytes.
        name: of the environment, for messages; None: that of its class.

    Raises:
        SettingError: an observation without a fixed size (flattened), or without a shape (not flattened); `step`: an
            agent is back in an episode that it has left.
    """

    def __init__(self, env: Environment, flatten_observations: bool = True, name: str | None = None) -> None:
        super().__init__()
        self.env = env
        self.ends = Ends(name or type(env.unwrapped).__name__)
        self.render_mode = getattr(env, "render_mode", None)
        self.possible_agents = list(env.possible_agents)
        self.agents = list(env.possible_agents)
        self.action_spaces = {agent: env.action_space(agent) for agent in self.possible_agents}
        shown = {agent: env.observation_space(agent) for agent in self.possible_agents}
        self._masked = {agent: has_mask(space) for agent, space in shown.items()}
        self._seen_spaces = {agent: without_mask(space) for agent, space in shown.items()}
        self._flatten = flatten_observations
        self.observation_spaces = {agent: self._shown_space(agent) for agent in self.possible_agents}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        observations, infos = self.env.reset(seed=seed, options=options)
        self.agents = list(self.env.agents)
        self.ends.begin(observations)
        return self._shown(observations), infos

    def step(
        self, action_dict: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, float], dict[str, bool], dict[str, bool], dict[str, Any]]:
        playing = list(self.env.agents)
        observations, rewards, terminations, truncations, infos = self.env.step(action_dict)
        over = not self.env.agents
        flagged = {agent for flags in (terminations, truncations) for agent, flag in flags.items() if flag}
        gone = set(playing) - set(self.env.agents) - flagged
        observations, rewards, terminations, truncations, infos = self.ends.kept(
            (
                self._shown(observations),
                {agent: float(reward) for agent, reward in rewards.items()},
                {**terminations, **dict.fromkeys(gone, True), "__all__": over},
                truncations,
                infos,
            )
        )
        self.agents = list(observations)  # RLlib's checks want those here who die in this step, too
        return observations, rewards, terminations, truncations, infos

    def render(self) -> Any:
        return self.env.render()

    def close(self) -> None:
        self.env.close()

    def _shown_space(self, agent: str) -> Space[Any]:
        space = self._seen_spaces[agent]
        box = flatten_space(space) if self._flatten else space
        if not isinstance(box, Box):
            way_out = "no fixed size" if self._flatten else "no shape: leave flatten_observations on"
            raise SettingError(f"{agent!r} observes {space}, which has {way_out}.")
        seen = Box(box.low.astype(np.float32), box.high.astype(np.float32), dtype=np.float32)
        if not self._masked[agent]:
            return seen
        choices = int(self.action_spaces[agent].n)
        return Dict({"observations": seen, ACTION_MASK: Box(0, 1, (choices,), np.float32)})

    def _look(self, agent: str, observation: Any) -> Any:
        seen, mask = parted(observation) if self._masked[agent] else (observation, None)
        shown = np.array(flatten(self._seen_spaces[agent], seen) if self._flatten else seen, np.float32)
        return {"observations": shown, ACTION_MASK: np.array(mask, np.float32)} if self._masked[agent] else shown

    def _shown(self, observations: dict[str, Any]) -> dict[str, Any]:
        return {agent: self._look(agent, observation) for agent, observation in observations.items()}


def rllib_env(env: str | Callable[..., Any], flatten_observations: bool = True, **env_config: Any) -> RLlibEnv:
    """Anything that `parallel_env` understands, for RLlib.

    For instance `register_env("spread", lambda env_config: rllib_env("mpe2.simple_spread_v3", **env_config))`.

    Args:
        env: see `parallel_env`.
        flatten_observations: see `RLlibEnv`.
        env_config: see `parallel_env`; it may name `wrappers`.
    """
    return RLlibEnv(parallel_env(env, **env_config), flatten_observations, name_of(env))
