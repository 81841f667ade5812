"""Runs the benchmarks and prints one table. All ratios are of things measured in the same run."""

from __future__ import annotations

import json as json_format
import logging
import os
import platform
import warnings
from collections.abc import Mapping
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks import memory, networks, reciprocity, scaling, social, training, users, worlds
from benchmarks.measure import BENCHMARKS, Row, Scale
from env_registry.parameters import unknown_name

__all__ = ["main", "memory", "networks", "reciprocity", "scaling", "social", "training", "users", "worlds"]


def main(json: bool = False, only: list[str] | None = None, scale: Scale = "full") -> list[dict[str, Any]]:
    """Runs benchmarks, shows their figures and returns them.

    Args:
        json: print the rows as JSON instead of a table.
        only: names of benchmarks; default: all.
        scale: "tiny" only shows that everything runs.

    Raises:
        SettingError: there is no such benchmark.
    """
    for name in only or ():
        if name not in BENCHMARKS:
            raise unknown_name("benchmark", name, BENCHMARKS)
    logging.getLogger("ray").setLevel(logging.ERROR)
    console = Console(stderr=json)
    rows: list[Row] = []
    with warnings.catch_warnings(), console.status("") as status:
        warnings.simplefilter("ignore")
        for name in only or BENCHMARKS:
            status.update(name)
            rows += BENCHMARKS[name](scale)
    results = [{**found._asdict(), "parts": dict(found.parts)} for found in rows]
    if json:
        Console().print_json(json_format.dumps(results))
    else:
        console.print(table(rows))
    return results


def table(rows: list[Row]) -> Table:
    """The rows as people read them."""
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    shown = Table(title=f"Benchmarks ({machine}, Python {platform.python_version()}, torch {torch.__version__})")
    for column in ("name", "figure", "unit", "ratio", "target", "reached"):
        shown.add_column(column, justify="right" if column in ("figure", "ratio") else "left")
    for found in rows:
        shown.add_row(
            "\n".join([found.name, *([f"  {shares(found.parts)}"] if found.parts else [])]),
            number(found.figure),
            found.unit,
            "" if found.ratio is None else f"{found.ratio:.2f}",
            found.target,
            {True: "[green]yes[/]", False: "[red]no[/]", None: ""}[found.reached],
        )
    return shown


def shares(parts: Mapping[str, float]) -> str:
    """Shares of at least one per cent, as people read them."""
    return ", ".join(f"{part} {share:.0%}" for part, share in parts.items() if share >= 0.01)


def number(value: float) -> str:
    """Three digits, or all of a large whole number's."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    typer.run(main)
