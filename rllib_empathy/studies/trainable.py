"""One trial of a study as Tune sees it: a run folder that is trained in, one after the other in the same process."""

from __future__ import annotations

import json
from math import inf, isnan
from pathlib import Path
from typing import Any

from ray import tune

from rllib_empathy.experiments.building import build_config
from rllib_empathy.experiments.experiment import load_experiment
from rllib_empathy.experiments.metrics_table import Row, is_curated
from rllib_empathy.experiments.run_folder import write_whole
from rllib_empathy.experiments.training import TrainingRun
from rllib_empathy.studies.search import Values
from rllib_empathy.studies.study_folder import StudyFolder
from rllib_empathy.studies.trials import with_values

SCORE = "score"
"""What schedulers compare: the study's metric, or its last known value where no episode ended in an iteration."""

FINISHED = "finished"
"""Whether the stop rule holds. Tune's own "done" is true for trials that a scheduler stops, too."""


class StudyTrial(tune.Trainable):
    """Trains in the trial's run folder, and goes on from what is there.

    The run folder is the truth about a trial. What Tune keeps as its checkpoint only says where to look; it matters where a
    scheduler gives a trial the state of another one.

    Its config is {"trial": {"name": ..., "values": those of the search}}.
    """

    trial: str
    values: Values
    run: TrainingRun
    ended: bool
    metric: str
    _score: float

    def setup(self, config: dict[str, Any], study: str) -> None:
        """Takes up the run folder; `study` is the study's."""
        self.study = StudyFolder(Path(study))
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Goes over to another trial, or to other values, which saves the process's start."""
        self.cleanup()
        self._begin(new_config)
        return True

    def step(self) -> Row:
        """One iteration's metrics; those of the last one if the trial has ended before."""
        if not self.ended:
            self.run.step()
        row = self.run.row
        self._score = _known(row.get(self.metric), self._score)
        return {
            **{name: value for name, value in row.items() if is_curated(name)},
            SCORE: self._score,
            FINISHED: self.run.finished,
            "training_iteration": int(row["iteration"]),
            "done": self.ended or self.run.finished,
        }

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """Saves in the run folder, and says where."""
        if not self.ended:
            self.run.save()
        return {"trial": self.trial, "iteration": int(self.run.row["iteration"])}

    def load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes over another trial's state; its own it has taken up already."""
        exploit = {**checkpoint, "values": self.values}
        exploits = self.run.folder.path / "exploits.json"
        earlier = json.loads(exploits.read_text(encoding="utf-8")) if exploits.exists() else []
        if checkpoint["trial"] == self.trial or (earlier and earlier[-1].items() >= exploit.items()):
            return
        other = self.study.trial(checkpoint["trial"])
        found = other.checkpoint(checkpoint["iteration"]) or other.last_checkpoint()
        assert found is not None, f"{other.path} holds no checkpoint"
        at = self.run.row.get("iteration", 0)
        self.run.take_over(found)
        write_whole(exploits, json.dumps([*earlier, {**exploit, "at_iteration": at}], indent=2) + "\n")
        write_whole(self.run.folder.experiment, self.run.experiment.to_yaml())

    def cleanup(self) -> None:
        """Ends the algorithm's processes."""
        if not self.ended:
            self.run.close()

    def _begin(self, config: dict[str, Any]) -> None:
        self.trial, self.values = config["trial"]["name"], config["trial"]["values"]
        folder = self.study.trial(self.trial)
        study = load_experiment(self.study.experiment).study
        assert study is not None
        self.metric = study.metric
        self._score = -inf if study.mode == "max" else inf
        asked = load_experiment(folder.experiment).model_dump(mode="json")
        experiment = with_values(asked, self.values, f"trial {self.trial}")
        self.run = TrainingRun(experiment, build_config(experiment), folder)
        outcome = self.study.outcomes().get(self.trial)
        self.ended = self.run.finished or (outcome is not None and outcome.ended != "failed")
        if not self.ended:
            self.run.start()


def _known(value: float | None, otherwise: float) -> float:
    return otherwise if value is None or isnan(value) else value
