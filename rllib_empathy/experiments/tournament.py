"""Tournaments: everybody plays everybody in one world.

Entry (i, j) of a result is what agent i earns as the focal agent among copies of agent j: in a game of N agents, one i and
N - 1 times j. The diagonal is what agent i earns among its own kind. Seats are shuffled wherever they are alike, so that no
position counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from env_registry.parameters import SettingError
from rllib_empathy.experiments.building import build_config, resolved
from rllib_empathy.experiments.evaluation import mean_and_interval, play
from rllib_empathy.experiments.experiment import Experiment
from rllib_empathy.experiments.run_folder import RunFolder
from rllib_empathy.experiments.training import train
from rllib_empathy.learning.config import EmpathyConfig
from rllib_empathy.policies import KINDS, kind_named

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Tournament:
    """What A agents earned among each other; rows are focal agents, columns their co-players."""

    world: str
    agents: tuple[str, ...]
    episodes: int  # of each pair
    returns: Matrix  # [A, A] mean return of the focal agent
    half_widths: Matrix  # [A, A] of their 95 % intervals over episodes; NaN if there is one episode only
    co_player_returns: Matrix  # [A, A] mean return of one of its co-players

    def to_json(self) -> dict[str, Any]:
        """Everything in plain types; what is not known is None."""

        def plain(matrix: Matrix) -> list[list[float | None]]:
            return [[None if np.isnan(value) else value for value in row] for row in matrix.tolist()]

        return {
            "world": self.world,
            "agents": list(self.agents),
            "episodes": self.episodes,
            "returns": plain(self.returns),
            "half_widths": plain(self.half_widths),
            "co_player_returns": plain(self.co_player_returns),
            "mean_returns": dict(zip(self.agents, self.returns.mean(1).tolist(), strict=True)),
        }


def all_against_all(
    config: EmpathyConfig,
    agents: Mapping[str, Mapping[str, Any]],
    episodes: int = 100,
    seed: int | None = 0,
    greedy: bool = False,
    begins: Callable[[str, str], None] = lambda focal, other: None,
) -> Tournament:
    """Plays a tournament.

    Args:
        config: the world.
        agents: name -> entry of a population; all can play without training.
        episodes: of each pair, at least 1.
        seed: of worlds, seats and actions.
        greedy: always the most probable action.
        begins: called before each pair.

    Raises:
        SettingError: an agent cannot play in this world.
    """
    check_agents(config, agents)
    config = shuffled_if_alike(config)
    players = config.world_facts().num_agents
    shape = (len(agents), len(agents))
    returns, half_widths, others_returns = (np.full(shape, np.nan) for _ in range(3))

    def note(row: int, column: int, focal: Matrix, others: Matrix) -> None:
        found = mean_and_interval(focal)
        returns[row, column], others_returns[row, column] = np.mean(focal), np.mean(others)
        half_widths[row, column] = np.nan if found["half_width"] is None else found["half_width"]

    for row, (name, focal) in enumerate(agents.items()):
        for column, (other_name, other) in enumerate(agents.items()):
            if players == 2 and column < row:  # played already, from the other's side
                continue
            begins(name, other_name)
            entries = [{**focal, "name": "focal"}]
            if players > 1:
                entries.append({**other, "name": "others", "count": players - 1})
            played = play(config.copy().population(entries), episodes, seed, greedy).returns
            if row == column:
                note(row, column, played.mean(1), played)
                continue
            note(row, column, played[:, 0], played[:, 1:])
            if players == 2:
                note(column, row, played[:, 1], played[:, 0])
    return Tournament(config.world_facts().title, tuple(agents), episodes, returns, half_widths, others_returns)


def check_agents(config: EmpathyConfig, agents: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises SettingError if one of the agents (see `all_against_all`) cannot play in the config's world."""
    players = config.world_facts().num_agents
    for entry in agents.values():
        config.copy(copy_frozen=False).population([{**entry, "count": players}]).check_population()


def shuffled_if_alike(config: EmpathyConfig) -> EmpathyConfig:
    """A copy of the config with its seats shuffled for each episode, if the world's seats are alike."""
    config = config.copy(copy_frozen=False).population(shuffle_seats=True)
    try:
        config.make_world(1)
    except SettingError:
        config.population(shuffle_seats=False)
    return config


def kinds_that_play(config: EmpathyConfig) -> list[str]:
    """All kinds of agents that can play in the config's world with no more than their name said."""
    found = []
    for name in KINDS:
        with suppress(SettingError):
            check_agents(config, {name: {"kind": name}})
            found.append(name)
    return found


def trained_in_self_play(experiment: Experiment, entry: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """Trains agents of one kind among their own, as the experiment says; Ray has to be running.

    Args:
        experiment: world, training, and when it ends; its population does not count.
        entry: the kind and its options.
        root: where the run's folder is made.

    Returns:
        The entry of the first of them, frozen.
    """
    config = EmpathyConfig().environment(experiment.environment, env_config=dict(experiment.env_config))
    everybody = [{**entry, "count": config.world_facts().num_agents}]
    alone = experiment.model_copy(update={"name": entry["kind"], "population": everybody})
    if kind_named(entry["kind"]).needs_whole_episodes:
        whole = alone.env_runners.model_copy(update={"batch_mode": "complete_episodes"})
        alone = alone.model_copy(update={"env_runners": whole})
    config = build_config(alone)
    folder = RunFolder.create(root, alone.name)
    folder.describe(alone, resolved(alone, config))
    for _ in train(alone, config, folder):
        pass
    return {"kind": "frozen", "checkpoint": str(folder.last_checkpoint()), "agent": 0}
