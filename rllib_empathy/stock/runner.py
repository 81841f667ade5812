"""RLlib's multi-agent runners, with ends of games kept as the environment means them."""

from __future__ import annotations

from functools import cache
from typing import Any

from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode

from env_registry.ends import Ends, keep_ends
from env_registry.parameters import SettingError

FAULT = "fault"
"""Key in an episode's `custom_data`: what is wrong with the environment, for the Learner to raise."""


class GiftingEnvRunner(MultiAgentEnvRunner):
    """To be put before the runner class of a configuration.

    What an environment does wrong travels with the episodes, and the Learner raises it: an error of a remote runner never reaches
    the user, because RLlib restarts the runner and goes on without its samples.
    """

    def make_env(self) -> None:
        """Makes the environments, whose flags are then said so that RLlib keeps them."""
        super().make_env()
        self._ends: list[Ends] = []
        for env in getattr(self.env, "envs", ()):
            while not isinstance(env, MultiAgentEnv) and hasattr(env, "env"):  # gymnasium's own wrappers
                env = env.env
            ends = keep_ends(env).ends
            ends.closes = True
            self._ends.append(ends)

    def sample(self, **kwargs: Any) -> list[MultiAgentEpisode]:
        """Episodes, the first of them with what went wrong, if anything did."""
        episodes: list[MultiAgentEpisode] = super().sample(**kwargs)
        faults = [ends.fault for ends in self._ends if ends.fault]
        if faults and episodes:
            episodes[0].custom_data[FAULT] = faults[0]
        return episodes


def check_faults(episodes: list[MultiAgentEpisode]) -> None:
    """Raises what a runner has found.

    Raises:
        SettingError: the environment does what RLlib's episodes cannot hold.
    """
    for episode in episodes:
        if FAULT in episode.custom_data:
            raise SettingError(episode.custom_data[FAULT])


@cache
def with_kept_ends(runner: type | None) -> type:
    """The runner class, None for RLlib's own, keeping ends.

    Raises:
        SettingError: it is no `MultiAgentEnvRunner`.
    """
    if runner is None:
        return GiftingEnvRunner
    if not issubclass(runner, MultiAgentEnvRunner):
        raise SettingError(
            f"env_runner_cls = {runner.__name__}: gifts need RLlib's MultiAgentEnvRunner or a class derived from it."
        )
    if issubclass(runner, GiftingEnvRunner):
        return runner
    return type(
        f"Gifting{runner.__name__}", (GiftingEnvRunner, runner), {"__doc__": f"{runner.__name__}, keeping ends."}
    )
