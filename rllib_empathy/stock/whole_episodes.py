"""Several Learners share whole pieces of episodes. RLlib's own way is to cut them so that shares are equal.

What agents owe each other is added up from an episode's start; and RLlib's cuts lose steps of agents that wait, forget that a
game has ended where somebody died before, and fail where agents came late.
"""

from __future__ import annotations

from typing import Any

from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode

from env_registry.parameters import SettingError


class WholeEpisodes(TrainingData):
    """Episodes that are shared as they are."""

    def shard(self, num_shards: int, len_lookback_buffer: int | None = None, **kwargs: Any) -> list[Any]:
        """One share for each Learner, and what its update is told.

        Raises:
            SettingError: there are fewer episodes than Learners.
        """
        episodes, size = self.episodes or [], kwargs.get("minibatch_size")
        shares = shared(episodes, num_shards)
        # So many minibatches on each, as RLlib's equal shares would give; who has fewer rows sees some of them again.
        count = (
            self._compute_num_total_minibatches(episodes, num_shards, size, kwargs.get("num_epochs", 1)) if size else 0
        )
        return [(TrainingData(episodes=share), {"num_total_minibatches": count}) for share in shares]


def shared(episodes: list[MultiAgentEpisode], shares: int) -> list[list[MultiAgentEpisode]]:
    """The episodes in shares of about equal length: the longest one first, always to whom has least.

    Raises:
        SettingError: there are fewer episodes than shares.
    """
    if len(episodes) < shares:
        raise SettingError(
            f"num_learners = {shares}, but a batch of {len(episodes)} episodes or pieces of them: Learners share whole ones. Set "
            "train_batch_size_per_learner so high that a batch holds several times as many."
        )
    found: list[list[MultiAgentEpisode]] = [[] for _ in range(shares)]
    for episode in sorted(episodes, key=len, reverse=True):
        min(found, key=lambda share: sum(map(len, share))).append(episode)
    return found


def keep_episodes_whole(*, algorithm: Any, **kwargs: Any) -> None:
    """RLlib's callback `on_algorithm_init`: from now on the algorithm's Learners share whole episodes."""
    update = algorithm.learner_group.update

    def update_with_whole_episodes(*, episodes: Any = None, training_data: Any = None, **more: Any) -> Any:
        data = training_data if episodes is None else WholeEpisodes(episodes=episodes)
        return update(training_data=data, **more)

    algorithm.learner_group.update = update_with_whole_episodes
