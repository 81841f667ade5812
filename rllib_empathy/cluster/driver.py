"""The process that a cluster runs for an experiment: `rllib-empathy train`, started anew where it is killed.

python -m rllib_empathy.cluster.driver EXPERIMENT [options of `rllib-empathy train`]
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from rllib_empathy.tracking.store import STORE_VARIABLES, wait_for_server

logger = logging.getLogger(__name__)

MOST_RESTARTS = 20
"""How often a killed driver is started anew."""

STARTED_ANEW = "RLLIB_EMPATHY_STARTED_ANEW"
"""Set for a driver that goes on where one was killed: if that was behind the run's end, the job has succeeded all the same."""

SECONDS_FOR_MLFLOW = 120.0
"""How long the first driver waits for an MLflow server, which a new cluster starts at the same time."""


def drive(arguments: Sequence[str]) -> int:
    """Trains, and trains on from the last checkpoint if the training process is killed (by the kernel for its memory, say).

    Args:
        arguments: of `rllib-empathy train`.

    Returns:
        Its exit code.
    """
    uri = _store(arguments)
    if uri and not wait_for_server(uri, SECONDS_FOR_MLFLOW):
        logger.warning("MLflow at %s has not answered for %.0f s.", uri, SECONDS_FOR_MLFLOW)
    environment = {"RAY_ADDRESS": "auto", "RAY_AUTH_MODE": "token", **os.environ}
    run = [] if "--run" in arguments else ["--run", datetime.now().strftime("%Y-%m-%d_%H-%M-%S")]
    command = [sys.executable, "-m", "rllib_empathy.cli", "train", *arguments, *run]
    for attempt in range(1 + MOST_RESTARTS):
        if attempt:
            environment[STARTED_ANEW] = "1"
        child = subprocess.Popen(command, env=environment)

        def pass_on(number: int, frame: Any, child: subprocess.Popen[bytes] = child) -> None:
            child.send_signal(number)

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, pass_on)
        code = child.wait()
        if code >= 0:
            return code
        logger.warning("The driver was killed (%s). It goes on from its last checkpoint.", signal.Signals(-code).name)
    return 1


def _store(arguments: Sequence[str]) -> str | None:
    """The MLflow store that training will use, by the same order: its option, then the environment."""
    for place, argument in enumerate(arguments):
        if argument == "--mlflow":
            return arguments[place + 1] if place + 1 < len(arguments) else None
        if argument.startswith("--mlflow="):
            return argument.partition("=")[2]
    return next(filter(None, map(os.environ.get, STORE_VARIABLES)), None)


if __name__ == "__main__":
    sys.exit(drive(sys.argv[1:]))
