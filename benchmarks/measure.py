"""What all benchmarks share: rows of the table, the registry, timing of contenders against each other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from statistics import median
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import ray
import torch

Scale = Literal["full", "tiny"]
"""full: what is reported; tiny: the same code in seconds, to see that it runs."""


class Row(NamedTuple):
    """One line of the table."""

    name: str
    figure: float
    unit: str
    ratio: float | None = None  # against what the name says, measured in the same run
    target: str = ""
    reached: bool | None = None
    parts: Mapping[str, float] = MappingProxyType({})  # where the time goes: part -> share


Benchmark = Callable[[Scale], list[Row]]

BENCHMARKS: dict[str, Benchmark] = {}
"""All benchmarks by name, in the order in which they run."""


def benchmark(function: Benchmark) -> Benchmark:
    """Decorator: registers a benchmark under its function's name."""
    BENCHMARKS[function.__name__] = function
    return function


def row(
    name: str,
    figure: float,
    unit: str,
    ratio: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    parts: Mapping[str, float] = MappingProxyType({}),
) -> Row:
    """A row whose target, if it has one, is about the ratio, or about the figure where there is no ratio."""
    judged = figure if ratio is None else ratio
    if at_least is not None:
        return Row(name, figure, unit, ratio, f">= {at_least:g}", judged >= at_least, parts)
    if at_most is not None:
        return Row(name, figure, unit, ratio, f"<= {at_most:g}", judged <= at_most, parts)
    return Row(name, figure, unit, ratio, parts=parts)


def seconds(
    contenders: Mapping[str, Callable[[], Any]],
    repeats: int,
    warm_up: int = 1,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, float]:
    """Median duration of a call of each contender.

    They take turns, forwards and backwards, so that whatever else the machine does in the meantime meets all of them.

    Args:
        contenders: by name.
        repeats: calls of each that are timed.
        warm_up: calls of each before that.
        clock: this process's CPU time, which other work on the machine hardly changes; `time.perf_counter` where
            several processes work together.
    """
    durations: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(warm_up):
        for run in contenders.values():
            run()
    for repeat in range(repeats):
        for name in list(contenders)[:: -1 if repeat % 2 else 1]:
            begin = clock()
            contenders[name]()
            durations[name].append(clock() - begin)
    return {name: median(values) for name, values in durations.items()}


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch computes with one thread inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def local_ray(num_cpus: int = 4) -> Iterator[None]:
    """A Ray of this process, unless one is running already; its CPUs are slots, not cores."""
    if ray.is_initialized():
        yield
        return
    ray.init(
        address="local",
        num_cpus=num_cpus,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=256 * 2**20,
    )
    try:
        yield
    finally:
        ray.shutdown()
