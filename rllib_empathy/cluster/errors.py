"""What may be wrong with a cluster before training starts."""

from __future__ import annotations


class ClusterError(Exception):
    """The cluster cannot be reached or used; the message says why and how to mend it."""
