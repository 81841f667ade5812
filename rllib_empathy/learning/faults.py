"""What may go wrong with the machines that train, as opposed to with what they compute."""

from __future__ import annotations


class ClusterFault(RuntimeError):
    """Something that an iteration cannot do without is gone. Training can be taken up again from the last checkpoint."""
