"""What all commands share: the terminal, exit codes, a running Ray, and errors without tracebacks."""

from __future__ import annotations

import gc
import logging
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import ceil
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console

from env_registry.failures import ProgramError
from env_registry.parameters import SettingError
from rllib_empathy.tracking.store import STORE_VARIABLES

if TYPE_CHECKING:
    from rllib_empathy.experiments.experiment import Experiment
    from rllib_empathy.tracking.tracker import Tracker

MlflowStore = Annotated[
    str | None,
    typer.Option(
        envvar=list(STORE_VARIABLES),
        help="MLflow store: a tracking URI, or 'off'; default: the file mlflow.db in the folder of all runs.",
        show_default=False,
    ),
]
"""The option --mlflow of all commands that train."""

WaitForNodes = Annotated[float, typer.Option(min=0, help="Seconds to wait for a cluster to have enough nodes.")]
"""The option --wait of all commands that train on clusters."""

FAILED, WRONG_INPUT, INTERRUPTED = 1, 2, 130
"""Exit codes."""


@contextmanager
def ray_running(address: str | None, cpus: float) -> Iterator[None]:
    """A Ray for a run: the one that runs in this process already, the cluster at `address`, or a new local one.

    Args:
        address: of a cluster; None: this machine.
        cpus: that the run needs, on this machine even if it has fewer.
    """
    import ray

    from rllib_empathy.cluster.preflight import check_reachable

    if ray.is_initialized():
        yield
        return
    check_reachable(address or "local")
    local = {"num_cpus": max(os.cpu_count() or 1, ceil(cpus)), "include_dashboard": False} if address is None else {}
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **local)
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        fail(f"Ray at {address or 'this machine'} cannot be used: {error}", FAILED)
    try:
        yield
    finally:
        gc.collect()  # a reference to a remote object that is collected while Ray shuts down ends the process
        ray.shutdown()


def cpus_of(settings: Experiment) -> int:
    """A run's processes: its own, runners and Learners."""
    return 1 + settings.env_runners.num_env_runners + settings.learners.num_learners


@contextmanager
def interruptible(console: Console) -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM end training after the iteration under way, with a checkpoint; a second Ctrl-C ends it at once."""
    asked = False

    def ask(number: int, frame: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        console.print("Stopping after this iteration, with a checkpoint. Press Ctrl-C again to stop at once.")

    earlier = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


@contextmanager
def clear_errors() -> Iterator[None]:
    """Wrong input, and errors of a user's own code, end the command with their message, and nothing else."""
    from rllib_empathy.cluster.errors import ClusterError
    from rllib_empathy.experiments.errors import CheckpointError, RunFolderError

    try:
        yield
    except (SettingError, CheckpointError, RunFolderError, ClusterError) as error:
        fail(str(error), WRONG_INPUT)
    except ProgramError as error:
        fail(str(error), FAILED)


@contextmanager
def disk_errors(what: str, then: str = "") -> Iterator[None]:
    """A disk that is full or gone ends the command with what it prevented, and what to do next."""
    try:
        yield
    except OSError as error:
        fail(f"{what}: {error}. {then}".rstrip(), FAILED)


@contextmanager
def tracked(tracker: Tracker) -> Iterator[Tracker]:
    """Copies a run's folder to MLflow while the run goes on, and says so where that has failed."""
    with tracker:
        yield tracker
    tell_problem(tracker)


def tell_problem(tracker: Tracker) -> None:
    """Says what MLflow has not got, if anything."""
    if tracker.problem:
        terminal(stderr=True).print(
            f"MLflow at {tracker.uri} has not got all of it ({tracker.problem}). Nothing is lost: the run's folder has it.",
            style="yellow",
            soft_wrap=True,
            highlight=False,
            markup=False,
        )


def fail(message: str, code: int) -> NoReturn:
    """Ends the command with a message on stderr."""
    terminal(stderr=True).print(message, style="red", soft_wrap=True, highlight=False, markup=False)
    raise typer.Exit(code)


def terminal(stderr: bool = False) -> Console:
    """Where results are printed."""
    return Console(stderr=stderr)


def prepare() -> None:
    """Settings of this process, to be made before Ray and PyTorch are imported; the user's own come first."""
    # Networks are small: threads that share one product wait for each other longer than they compute.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray.rllib  # which sets its loggers' levels when it is imported

    # RLlib's notes on its own deprecations and API stacks are nothing to a user of ours.
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    for logger in (ray.__name__, ray.rllib.__name__):
        logging.getLogger(logger).setLevel(logging.ERROR)
    # It logs an exception of a user's on a runner with some sixty lines of traceback. The command ends with its text.
    logging.getLogger("ray.rllib.utils.actor_manager").setLevel(logging.CRITICAL)
