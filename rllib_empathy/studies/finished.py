"""Catalogue entries that have run: their numbers, and what they say of the expectations."""

from __future__ import annotations

import contextlib
import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, get_args

import numpy as np

from env_registry.parameters import SettingError, checked
from rllib_empathy.experiments.experiment import load_experiment
from rllib_empathy.experiments.run_folder import versions, write_whole
from rllib_empathy.studies.analyses import Analysis, Scores
from rllib_empathy.studies.catalogue import Judgement, Reproduction, Verdict, load_reproduction
from rllib_empathy.studies.measures import measure
from rllib_empathy.studies.picture import draw_study
from rllib_empathy.studies.results import StudyResults, last_means
from rllib_empathy.studies.study_folder import StudyFolder
from rllib_empathy.studies.trials import Trial

VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
"""From the best to the worst."""
PICTURE, NUMBERS = "picture.png", "numbers.json"
"""Files of an analysis in its folder."""


@dataclass(frozen=True)
class Finished(ABC):
    """An entry with its numbers."""

    reproduction: Reproduction

    @property
    def title(self) -> str:
        """Of its section."""
        return f"{self.reproduction.entry.title} ({self.reproduction.scale})"

    @abstractmethod
    def scores(self, metric: str) -> Scores:
        """A measure of each variant; NaN where it is not known."""

    @abstractmethod
    def draw(self, picture: Path) -> None:
        """Draws its picture, a PNG."""

    @abstractmethod
    def costs(self) -> dict[str, tuple[str, ...]]:
        """Variant -> seeds, env steps, minutes a seed; empty where nothing was trained."""

    @abstractmethod
    def source(self) -> str:
        """How long it took, when, and with which commit."""

    @cached_property
    def claims(self) -> list[Judgement]:
        """What has come of each expectation."""
        return self.reproduction.judged(self.reproduction.entry.expect, self.scores)

    @cached_property
    def controls(self) -> list[Judgement]:
        """What has come of each control."""
        return self.reproduction.judged(self.reproduction.entry.controls, self.scores)

    @property
    def verdict(self) -> Verdict | Literal["no claim"]:
        """Of the paper's claim: that of its worst expectation; controls do not count."""
        return max((verdict for _, verdict, _ in self.claims), key=VERDICTS.index, default="no claim")


@dataclass(frozen=True)
class FinishedStudy(Finished):
    """An entry whose study has run."""

    folder: StudyFolder
    results: StudyResults

    def scores(self, metric: str) -> Scores:
        """Of each arm's trials that have not failed."""
        return {
            arm.name: np.array([measure(self._means[t.name], metric) for t in arm.trials if t.ended != "failed"])
            for arm in self.results.arms
        }

    @cached_property
    def _means(self) -> dict[str, dict[str, float]]:
        """Trial -> column of metrics.csv -> mean over the last tenth."""
        return {
            trial.name: last_means(self.folder.metrics(trial.name)) for arm in self.results.arms for trial in arm.trials
        }

    def draw(self, picture: Path) -> None:
        """The course of what it draws."""
        drawn = self.reproduction.entry.draws or [self.reproduction.metric]
        draw_study(self.results, self.folder, self.title, picture, drawn)

    def costs(self) -> dict[str, tuple[str, ...]]:
        """Means over trials."""
        return {
            arm.name: (
                str(len(arm.trials)),
                f"{np.mean([trial.env_steps for trial in arm.trials]):,.0f}",
                f"{np.mean([trial.seconds for trial in arm.trials]) / 60:.1f}",
            )
            for arm in self.results.arms
        }

    def source(self) -> str:
        """Of all trials."""
        trials = [trial for arm in self.results.arms for trial in arm.trials]
        failed = len(self.results.that("failed"))
        starts = [
            json.loads(self.folder.trial(trial.name).versions.read_text(encoding="utf-8"))[-1] for trial in trials
        ]
        minutes = sum(trial.seconds for trial in trials) / 60
        failures = f", {failed} of {len(trials)} trials failed" if failed else ""
        when = sorted({(start["started"][:10], _commit(start)) for start in starts})
        return f"{minutes:.0f} minutes of training in all{failures}, {'; '.join(map(', '.join, when))}"


@dataclass(frozen=True)
class FinishedAnalysis(Finished):
    """An entry that was computed."""

    folder: Path
    found: dict[str, Any]

    def scores(self, metric: str) -> Scores:
        """Of each start or seed."""
        return {variant: np.array(values) for variant, values in self.found["scores"][metric].items()}

    def draw(self, picture: Path) -> None:
        """A copy of what was drawn then."""
        shutil.copyfile(self.folder / PICTURE, picture)

    def costs(self) -> dict[str, tuple[str, ...]]:
        """None."""
        return {}

    def source(self) -> str:
        """Of the computation."""
        return f"{self.found['seconds']:.0f} seconds, {_commit(self.found['versions'])}"


def _commit(found: dict[str, Any]) -> str:
    return f"commit {(found['git_commit'] or 'unknown')[:12]}"


def last_study(out: Path, reproduction: Reproduction, trials: Sequence[Trial] = ()) -> StudyFolder | None:
    """The newest study of an entry at a scale, as the entry is now, finished or not; None if it was never begun.

    Args:
        out: folder of all studies.
        reproduction: the entry.
        trials: its trials; if given, their defaults have to be those of then, too.
    """
    return next(_studies_as_now(out, reproduction, trials), None)


def _studies_as_now(out: Path, reproduction: Reproduction, trials: Sequence[Trial]) -> Iterator[StudyFolder]:
    for folder in studies(out, reproduction):
        with contextlib.suppress(SettingError):  # written by another version
            if load_experiment(folder.experiment) == reproduction.experiment and all(map(folder.has, trials)):
                yield folder


def studies(out: Path, reproduction: Reproduction) -> list[StudyFolder]:
    """All studies of an entry at a scale, whatever the entry was then, the newest first."""
    assert reproduction.experiment is not None
    paths = sorted((out / reproduction.experiment.name).glob("*/experiment.yaml"), reverse=True)
    return [StudyFolder(path.parent.absolute()) for path in paths]


def is_done(out: Path, reproduction: Reproduction, trials: Sequence[Trial]) -> bool:
    """Whether nothing of an entry is left to be run: its newest study has ended and no trial failed, or its analysis is there.

    Args:
        out: folder of all studies.
        reproduction: the entry.
        trials: of its study.
    """
    if reproduction.entry.analysis:
        return finished(out, reproduction) is not None
    study = last_study(out, reproduction, trials)
    results = _results(study) if study else None
    return results is not None and not results.that("unfinished") and not results.that("failed")


def _results(study: StudyFolder) -> StudyResults | None:
    if not study.results.exists():
        return None
    return StudyResults.from_json(json.loads(study.results.read_text(encoding="utf-8")))


def finished(out: Path, reproduction: Reproduction) -> Finished | None:
    """An entry with its newest study of which all trials have ended, or with what its analysis gave.

    Args:
        out: folder of all studies.
        reproduction: the entry.
    """
    if reproduction.entry.analysis:
        folder = _analysis_folder(out, reproduction)
        if not (folder / NUMBERS).exists():
            return None
        found = json.loads((folder / NUMBERS).read_text(encoding="utf-8"))
        with contextlib.suppress(SettingError):  # written by another version
            # Options that were not there then are as by default.
            same = checked(Analysis, found["analysis"], NUMBERS) == reproduction.entry.analysis
            players = found.get("players", {})
            if same and all(_players(out, reproduction, player) == were for player, were in players.items()):
                return FinishedAnalysis(reproduction, folder, found)
        return None
    for study in _studies_as_now(out, reproduction, ()):
        results = _results(study)
        if results is not None and not results.that("unfinished"):
            return FinishedStudy(reproduction, study, results)
    return None


def run_analysis(out: Path, reproduction: Reproduction) -> None:
    """Computes an entry's analysis, and keeps numbers and picture in a folder of its own.

    Raises:
        SettingError: trained players are asked for that are not there.
        OSError: it cannot be written.
    """
    analysis = reproduction.entry.analysis
    assert analysis is not None
    folder = _analysis_folder(out, reproduction)
    folder.mkdir(parents=True, exist_ok=True)
    begun = perf_counter()
    players: dict[str, list[str]] = {}

    def trained(player: str) -> list[str]:
        players[player] = _players(out, reproduction, player)
        return [str(out / run) for run in players[player]]

    scores = analysis.chosen.run(folder / PICTURE, trained)
    found = {
        "analysis": analysis.model_dump(mode="json"),
        "players": players,
        "scores": {metric: {name: values.tolist() for name, values in of.items()} for metric, of in scores.items()},
        "seconds": perf_counter() - begun,
        "versions": versions(),
    }
    write_whole(folder / NUMBERS, json.dumps(found, indent=2) + "\n")


def _analysis_folder(out: Path, reproduction: Reproduction) -> Path:
    return out / f"{reproduction.name}_{reproduction.scale}"


def _players(out: Path, reproduction: Reproduction, player: str) -> list[str]:
    """The run folders of ENTRY/VARIANT, within `out`."""
    entry, variant = player.split("/", 1)
    trained = finished(out, load_reproduction(entry, reproduction.scale))
    command = f"rllib-empathy reproduce {entry} --scale {reproduction.scale} --out {out}"
    if not isinstance(trained, FinishedStudy):
        raise SettingError(f"Entry {reproduction.name!r} plays {player!r}, whose study has not run. First: {command}")
    arms = [arm for arm in trained.results.arms if arm.variant == variant]
    if not arms:
        raise SettingError(f"Entry {entry!r} has no variant {variant!r}, which entry {reproduction.name!r} plays.")
    runs = [trained.folder.trial(trial.name).path for trial in arms[0].trials if trial.ended == "finished"]
    return [run.relative_to(out.absolute()).as_posix() for run in runs]
