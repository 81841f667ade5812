"""What a study's trials show together: results.json, a table, the best trial."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import isnan, nan
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.table import Table

from rllib_empathy.experiments.metrics_table import is_curated
from rllib_empathy.experiments.run_folder import write_whole
from rllib_empathy.experiments.statistics import Estimate, first_and_last, iqm_estimate
from rllib_empathy.experiments.study import Study
from rllib_empathy.studies.search import Values
from rllib_empathy.studies.study_folder import Outcome, StudyFolder
from rllib_empathy.studies.trials import Trial

MOST_ROWS = 12
"""Lines of the table: of a longer search only the best."""


@dataclass(frozen=True)
class TrialResult:
    """One trial.

    Args:
        ended: "finished", "stopped early", "failed" or "unfinished".
        score: the study's metric, a mean as those in `means`; NaN if no episode has ended.
        means: column of metrics.csv -> mean over the last tenth of iterations, for those that are no single agent's or Learner's.
    """

    name: str
    seed: int | None
    ended: str
    score: float
    means: dict[str, float]
    env_steps: int
    seconds: float
    values: Values
    error: str | None


@dataclass(frozen=True)
class ArmResult:
    """All seeds of the same settings."""

    name: str
    variant: str
    score: Estimate
    trials: list[TrialResult]


@dataclass(frozen=True)
class StudyResults:
    """A study's arms, the best first if something was searched, else as in the experiment file."""

    metric: str
    mode: str
    arms: list[ArmResult]

    @property
    def best(self) -> TrialResult | None:
        """The trial with the best score of the best arm; None if none has a score."""
        scored = [arm for arm in self.arms if not isnan(arm.score.value)]
        if not scored:
            return None
        sign = 1 if self.mode == "max" else -1
        arm = max(scored, key=lambda arm: sign * arm.score.value)
        return max((t for t in arm.trials if not isnan(t.score)), key=lambda trial: sign * trial.score)

    def that(self, ended: str) -> list[TrialResult]:
        """The trials that ended so: "finished", "stopped early", "failed", or "unfinished"."""
        return [trial for arm in self.arms for trial in arm.trials if trial.ended == ended]

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> StudyResults:
        """What `to_json` gave."""

        def number(value: float | None) -> float:
            return nan if value is None else value

        def trial(values: dict[str, Any]) -> TrialResult:
            means = {name: number(value) for name, value in values["means"].items()}
            return TrialResult(**{**values, "score": number(values["score"]), "means": means})

        arms = [
            ArmResult(
                arm["name"],
                arm["variant"],
                Estimate(**{key: number(value) for key, value in arm["score"].items()}),
                [trial(values) for values in arm["trials"]],
            )
            for arm in values["arms"]
        ]
        return cls(values["metric"], values["mode"], arms)

    def to_json(self) -> dict[str, Any]:
        """In plain types; null for what is not known."""
        return {
            "metric": self.metric,
            "mode": self.mode,
            "best": self.best.name if self.best else None,
            "arms": [
                {
                    "name": arm.name,
                    "variant": arm.variant,
                    "score": {key: _known(value) for key, value in arm.score._asdict().items()},
                    "trials": [
                        {
                            **vars(trial),
                            "score": _known(trial.score),
                            "means": {name: _known(value) for name, value in trial.means.items()},
                        }
                        for trial in arm.trials
                    ],
                }
                for arm in self.arms
            ],
        }

    def table(self) -> Table:
        """A row for each arm."""
        table = Table(
            title=f"{self.metric}, mean over the last tenth of iterations: IQM over seeds, 95 % interval",
            title_justify="left",
            box=SIMPLE_HEAD,
        )
        table.add_column("", no_wrap=True)
        for column in ("IQM", "95 % interval", "trials", "env steps", "seconds"):
            table.add_column(column, justify="right")
        for arm in self.arms[:MOST_ROWS]:
            value, low, high = arm.score
            steps = np.mean([trial.env_steps for trial in arm.trials])
            seconds = np.mean([trial.seconds for trial in arm.trials])
            table.add_row(
                "\n".join([arm.name, *(f"  {key} {_short(value)}" for key, value in arm.trials[0].values.items())]),
                "-" if isnan(value) else f"{value:.2f}",
                "-" if isnan(low) else f"{low:.2f} to {high:.2f}",
                _endings(arm),
                f"{steps:,.0f}",
                f"{seconds:,.0f}",
            )
        return table


def study_results(study: Study, trials: list[Trial], folder: StudyFolder) -> StudyResults:
    """Reads what the trials have left in their run folders, and writes results.json."""
    outcomes = folder.outcomes()
    arms: dict[str, list[Trial]] = {}
    for trial in trials:
        arms.setdefault(trial.arm, []).append(trial)
    found = []
    for name, members in arms.items():
        results = [_result(trial, study.metric, folder, outcomes.get(trial.name)) for trial in members]
        scores = np.array([result.score for result in results if result.ended != "failed"], dtype=float)
        found.append(ArmResult(name, members[0].variant, iqm_estimate(scores), results))
    if study.search:
        sign = -1 if study.mode == "max" else 1
        found.sort(key=lambda arm: (isnan(arm.score.value), sign * arm.score.value))
    together = StudyResults(study.metric, study.mode, found)
    write_whole(folder.results, json.dumps(together.to_json(), indent=2) + "\n")
    return together


def last_means(columns: Mapping[str, NDArray[np.float64]]) -> dict[str, float]:
    """The mean of each column of a metrics.csv over the last tenth of iterations in which episodes ended."""
    return {name: first_and_last(values, columns["episodes"])[1] for name, values in columns.items()}


def _result(trial: Trial, metric: str, folder: StudyFolder, outcome: Outcome | None) -> TrialResult:
    columns = folder.metrics(trial.name)
    means = last_means(columns)
    return TrialResult(
        name=trial.name,
        seed=trial.experiment.seed,
        ended=outcome.ended if outcome else "unfinished",
        score=means.get(metric, nan),
        means={name: mean for name, mean in means.items() if is_curated(name)},
        env_steps=int(columns["env_steps"][-1]) if columns else 0,
        seconds=float(columns["seconds"][-1]) if columns else 0.0,
        values=outcome.values if outcome else trial.values,
        error=outcome.error if outcome else None,
    )


def _endings(arm: ArmResult) -> str:
    """How many trials ended in which way: "3", or "2, 1 failed"."""
    counts = {
        ended: sum(trial.ended == ended for trial in arm.trials) for ended in ("stopped early", "failed", "unfinished")
    }
    others = [f"{count} {ended}" for ended, count in counts.items() if count]
    return ", ".join([str(len(arm.trials) - sum(counts.values())), *others])


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _known(value: float) -> float | None:
    return None if isnan(value) else value
