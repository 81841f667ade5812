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

logger = logging.getLogger(__name__)

MOST_RESTARTS = 20
"""How often a killed driver is started anew."""


def drive(arguments: Sequence[str]) -> int:
    """Trains, and trains on from the last checkpoint if the training process is killed (by the kernel for its memory, say).

    Args:
        arguments: of `rllib-empathy train`.

    Returns:
        Its exit code.
    """
    environment = {"RAY_ADDRESS": "auto", "RAY_AUTH_MODE": "token", **os.environ}
    run = [] if "--run" in arguments else ["--run", datetime.now().strftime("%Y-%m-%d_%H-%M-%S")]
    command = [sys.executable, "-m", "rllib_empathy.cli", "train", *arguments, *run]
    for _ in range(1 + MOST_RESTARTS):
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


if __name__ == "__main__":
    sys.exit(drive(sys.argv[1:]))
