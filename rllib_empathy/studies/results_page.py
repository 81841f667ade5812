"""The page of results: what papers say beside what came out here, written from the studies' folders."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isnan
from pathlib import Path

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from env_registry.parameters import SettingError
from rllib_empathy.experiments.experiment import load_experiment
from rllib_empathy.experiments.run_folder import write_whole
from rllib_empathy.experiments.statistics import Estimate, iqm_estimate
from rllib_empathy.studies.catalogue import Expectation, Reproduction, Scores, Verdict
from rllib_empathy.studies.measures import measure
from rllib_empathy.studies.picture import draw_study
from rllib_empathy.studies.results import StudyResults, last_means
from rllib_empathy.studies.study_folder import StudyFolder

HEAD = """# Results

Written by `rllib-empathy reproduce` from the studies that have run; not by hand. Each number is the interquartile mean over
seeds of the last tenth of training, on the world's own rewards, with the 95 % bootstrap interval over seeds. An expectation
*holds* if the whole interval of its difference lies where it is expected, *does not hold* if the whole interval lies elsewhere,
and is *undecided* otherwise. Entries are the files of `tune_configs/reproduce`; `small` and `paper` are their scales.

"""


@dataclass(frozen=True)
class Finished:
    """A catalogue entry whose study has run."""

    reproduction: Reproduction
    folder: StudyFolder
    results: StudyResults

    @property
    def title(self) -> str:
        """Of its section."""
        return f"{self.reproduction.entry.title} ({self.reproduction.scale})"

    def scores(self, metric: str) -> Scores:
        """A measure of each arm's trials that have not failed; NaN where it is not known."""
        return {
            arm.name: np.array([measure(self._means[t.name], metric) for t in arm.trials if t.ended != "failed"])
            for arm in self.results.arms
        }

    def judged(self) -> list[tuple[Expectation, Verdict, Estimate]]:
        """What has come of each expectation."""
        return self.reproduction.judged(self.scores)

    @cached_property
    def _means(self) -> dict[str, dict[str, float]]:
        """Trial -> column of metrics.csv -> mean over the last tenth."""
        return {
            trial.name: last_means(self.folder.metrics(trial.name)) for arm in self.results.arms for trial in arm.trials
        }

    @property
    def verdict(self) -> Verdict:
        """Of the whole entry: that of its worst expectation."""
        found = {verdict for _, verdict, _ in self.judged()}
        worst: tuple[Verdict, ...] = ("does not hold", "undecided", "holds")
        return next(verdict for verdict in worst if verdict in found)

    def verdicts(self) -> Table:
        """What has come of each expectation, for the terminal."""
        table = Table(title=f"{self.title}: {self.verdict}", title_justify="left", box=SIMPLE_HEAD)
        table.add_column("expected")
        table.add_column("difference", justify="right")
        table.add_column("")
        for expectation, verdict, difference in self.judged():
            table.add_row(str(expectation), _number(difference).replace("[", r"\["), verdict)
        return table


def last_study(out: Path, reproduction: Reproduction) -> StudyFolder | None:
    """The newest study of an entry at a scale, as the entry is now, finished or not; None if it was never begun."""
    for path in sorted((out / reproduction.experiment.name).glob("*/experiment.yaml"), reverse=True):
        with contextlib.suppress(SettingError):  # written by another version
            if load_experiment(path) == reproduction.experiment:
                return StudyFolder(path.parent.absolute())
    return None


def finished(out: Path, reproduction: Reproduction) -> Finished | None:
    """An entry with its newest study, if all of that study's trials have ended."""
    folder = last_study(out, reproduction)
    if folder is None or not folder.results.exists():
        return None
    results = StudyResults.from_json(json.loads(folder.results.read_text(encoding="utf-8")))
    return None if results.that("unfinished") else Finished(reproduction, folder, results)


def write_page(page: Path, entries: Sequence[Finished]) -> None:
    """Writes the page, and the pictures beside it into a folder of the page's name.

    Raises:
        OSError: it cannot be written.
    """
    pictures = page.with_suffix("")
    pictures.mkdir(parents=True, exist_ok=True)
    rows = ["| what | paper | ours | verdict |", "|---|---|---|---|"]
    sections = []
    for entry in entries:
        picture = pictures / f"{entry.reproduction.name}_{entry.reproduction.scale}.png"
        draw_study(entry.results, entry.folder, entry.title, picture, entry.reproduction.metric)
        rows.append(_row(entry))
        sections.append(_section(entry, f"{pictures.name}/{picture.name}"))
    write_whole(page, HEAD + "\n".join([*rows, "", *sections]))


def _row(entry: Finished) -> str:
    of = entry.reproduction.entry
    scores = entry.scores(entry.reproduction.metric)
    ours = ", ".join(f"{variant} {_number(iqm_estimate(values))}" for variant, values in scores.items())
    anchor = "".join(c for c in entry.title.lower().replace(" ", "-") if c.isalnum() or c in "-_")
    return f"| [{entry.title}](#{anchor}) | {of.claim} ({of.paper}, {of.figure}) | {ours} | **{entry.verdict}** |"


def _section(entry: Finished, picture: str) -> str:
    of, experiment = entry.reproduction.entry, entry.reproduction.experiment
    trials = [trial for arm in entry.results.arms for trial in arm.trials]
    failed = len(entry.results.that("failed"))
    seconds = sum(trial.seconds for trial in trials)
    shown = {metric: entry.scores(metric) for metric in (entry.reproduction.metric, *of.shows)}
    started = json.loads(entry.folder.versions.read_text(encoding="utf-8"))[-1]
    lines = [
        f"## {entry.title}",
        "",
        f"{of.paper}, {of.figure}: {of.claim}",
        "",
        f"![{entry.reproduction.metric} against env steps]({picture})",
        "",
        f"| variant | {' | '.join(shown)} | seeds | env steps | minutes a seed |",
        "|---" * (len(shown) + 4) + "|",
        *(
            f"| {arm.name} | {' | '.join(_number(iqm_estimate(shown[metric][arm.name])) for metric in shown)} "
            f"| {len(arm.trials)} | {np.mean([t.env_steps for t in arm.trials]):,.0f} "
            f"| {np.mean([t.seconds for t in arm.trials]) / 60:.1f} |"
            for arm in entry.results.arms
        ),
        "",
        "| expected | difference | |",
        "|---|---|---|",
        *(
            f"| {expectation} | {_number(difference)} | {verdict} |"
            for expectation, verdict, difference in entry.judged()
        ),
        "",
        f"`rllib-empathy reproduce {entry.reproduction.name} --scale {entry.reproduction.scale}` in {experiment.environment}: "
        f"{seconds / 60:.0f} minutes of training in all"
        + (f", {failed} of {len(trials)} trials failed" if failed else "")
        + f", {started['started'][:10]}, commit {(started['git_commit'] or 'unknown')[:12]}.",
        "",
    ]
    return "\n".join(lines)


def _number(estimate: Estimate) -> str:
    if isnan(estimate.value):
        return "-"
    interval = "" if isnan(estimate.low) else f" [{estimate.low:.4g}, {estimate.high:.4g}]"
    return f"{estimate.value:.4g}{interval}"
