"""Learning curves of a study as a picture: one line with its interval for each arm."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from rllib_empathy.experiments.curves import COLOURS, finish, smoothed
from rllib_empathy.experiments.metrics_table import read_metrics
from rllib_empathy.experiments.statistics import Values, iqm_band
from rllib_empathy.studies.results import ArmResult, StudyResults
from rllib_empathy.studies.study_folder import StudyFolder

POINTS = 200
"""Env steps at which curves are compared."""


def draw_study(results: StudyResults, folder: StudyFolder, title: str) -> None:
    """Draws the metric of each arm against env steps: IQM over seeds and its 95 % interval, as a PNG in the folder.

    A curve ends where the shortest of its trials does; of a search's arms only the best are drawn.
    """
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axis = figure.subplots()
    for colour, arm in zip(COLOURS, results.arms, strict=False):
        band = _band(arm, results.metric, folder)
        if band is not None:
            steps, middle, low, high = band
            axis.plot(steps, middle, color=colour, linewidth=2, label=arm.name)
            axis.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
    finish(axis, results.metric.replace("_", " "))
    if axis.has_data():
        axis.legend(frameon=False, fontsize=9)
    figure.suptitle(title, x=0.01, ha="left", weight="bold")
    figure.savefig(folder.curves, dpi=130)


def _band(arm: ArmResult, metric: str, folder: StudyFolder) -> tuple[Values, Values, Values, Values] | None:
    """Env steps `[P]`, IQM, low and high end of its interval; None if no trial has a curve."""
    curves = []
    for trial in arm.trials:
        path = folder.trial(trial.name).metrics
        columns = read_metrics(path) if path.exists() and trial.ended != "failed" else {}
        if metric in columns:
            values = smoothed(columns[metric], columns["episodes"])
            known = ~np.isnan(values)
            if known.any():
                curves.append((columns["env_steps"][known], values[known]))
    if not curves:
        return None
    begin, end = max(steps[0] for steps, _ in curves), min(steps[-1] for steps, _ in curves)
    steps = np.linspace(begin, max(begin, end), POINTS)
    return (steps, *iqm_band(np.array([np.interp(steps, *curve) for curve in curves])))
