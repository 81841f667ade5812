"""Trains on the cluster that this machine is the head of.

ray submit CLUSTER.yaml cluster/train.py EXPERIMENT [options of `rllib-empathy train`]
"""

from __future__ import annotations

import os
import sys

MLFLOW = "http://127.0.0.1:5000"
"""The server that the definitions in this folder start on the head. Another one: --mlflow URI, or none: --mlflow off."""

if __name__ == "__main__":
    os.environ.setdefault("MLFLOW_TRACKING_URI", MLFLOW)  # the shell that `ray submit` opens knows nothing of it
    from rllib_empathy.cluster.driver import drive

    sys.exit(drive(sys.argv[1:]))
