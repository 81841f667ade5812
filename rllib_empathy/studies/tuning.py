"""Runs a study's trials through `ray.tune.Tuner`."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from ray import tune
from ray.exceptions import RayActorError
from ray.tune.execution.placement_groups import PlacementGroupFactory
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import AsyncHyperBandScheduler, PopulationBasedTraining, TrialScheduler

from rllib_empathy.experiments.study import Pbt, Resources, Sampler, Study
from rllib_empathy.learning.algorithm import Empathy
from rllib_empathy.studies.search import Values, domain, within
from rllib_empathy.studies.study_folder import Outcome, StudyFolder
from rllib_empathy.studies.trainable import FINISHED, SCORE, StudyTrial
from rllib_empathy.studies.trials import Trial, iterations

_TUNE_ENVIRONMENT = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}
"""No tables and tracebacks of Tune's in the terminal beside ours, no files of its loggers, and trials in the working
directory of the command: relative paths in `env_config` mean there what they meant when the trials were checked."""


class Watcher:
    """Sees what happens in a study, in the driver. What it raises ends the study."""

    def on_result(self, trial: str, result: dict[str, Any]) -> None:
        """A trial has finished an iteration; `result` holds the few columns that do not belong to single agents."""

    def on_end(self, outcome: Outcome, result: dict[str, Any]) -> None:
        """A trial has ended; `result` is its last one, empty if there is none."""


def run_trials(study: Study, trials: Sequence[Trial], folder: StudyFolder, watchers: Sequence[Watcher] = ()) -> None:
    """Runs all trials of a study that have not ended; goes on from what the folder holds. Ray has to be running.

    A trial that fails takes no other along; how each one ended is in the folder's outcomes. Ctrl-C and SIGTERM end the call soon;
    the folder's trials can go on from their last checkpoints.

    Args:
        study: who decides, with which resources.
        trials: all of them, those that have ended too.
        folder: the study's.
        watchers: told what happens.

    Raises:
        OSError: it cannot be written down how a trial ended.
    """
    bundles = {trial.name: PlacementGroupFactory(bundles_of(trial, study.resources)) for trial in trials}
    trainable = tune.with_resources(
        tune.with_parameters(StudyTrial, study=str(folder.path)), lambda config: bundles[config["trial"]["name"]]
    )
    with mock.patch.dict(os.environ, _TUNE_ENVIRONMENT), _signals_end_tune(), _Callback.handing_on(folder, watchers):
        if tune.Tuner.can_restore(str(folder.tune)):
            tuner = tune.Tuner.restore(str(folder.tune), trainable, resume_errored=True)
        else:
            configs = [{"name": trial.name, "values": trial.values} for trial in trials]
            tuner = tune.Tuner(
                trainable,
                param_space={"trial": tune.grid_search(configs)},
                tune_config=tune.TuneConfig(
                    metric=SCORE,
                    mode=study.mode,
                    scheduler=_scheduler(study, trials),
                    max_concurrent_trials=study.max_concurrent_trials,
                    reuse_actors=True,
                    trial_dirname_creator=_dirname,
                ),
                run_config=tune.RunConfig(
                    name=folder.tune.name,
                    storage_path=str(folder.path),
                    failure_config=tune.FailureConfig(max_failures=study.retries),
                    callbacks=[_Callback()],
                    verbose=0,
                ),
            )
        try:
            tuner.fit()
        except tune.TuneError:
            if _Callback.fault:  # of which Tune hands on the text only
                raise _Callback.fault from None
            raise


class _Callback(tune.Callback):
    """Writes down how trials end, and tells the watchers.

    Tune pickles its callbacks and takes the copies when it resumes. So this one has no state of its own, and hands on to whatever
    the call of `run_trials` under way was given.
    """

    _folder: StudyFolder
    _watchers: Sequence[Watcher] = ()
    fault: OSError | None = None

    @classmethod
    @contextmanager
    def handing_on(cls, folder: StudyFolder, watchers: Sequence[Watcher]) -> Iterator[None]:
        cls._folder, cls._watchers, cls.fault = folder, watchers, None
        try:
            yield
        finally:
            cls._watchers = ()

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        for watcher in self._watchers:
            watcher.on_result(trial.config["trial"]["name"], result)

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._ended(trial, Outcome(**_of(trial), ended="finished" if trial.last_result[FINISHED] else "stopped early"))

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._ended(trial, Outcome(**_of(trial), ended="failed", error=_reason(trial)))

    def _ended(self, trial: TuneTrial, outcome: Outcome) -> None:
        try:
            self._folder.add_outcome(outcome)
        except OSError as error:
            type(self).fault = error
            raise
        for watcher in self._watchers:
            watcher.on_end(outcome, trial.last_result or {})


def _dirname(trial: TuneTrial) -> str:
    """Of the folder within Tune's own, where it keeps what it calls the trial's checkpoints."""
    return str(trial.config["trial"]["name"]).replace("/", "__")


def _of(trial: TuneTrial) -> dict[str, Any]:
    return {"trial": trial.config["trial"]["name"], "values": trial.config["trial"]["values"]}


def _reason(trial: TuneTrial) -> str:
    """What the trial's process raised, or how it died; Tune hands it over as a file only."""
    if not trial.pickled_error_file:
        return "unknown"
    error = pickle.loads(Path(trial.pickled_error_file).read_bytes())
    if isinstance(error, RayActorError):  # which holds the whole story, and ends with what matters
        return str(error).strip().splitlines()[-1]
    cause = getattr(error, "cause", None) or error
    return f"{type(cause).__name__}: {cause}"


def bundles_of(trial: Trial, resources: Resources) -> list[dict[str, float]]:
    """What a trial's process takes, and RLlib's request for the runners and learners beside it."""
    _, *beside = Empathy.default_resource_request(trial.config.to_dict()).bundles
    own = {"CPU": resources.cpus, "GPU": resources.gpus}
    return [{name: amount for name, amount in own.items() if amount}, *beside]


def _scheduler(study: Study, trials: Sequence[Trial]) -> TrialScheduler | None:
    if study.scheduler is None:
        return None
    if study.scheduler.asha:
        longest = iterations(trials[0].experiment, trials[0].config)
        assert longest is not None
        return AsyncHyperBandScheduler(
            grace_period=study.scheduler.asha.grace_iterations,
            reduction_factor=study.scheduler.asha.reduction_factor,
            max_t=longest,
            stop_last_trials=False,
        )
    assert study.scheduler.pbt
    return _PopulationBasedTraining(study.scheduler.pbt, study.search)


class _PopulationBasedTraining(PopulationBasedTraining):
    """Tune's, but trials keep their names, and values stay within the ranges of the search."""

    def __init__(self, settings: Pbt, search: dict[str, Sampler]) -> None:
        changed = {key: sampler for key, sampler in search.items() if sampler.kind != "grid"}
        super().__init__(
            time_attr="training_iteration",
            perturbation_interval=settings.interval_iterations,
            synch=True,  # trials are compared at the same age, however many run at once
            quantile_fraction=settings.quantile_fraction,
            resample_probability=settings.resample_probability,
            hyperparam_mutations={
                "trial": {"values": {key: sampler.choice or domain(sampler) for key, sampler in changed.items()}}
            },
        )
        self._search = search

    def _get_new_config(self, trial: TuneTrial, trial_to_clone: TuneTrial) -> tuple[dict[str, Any], dict[str, Any]]:
        config, operations = super()._get_new_config(trial, trial_to_clone)
        values: Values = within(self._search, config["trial"]["values"])
        return {"trial": {"name": trial.config["trial"]["name"], "values": values}}, operations


@contextmanager
def _signals_end_tune() -> Iterator[None]:
    """SIGTERM ends Tune as Ctrl-C does, and the handlers are what they were when it has ended."""
    earlier = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, lambda number, frame: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
