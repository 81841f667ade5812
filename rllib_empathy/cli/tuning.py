"""`rllib-empathy tune`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from env_registry.parameters import SettingError
from rllib_empathy.cli.common import (
    FAILED,
    INTERRUPTED,
    MlflowStore,
    WaitForNodes,
    clear_errors,
    disk_errors,
    fail,
    prepare,
    ray_running,
    terminal,
    tracked,
)

if TYPE_CHECKING:
    from rllib_empathy.experiments.experiment import Experiment
    from rllib_empathy.studies.results import StudyResults
    from rllib_empathy.studies.study_folder import StudyFolder
    from rllib_empathy.studies.trials import Trial


def tune(
    experiment: Annotated[
        str | None, typer.Argument(help="An experiment file with a part 'study', or the name of one of the package's.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Set a key: study.seeds=[0,1,2], training.lr=0.001. Repeatable.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of all runs.")] = Path("runs"),
    resume: Annotated[Path | None, typer.Option(help="A study's folder to go on with.")] = None,
    address: Annotated[
        str | None, typer.Option(envvar="RAY_ADDRESS", help="A Ray cluster; default: start one here.")
    ] = None,
    wait: WaitForNodes = 600,
    mlflow: MlflowStore = None,
) -> None:
    """Run many trials of an experiment: seeds, variants, a search; everything goes to a new folder runs/NAME/TIMESTAMP."""
    prepare()
    from rllib_empathy.experiments.experiment import load_experiment
    from rllib_empathy.studies.study_folder import StudyFolder
    from rllib_empathy.studies.trials import trials_of
    from rllib_empathy.tracking.store import store_uri

    with clear_errors():
        if (experiment is None) == (resume is None):
            raise SettingError("Give an experiment (a file, or a name), or --resume STUDY_FOLDER, not both.")
        if resume and overrides:
            raise SettingError("--set: a resumed study goes on as it was. For changes start a new one.")
        if resume:
            folder = StudyFolder.open(resume)
            settings = load_experiment(folder.experiment)
            trials = trials_of(settings)
            uri = store_uri(mlflow, folder.path.parents[1])
        else:
            settings = load_experiment(str(experiment), overrides or [])
            trials = trials_of(settings)
            uri = store_uri(mlflow, out)
            folder = StudyFolder.create(out, settings, trials)
        _fail_if_incomplete(run_study(settings, trials, folder, address, wait, uri), folder)


def run_study(
    settings: Experiment, trials: list[Trial], folder: StudyFolder, address: str | None, wait: float, uri: str | None
) -> StudyResults:
    """Runs a study's trials with a progress bar, and ends with a table, the picture, and where everything is."""
    from rllib_empathy.cluster.preflight import check_nodes, wait_for_places
    from rllib_empathy.studies.display import StudyProgress
    from rllib_empathy.studies.picture import draw_study
    from rllib_empathy.studies.results import study_results
    from rllib_empathy.studies.tuning import bundles_of, run_trials
    from rllib_empathy.tracking.tracker import Tracker

    assert settings.study is not None
    console = terminal()
    console.print(f"{len(trials)} trials. Study folder: {folder.path}", soft_wrap=True, highlight=False)
    runs = {trial.name: folder.trial(trial.name) for trial in trials}
    needed = [bundles_of(trial, settings.study.resources) for trial in trials]
    cpus = max(sum(bundle.get("CPU", 0) for bundle in bundles) for bundles in needed)
    stopped = disk_errors("The study stopped", f"What has finished is in its folder. {resume_hint(folder)}")
    with stopped, tracked(Tracker(uri, settings, folder.path, runs, folder.outcomes)) as tracker:
        with ray_running(address, cpus):
            for bundles in {str(bundles): bundles for bundles in needed}.values():
                # Tune would wait for places for ever, and say nothing.
                wait_for_places(bundles, wait if address else 0, console.print)
            if address is not None:
                check_nodes(folder.path)
            with StudyProgress(console, trials, folder) as progress:
                run_trials(settings.study, trials, folder, [progress])
        results = study_results(settings.study, trials, folder)
        draw_study(results, folder, f"{settings.name}: {settings.environment}", folder.curves)
        if not results.that("unfinished"):
            tracker.finished(runs[results.best.name].path if results.best else None)
    console.print(results.table())
    places = {"results": folder.results, "curves": folder.curves}
    if results.best:
        places["best"] = folder.trial(results.best.name).path
    for what, path in places.items():
        console.print(f"{what + ':':12}{path}", soft_wrap=True, highlight=False)
    return results


def resume_hint(folder: StudyFolder) -> str:
    """How to go on with a study."""
    return f"Go on with: rllib-empathy tune --resume {folder.path}"


def _fail_if_incomplete(results: StudyResults, folder: StudyFolder) -> None:
    """Ends the command with what has failed or was left unfinished, and how to go on."""
    hint = resume_hint(folder)
    unfinished, failed = results.that("unfinished"), results.that("failed")
    if unfinished:
        fail(f"Stopped before the end, {len(unfinished)} trials are unfinished. {hint}", INTERRUPTED)
    if failed:
        reasons = "\n".join(f"  - {trial.name}: {trial.error}" for trial in failed)
        fail(f"{len(failed)} trials failed:\n{reasons}\n{hint}", FAILED)
