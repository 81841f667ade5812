"""What trials are compared by: columns of metrics.csv, and what only agents or Learners log."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import combinations, permutations
from math import nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEARNED, LARGEST, OF_AGENT, TOP, REST = "learned/", "largest_share/", "event_share/", "top/", "rest/"

OF_AGENTS = ("agent_return", "agent_return_after_gifts", "gift_received", "gift_given")
"""What is told of the agent with most of an event, beside its other events."""


def measure(columns: Mapping[str, Any], name: str) -> Any:
    """A number of one trial, or a curve of them; NaN where there is none.

    - the name of a column: that one;
    - `learned/NAME`: the mean over all agents that log NAME while they learn, like `gift_share_when/waste_cleaned`; `*` stands
      for any name, so that `learned/gift_share/*` is the mean over all pairs of agents;
    - `event_share/EVENT/AGENT`: the share of an event among all events of an agent, like own coins among all that it takes;
    - `events/EVENT+EVENT`: how often either event happens;
    - `largest_share/EVENT`: the share of an event's count that falls to the agent that has most of it, from 1/N to 1;
    - `top/EVENT/NAME`: the column NAME of that agent, like its `agent_return`, wherever it sits; `rest/EVENT/NAME`: the mean of
      all others.

    Args:
        columns: of a metrics.csv, each a number or `[iterations]`.
        name: of the measure.
    """
    if name in columns:
        return columns[name]
    if name.startswith(LEARNED):
        pattern = re.escape(name.removeprefix(LEARNED)).replace(r"\*", "[^/]+")
        found = _columns(columns, f"learner/[^/]+/{pattern}")
        known = ~np.isnan(found)
        return _ratio(np.where(known, found, 0).sum(0), known.sum(0)) if len(found) else nan
    if name.startswith(LARGEST):
        found = _columns(columns, rf"agent_events/{re.escape(name.removeprefix(LARGEST))}/\d+")
        return _ratio(found.max(0), found.sum(0)) if len(found) else nan
    if name.startswith(OF_AGENT):
        event, _, agent = name.removeprefix(OF_AGENT).rpartition("/")
        found = _columns(columns, rf"agent_events/[^/]+/{re.escape(agent)}")
        return _ratio(columns.get(f"agent_events/{event}/{agent}", nan), found.sum(0)) if len(found) else nan
    if name.startswith((TOP, REST)):
        whose, event, column = name.split("/", 2)
        return _by_rank(columns, event, column, top=f"{whose}/" == TOP)
    if name.startswith("events/") and "+" in name:
        return sum(columns.get(f"events/{event}", nan) for event in name.removeprefix("events/").split("+"))
    return nan


def measured_names(columns: Sequence[str]) -> list[str]:
    """The measures that are known to exist before anything has run.

    Args:
        columns: of metrics.csv that describe episodes.
    """
    events = [name.removeprefix("events/") for name in columns if name.startswith("events/")]
    agents = sum(name.startswith("agent_return/") for name in columns)
    learned = [f"gift_share_{when}/{event}" for event in events for when in ("when", "otherwise")]
    pairs = ["*", *(f"agent_{giver}_to_{other}" for giver, other in permutations(range(agents), 2))]
    learned += [f"{what}/{pair}" for what in ("gift_share", "gift_share_std", "gift_amount") for pair in pairs]
    return [
        *columns,
        "equality_after_gifts",
        *(f"agent_return_after_gifts/{agent}" for agent in range(agents)),
        *(f"events/{one}+{other}" for one, other in combinations(events, 2)),
        *(f"{LARGEST}{event}" for event in events),
        *(
            f"{whose}{event}/{column}"
            for whose in (TOP, REST)
            for event in events
            for column in (*OF_AGENTS, *(f"agent_events/{other}" for other in events))
        ),
        *(f"{OF_AGENT}{event}/{agent}" for event in events for agent in range(agents)),
        *(f"{LEARNED}{name}" for name in (*learned, "perspective_accuracy")),
    ]


def _by_rank(columns: Mapping[str, Any], event: str, column: str, top: bool) -> Any:
    """Of the agent with most of an event, or of all others."""
    agents = range(sum(re.fullmatch(rf"agent_events/{re.escape(event)}/\d+", name) is not None for name in columns))
    if not agents:
        return nan
    counts = np.array([columns[f"agent_events/{event}/{agent}"] for agent in agents])
    first = counts.argmax(0) == np.arange(len(agents)).reshape(-1, *[1] * (counts.ndim - 1))
    values = np.full(counts.shape, nan)
    for agent in agents:
        of_agent = rf"{re.escape(column)}/{agent}|learner/[^/]+/{re.escape(column)}/agent_{agent}"
        for found in _columns(columns, of_agent):
            values[agent] = found
    chosen = first if top else ~first
    return _ratio(np.where(chosen, values, 0).sum(0), chosen.sum(0))


def _columns(columns: Mapping[str, Any], names: str) -> NDArray[np.float64]:
    """Those whose names fit, one after the other."""
    return np.array([values for name, values in columns.items() if re.fullmatch(names, name)], dtype=np.float64)


def _ratio(above: Any, below: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(below > 0, above / below, nan))
