"""Joint trajectories on their way from runners to Learners: by reference, and split along games only."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.rllib.core.learner.training_data import TrainingData

from rllib_empathy.joint import JointTrajectory, concatenate

logger = logging.getLogger(__name__)


@dataclass
class JointTrainingData(TrainingData):
    """One batch of joint trajectories, or references to them.

    Each Learner takes an equal share of the games (all agents of a game stay together). The share is cut where the data are,
    on the Learner, so that the driver moves references only.
    """

    trajectories: Sequence[JointTrajectory | ray.ObjectRef] = ()
    shard_index: int = 0
    num_shards: int = 1

    def validate(self) -> None:
        """Raises ValueError if there is nothing to learn from."""
        if not self.trajectories:
            raise ValueError("There are no trajectories to learn from.")

    def shard(self, num_shards: int, **kwargs: Any) -> list[tuple[JointTrainingData, dict[str, Any]]]:
        """One part for each Learner."""
        return [
            (JointTrainingData(trajectories=self.trajectories, shard_index=index, num_shards=num_shards), {})
            for index in range(num_shards)
        ]

    def solve_refs(self) -> None:
        """Fetches the trajectories and cuts this Learner's share out of them."""
        local = [t if isinstance(t, JointTrajectory) else self._fetch(t) for t in self.trajectories]
        self.trajectories = [_share(t, self.shard_index, self.num_shards) for t in local if t is not None]
        self.shard_index, self.num_shards = 0, 1

    def _fetch(self, reference: ray.ObjectRef) -> JointTrajectory | None:
        """The trajectory, or None if it died with the runner that made it.

        Several Learners must learn from the same data, so there a loss is an error.
        """
        try:
            return ray.get(reference)
        except (ray.exceptions.ObjectLostError, ray.exceptions.OwnerDiedError):
            if self.num_shards > 1 or len(self.trajectories) == 1:
                raise
            logger.warning("A trajectory was lost with its runner; learning goes on with the others.")
            return None

    def joint(self) -> JointTrajectory:
        """The fetched trajectories' games, side by side."""
        return concatenate([t for t in self.trajectories if isinstance(t, JointTrajectory)])


def _share(trajectory: JointTrajectory, index: int, shares: int) -> JointTrajectory:
    if shares == 1:
        return trajectory
    games = trajectory.shape[1]
    if games % shares:
        raise ValueError(
            f"{games} games cannot be shared equally by {shares} learners. Set num_envs_per_env_runner to a multiple of "
            f"num_learners."
        )
    size = games // shares
    return trajectory.games(index * size, (index + 1) * size)
