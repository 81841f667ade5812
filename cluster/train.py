"""Runs `rllib-empathy train` on the cluster that this machine is the head of.

ray submit CLUSTER.yaml cluster/train.py EXPERIMENT
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("RAY_ADDRESS", "auto")
os.environ.setdefault("RAY_AUTH_MODE", "token")

if __name__ == "__main__":
    from rllib_empathy.cli import app

    sys.exit(app(["train", *sys.argv[1:]]))
