"""What trials are compared by: columns of metrics.csv, and what only agents or Learners log."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import permutations
from math import nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEARNED, LARGEST, OF_AGENT = "learned/", "largest_share/", "event_share/"


def measure(columns: Mapping[str, Any], name: str) -> Any:
    """A number of one trial, or a curve of them; NaN where there is none.

    - the name of a column: that one;
    - `learned/NAME`: the mean over all agents that log NAME while they learn, like `gift_share_when/waste_cleaned`;
    - `event_share/EVENT/AGENT`: the share of an event among all events of an agent, like own coins among all that it takes;
    - `largest_share/EVENT`: the share of an event's count that falls to the agent that has most of it, from 1/N to 1.

    Args:
        columns: of a metrics.csv, each a number or `[iterations]`.
        name: of the measure.
    """
    if name in columns:
        return columns[name]
    if name.startswith(LEARNED):
        found = _columns(columns, rf"learner/[^/]+/{re.escape(name.removeprefix(LEARNED))}")
        known = ~np.isnan(found)
        return _ratio(np.where(known, found, 0).sum(0), known.sum(0)) if len(found) else nan
    if name.startswith(LARGEST):
        found = _columns(columns, rf"agent_events/{re.escape(name.removeprefix(LARGEST))}/\d+")
        return _ratio(found.max(0), found.sum(0)) if len(found) else nan
    if name.startswith(OF_AGENT):
        event, _, agent = name.removeprefix(OF_AGENT).rpartition("/")
        found = _columns(columns, rf"agent_events/[^/]+/{re.escape(agent)}")
        return _ratio(columns.get(f"agent_events/{event}/{agent}", nan), found.sum(0)) if len(found) else nan
    return nan


def measured_names(columns: Sequence[str]) -> list[str]:
    """The measures that are known to exist before anything has run.

    Args:
        columns: of metrics.csv that describe episodes.
    """
    events = [name.removeprefix("events/") for name in columns if name.startswith("events/")]
    agents = sum(name.startswith("agent_return/") for name in columns)
    learned = [f"gift_share_{when}/{event}" for event in events for when in ("when", "otherwise")]
    learned += [
        f"{what}/agent_{giver}_to_{other}"
        for what in ("gift_share", "gift_share_std", "gift_amount")
        for giver, other in permutations(range(agents), 2)
    ]
    return [
        *columns,
        "equality_after_gifts",
        *(f"agent_return_after_gifts/{agent}" for agent in range(agents)),
        *(f"{LARGEST}{event}" for event in events),
        *(f"{OF_AGENT}{event}/{agent}" for event in events for agent in range(agents)),
        *(f"{LEARNED}{name}" for name in (*learned, "perspective_accuracy")),
    ]


def _columns(columns: Mapping[str, Any], names: str) -> NDArray[np.float64]:
    """Those whose names fit, one after the other."""
    return np.array([values for name, values in columns.items() if re.fullmatch(names, name)], dtype=np.float64)


def _ratio(above: Any, below: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(below > 0, above / below, nan))
