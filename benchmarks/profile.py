"""A light profile of an iteration: which part of it the processor is busy with."""

from __future__ import annotations

import signal
import time
from collections import defaultdict
from collections.abc import Callable
from types import FrameType
from typing import Any

PARTS = (
    # (part, part of the file's name, function); the first part that any frame of the stack fits.
    ("world", "/env_registry/", None),
    ("influence", "/policies/influence.py", "influence"),
    ("acting", "/sampling/acting.py", None),
    ("collecting", "/rllib_empathy/sampling/", None),
    ("values", "/learning/groups.py", "trajectory_values"),
    ("inference", "/policies/social_inference.py", None),
    ("auxiliary networks", "/learning/learner.py", "_learn_beside"),
    ("gradient steps", "/learning/groups.py", "minibatches"),
    ("gradient steps", "/rllib_empathy/policies/", "losses"),
    ("gradient steps", "/learning/learner.py", "_step"),
    ("rest of learning", "/rllib_empathy/learning/learner.py", None),
    ("weights", "/env_runner_group.py", "sync_weights"),
)
OTHER = "RLlib"
"""Everything else: metrics, actors, Tune's part."""

INTERVAL = 1e-3
"""Seconds of CPU time between two looks."""


class Profile:
    """Calls a function and looks every millisecond of CPU time where it is; main thread only.

    A look may come late, after a long call into compiled code. It therefore counts for the time since the one before.

    Args:
        function: called without arguments.

    Attributes:
        parts: seconds of CPU time by part, of all calls.
    """

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self.parts: dict[str, float] = defaultdict(float)

    def __call__(self) -> None:
        """Calls the function."""
        earlier = signal.signal(signal.SIGPROF, self._look)
        self._last = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, INTERVAL, INTERVAL)
        try:
            self._function()
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, earlier)

    def shares(self) -> dict[str, float]:
        """Share of each part, largest first; they sum to 1."""
        total = sum(self.parts.values()) or 1.0
        return {part: spent / total for part, spent in sorted(self.parts.items(), key=lambda item: -item[1])}

    def _look(self, number: int, frame: FrameType | None) -> None:
        now = time.process_time()
        self.parts[part_of(frame)] += now - self._last
        self._last = now


def part_of(frame: FrameType | None) -> str:
    """The part of an iteration that a stack belongs to."""
    stack = []
    while frame is not None:
        stack.append(frame.f_code)
        frame = frame.f_back
    for part, file, function in PARTS:
        if any(file in code.co_filename and function in (None, code.co_name) for code in stack):
            return part
    return OTHER
