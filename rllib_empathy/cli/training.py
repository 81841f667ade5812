"""`rllib-empathy train`."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from env_registry.failures import ProgramError
from env_registry.parameters import SettingError
from rllib_empathy.cli.common import (
    FAILED,
    INTERRUPTED,
    WRONG_INPUT,
    MlflowStore,
    WaitForNodes,
    clear_errors,
    cpus_of,
    fail,
    interruptible,
    prepare,
    ray_running,
    tell_problem,
    terminal,
    tracked,
)
from rllib_empathy.experiments.errors import RunFolderError

if TYPE_CHECKING:
    from rllib_empathy.experiments.experiment import Experiment
    from rllib_empathy.experiments.mirror import Mirror
    from rllib_empathy.experiments.run_folder import RunFolder
    from rllib_empathy.learning.config import EmpathyConfig
    from rllib_empathy.tracking.tracker import Tracker


def train(
    experiment: Annotated[
        str | None, typer.Argument(help="An experiment file, or the name of one that comes with the package.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Set a key: training.lr=0.001, population.0.kind=a2c. Repeatable.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of all runs.")] = Path("runs"),
    resume: Annotated[
        Path | None, typer.Option(help="A run folder to go on with; only stop and checkpoint can be set anew.")
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(
            help="Name of the run's folder, default: the time. A run that exists goes on from its last checkpoint."
        ),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            help="Instead of --out: a folder that all nodes of a cluster see, or s3://..., gs://... beside --out."
        ),
    ] = None,
    address: Annotated[
        str | None, typer.Option(envvar="RAY_ADDRESS", help="A Ray cluster; default: start one here.")
    ] = None,
    wait: WaitForNodes = 600,
    mlflow: MlflowStore = None,
) -> None:
    """Train the population of an experiment; everything goes to a new folder runs/NAME/RUN."""
    prepare()
    from rllib_empathy.cluster.driver import STARTED_ANEW
    from rllib_empathy.cluster.needs import places_of
    from rllib_empathy.cluster.preflight import check_nodes, wait_for_places
    from rllib_empathy.experiments.building import build_config, resolved
    from rllib_empathy.experiments.mirror import Mirror, is_uri
    from rllib_empathy.experiments.run_folder import RunFolder, check_run_name
    from rllib_empathy.experiments.training import check_goes_on
    from rllib_empathy.tracking.store import store_uri
    from rllib_empathy.tracking.tracker import Tracker

    with clear_errors():
        settings = _experiment(experiment, resume, overrides or [])
        config = build_config(settings)
        if resume and (run or storage):
            raise SettingError("--resume names a run folder already; leave --run and --storage out.")
        if run is not None:
            check_run_name(run)
        run = run or (datetime.now().strftime("%Y-%m-%d_%H-%M-%S") if storage else None)
        root = Path(storage) if storage and not is_uri(storage) else out
        uri = store_uri(mlflow, resume.absolute().parents[1] if resume else root)
        mirror = Mirror.of_run(str(storage), settings.name, str(run)) if is_uri(storage) else None
        if mirror:
            mirror.bring(root / settings.name / str(run))
        if resume:
            folder = RunFolder.open(resume)
        else:
            folder = RunFolder.take_up(root, settings, run) if run else RunFolder.create(root, settings.name)
        tracker = Tracker(uri, settings, folder.path, storage=mirror.place if mirror else None)
        try:
            check_goes_on(settings, folder)
        except SettingError as ended:
            _complete(settings, config, folder, mirror, tracker)
            if STARTED_ANEW in os.environ:
                terminal().print(str(ended), soft_wrap=True, highlight=False, markup=False)
                return
            raise
        folder.describe(settings, resolved(settings, config))
        console = terminal()
        console.print(f"Run folder: {folder.path}", soft_wrap=True, highlight=False)
        with tracked(tracker), ray_running(address, cpus_of(settings)), interruptible(console) as interrupted:
            # RLlib would wait for places for ever, and say nothing.
            wait_for_places(places_of(config), wait if address else 0, console.print)
            if address is not None:
                check_nodes(folder.path if storage and not mirror else None)
            try:
                _train(console, settings, config, folder, interrupted, mirror)
            finally:
                uploaded = _uploaded(mirror, folder)
            if not interrupted():
                tracker.finished(best=folder.path)
        if not uploaded:
            fail(f"{storage} has not got all of the run. The same command with --run {run} copies the rest.", FAILED)
        if interrupted():
            fail(f"Stopped before the end, at your request. {_resume_hint(folder)}", INTERRUPTED)


def _uploaded(mirror: Mirror | None, folder: RunFolder) -> bool:
    """Copies a run's folder to its storage, if it has one; says so where that fails, which stops no training."""
    try:
        if mirror:
            mirror.upload(folder.path)
    except RunFolderError as error:
        terminal(stderr=True).print(
            f"{error} Nothing is lost: {folder.path} has all of the run, and the next copy brings what is missing.",
            style="yellow",
            soft_wrap=True,
            highlight=False,
            markup=False,
        )
        return False
    return True


def _complete(
    settings: Experiment, config: EmpathyConfig, folder: RunFolder, mirror: Mirror | None, tracker: Tracker
) -> None:
    """Makes good what a run that has reached its end lacks, where its process was killed or a store was away at that moment."""
    from rllib_empathy.experiments.curves import draw_curves
    from rllib_empathy.experiments.metrics_table import read_metrics

    if not folder.curves.exists() and folder.metrics.exists():
        title = f"{settings.name}: {settings.environment}"
        draw_curves(read_metrics(folder.metrics), config.resolved_population(), title, folder.curves)
    _uploaded(mirror, folder)
    tracker.settle(best=folder.path)
    tell_problem(tracker)


def _experiment(source: str | None, resume: Path | None, overrides: list[str]) -> Experiment:
    """The experiment to run, from a file or from the run to go on with."""
    from rllib_empathy.experiments.experiment import load_experiment
    from rllib_empathy.experiments.run_folder import RunFolder

    if (source is None) == (resume is None):
        raise SettingError(
            "Give an experiment (a file, or a name such as quickstart), or --resume RUN_FOLDER, not both."
        )
    if resume is None:
        return load_experiment(str(source), overrides)
    for override in overrides:
        if not override.startswith(("stop.", "stop=", "checkpoint.", "checkpoint=")):
            raise SettingError(
                f"--set {override!r}: a resumed run goes on as it was; only stop and checkpoint can be set anew. For other "
                f"changes start a new run from {resume / 'experiment.yaml'}."
            )
    return load_experiment(RunFolder.open(resume).experiment, overrides)


def _train(
    console: Console,
    settings: Experiment,
    config: EmpathyConfig,
    folder: RunFolder,
    interrupted: Callable[[], bool],
    mirror: Mirror | None,
) -> None:
    """Trains with a progress bar, and ends with a table, the picture, and where everything is."""
    from rllib_empathy.experiments.curves import draw_curves
    from rllib_empathy.experiments.display import TrainingProgress, results_table
    from rllib_empathy.experiments.metrics_table import read_metrics
    from rllib_empathy.experiments.training import train as iterations
    from rllib_empathy.learning.faults import ClusterFault
    from rllib_empathy.learning.finite import NonFiniteError

    before = copied = folder.last_checkpoint()
    try:
        with TrainingProgress(console, settings.stop) as progress:
            for row in iterations(settings, config, folder, interrupted):
                progress.update(row)
                if folder.last_checkpoint() != copied:
                    copied = folder.last_checkpoint()
                    _uploaded(mirror, folder)
    except BaseException as error:
        if isinstance(error, SettingError) and folder.last_checkpoint() == before:  # nothing was trained
            raise
        last = folder.last_checkpoint()
        where = (
            f"Last good checkpoint: {last}\n{_resume_hint(folder)}" if last else "No checkpoint has been written yet."
        )
        if isinstance(error, SettingError):
            fail(f"Training stopped. {error}\n{where}", WRONG_INPUT)
        if isinstance(error, ProgramError | NonFiniteError | ClusterFault | OSError):
            fail(f"Training stopped. {error}\n{where}", FAILED)
        if isinstance(error, KeyboardInterrupt):
            fail(f"Interrupted. {where}", INTERRUPTED)
        terminal(stderr=True).print(f"Training failed. {where}", soft_wrap=True, highlight=False)
        raise
    metrics, population = read_metrics(folder.metrics), config.resolved_population()
    draw_curves(metrics, population, f"{settings.name}: {settings.environment}", folder.curves)
    console.print(results_table(metrics, population))
    for what, path in (
        ("curves", folder.curves),
        ("checkpoint", folder.last_checkpoint()),
        ("run folder", folder.path),
    ):
        console.print(f"{what + ':':12}{path}", soft_wrap=True, highlight=False)


def _resume_hint(folder: RunFolder) -> str:
    return f"Go on with: rllib-empathy train --resume {folder.path}"
