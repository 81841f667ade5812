"""Memory of training, in the driver (which learns) and in its runners; Linux only.

Everything runs in a fresh process, so that only what training needs is counted.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import mean
from threading import Event, Thread
from typing import Any, TypeVar

from benchmarks.contenders import Batch, empathy
from benchmarks.measure import Row, Scale, benchmark, local_ray, one_thread, row
from rllib_empathy.learning.config import EmpathyConfig

STATUS = Path("/proc/self/status")

LARGE: dict[Scale, tuple[Batch, int]] = {"full": (Batch(1024, 100), 3), "tiny": (Batch(4, 5), 1)}
"""The batch that has to fit, and iterations."""

RUNNERS: dict[Scale, tuple[int, ...]] = {"full": (0, 2), "tiny": (0,)}
"""Numbers of remote runners with which it has to fit."""

SOAK: dict[Scale, tuple[Batch, int]] = {"full": (Batch(16, 10), 1000), "tiny": (Batch(4, 5), 20)}
"""The batch of the long run, and iterations."""

NO_GROWTH = 4.0
"""MiB over the last seven tenths of the soak that are no growth yet."""

DOCS = Path(__file__).parents[1] / "docs"
"""Where the curve of a full soak goes."""

T = TypeVar("T")
Curve = list[tuple[int, float, float]]
"""(iteration, MiB of the driver, MiB of its runner)"""


def private() -> float:
    """MiB that only this process has."""
    lines = STATUS.read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon:"))


def in_fresh_process(function: Callable[..., T], *arguments: Any) -> T:
    """What `function(*arguments)` returns in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def proportional(process: int) -> int:
    """Resident bytes of a process, shared pages counted in equal parts for those who share them; 0 if it is gone."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


class Watch(Thread):
    """Notes the largest sum of the memory of some processes, twenty times a second.

    Args:
        processes: their numbers.

    Attributes:
        peak: bytes of each at the moment when they had most together.
    """

    def __init__(self, processes: Sequence[int]) -> None:
        super().__init__(daemon=True)
        self._processes = processes
        self._over = Event()
        self.peak = [0] * len(processes)

    def run(self) -> None:
        """Looks until `stop`."""
        while not self._over.wait(0.05):
            now = [proportional(process) for process in self._processes]
            self.peak = max(self.peak, now, key=sum)

    def stop(self) -> list[int]:
        """Ends it and returns `peak`."""
        self._over.set()
        self.join()
        return self.peak


def peaks(config: EmpathyConfig, iterations: int) -> list[int]:
    """Bytes of the driver and of its remote runners when they have most together."""
    with one_thread(), local_ray():
        algorithm = config.build_algo()
        processes = [os.getpid()]
        if config.num_env_runners:
            processes += algorithm.env_runner_group.foreach_env_runner(lambda _: os.getpid(), local_env_runner=False)
        watch = Watch(processes)
        watch.start()
        for _ in range(iterations):
            algorithm.train()
        found = watch.stop()
        algorithm.stop()
    return found


def curve(config: EmpathyConfig, iterations: int) -> Curve:
    """Private memory of the driver and one remote runner over a long run, a hundred points."""
    points: Curve = []
    every = max(1, iterations // 100)
    with one_thread(), local_ray():
        algorithm = config.build_algo()
        for iteration in range(1, iterations + 1):
            algorithm.train()
            if iteration % every == 0:
                (runner,) = algorithm.env_runner_group.foreach_env_runner(lambda _: private(), local_env_runner=False)
                points.append((iteration, private(), runner))
        algorithm.stop()
    return points


def growth(values: list[float]) -> float:
    """How much the last tenth lies above the tenth after the first fifth, by when all that is made once is there."""
    tenth = max(1, len(values) // 10)
    return mean(values[-tenth:]) - mean(values[2 * tenth : 3 * tenth])


@benchmark
def memory(scale: Scale) -> list[Row]:
    """Training Cleanup with 4 agents: peak of all processes but Ray's own."""
    if not STATUS.exists():
        return []
    batch, iterations = LARGE[scale]
    found = []
    for runners in RUNNERS[scale]:
        gib = [peak / 2**30 for peak in in_fresh_process(peaks, empathy(batch, runners=runners), iterations)]
        each = " + ".join(f"{peak:.2f}" for peak in gib)
        name = f"memory, {batch}, {runners} remote runners: {each}"
        found.append(row(name, sum(gib), "GiB", at_most=2))
    return found


@benchmark
def soak(scale: Scale) -> list[Row]:
    """A thousand iterations: growth of memory in the driver and in a remote runner."""
    if not STATUS.exists():
        return []
    batch, iterations = SOAK[scale]
    points = in_fresh_process(curve, empathy(batch, runners=1), iterations)
    if scale == "full":
        save(points)
    _, driver, runner = (list(column) for column in zip(*points, strict=True))
    found = []
    for name, values in (("driver", driver), ("runner", runner)):
        title = f"soak, {iterations} iterations: growth of the {name} of {values[-1]:.0f} MiB"
        found.append(row(title, growth(values), "MiB", at_most=NO_GROWTH))
    return found


def save(points: Curve) -> None:
    """Writes the curve as a table and as a picture."""
    with (DOCS / "soak.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("iteration", "driver_mib", "runner_mib"))
        writer.writerows((iteration, f"{driver:.1f}", f"{runner:.1f}") for iteration, driver, runner in points)
    import matplotlib as mpl  # here, since runners import this module too

    mpl.use("Agg")
    from matplotlib import pyplot

    iterations, driver, runner = zip(*points, strict=True)
    figure, axes = pyplot.subplots(figsize=(6, 3), layout="constrained")
    axes.plot(iterations, driver, label="driver")
    axes.plot(iterations, runner, label="runner")
    axes.set(xlabel="iteration", ylabel="private memory (MiB)", ylim=(0, None))
    axes.legend(loc="lower right")
    figure.savefig(DOCS / "soak.png", dpi=80)
    pyplot.close(figure)
