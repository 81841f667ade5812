"""What pairs did in meta-games of the coin game: measures, a table, a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import nan
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.table import Table

from rllib_empathy.experiments.statistics import iqm_estimate
from rllib_empathy.theory.ipd_summary import draw_courses
from rllib_empathy.theory.meta_game import Course

MEASURES = ("return", "return/0", "return/1", "own_coin_share", "own_coin_share/1")
"""Of an inner episode: what both earn together, and each; own coins among all that are taken, and among those player 1 takes."""


def measures(course: Course) -> dict[str, float]:
    """Means over the last quarter of a meta-episode, by `MEASURES`; a share of no coins is NaN."""
    last = slice(-max(1, len(course.returns) // 4), None)
    returns, own, other = (column[last].mean(0) for column in course)

    def share(own: float, other: float) -> float:
        return float(own / (own + other)) if own + other else nan

    values = returns.sum(), *returns, share(own.sum(), other.sum()), share(own[1], other[1])
    return dict(zip(MEASURES, map(float, values), strict=True))


def scores(courses: Mapping[str, Sequence[Course]]) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Measure -> pair -> `[seeds]`."""
    found = {name: [measures(course) for course in each] for name, each in courses.items()}
    return {key: {name: np.array([row[key] for row in rows]) for name, rows in found.items()} for key in MEASURES}


def meta_table(courses: Mapping[str, Sequence[Course]]) -> Table:
    """Interquartile means over seeds with 95 % intervals."""
    seeds = len(next(iter(courses.values())))
    title = f"Per inner episode of 32 steps at the end of meta-episodes, {seeds} seed{'s' if seeds > 1 else ''}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for column in ("pair", *MEASURES):
        table.add_column(column, justify="left" if column == "pair" else "right", no_wrap=column == "pair")
    found = scores(courses)
    for name in courses:
        estimates = (iqm_estimate(found[key][name]) for key in MEASURES)
        table.add_row(
            name, *(f"{e.value:.2f}" + (f" [{e.low:.2f}, {e.high:.2f}]" if seeds > 1 else "") for e in estimates)
        )
    return table


def draw_returns(courses: Mapping[str, Sequence[Course]], path: Path) -> None:
    """Draws returns over the inner episodes of a meta-episode, thin lines for single seeds.

    Args:
        courses: pair -> one for each seed.
        path: the PNG file.
    """
    returns = {name: np.stack([course.returns for course in each], -1) for name, each in courses.items()}
    draw_courses(returns, path, "inner episodes", "return of an inner episode", lines=(0,))
