"""A Schelling diagram as a picture and as a table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.table import Table

from rllib_empathy.experiments.statistics import Estimate
from rllib_empathy.schelling.diagram import Diagram, Floats, Verdict, mean_estimate

COOPERATE, DEFECT, GROUP = "#0072B2", "#D55E00", "#555555"

CONDITIONS = {
    "all_beats_none": "all cooperating beats all defecting",
    "all_beats_alone": "all cooperating beats cooperating alone",
    "fear": "fear: defecting pays if nobody else cooperates",
    "greed": "greed: defecting pays if everybody else cooperates",
}


def draw_diagram(diagram: Diagram, title: str, path: Path) -> None:
    """Draws R_c, R_d and the group's mean with 95 % intervals, as a PNG (or SVG, by the path's ending)."""
    draw_diagrams({title: diagram}, path)


def draw_diagrams(diagrams: Mapping[str, Diagram], path: Path) -> None:
    """Draws several diagrams side by side, each under its name."""
    columns = min(len(diagrams), 2)
    rows = -(-len(diagrams) // columns)
    figure = Figure(figsize=(6.4 * columns, 4.4 * rows), layout="constrained")
    panels = figure.subfigures(rows, columns, squeeze=False).flatten()
    for panel, (title, diagram) in zip(panels, diagrams.items(), strict=False):
        _draw(panel.subplots(), diagram)
        panel.suptitle(title, x=0.01, ha="left", weight="bold")
    figure.savefig(path, dpi=130)


def _draw(axis: Axes, diagram: Diagram) -> None:
    others = np.arange(len(diagram.cooperators), dtype=np.float64)
    _line(axis, others, diagram.cooperators, COOPERATE, "o-", "cooperates")
    _line(axis, others, diagram.defectors, DEFECT, "s-", "defects")
    # Of k cooperators a player has k (N - 1) / N beside itself on average.
    _line(axis, np.linspace(0, others[-1], len(diagram.group)), diagram.group, GROUP, ":", "mean of all")
    axis.set_xlabel("co-players that cooperate")
    axis.set_ylabel("return of a player that")
    axis.set_xticks(others)
    axis.grid(color="#E6E6E6", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    axis.set_title(_in_words(diagram.verdict()), loc="left", fontsize=9, color="#555555")


def diagram_table(diagram: Diagram) -> Table:
    """Mean returns with 95 % intervals, by how many of the others cooperate."""
    title = f"Returns, {diagram.group.shape[1]} episodes of each mixture: mean, 95 % interval"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for column in ("others that cooperate", "it cooperates", "it defects"):
        table.add_column(column, justify="right")
    for others, rows in enumerate(zip(diagram.cooperators, diagram.defectors, strict=True)):
        table.add_row(str(others), *(_number(mean_estimate(row)) for row in rows))
    return table


def verdict_table(verdict: Verdict) -> Table:
    """The conditions of a social dilemma, and whether each holds."""
    table = Table(title=_in_words(verdict), title_justify="left", box=SIMPLE_HEAD)
    for column in ("", "holds", "difference"):
        table.add_column(column)
    for name, condition in verdict._asdict().items():
        table.add_row(CONDITIONS[name], _answer(condition.holds), _number(condition.difference))
    return table


def _line(axis: Axes, x: Floats, rows: Floats, colour: str, style: str, label: str) -> None:
    estimates = [mean_estimate(row) for row in rows]
    axis.plot(x, [each.value for each in estimates], style, color=colour, label=label, linewidth=2, markersize=6)
    axis.fill_between(
        x, [each.low for each in estimates], [each.high for each in estimates], color=colour, alpha=0.15, linewidth=0
    )


def _in_words(verdict: Verdict) -> str:
    answer = {
        True: "A social dilemma",
        False: "No social dilemma between these two; other policies may show one",
        None: "Open: more episodes are needed",
    }[verdict.is_dilemma]
    reasons = [name for name in ("fear", "greed") if getattr(verdict, name).holds]
    return f"{answer}, of {' and '.join(reasons)}" if verdict.is_dilemma else answer


def _answer(holds: bool | None) -> str:
    return {True: "yes", False: "no", None: "open"}[holds]


def _number(estimate: Estimate) -> str:
    return f"{estimate.value:.2f}  [{estimate.low:.2f}, {estimate.high:.2f}]"
