"""Trains on the cluster that this machine is the head of.

ray submit CLUSTER.yaml cluster/train.py EXPERIMENT [options of `rllib-empathy train`]
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    from rllib_empathy.cluster.driver import drive

    sys.exit(drive(sys.argv[1:]))
