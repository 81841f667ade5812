"""Whole episodes played by the policies of a checkpoint, without Ray and without learning."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rllib_empathy.experiments.checkpoints import find_checkpoint, read_config, restore_weights
from rllib_empathy.experiments.metrics_table import labels
from rllib_empathy.sampling.episodes import FinishedEpisodes, cooperation_of
from rllib_empathy.sampling.joint_env_runner import JointEnvRunner

LARGEST_BATCH = 64
"""Games that are played at once."""


@dataclass(frozen=True)
class Evaluation:
    """K whole episodes of N agents."""

    returns: NDArray[np.float64]  # [K, N] extrinsic
    lengths: NDArray[np.int64]  # [K]
    events: dict[str, NDArray[np.int64]]  # name -> [K, N]
    outcomes: dict[str, NDArray[np.float64]]  # name -> [K]: social metrics, NaN where an episode has none
    seats: tuple[str, ...]  # who sits where: label of each agent's entry of the population

    def to_json(self) -> dict[str, Any]:
        """Means with 95 % intervals, per agent and of the group, in plain types."""
        return {
            "episodes": len(self.lengths),
            "episode_length": mean_and_interval(self.lengths),
            "group_return": mean_and_interval(self.returns.sum(1)),
            "agents": [
                {
                    "agent": agent,
                    "kind": kind,
                    "return": mean_and_interval(self.returns[:, agent]),
                    "events": {name: mean_and_interval(counts[:, agent]) for name, counts in self.events.items()},
                }
                for agent, kind in enumerate(self.seats)
            ],
            "events": {name: mean_and_interval(counts.sum(1)) for name, counts in self.events.items()},
            "outcomes": {name: mean_and_interval(values) for name, values in self.outcomes.items()},
        }


def mean_and_interval(values: NDArray[Any]) -> dict[str, float | None]:
    """Mean m and the half width of its 95 % interval, m +- 1.96 s / sqrt(K), over the K episodes that have a value.

    The half width is None if K = 1, both are if K = 0.
    """
    known = values[~np.isnan(values)]
    half = 1.96 * float(np.std(known, ddof=1)) / sqrt(len(known)) if len(known) > 1 else None
    return {"mean": float(np.mean(known)) if len(known) else None, "half_width": half}


def evaluate(checkpoint: str | Path, episodes: int = 100, seed: int | None = 0, greedy: bool = False) -> Evaluation:
    """Plays whole episodes with the policies of a checkpoint in the world they were trained in.

    Checkpoints are pickles, which can run code when they are read: load only those that you trust.

    Args:
        checkpoint: a checkpoint's folder, or a run folder for its last one.
        episodes: K >= 1.
        seed: of worlds and actions; None: another one each time.
        greedy: always the most probable action, instead of sampling as in training.

    Raises:
        CheckpointError: the checkpoint cannot be used.
    """
    path = find_checkpoint(checkpoint)
    config = read_config(path)
    games = min(episodes, LARGEST_BATCH)
    config.env_runners(num_env_runners=0, num_envs_per_env_runner=games).debugging(seed=seed)
    runner = JointEnvRunner(config=config, worker_index=0)
    restore_weights(runner.module, path)
    runner.policy.weights_changed()
    parts = []
    for _ in range(ceil(episodes / games)):
        runner.sample(num_episodes=games, explore=not greedy)
        finished = runner.take_finished()
        assert finished is not None  # one episode of each game
        parts.append(finished.by_game())  # cut off by number, not by who ended last
    runner.stop()
    played = FinishedEpisodes.concatenate(parts)
    seats = {agent: name for name, agents in labels(config.resolved_population()).items() for agent in agents}
    return Evaluation(
        played.returns[:episodes],
        played.lengths[:episodes],
        {name: counts[:episodes] for name, counts in played.events.items()},
        {name: values[:episodes] for name, values in played.outcomes(cooperation_of(runner.world)).items()},
        tuple(seats[agent] for agent in sorted(seats)),
    )
