"""Learning curves of a study as a picture: one line with its interval for each arm."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from rllib_empathy.experiments.curves import COLOURS, finish, smoothed
from rllib_empathy.experiments.statistics import Values, iqm_band
from rllib_empathy.studies.measures import measure
from rllib_empathy.studies.results import ArmResult, StudyResults
from rllib_empathy.studies.study_folder import StudyFolder

STYLES = ("-", "--")
"""Of lines: the second when all colours are used up."""

POINTS = 200
"""Env steps at which curves are compared."""


def draw_study(results: StudyResults, folder: StudyFolder, title: str, path: Path, metrics: Sequence[str] = ()) -> None:
    """Draws measures of each arm against env steps: IQM over seeds and its 95 % interval, as a PNG.

    A curve ends where the shortest of its trials does; of a search's arms only the best are drawn.

    Args:
        results: of the study.
        folder: the study's.
        title: above the picture.
        path: of the picture.
        metrics: the measures, side by side on one scale; default: the study's metric.
    """
    metrics = metrics or [results.metric]
    figure = Figure(figsize=(7 if len(metrics) == 1 else 4.5 * len(metrics), 4.2), layout="constrained")
    axes = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for axis, metric in zip(axes, metrics, strict=True):
        for (style, colour), arm in zip(product(STYLES, COLOURS), results.arms, strict=False):
            band = _band(arm, metric, folder)
            if band is not None:
                steps, middle, low, high = band
                axis.plot(steps, middle, style, color=colour, linewidth=2, label=arm.name)
                axis.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
        finish(axis, metric.replace("_", " "))
    if axes[0].has_data():
        axes[0].legend(frameon=False, fontsize=9, ncols=1 if len(results.arms) <= len(COLOURS) else 2)
    figure.suptitle(title, x=0.01, ha="left", weight="bold")
    figure.savefig(path, dpi=130)


def _band(arm: ArmResult, metric: str, folder: StudyFolder) -> tuple[Values, Values, Values, Values] | None:
    """Env steps `[P]`, IQM, low and high end of its interval; None if no trial has a curve."""
    curves = []
    for trial in arm.trials:
        columns = folder.metrics(trial.name) if trial.ended != "failed" else {}
        measured = np.asarray(measure(columns, metric))
        if measured.ndim:
            values = smoothed(measured, columns["episodes"])
            known = ~np.isnan(values)
            if known.any():
                curves.append((columns["env_steps"][known], values[known]))
    if not curves:
        return None
    begin, end = max(steps[0] for steps, _ in curves), min(steps[-1] for steps, _ in curves)
    steps = np.linspace(begin, max(begin, end), POINTS)
    return (steps, *iqm_band(np.array([np.interp(steps, *curve) for curve in curves])))
