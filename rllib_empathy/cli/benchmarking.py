"""`rllib-empathy bench`."""

from __future__ import annotations

import importlib
import sys
from typing import Annotated

import typer

from env_registry.parameters import SettingError
from rllib_empathy.cli.common import clear_errors
from rllib_empathy.shipped import shipped


def bench(
    only: Annotated[list[str] | None, typer.Option(help="Name of a benchmark; may be repeated. Default: all.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Run the benchmarks of a checkout."""
    with clear_errors():
        try:
            folder = shipped("benchmarks")
        except FileNotFoundError:
            raise SettingError(
                "Benchmarks come with a checkout of the repository, not with the installed package."
            ) from None
        sys.path.insert(0, str(folder.parent))
        importlib.import_module("benchmarks.run").main(json=json, only=only)
