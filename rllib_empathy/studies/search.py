"""Values of a search: drawn, enumerated, and kept within their bounds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import numpy as np
from ray import tune
from ray.tune.search.sample import Domain

from rllib_empathy.experiments.study import Sampler

Values = dict[str, Any]
"""Dotted key -> value."""


def domain(sampler: Sampler) -> Domain:
    """Tune's sampler of the same name, for any but a grid."""
    arguments = getattr(sampler, sampler.kind)
    made: Domain = tune.choice(arguments) if sampler.kind == "choice" else getattr(tune, sampler.kind)(*arguments)
    return made


def samples(search: Mapping[str, Sampler], num_samples: int, seed: int) -> list[Values]:
    """All points of the grids, each with `num_samples` draws from the other samplers.

    The same seed gives the same values, whatever else is drawn from.
    """
    grids = {key: sampler.grid for key, sampler in search.items() if sampler.grid is not None}
    domains = {key: domain(sampler) for key, sampler in search.items() if sampler.grid is None}
    generator = np.random.default_rng(seed)
    found: list[Values] = []
    for point in product(*grids.values()):
        for _ in range(num_samples):
            drawn = {key: _plain(made.sample(random_state=generator)) for key, made in domains.items()}
            at = {**dict(zip(grids, point, strict=True)), **drawn}
            found.append({key: at[key] for key in search})
    return found


def extremes(search: Mapping[str, Sampler]) -> Iterator[Values]:
    """Points that together show every end of every range and every listed value, one key at a time."""
    ends = {key: _ends(sampler) for key, sampler in search.items()}
    middle = {key: values[0] for key, values in ends.items()}
    for key, values in ends.items():
        for value in values:
            yield {**middle, key: value}


def within(search: Mapping[str, Sampler], values: Values) -> Values:
    """The same values, with those moved back that lie outside of their sampler's range."""
    return {key: _clipped(search[key], value) for key, value in values.items()}


def _ends(sampler: Sampler) -> list[Any]:
    arguments = getattr(sampler, sampler.kind)
    if sampler.kind in ("choice", "grid"):
        return list(arguments)
    low, high = arguments
    return [low, high - 1 if sampler.kind.endswith("randint") else high]


def _clipped(sampler: Sampler, value: Any) -> Any:
    if sampler.kind in ("choice", "grid"):
        return value
    low, high = _ends(sampler)
    return type(low)(min(max(value, low), high))


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
