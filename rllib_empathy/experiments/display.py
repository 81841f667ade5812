"""What a person sees in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from math import isnan, nan
from time import monotonic
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from rllib_empathy.experiments.evaluation import Evaluation, mean_and_interval
from rllib_empathy.experiments.experiment import Stop
from rllib_empathy.experiments.metrics_table import Row, is_outcome, labels
from rllib_empathy.experiments.statistics import first_and_last
from rllib_empathy.experiments.tournament import Tournament
from rllib_empathy.population import Population

Shown = TypeVar("Shown", bound="ProgressBar")

SECONDS_BETWEEN_LINES = 10
"""How often progress is written where the output is no terminal."""


AGENTS_WITH_INTERVALS = 5
"""Agents of a tournament up to which a terminal has room for intervals."""


class ProgressBar:
    """A bar that is shown from entering to leaving, where the output is a terminal.

    Args:
        console: where it is shown.
        begin: what is said until the first update.
        total: of what is to be done.
    """

    def __init__(self, console: Console, begin: str, total: float) -> None:
        self.console = console
        columns = BarColumn(bar_width=20), TextColumn("{task.description}")
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task(begin, total=total)

    def show(self, done: float, what: str) -> None:
        """Moves the bar."""
        self._bar.update(self._task, completed=done, description=what)

    def __enter__(self: Shown) -> Shown:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()


class TrainingProgress(ProgressBar):
    """A bar with steps, returns, speed and time left; lines of text where the output is no terminal.

    Args:
        console: where it is shown.
        stop: the experiment's stop rule.
    """

    def __init__(self, console: Console, stop: Stop) -> None:
        super().__init__(console, "the first batch is being sampled", total=1.0)
        self.stop = stop
        self._returns: dict[str, float] = {}
        self._first: tuple[float, float] | None = None
        self._last_line = 0.0

    def update(self, row: Row) -> None:
        """Shows an iteration's metrics."""
        share = self.stop.progress(row)
        self._first = self._first or (monotonic(), share)
        for name, value in row.items():
            if name.startswith(("group_return", "kind_return/")) and not isnan(value):
                old = self._returns.get(name, value)
                self._returns[name] = old + 0.2 * (value - old)
        steps, returns = self._speed(row, share), self._learned()
        self.show(share, f"{steps}\n{returns}")
        if not self.console.is_terminal and (monotonic() - self._last_line >= SECONDS_BETWEEN_LINES or share >= 1):
            self._last_line = monotonic()
            self.console.print(f"{steps} | {returns}", soft_wrap=True, highlight=False)

    def _speed(self, row: Row, share: float) -> str:
        left = self._seconds_left(share)
        parts = [
            f"{row['env_steps']:,.0f} env steps",
            f"{row['steps_per_second']:,.0f} steps/s",
            f"{clock(row['seconds'])} spent",
            f"{clock(left)} left" if left is not None else "",
        ]
        return " | ".join(filter(None, parts))

    def _learned(self) -> str:
        kinds = dict(self._returns)
        group = kinds.pop("group_return", None)
        if group is None:
            return "no episode has ended yet"
        means = ", ".join(f"{name.partition('/')[2]} {value:.1f}" for name, value in kinds.items())
        return f"group return {group:.1f} (per agent: {means})"

    def _seconds_left(self, share: float) -> float | None:
        assert self._first is not None
        begun, share_then = self._first
        if share <= share_then:
            return None
        return (monotonic() - begun) * (1 - share) / (share - share_then)


def results_table(metrics: Mapping[str, NDArray[np.float64]], population: Population) -> Table:
    """Returns and events per episode of the group and of each entry, in the first and last tenth of a run."""
    table = Table(title="Means over episodes", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("")
    for column in ("first tenth", "last tenth"):
        table.add_column(column, justify="right", overflow="fold")
    rows = {"group return": "group_return"}
    rows |= {f"return of {name}, per agent": f"kind_return/{name}" for name in labels(population)}
    rows |= {_in_words(name): name for name in metrics if name.startswith("events/") or is_outcome(name)}
    for what, name in rows.items():
        table.add_row(what, *(_number(value) for value in first_and_last(metrics[name], metrics["episodes"])))
    return table


def evaluation_table(evaluation: Evaluation) -> Table:
    """Mean return and events per agent and of the group, with 95 % intervals over episodes."""
    title = f"{len(evaluation.lengths)} episodes: mean, half width of the 95 % interval"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("agent")
    for column in ("return", *evaluation.events):
        table.add_column(column.replace("_", " "), justify="right")
    for agent, kind in enumerate(evaluation.seats):
        counts = [events[:, agent] for events in evaluation.events.values()]
        table.add_row(f"{agent} {kind}", *(_interval(values) for values in (evaluation.returns[:, agent], *counts)))
    table.add_section()
    totals = [events.sum(1) for events in evaluation.events.values()]
    table.add_row("group", *(_interval(values) for values in (evaluation.returns.sum(1), *totals)))
    return table


def tournament_table(tournament: Tournament) -> Table:
    """Mean returns of focal agents: of few, among copies of each and with 95 % intervals; of many, the essence."""
    title = f"{tournament.world}: mean return of the focal agent, {tournament.episodes} episodes each"
    table = Table(title=title, title_justify="left", caption_justify="left", box=SIMPLE_HEAD)
    table.add_column("focal agent", no_wrap=True)
    few = len(tournament.agents) <= AGENTS_WITH_INTERVALS
    columns = [f"among {name}" for name in tournament.agents] if few else ["among its own", "most", "least"]
    for column in [*columns, "mean"]:
        table.add_column(column, justify="right", overflow="fold")
    if not few:
        table.caption = "Everybody among everybody, with 95 % intervals, is in tournament.json and in the heat map."
    rows = zip(tournament.agents, tournament.returns, tournament.half_widths, strict=True)
    for number, (name, means, halves) in enumerate(rows):
        extremes = [
            f"{means[other]:.2f} among {tournament.agents[other]}" for other in (means.argmax(), means.argmin())
        ]
        cells = list(map(_with_half, means, halves)) if few else [_with_half(means[number], halves[number]), *extremes]
        table.add_row(name, *cells, f"{means.mean():.2f}")
    return table


def outcomes_table(evaluation: Evaluation) -> Table:
    """Social metrics and measures of cooperation, with 95 % intervals over the episodes that have them."""
    table = Table(title="Social metrics", title_justify="left", box=SIMPLE_HEAD, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, values in evaluation.outcomes.items():
        table.add_row(_in_words(name), _interval(values))
    return table


def _in_words(column: str) -> str:
    return column.rpartition("/")[2].replace("_", " ")


def _interval(values: NDArray[Any]) -> str:
    numbers = mean_and_interval(values)
    mean, half = numbers["mean"], numbers["half_width"]
    return "-" if mean is None else _with_half(mean, nan if half is None else half)


def _with_half(mean: float, half: float) -> str:
    return f"{mean:.2f}" + ("" if isnan(half) else f" ±{half:.2f}")


def _number(value: float) -> str:
    return "-" if isnan(value) else f"{value:.2f}"


def clock(seconds: float) -> str:
    """1:05 or 1:01:05."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
