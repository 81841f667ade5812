"""Where MLflow keeps what it is told, and whether it can be reached."""

from __future__ import annotations

import logging
import os
from http.client import HTTPException
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

from env_registry.parameters import SettingError

if TYPE_CHECKING:
    from mlflow import MlflowClient

OFF = "off"
"""What is given in place of a store to do without one."""

STORE_VARIABLES = ("RLLIB_EMPATHY_MLFLOW", "MLFLOW_TRACKING_URI")
"""Where the environment names a store, the first of these that is set; the option --mlflow comes before them."""

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


def check_form(uri: str) -> None:
    """Checks that this can be an MLflow store; nobody is asked.

    Raises:
        SettingError: it is neither a URI nor "off".
    """
    if uri != OFF and not urlsplit(uri).scheme:
        raise SettingError(
            f"MLflow store {uri!r}: give a URI, for instance http://HOST:5000 or sqlite:///PATH/mlflow.db, or {OFF!r}."
        )


def wait_for_server(uri: str, seconds: float) -> bool:
    """Waits until a tracking server answers, whatever it says, and returns whether it has; other stores are there already.

    Args:
        uri: of the store.
        seconds: at most.
    """
    if not uri.startswith(("http://", "https://")):
        return True
    deadline = monotonic() + seconds
    while True:
        try:
            with urlopen(f"{uri.rstrip('/')}/health", timeout=5):
                return True
        except HTTPError:  # noqa: PERF203
            return True
        except (OSError, HTTPException, ValueError):
            if monotonic() > deadline:
                return False
            sleep(1)


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
    check_form(uri)
    try:
        client(uri).search_experiments(max_results=1)
    except Exception as error:  # of MLflow, of its database's driver, of the network
        reason = str(error).strip().splitlines()[0][:300]
        raise SettingError(
            f"MLflow store {uri!r} cannot be used: {reason}. Start it, give another one with --mlflow, or do without by "
            f"--mlflow {OFF}."
        ) from error
