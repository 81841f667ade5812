"""The folder of a study: what was asked, how each trial ended, and a run folder for each of them.

In runs/NAME/TIMESTAMP lie

- experiment.yaml: what was asked, the study included
- versions.json: one entry for each start or resume
- VARIANT/seed_0, or VARIANT/sample_000/seed_0: the run folder of each trial
- outcomes.jsonl: one line for each trial that has ended
- results.json, curves.png: what the trials show together
- .tune: Tune's own state
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray

from rllib_empathy.experiments.errors import RunFolderError
from rllib_empathy.experiments.experiment import Experiment
from rllib_empathy.experiments.metrics_table import read_metrics
from rllib_empathy.experiments.run_folder import RunFolder, add_versions, check_writable, new_folder, write_whole
from rllib_empathy.studies.search import Values
from rllib_empathy.studies.trials import Trial


@dataclass(frozen=True)
class Outcome:
    """How a trial ended."""

    trial: str
    ended: Literal["finished", "stopped early", "failed"]
    values: Values
    error: str | None = None


class StudyFolder:
    """A study's folder, which exists. Make new ones by `create`, take up old ones by `open`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.experiment = path / "experiment.yaml"
        self.versions = path / "versions.json"
        self.results = path / "results.json"
        self.curves = path / "curves.png"
        self.tune = path / ".tune"
        self._outcomes = path / "outcomes.jsonl"

    @classmethod
    def create(cls, root: str | Path, experiment: Experiment, trials: list[Trial]) -> StudyFolder:
        """Makes root/NAME/TIMESTAMP, which did not exist, with a run folder for each trial.

        Raises:
            RunFolderError: it cannot be written, or its disk is nearly full.
        """
        folder = cls(new_folder(root, experiment.name))
        try:
            for trial in trials:
                run = folder.trial(trial.name)
                run.checkpoints.mkdir(parents=True)
                run.describe(trial.experiment, trial.resolved)
            add_versions(folder.versions)
            write_whole(folder.experiment, experiment.to_yaml())
        except OSError as error:
            raise RunFolderError(f"The study {folder.path} cannot be written: {error.strerror or error}.") from error
        return folder

    @classmethod
    def open(cls, path: str | Path) -> StudyFolder:
        """Takes up a study's folder.

        Raises:
            RunFolderError: it is none, or it cannot be written.
        """
        folder = cls(Path(path).absolute())
        if not folder.experiment.is_file():
            what = "holds no experiment.yaml" if folder.path.is_dir() else "is no folder"
            raise RunFolderError(f"{path} is no study: it {what}. Give a folder as runs/NAME/TIMESTAMP.")
        check_writable(folder.path)
        add_versions(folder.versions)
        return folder

    def trial(self, name: str) -> RunFolder:
        """The run folder of a trial."""
        return RunFolder(self.path / name)

    def has(self, trial: Trial) -> bool:
        """Whether it holds the trial with the settings that it has now, defaults included.

        An option that is younger than the trial does not count: with its default, agents do what they did before.
        """
        run, now = self.trial(trial.name), trial.resolved.to_yaml()
        with contextlib.suppress(FileNotFoundError):
            before = run.resolved.read_text(encoding="utf-8")
            if before == now:
                return True
            asked_the_same = run.experiment.read_text(encoding="utf-8") == trial.experiment.to_yaml()
            return asked_the_same and _are_within(yaml.safe_load(before), yaml.safe_load(now))
        return False

    def take_over(self, trials: Sequence[Trial], earlier: StudyFolder) -> None:
        """Copies what an earlier study finished with just the same settings (`has`), and counts it as finished.

        Raises:
            RunFolderError: it cannot be written.
        """
        known, outcomes = self.outcomes(), earlier.outcomes()
        for trial in trials:
            there = outcomes.get(trial.name)
            if trial.name in known or there is None or there.ended != "finished" or not earlier.has(trial):
                continue
            mine, other = self.trial(trial.name).path, earlier.trial(trial.name).path
            partial = mine.with_name(f".{mine.name}")  # a copy that is cut off counts for nothing
            try:
                shutil.rmtree(partial, ignore_errors=True)
                shutil.copytree(other, partial)
                shutil.rmtree(mine, ignore_errors=True)
                partial.rename(mine)
                self.add_outcome(there)
            except OSError as error:
                raise RunFolderError(f"{other} cannot be copied to {mine}: {error.strerror or error}.") from error

    def metrics(self, trial: str) -> dict[str, NDArray[np.float64]]:
        """The columns of a trial's metrics.csv; none before its first iteration has ended."""
        path = self.trial(trial).metrics
        return read_metrics(path) if path.exists() else {}

    def add_outcome(self, outcome: Outcome) -> None:
        """Writes down how a trial ended; it is on disk when this returns.

        Raises:
            OSError: the disk is full or gone.
        """
        with self._outcomes.open("a", encoding="utf-8") as file:
            # The line feed comes first: a line that was cut short when the machine failed spoils no other.
            file.write("\n" + json.dumps(asdict(outcome)))
            file.flush()
            os.fsync(file.fileno())

    def outcomes(self) -> dict[str, Outcome]:
        """Trial -> how it ended last, for those that have ended."""
        if not self._outcomes.exists():
            return {}
        found = {}
        for line in self._outcomes.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                outcome = Outcome(**json.loads(line))
                found[outcome.trial] = outcome
        return found


def _are_within(known: Any, now: Any) -> bool:
    """Whether all settings that were known have the same values now."""
    if isinstance(known, dict) and isinstance(now, dict):
        return all(name in now and _are_within(value, now[name]) for name, value in known.items())
    if isinstance(known, list) and isinstance(now, list):
        return len(known) == len(now) and all(map(_are_within, known, now))
    return bool(known == now)
