"""`rllib-empathy report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rllib_empathy.cli.common import FAILED, clear_errors, fail, prepare, terminal


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of runs, or of studies for their trials; runs that differ by their seed only are put together."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The page.")] = Path("report.html"),
    replay: Annotated[bool, typer.Option(help="Play and show an episode of each experiment.")] = True,
    seed: Annotated[int, typer.Option(min=0, help="Of that episode.")] = 0,
) -> None:
    """Write one HTML page on some runs: curves, social metrics, who gave what to whom, an episode."""
    prepare()
    from rllib_empathy.experiments.errors import RunFolderError
    from rllib_empathy.report.page import write_report

    with clear_errors():
        try:
            write_report(runs, out, replay, seed)
        except RunFolderError:
            raise
        except OSError as error:
            fail(
                f"The report cannot be written to {out}: {error.strerror or error}. Choose another file with --out.",
                FAILED,
            )
    terminal().print(f"report: {out}", soft_wrap=True, highlight=False)
