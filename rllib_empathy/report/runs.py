"""Runs as a report reads them: those that differ by their seed only belong together."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
from rllib_empathy.experiments.statistics import Estimate, first_and_last, interquartile_mean, iqm_band, iqm_estimate
from rllib_empathy.experiments.study import Study
from rllib_empathy.population import Population
from rllib_empathy.studies.study_folder import StudyFolder

Floats = NDArray[np.float64]

POINTS = 120
"""Of a learning curve."""


@dataclass(frozen=True)
class Run:
    """One run folder."""

    path: Path
    experiment: Experiment  # with all defaults written out
    metrics: Mapping[str, Floats]  # columns of metrics.csv
    best_of: int = 1  # settings that its study tried for the same variant


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

    @cached_property
    def gifts(self) -> Floats | None:
        """What row gives to column per episode, `[N, N]`; None where nobody is of a kind that gives.

        IQM over the runs, of those episodes that `last` is about.
        """
        found = []
        for run in self.runs:
            lengths, episodes = run.metrics["episode_length"], run.metrics["episodes"]
            there = {name: values[played_at_the_end(episodes)] for name, values in run.metrics.items()}
            per_step = matrices_between_agents(there, 1).get("gift_amount")
            if per_step is not None:
                found.append(np.nan_to_num(per_step[0]) * first_and_last(lengths, episodes)[1])
        return np.asarray(interquartile_mean(np.array(found), 0)) if found else None

    def matrices(self, parts: int) -> dict[str, Floats]:
        """What agents are to each other, name -> `[parts, N, N]`: means over the runs and over equal parts of each.

        NaN where nothing is known, on the diagonal for one.
        """
        found: dict[str, list[Floats]] = {}
        for run in self.runs:
            for name, matrix in matrices_between_agents(run.metrics, parts).items():
                found.setdefault(name, []).append(matrix)
        return {name: np.mean(matrices, 0) for name, matrices in found.items()}


def read_runs(paths: Sequence[str | Path]) -> list[Run]:
    """Runs, each once, as far as they have come.

    Args:
        paths: run folders, and folders of studies. A study stands for its trials that have metrics and have not failed; where
            it searched, of each variant only for those with the best settings, by the study's metric.

    Raises:
        RunFolderError: one is neither, or it holds no metrics yet.
        SettingError: a study's experiment.yaml cannot be read.
    """
    found: dict[Path, Run] = {}
    for path in paths:
        study = _study_at(path)
        for run in [read_run(path)] if study is None else _trials(*study):
            found.setdefault(run.path, run)
    return list(found.values())


def read_run(path: str | Path) -> Run:
    """A run folder, as far as the run has come.

    Raises:
        RunFolderError: it is none, or it holds no metrics yet.
    """
    folder = RunFolder(Path(path).absolute())
    if not folder.resolved.is_file():
        raise RunFolderError(
            f"{path} is no run folder: it holds no {folder.resolved.name}. Give runs/NAME/TIMESTAMP, of a run or of a study."
        )
    run = _run_in(folder)
    if run is None:
        raise RunFolderError(f"The run {path} has no metrics yet: {folder.metrics.name} is empty or missing.")
    return run


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Runs that differ by nothing but their seed, their end and their checkpoints are put together.

    A group is called as its experiment; where several are called the same, what differs in their folders follows: a study's
    variants, or the times of runs.
    """
    found: dict[str, list[Run]] = {}
    for run in runs:
        alike = run.experiment.model_dump_json(exclude={"seed", "stop", "checkpoint"})
        found.setdefault(alike, []).append(run)
    paths: dict[str, list[Path]] = {}
    for run, *_ in found.values():
        paths.setdefault(run.experiment.name, []).append(run.path)
    names = {
        path: name if len(of_name) == 1 else f"{name} ({difference})"
        for name, of_name in paths.items()
        for path, difference in zip(of_name, differences(of_name), strict=True)
    }
    return [Group(names[members[0].path], members) for members in found.values()]


def played_at_the_end(episodes: Floats) -> slice:
    """The iterations in which those episodes were played that ended in the last tenth of all iterations in which any did.

    An episode may last for several iterations. Exact where all games end at the same time.

    Args:
        episodes: how many ended in each iteration.
    """
    ends = np.flatnonzero(episodes > 0)
    if not len(ends):
        return slice(None)
    before = len(ends) - max(1, len(ends) // 10)
    return slice(ends[before - 1] + 1 if before else 0, ends[-1] + 1)


def differences(paths: Sequence[Path]) -> list[str]:
    """What of each path is not common to all, less the folders of seeds ("seed_0") where the rest tells them apart."""
    places = [path.parent if re.fullmatch(r"seed_\d+", path.name) else path for path in paths]
    if len(set(places)) < len(places):
        places = list(paths)
    common = os.path.commonpath(places)
    return [place.relative_to(common).as_posix() for place in places]


def _run_in(folder: RunFolder) -> Run | None:
    """The run of a folder; None before its first iteration has ended."""
    metrics = read_metrics(folder.metrics) if folder.metrics.is_file() else {}
    return Run(folder.path, load_experiment(folder.resolved), metrics) if metrics else None


def _study_at(path: str | Path) -> tuple[StudyFolder, Experiment, Study] | None:
    """The study in a folder, and what was asked of it; None if the folder is no study's."""
    folder = StudyFolder(Path(path).absolute())
    # A run of an experiment that also asks for a study says so in its experiment.yaml, too.
    if RunFolder(folder.path).resolved.is_file() or not folder.experiment.is_file():
        return None
    experiment = load_experiment(folder.experiment)
    return None if experiment.study is None else (folder, experiment, experiment.study)


def _trials(folder: StudyFolder, experiment: Experiment, study: Study) -> list[Run]:
    """The trials of a study to report on (see `read_runs`), in the order of its variants."""
    found: list[Run] = []
    for variant in study.variants or (experiment.name,):
        arms = _arms(folder, variant)
        if arms:
            best = max(arms, key=lambda runs: _score(runs, study))
            found += [replace(run, best_of=len(arms)) for run in best]
    if not found:
        raise RunFolderError(f"The study {folder.path} has no trial yet that has metrics and has not failed.")
    return found


def _arms(folder: StudyFolder, variant: str) -> list[list[Run]]:
    """For all settings that were tried for a variant, the runs of their seeds that have metrics and have not failed.

    Read from the trials themselves, not from results.json, which is not there before the study has ended.
    """
    failed = {name for name, outcome in folder.outcomes().items() if outcome.ended == "failed"}
    found: dict[Path, list[Run]] = {}
    for trials in ("seed_*", "sample_*/seed_*"):
        for path in sorted((folder.path / variant).glob(trials)):
            run = _run_in(RunFolder(path))
            if run is not None and path.relative_to(folder.path).as_posix() not in failed:
                found.setdefault(path.parent, []).append(run)
    return list(found.values())


def _score(runs: Sequence[Run], study: Study) -> float:
    """By the study's metric, the more the better; the least there is where nothing is known."""
    score = Group("", runs).last(study.metric)
    return -np.inf if np.isnan(score) else score if study.mode == "max" else -score
