"""RLlib's multi-agent episodes as a joint trajectory, and rewards back into them."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from gymnasium.spaces import Discrete
from ray.rllib.core.columns import Columns
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.env.utils.infinite_lookback_buffer import InfiniteLookbackBuffer
from ray.rllib.utils.spaces.space_utils import batch

from env_registry.action_masks import ACTION_MASK, as_mask, parted_rows, without_mask
from env_registry.game import Array
from env_registry.observations import ObservationLayout
from env_registry.parameters import SettingError
from rllib_empathy.joint import JointTrajectory
from rllib_empathy.stock.seats import AgentID, Seat

logger = logging.getLogger(__name__)


class Steps(NamedTuple):
    """One agent's steps in one chunk of an episode."""

    game: int  # the chunk, as an index into B
    agent: int  # as an index into N
    rows: Array  # the row of each of its steps, rising


class EpisodeAdapter:
    """Puts chunks of episodes side by side, aligned by environment step.

    Each chunk becomes a game of the joint trajectory, padded at its end with steps in which nobody is alive. Its first step is
    row 0, whether the episode begins with it or went on before.

    An agent is alive in the rows in which it acts. Between its actions, before it joins and after it has left, it is not. All
    that it is paid for an action until it observes again is, as in RLlib's episodes, the reward of the row in which it acted. A
    step that was begun before the chunk counts as begun with it; one that is not completed in the chunk belongs to the next.

    Masks of actions, in observations or infos (`env_registry.action_masks`), become the trajectory's; they are no part of what is
    seen. What was done counts as allowed: whether policies keep to masks is the user's affair, and a warning says where not.

    Args:
        seats: all agents that may ever appear, in order of their index.

    Raises:
        SettingError: an observation space without a fixed size.
    """

    def __init__(self, seats: Sequence[Seat]) -> None:
        self.seats = tuple(seats)
        self._index = {seat.agent_id: number for number, seat in enumerate(self.seats)}
        self.layout = ObservationLayout({seat.agent_id: without_mask(seat.observation_space) for seat in self.seats})
        self._choices = [int(s.action_space.n) if isinstance(s.action_space, Discrete) else 0 for s in self.seats]
        self._told_of_forbidden = False

    def joint(self, episodes: Sequence[MultiAgentEpisode]) -> tuple[JointTrajectory, list[Steps]]:
        """The episodes as a trajectory (numpy columns), and where each agent's steps are in it.

        Raises:
            SettingError: an agent or a policy that was not announced, integer rewards, or observations of another size than
                announced.
        """
        games, agents = len(episodes), len(self.seats)
        size = (max((len(episode) for episode in episodes), default=0), games, agents)
        seen = (self.layout.space.shape, self.layout.space.dtype)
        observations, tails = np.zeros((*size, *seen[0]), seen[1]), np.zeros((games, agents, *seen[0]), seen[1])
        actions, log_probs, rewards = np.zeros(size, np.int64), np.zeros(size, np.float32), np.zeros(size, np.float32)
        alive, survives, lone_limits = np.zeros((3, *size), np.bool_)
        starts, terminated, truncated = np.zeros((3, *size[:2]), np.bool_)
        masks = np.ones((*size, max(self._choices)), np.bool_)
        steps: list[Steps] = []
        for game, episode in enumerate(episodes):
            ends_here = len(episode) - 1
            starts[0, game] = episode.env_t_started == 0
            cut_short = any(cut_off(episode, one) for one in episode.agent_episodes.values())
            terminated[ends_here, game] = episode.is_terminated and not cut_short
            truncated[ends_here, game] = not terminated[ends_here, game]
            for agent_id, own in episode.agent_episodes.items():
                if len(own) == 0:
                    continue
                agent = self._seat(agent_id, own)
                times = observation_times(episode, own)
                rows = np.maximum(times[:-1], 0)  # a step begun before the chunk counts as begun with it
                steps.append(Steps(game, agent, rows))
                shown = np.zeros((len(times), *seen[0]), seen[1])
                allowed = self._write(agent, own, shown)
                observations[rows, game, agent] = shown[:-1]
                if times[-1] > ends_here:
                    tails[game, agent] = shown[-1]
                elif cut_off(episode, own):
                    observations[times[-1], game, agent] = shown[-1]
                    lone_limits[rows[-1], game, agent] = True
                actions[rows, game, agent] = self._actions(agent, own)
                if allowed is not None:
                    masks[rows, game, agent] = self._masks(agent, allowed[:-1], actions[rows, game, agent])
                rewards[rows, game, agent] = self._rewards(own)
                if Columns.ACTION_LOGP in own.extra_model_outputs:
                    log_probs[rows, game, agent] = own.get_extra_model_outputs(Columns.ACTION_LOGP)
                alive[rows, game, agent] = survives[rows, game, agent] = True
                cut_off_with_all = cut_off(episode, own) and times[-1] > ends_here
                survives[rows[-1], game, agent] = cut_off_with_all or not own.is_done
        joint = JointTrajectory(
            observations=observations,
            actions=actions,
            log_probs=log_probs,
            rewards=rewards,
            alive=alive,
            survives=survives,
            starts=starts,
            terminated=terminated,
            truncated=truncated,
            tail_steps=np.array([len(episode) - 1 for episode in episodes]),
            tail_games=np.arange(games),
            tail_observations=tails,
            action_masks=None if masks.all() else masks,
            cut_off=lone_limits if lone_limits.any() else None,
        )
        return joint, steps

    def with_rewards(
        self, episodes: Sequence[MultiAgentEpisode], steps: Sequence[Steps], rewards: Array
    ) -> list[MultiAgentEpisode]:
        """Copies of the episodes with other rewards; the episodes themselves, from which returns are reported, stay.

        In the copies nobody is terminated who was cut off (see `cut_off`), so that advantages bootstrap.

        Args:
            episodes: as given to `joint`, and
            steps: its answer.
            rewards: `[T, B, N]`.
        """
        copies = [copy.copy(episode) for episode in episodes]
        for episode in copies:
            episode.agent_episodes = dict(episode.agent_episodes)
        for game, agent, rows in steps:
            owned, agent_id = copies[game].agent_episodes, self.seats[agent].agent_id
            own = owned[agent_id] = _with_rewards(owned[agent_id], rewards[rows, game, agent])
            own.is_terminated = own.is_terminated and not cut_off(episodes[game], own)
        return copies

    def _seat(self, agent_id: AgentID, own: SingleAgentEpisode) -> int:
        if agent_id not in self._index:
            known = ", ".join(str(seat.agent_id) for seat in self.seats)
            raise SettingError(
                f"Agent {agent_id!r} plays, but is not among the environment's possible_agents ({known}). List there everybody "
                "who may ever appear."
            )
        agent = self._index[agent_id]
        if own.module_id != self.seats[agent].module_id:
            raise SettingError(
                f"Agent {agent_id!r} is played by policy {own.module_id!r} in one episode and by "
                f"{self.seats[agent].module_id!r} in another. Gifts need a policy_mapping_fn that gives an agent the same policy "
                "in every episode."
            )
        return agent

    def _write(self, agent: int, own: SingleAgentEpisode, out: Array) -> Any:
        """Writes what an agent saw, and returns the masks that came with it; None: none did."""
        seat, observations = self.seats[agent], own.get_observations()
        rows = batch(observations) if isinstance(observations, list) else observations
        masks: Any
        try:
            seen, masks = parted_rows(seat.observation_space, rows)
            self.layout.write_rows(seat.agent_id, seen, out)
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise SettingError(
                f"The observations of agent {seat.agent_id!r} do not fit {seat.observation_space} ({error}). A connector that "
                "changes their size has to announce it (recompute_output_observation_space), or to write to the batch."
            ) from error
        if masks is None:
            told = [info.get(ACTION_MASK) for info in own.get_infos()]
            everything = np.ones(self._choices[agent], np.bool_)
            masks = None if all(mask is None for mask in told) else [everything if m is None else m for m in told]
        return masks

    def _masks(self, agent: int, allowed: Sequence[Any], actions: Array) -> Array:
        """The masks of an agent's steps, `[steps, A]`."""
        seat, choices = self.seats[agent], self._choices[agent]
        found = np.zeros((len(actions), max(self._choices)), np.bool_)
        for row, mask in enumerate(allowed):
            found[row, :choices] = as_mask(seat.agent_id, mask, choices)
        taken = np.arange(len(actions)), actions
        if not found[taken].all() and not self._told_of_forbidden:
            self._told_of_forbidden = True
            logger.warning(
                "Agent %r did what its action_mask forbids, and others may: policy %r does not look at the mask. Give it an "
                "RLModule that does (RLlib's example: action_masking_rlm.py). This is said once.",
                seat.agent_id,
                seat.module_id,
            )
        found[taken] = True
        return found

    def _actions(self, agent: int, own: SingleAgentEpisode) -> Array:
        space = self.seats[agent].action_space
        if not isinstance(space, Discrete):
            return np.zeros(len(own), np.int64)  # kinds that look at actions have refused this space
        return np.asarray(own.get_actions()) - int(space.start)

    def _rewards(self, own: SingleAgentEpisode) -> Array:
        rewards = np.asarray(own.get_rewards())
        if not np.issubdtype(rewards.dtype, np.floating):
            raise SettingError(
                f"Agent {own.agent_id!r} was paid {rewards[0]!r} and so on, of type {rewards.dtype}. RLlib's episodes may have "
                "cut fractions off such rewards. Let the environment give floats: float(reward)."
            )
        return rewards


def cut_off(episode: MultiAgentEpisode, own: SingleAgentEpisode) -> bool:
    """Whether a limit ended an agent's part, and not its death.

    An agent can have both flags. Runners with `env_registry.ends` record so who dies in the step in which the episode is cut off.
    RLlib's own record it where the environment cut off everybody by flags of their own: the whole episode is then
    called terminated. Where `"__all__"` was set as well, nobody can tell who of them has died.
    """
    if own.is_truncated and own.is_terminated and episode.is_terminated and episode.is_truncated:
        _warn_of_lost_ends()
    return own.is_truncated and (episode.is_terminated or not own.is_terminated)


@cache
def _warn_of_lost_ends() -> None:
    logger.warning(
        "Episodes end with everybody both terminated and truncated: RLlib 2.60 records so where each agent has a truncated flag "
        "of its own and '__all__' is set. They are taken as cut off at a limit and bootstrapped; agents who died in that very "
        "step are taken so, too. Wrap the environment in env_registry.ends.keep_ends to tell them apart."
    )


def observation_times(episode: MultiAgentEpisode, own: SingleAgentEpisode) -> Array:
    """At which steps of the chunk an agent's observations were made; rising, negative where before the chunk.

    One more than the agent has steps: step k was begun at time k and is completed at time k + 1.
    """
    tags, lookback = episode.env_t_to_agent_t[own.agent_id].data, episode.env_t_to_agent_t[own.agent_id].lookback
    seen = [place for place, tag in enumerate(tags) if tag != episode.SKIP_ENV_TS_TAG]
    # Tags begin with the lookback buffer, but for agents that joined a chunk that goes on from another: with the episode.
    joined_late = seen[0] > lookback and len(tags) > lookback + len(episode) + 1
    return np.array(seen[-len(own) - 1 :]) - (episode.env_t_started if joined_late else lookback)


def _with_rewards(own: SingleAgentEpisode, rewards: Array) -> SingleAgentEpisode:
    """A copy of one agent's episode with other rewards; what is in its lookback buffer stays."""
    own = copy.copy(own)
    before = own.rewards
    kept = before.data[: before.lookback]
    data = [*kept, *rewards.tolist()] if isinstance(kept, list) else np.concatenate([kept, rewards]).astype(np.float32)
    own.rewards = InfiniteLookbackBuffer(data, before.lookback, before.space)
    return own
