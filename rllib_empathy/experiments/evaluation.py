"""Whole episodes played by trained agents and such that need no training, without Ray and without learning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from env_registry.parameters import SettingError
from rllib_empathy.experiments.checkpoints import find_checkpoint, read_agent, read_config
from rllib_empathy.experiments.metrics_table import labels
from rllib_empathy.experiments.players import Player, plays_at_once
from rllib_empathy.learning.config import EmpathyConfig
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


def evaluate(
    checkpoint: str | Path,
    episodes: int = 100,
    seed: int | None = 0,
    greedy: bool = False,
    others: Mapping[int, Player] | None = None,
) -> Evaluation:
    """Plays whole episodes with the agents of a checkpoint in the world they were trained in.

    Checkpoints are pickles, which can run code when they are read: load only those that you trust.

    Args:
        checkpoint: a checkpoint's folder, or a run folder for its last one.
        episodes: K >= 1.
        seed: of worlds and actions; None: another one each time.
        greedy: always the most probable action, instead of sampling as in training.
        others: who plays in the place of some of the agents, by their numbers (see `players.player_entry`).

    Raises:
        CheckpointError: the checkpoint cannot be used.
        SettingError: there is no such agent to replace, or the other player cannot play here.
    """
    path = find_checkpoint(checkpoint)
    config = read_config(path)
    seats = labels(config.resolved_population())
    names = {agent: name for name, agents in seats.items() for agent in agents}
    for agent in others or {}:
        if agent not in names:
            raise SettingError(f"There is no agent {agent} to replace in {path}; its agents are 0 to {len(names) - 1}.")
    entries = []
    for agent in range(len(names)):
        if others and agent in others:
            entries.append(plays_at_once(others[agent]))
        else:
            entries.append(
                {"kind": "frozen", "checkpoint": read_agent(path, agent), "agent": agent, "name": names[agent]}
            )
    return play(config.population(entries), episodes, seed, greedy)


def play(config: EmpathyConfig, episodes: int, seed: int | None = 0, greedy: bool = False) -> Evaluation:
    """Plays whole episodes with a population that needs no training.

    Args:
        config: world and population; it is changed.
        episodes: K >= 1.
        seed: of worlds and actions; None: another one each time.
        greedy: always the most probable action, instead of sampling as in training.

    Raises:
        SettingError: the population does not fit the world.
    """
    games = min(episodes, LARGEST_BATCH)
    config.env_runners(num_env_runners=0, num_envs_per_env_runner=games).debugging(seed=seed)
    config.check_population()
    runner = JointEnvRunner(config=config, worker_index=0)
    for module_id, kind in runner.population.kinds().items():
        kind.initialise(runner.module[module_id])
    parts = []
    for _ in range(ceil(episodes / games)):
        runner.sample(num_episodes=games, explore=not greedy)
        finished = runner.take_finished()
        assert finished is not None  # one episode of each game
        parts.append(finished.by_game())  # cut off by number, not by who ended last
    runner.stop()
    played = FinishedEpisodes.concatenate(parts)
    seats = {agent: name for name, agents in labels(runner.population).items() for agent in agents}
    return Evaluation(
        played.returns[:episodes],
        played.lengths[:episodes],
        {name: counts[:episodes] for name, counts in played.events.items()},
        {name: values[:episodes] for name, values in played.outcomes(cooperation_of(runner.world)).items()},
        tuple(seats[agent] for agent in sorted(seats)),
    )
