"""Learning curves as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from numpy.typing import NDArray

from rllib_empathy.experiments.metrics_table import labels
from rllib_empathy.population import Population

Column = NDArray[np.float64]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
"""Told apart by colour-blind readers too (Okabe and Ito); one for each entry of a population."""

SMOOTHING = 0.04
"""Share of a run that a smoothed point is a mean of."""


def smoothed(values: Column, episodes: Column, share: float = SMOOTHING) -> Column:
    """Means over episodes in a window of iterations around each one.

    y_i = sum_j n_j x_j / sum_j n_j over |i - j| <= w / 2, with n_j episodes of mean x_j; NaN where there are none.

    Args:
        values: `[I]`, NaN where no episode ended.
        episodes: `[I]`, episodes that each value is a mean of.
        share: w / I.
    """
    half = max(0, round(share * len(values) / 2))
    weight = np.where(np.isnan(values), 0, episodes)
    sums = np.cumsum([0, *np.nan_to_num(values) * weight])
    counts = np.cumsum([0, *weight])
    first = np.maximum(np.arange(len(values)) - half, 0)
    last = np.minimum(np.arange(len(values)) + half + 1, len(values))
    count = counts[last] - counts[first]
    return np.where(count > 0, (sums[last] - sums[first]) / np.maximum(count, 1), np.nan)


def draw_curves(metrics: Mapping[str, Column], population: Population, title: str, path: Path) -> None:
    """Draws group return, returns per agent, and each kind of event per agent against env steps, as a PNG.

    Thin lines are agents, bold ones the means over the agents of an entry of the population.

    Args:
        metrics: the columns of a metrics.csv.
        population: who played.
        title: above the picture.
        path: the file.
    """
    events = [name.removeprefix("events/") for name in metrics if name.startswith("events/")]
    panels = 2 + len(events)
    columns = min(panels, 3)
    rows = -(-panels // columns)
    figure = Figure(figsize=(4.2 * columns, 3.2 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    _group_panel(axes[0], metrics)
    _agents_panel(axes[1], metrics, population, "agent_return/", "return per agent")
    for axis, event in zip(axes[2:panels], events, strict=True):
        _agents_panel(axis, metrics, population, f"agent_events/{event}/", f"{event.replace('_', ' ')} per agent")
    for axis in axes[panels:]:
        axis.remove()
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside upper right", ncols=6, frameon=False)
    figure.suptitle(title, x=0.01, ha="left", weight="bold")
    figure.savefig(path, dpi=130)


def _group_panel(axis: Axes, metrics: Mapping[str, Column]) -> None:
    values, episodes = metrics["group_return"], metrics["episodes"]
    axis.plot(metrics["env_steps"], values, color="#BBBBBB", linewidth=0.7)
    axis.plot(metrics["env_steps"], smoothed(values, episodes), color="#222222", linewidth=2)
    finish(axis, "group return")


def _agents_panel(axis: Axes, metrics: Mapping[str, Column], population: Population, prefix: str, what: str) -> None:
    steps, episodes = metrics["env_steps"], metrics["episodes"]
    for colour, (name, agents) in zip(cycle(COLOURS), labels(population).items()):
        of_agents = [smoothed(metrics[f"{prefix}{agent}"], episodes) for agent in agents]
        if len(agents) > 1:
            for values in of_agents:
                axis.plot(steps, values, color=colour, linewidth=0.9, alpha=0.55)
        axis.plot(steps, np.mean(of_agents, 0), color=colour, linewidth=2.4, label=name)
    finish(axis, what)


def finish(axis: Axes, what: str) -> None:
    """Title, axes and grid of a panel."""
    axis.set_title(what, loc="left", fontsize=10)
    axis.set_xlabel("env steps", fontsize=9)
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.tick_params(labelsize=8)
    axis.grid(color="#E6E6E6", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
