"""Joint trajectories on their way from runners to Learners: by reference, and split along games only."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.rllib.core.learner.training_data import TrainingData

from rllib_empathy.joint import JointTrajectory, concatenate
from rllib_empathy.learning.distributed import true_everywhere

logger = logging.getLogger(__name__)

LONGEST_FETCH_S = 30
"""How long a Learner waits for trajectories to arrive before it learns without those that are missing."""


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
        """Fetches the trajectories and cuts this Learner's share out of them.

        Trajectories that died with the runner that made them are left out, by all Learners or by none.

        Raises:
            ObjectLostError: all of them are lost.
        """
        remote = [t for t in self.trajectories if not isinstance(t, JointTrajectory)]
        arrived = set(ray.wait(remote, num_returns=len(remote), timeout=LONGEST_FETCH_S)[0]) if remote else set()
        local = [
            t if isinstance(t, JointTrajectory) else _fetched(t) if t in arrived else None for t in self.trajectories
        ]
        everywhere = true_everywhere([trajectory is not None for trajectory in local])
        found = [t for t, here in zip(local, everywhere, strict=True) if t is not None and here]
        if len(found) < len(local):
            logger.warning("%d of %d trajectories were lost with their runners.", len(local) - len(found), len(local))
        if not found:
            raise ray.exceptions.ObjectLostError(remote[0].hex(), remote[0].owner_address(), remote[0].call_site())
        self.trajectories = [_share(trajectory, self.shard_index, self.num_shards) for trajectory in found]
        self.shard_index, self.num_shards = 0, 1

    def joint(self) -> JointTrajectory:
        """The fetched trajectories' games, side by side."""
        return concatenate([t for t in self.trajectories if isinstance(t, JointTrajectory)])


def _fetched(reference: ray.ObjectRef) -> JointTrajectory | None:
    """The trajectory, or None if it died with the runner that made it."""
    try:
        return ray.get(reference)
    except ray.exceptions.ObjectLostError:
        return None


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
