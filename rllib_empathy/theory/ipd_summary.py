"""What pairs of learners did: a picture, and a table of the iterated prisoner's dilemma."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import Tensor

from rllib_empathy.theory.lase import Array

COOPERATIVE = -1.2
"""Reward per step from which on a pair counts as cooperating; mutual cooperation gives -1, mutual defection -2."""


def pairs_table(courses: Mapping[str, tuple[Tensor, Tensor]]) -> Table:
    """Where each pair ends: rewards per step, at the end and over all games, how many starts cooperate, and the mean policies.

    Args:
        courses: name -> answer of `course`.
    """
    starts = next(iter(courses.values()))[0].shape[2]
    table = Table(title=f"Ends of {starts} random starts", title_justify="left", box=SIMPLE_HEAD, collapse_padding=True)
    for column in ("pair", "reward / step", "all games", "both above -1.2", "P(C | CC)", "CD", "DC", "DD", "start"):
        table.add_column(column, justify="left" if column == "pair" else "right", no_wrap=column == "pair")
    for name, (rewards, policies) in courses.items():
        together = (rewards[-1] > COOPERATIVE).all(0).double().mean().item()
        first, second = name.split(" / ")
        for agent, shown in enumerate(((first, f"{together:.0%}"), (f"/ {second}", ""))):
            earned = (f"{part[:, agent].mean():.3f}" for part in (rewards[-1:], rewards))
            probabilities = (f"{p:.2f}" for p in policies[agent].mean(0).tolist())
            table.add_row(shown[0], *earned, shown[1], *probabilities)
    return table


def draw_courses(
    rewards: Mapping[str, Array],
    path: Path,
    over: str = "updates",
    earned: str = "reward per step (-1: both cooperate, -2: both defect)",
    lines: Sequence[float] = (-1, -2),
) -> None:
    """Draws what both agents earn as they learn, one panel a pair, thin lines for single starts and thick ones for means.

    Args:
        rewards: name -> `[U + 1, 2, K]`.
        path: the PNG file.
        over: what the first axis is.
        earned: what is earned.
        lines: dotted, for comparison.
    """
    columns = 2 if len(rewards) == 4 else min(len(rewards), 3)
    rows = -(-len(rewards) // columns)
    figure = Figure(figsize=(3.7 * columns, 3.3 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
    for axis in axes[len(rewards) :]:
        axis.remove()
    for axis, (name, course) in zip(axes, rewards.items(), strict=False):
        for agent, colour in enumerate(("tab:blue", "tab:orange")):
            axis.plot(course[:, agent], color=colour, linewidth=0.5, alpha=0.3)
            axis.plot(course[:, agent].mean(-1), color=colour, linewidth=2.5, label=f"agent {agent + 1}")
        for line in lines:
            axis.axhline(line, color="black", linewidth=0.8, linestyle=":")
        axis.set_title(name, loc="left", fontsize=10)
        axis.set_xlabel(over)
    axes[0].set_ylabel(earned, fontsize=8)
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=130)
