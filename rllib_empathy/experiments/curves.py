"""Learning curves as a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import cycle
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from numpy.typing import NDArray

from rllib_empathy.experiments.metrics_table import between_agents, labels
from rllib_empathy.population import Population

Column = NDArray[np.float64]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
"""Told apart by colour-blind readers too (Okabe and Ito); one for each entry of a population."""

SMOOTHING = 0.04
"""Share of a run that a smoothed point is a mean of."""


BETWEEN_AGENTS = {
    "gift_share": "share of the reward that is given",
    "influence_std": "value influence (deviation over steps)",
}
"""What agents log of each other that has a panel of its own, and its title."""


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
    """Draws returns and events against env steps, as a PNG; where agents give or reciprocate, what they are to each other too.

    Thin lines are agents, bold ones the means over the agents of an entry of the population.

    Args:
        metrics: the columns of a metrics.csv.
        population: who played.
        title: above the picture.
        path: the file.
    """

    def per_agent(prefix: str, what: str) -> Callable[[Axes], None]:
        return partial(_agents_panel, metrics=metrics, population=population, prefix=prefix, what=what)

    panels: list[Callable[[Axes], None]] = [
        partial(_group_panel, metrics=metrics),
        per_agent("agent_return/", "return per agent"),
    ]
    events = [name.removeprefix("events/") for name in metrics if name.startswith("events/")]
    if "agent_return_after_gifts/0" in metrics:
        panels.append(per_agent("agent_return_after_gifts/", "return after gifts per agent"))
    panels += [per_agent(f"agent_events/{event}/", f"{event.replace('_', ' ')} per agent") for event in events]
    for name, what in BETWEEN_AGENTS.items():
        pairs = _pairs_of_labels(metrics, population, name)
        if pairs:
            panels.append(partial(_pairs_panel, metrics=metrics, pairs=pairs, what=what))
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.2 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis, panel in zip(axes, panels, strict=False):
        panel(axis)
    for axis in axes[len(panels) :]:
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


def _pairs_of_labels(
    metrics: Mapping[str, Column], population: Population, name: str
) -> dict[tuple[str, str], list[Column]]:
    """(label of who acts, label of whom it concerns) -> the columns of all pairs; those that are always 0 are left out."""
    label_of = {agent: name for name, agents in labels(population).items() for agent in agents}
    found: dict[tuple[str, str], list[Column]] = {}
    for pair, column in between_agents(metrics).get(name, {}).items():
        if np.nan_to_num(column).any():
            one, other = (label_of[agent] for agent in pair)
            found.setdefault((one, other), []).append(column)
    return found


def _pairs_panel(
    axis: Axes, metrics: Mapping[str, Column], pairs: Mapping[tuple[str, str], list[Column]], what: str
) -> None:
    for colour, ((one, other), columns) in zip(cycle(COLOURS), pairs.items()):
        alike = np.ones(len(metrics["env_steps"]))
        mean = np.mean([smoothed(column, alike) for column in columns], 0)
        axis.plot(metrics["env_steps"], mean, color=colour, linewidth=1.8, label=f"{one} to {other}")
    axis.legend(fontsize=8, frameon=False)
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
