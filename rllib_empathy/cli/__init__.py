"""The command line, one file per command: `rllib-empathy --help`.

Commands import what they need when they run, so that each starts as fast as it can.
"""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from rllib_empathy.cli.benchmarking import bench
from rllib_empathy.cli.evaluation import evaluate
from rllib_empathy.cli.exporting import export
from rllib_empathy.cli.listing import agents, envs
from rllib_empathy.cli.mlflow_ui import ui
from rllib_empathy.cli.reporting import report
from rllib_empathy.cli.reproduction import reproduce
from rllib_empathy.cli.schelling import schelling
from rllib_empathy.cli.submitting import submit
from rllib_empathy.cli.tournament import tournament
from rllib_empathy.cli.training import train
from rllib_empathy.cli.tuning import tune
from rllib_empathy.theory.cli import app as theory

__all__ = ["app"]

app = typer.Typer(
    help="Empathetic and reciprocal agents for mixed-motive games, on Ray RLlib.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def start() -> None:
    """What comes before every command: modules in the working directory are found, however the command was started.

    `python -m` and Ray's processes do the same. PYTHONSAFEPATH leaves it out, as Python itself does.
    """
    here = str(Path.cwd())
    safe = getattr(sys.flags, "safe_path", False)  # since Python 3.11
    if not safe and here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)


for command in (
    train,
    tune,
    reproduce,
    ui,
    evaluate,
    envs,
    agents,
    bench,
    schelling,
    submit,
    tournament,
    export,
    report,
):
    app.command()(command)
app.add_typer(theory, name="theory")
