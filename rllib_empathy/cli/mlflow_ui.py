"""`rllib-empathy ui`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from env_registry.parameters import SettingError
from rllib_empathy.cli.common import MlflowStore, clear_errors, terminal


def ui(
    out: Annotated[Path, typer.Option(help="Folder of all runs.")] = Path("runs"),
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where the pages are served.")] = 5000,
    mlflow: MlflowStore = None,
) -> None:
    """Open MLflow's pages: all runs and studies, their curves, files and registered agents. Ctrl-C ends it."""
    from rllib_empathy.tracking.store import OFF, store_uri

    with clear_errors():
        uri = store_uri(None if mlflow == OFF else mlflow, out)
        assert uri is not None
        if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
            raise SettingError(
                f"There is no MLflow store {uri}: nothing has been trained under {out}, or with --mlflow off."
            )
        if uri.startswith("http"):
            terminal().print(f"Its own pages are at {uri}.")
            return
        terminal().print(f"http://127.0.0.1:{port} shows {uri}. Ctrl-C ends it.", soft_wrap=True)
        command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--port", str(port)]
        raise typer.Exit(subprocess.call(command))
