"""What a run logs: one row of flat, named numbers per iteration, in a CSV file that grows line by line."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from math import isnan, nan
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rllib_empathy.population import Member, Population
from rllib_empathy.sampling.episodes import SOCIAL

Values = NDArray[np.float64]

_OF_A_PAIR = re.compile(r"learner/[^/]+/(.+)/agent_(\d+)_to_(\d+)")

Row = dict[str, float]
"""Name of a column -> number, counts as `int`; NaN where it is not known (no episode has ended yet)."""


def label(member: Member) -> str:
    """What the members of one entry of a population are called together: the entry's name, or its kind."""
    return member.module_id.removesuffix(f"_{member.agents[0]}")


def labels(population: Population) -> dict[str, list[int]]:
    """Label -> its agents."""
    found: dict[str, list[int]] = {}
    for member in population.members:
        found.setdefault(label(member), []).extend(member.agents)
    return found


def episode_columns(population: Population, event_names: Sequence[str]) -> list[str]:
    """Names of the columns that describe episodes; means over those that ended in the iteration.

    `group_return` is the sum over agents (the collective return), `kind_return/LABEL` the mean over the agents of an entry of
    the population, `events/NAME` the sum over agents.
    """
    agents = range(len(population.module_of_agent))
    return [
        "episode_length",
        "group_return",
        *(f"kind_return/{name}" for name in labels(population)),
        *(f"agent_return/{agent}" for agent in agents),
        *(f"events/{name}" for name in event_names),
        *(f"agent_events/{name}/{agent}" for name in event_names for agent in agents),
    ]


def between_agents(metrics: Mapping[str, Values]) -> dict[str, dict[tuple[int, int], Values]]:
    """What Learners log of pairs of agents: name (like gift_share) -> (who acts, whom it concerns) -> column."""
    found: dict[str, dict[tuple[int, int], Values]] = {}
    for column, values in metrics.items():
        pair = _OF_A_PAIR.fullmatch(column)
        if pair:
            found.setdefault(pair[1], {})[int(pair[2]), int(pair[3])] = values
    return found


def is_curated(column: str) -> bool:
    """Whether a column is of the few by which runs are looked at from afar: none of single agents or of Learners."""
    return not column.startswith(("agent_", "learner/", "evaluation/agent_"))


def flat_metrics(
    result: Mapping[str, Any], population: Population, event_names: Sequence[str], seconds: float, resumes: int = 0
) -> Row:
    """The row of an iteration.

    Args:
        result: what `Empathy.train` gave.
        population: who plays.
        event_names: the world's.
        seconds: of training so far.
        resumes: how often training was taken up again so far, by hand or after a fault.
    """
    sampled = result["env_runners"]
    timers, faults = result["timers"], result["fault_tolerance"]
    row: Row = {
        "iteration": result["training_iteration"],
        "env_steps": int(sampled["num_env_steps_sampled_lifetime"]),
        "seconds": round(seconds, 3),
        "steps_per_second": round(sampled["num_env_steps_sampled"] / max(result["time_this_iter_s"], 1e-9), 1),
        "seconds_sampling": timers["env_runner_sampling_timer"],
        "seconds_learning": timers["learner_update_timer"],
        "episodes": int(sampled["num_episodes"]),
        "resumes": resumes,
        "remote_runners": int(faults["num_healthy_workers"]),
        "runner_restarts": int(faults["num_remote_worker_restarts"]),
        **_episode_metrics(sampled, population, event_names),
    }
    row.update(_after_gifts(result.get("learners", {}).get("__all_modules__", {})))
    for module, statistics in sorted(result.get("learners", {}).items()):
        if module != "__all_modules__":
            for name, value in sorted(statistics.items()):
                if not name.startswith("num_"):
                    row[f"learner/{module}/{name}"] = float(value)
    evaluated = result.get("evaluation", {}).get("env_runners")
    if evaluated:
        metrics = _episode_metrics(evaluated, population, event_names)
        row.update({f"evaluation/{name}": value for name, value in metrics.items()})
    return row


def _episode_metrics(sampled: Mapping[str, Any], population: Population, event_names: Sequence[str]) -> Row:
    """The columns of `episode_columns`, NaN where no episode has ended yet, and then the outcomes of episodes."""
    returns = sampled.get("agent_episode_returns_mean", {})
    events, agent_events = sampled.get("events_mean", {}), sampled.get("agent_events_mean", {})
    agents = range(len(population.module_of_agent))
    of_agent = [float(returns.get(f"agent_{agent}", nan)) for agent in agents]
    values = [
        sampled.get("episode_len_mean", nan),
        sampled.get("episode_return_mean", nan),
        *(sum(of_agent[agent] for agent in own) / len(own) for own in labels(population).values()),
        *of_agent,
        *(events.get(name, nan) for name in event_names),
        *(agent_events.get(name, {}).get(f"agent_{agent}", nan) for name in event_names for agent in agents),
    ]
    columns = zip(episode_columns(population, event_names), values, strict=True)
    return {name: float(value) for name, value in (*columns, *sampled.get("outcomes_mean", {}).items())}


def is_outcome(name: str) -> bool:
    """Whether a column of metrics.csv is a social metric or a measure of cooperation."""
    return name in (*SOCIAL, "peace", "equality_after_gifts") or name.startswith("cooperation/")


def _after_gifts(learned: Mapping[str, Any]) -> Row:
    """What agents had at the ends of episodes after all gifts; nothing where nobody gives."""
    returns = learned.get("agent_returns_after_gifts_mean", {})
    row = {f"agent_return_after_gifts/{agent.removeprefix('agent_')}": float(mean) for agent, mean in returns.items()}
    if row:
        row["equality_after_gifts"] = float(learned["equality_after_gifts_mean"])
    return row


class MetricsTable:
    """A CSV file of rows. Each row is on disk when `append` returns, and is read back as just the numbers that were written.

    Args:
        path: the file; it is continued if it exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._columns = _header(path) if path.exists() else []

    def append(self, row: Row) -> None:
        """Adds a row; columns that are new are added behind the others.

        Raises:
            OSError: the disk is full or gone.
        """
        new = [name for name in row if name not in self._columns]
        if new:
            self._rewrite(list(_rows(self.path)) if self._columns else [], [*self._columns, *new])
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow([_written(row.get(name, nan)) for name in self._columns])

    def cut(self, last_iteration: int) -> Row:
        """Removes the rows behind this iteration, which a resumed run plays again, and returns the last that stays."""
        kept = rows_until(self.path, last_iteration) if self._columns else []
        self._rewrite(kept, self._columns)
        return kept[-1] if kept else {}

    def _rewrite(self, rows: Sequence[Row], columns: list[str]) -> None:
        partial = self.path.with_suffix(".partial")
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if columns:
                writer.writerow(columns)
            writer.writerows([_written(row.get(name, nan)) for name in columns] for row in rows)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self.path)
        self._columns = columns


def read_metrics(path: Path) -> dict[str, NDArray[np.float64]]:
    """The columns of a metrics.csv, each `[iterations]`; NaN where a cell is empty.

    Raises:
        FileNotFoundError: there is no such file.
    """
    rows = list(_rows(path))
    return {name: np.array([row[name] for row in rows]) for name in (rows[0] if rows else ())}


def rows_until(path: Path, last_iteration: int) -> list[Row]:
    """The rows of a metrics.csv up to this iteration.

    Raises:
        FileNotFoundError: there is no such file.
    """
    return [row for row in _rows(path) if row["iteration"] <= last_iteration]


def _header(path: Path) -> list[str]:
    with path.open(newline="", encoding="utf-8") as file:
        return next(csv.reader(file), [])


def _rows(path: Path) -> Iterator[Row]:
    """All complete rows; one that a crash cut short is left out, also where the cut went through its last number."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(line for line in file if line.endswith("\n"))
        columns = next(reader, [])
        for cells in reader:
            if len(cells) == len(columns):
                yield {name: _read(cell) for name, cell in zip(columns, cells, strict=True)}


def _written(value: float) -> str:
    """The shortest text from which `_read` makes the same number: a count stays a count, a NaN is an empty cell."""
    if isinstance(value, int | np.integer):
        return str(int(value))
    return "" if isnan(value) else repr(float(value))


def _read(cell: str) -> float:
    if not cell:
        return nan
    return int(cell) if cell.lstrip("-").isdecimal() else float(cell)
