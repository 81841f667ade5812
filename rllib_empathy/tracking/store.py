"""Where MLflow keeps what it is told, and whether it can be reached."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from env_registry.parameters import SettingError

if TYPE_CHECKING:
    from mlflow import MlflowClient

OFF = "off"
"""What is given in place of a store to do without one."""

# The user's own settings come first. A server that is down is reported after seconds, not after minutes of retries.
_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


def store_uri(asked: str | None, out: Path) -> str | None:
    """The store to use; None for none.

    Args:
        asked: an MLflow tracking URI, "off", or None for the file mlflow.db in the folder of all runs.
        out: that folder.

    Raises:
        SettingError: the store that was asked for cannot be used.
    """
    if asked == OFF:
        return None
    if not asked:
        return f"sqlite:///{out.absolute() / 'mlflow.db'}"
    _check(asked)
    return asked


def client(uri: str) -> MlflowClient:
    """MLflow's client of the store. Imports MLflow, which takes seconds."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return MlflowClient(uri)


def artifacts_beside(uri: str) -> str | None:
    """Where a store in a file keeps its artifacts; None for other stores, which have a place of their own."""
    if not uri.startswith("sqlite:///"):
        return None
    return (Path(uri.removeprefix("sqlite:///")).absolute().parent / "mlartifacts").as_uri()


def _check(uri: str) -> None:
    if not urlsplit(uri).scheme:
        raise SettingError(
            f"MLflow store {uri!r}: give a URI, for instance http://HOST:5000 or sqlite:///PATH/mlflow.db, or {OFF!r}."
        )
    try:
        client(uri).search_experiments(max_results=1)
    except Exception as error:  # of MLflow, of its database's driver, of the network
        reason = str(error).strip().splitlines()[0][:300]
        raise SettingError(
            f"MLflow store {uri!r} cannot be used: {reason}. Start it, give another one with --mlflow, or do without by "
            f"--mlflow {OFF}."
        ) from error
