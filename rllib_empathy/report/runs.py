"""Runs as a report reads them: those that differ by their seed only belong together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rllib_empathy.experiments.between_agents import matrices_between_agents
from rllib_empathy.experiments.curves import smoothed
from rllib_empathy.experiments.errors import RunFolderError
from rllib_empathy.experiments.experiment import Experiment, load_experiment
from rllib_empathy.experiments.metrics_table import labels, read_metrics
from rllib_empathy.experiments.run_folder import RunFolder
from rllib_empathy.experiments.statistics import Estimate, first_and_last, iqm_band, iqm_estimate
from rllib_empathy.population import Population

Floats = NDArray[np.float64]

POINTS = 120
"""Of a learning curve."""


@dataclass(frozen=True)
class Run:
    """One run folder."""

    path: Path
    experiment: Experiment  # with all defaults written out
    metrics: Mapping[str, Floats]  # columns of metrics.csv


@dataclass(frozen=True)
class Group:
    """Runs of one experiment with different seeds."""

    name: str
    runs: Sequence[Run]

    @cached_property
    def experiment(self) -> Experiment:
        """What they have in common."""
        return self.runs[0].experiment

    @cached_property
    def population(self) -> Population:
        """Who played."""
        agents = sum(name.startswith("agent_return/") for name in self.runs[0].metrics)
        return Population.of(self.experiment.population, agents)

    @cached_property
    def agents(self) -> list[str]:
        """What each agent is called: the name of its entry, with its number where there are several."""
        found = {agent: f"{name} {agent}" for name, of_entry in labels(self.population).items() for agent in of_entry}
        return [found[agent] for agent in sorted(found)]

    def has(self, column: str) -> bool:
        """Whether any run logged it."""
        return any(column in run.metrics for run in self.runs)

    def curve(self, column: str) -> tuple[Floats, Floats, Floats, Floats] | None:
        """Env steps, IQM over the runs, and both ends of its 95 % interval, each `[P]`; None without two known points."""
        known = []
        for run in self.runs:
            if column in run.metrics:
                values = smoothed(run.metrics[column], run.metrics["episodes"])
                there = ~np.isnan(values)
                if there.sum() > 1:
                    known.append((run.metrics["env_steps"][there], values[there]))
        if not known:
            return None
        steps = np.linspace(max(x[0] for x, _ in known), min(x[-1] for x, _ in known), POINTS)
        curves = np.array([np.interp(steps, x, y) for x, y in known])
        return steps, *iqm_band(curves)

    def first_and_last(self, column: str) -> tuple[Estimate, Estimate]:
        """IQM over the runs with its interval, of the first and of the last tenth of each run."""
        pairs = [
            first_and_last(run.metrics[column], run.metrics["episodes"]) for run in self.runs if column in run.metrics
        ]
        first, last = np.array(pairs).reshape(-1, 2).T
        return iqm_estimate(first), iqm_estimate(last)

    def last(self, column: str) -> float:
        """IQM over the runs, of the last tenth of each; NaN if nobody logged it."""
        return self.first_and_last(column)[1].value

    def matrices(self, parts: int) -> dict[str, Floats]:
        """What agents are to each other, name -> `[parts, N, N]`: means over the runs and over equal parts of each.

        NaN where nothing is known, on the diagonal for one.
        """
        found: dict[str, list[Floats]] = {}
        for run in self.runs:
            for name, matrix in matrices_between_agents(run.metrics, parts).items():
                found.setdefault(name, []).append(matrix)
        return {name: np.mean(matrices, 0) for name, matrices in found.items()}


def read_run(path: str | Path) -> Run:
    """A run folder, as far as the run has come.

    Raises:
        RunFolderError: it is none, or it holds no metrics yet.
    """
    folder = RunFolder(Path(path).absolute())
    if not folder.resolved.is_file():
        raise RunFolderError(f"{path} is no run folder: it holds no {folder.resolved.name}. Give runs/NAME/TIMESTAMP.")
    metrics = read_metrics(folder.metrics) if folder.metrics.is_file() else {}
    if not metrics:
        raise RunFolderError(f"The run {path} has no metrics yet: {folder.metrics.name} is empty or missing.")
    return Run(folder.path, load_experiment(folder.resolved), metrics)


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Runs that differ by nothing but their seed, their end and their checkpoints are put together."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        alike = run.experiment.model_dump_json(exclude={"seed", "stop", "checkpoint"})
        found.setdefault(alike, []).append(run)
    names = [members[0].experiment.name for members in found.values()]
    return [
        Group(name if names.count(name) == 1 else f"{name} ({members[0].path.name})", members)
        for name, members in zip(names, found.values(), strict=True)
    ]
