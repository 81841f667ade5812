"""What can go wrong with runs on disk. For wrong settings see `env_registry.SettingError`."""

from __future__ import annotations


class RunFolderError(OSError):
    """A run folder cannot be made, written or continued; the message says why and what to do."""


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, or none of ours; the message says which and what to do."""
