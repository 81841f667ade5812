"""Copies what run folders hold to an MLflow store, beside training and never in its way."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from math import isfinite
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from rllib_empathy.experiments.between_agents import draw_between_agents
from rllib_empathy.experiments.curves import draw_curves
from rllib_empathy.experiments.experiment import Experiment, load_experiment
from rllib_empathy.experiments.metrics_table import is_curated, read_metrics
from rllib_empathy.experiments.run_folder import RunFolder
from rllib_empathy.report.runs import Group, Run
from rllib_empathy.studies.study_folder import Outcome
from rllib_empathy.tracking.store import artifacts_beside, client

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_PASSES = 5.0
FOLDER = "rllib_empathy.folder"
"""Tag of an MLflow run that names the folder it mirrors, as a URI; so a resumed run goes on in the same MLflow run."""
STORAGE = "rllib_empathy.storage"
"""Tag of an MLflow run whose folder is copied to object storage: where; so it is the same run on another machine."""
ERROR = "rllib_empathy.error"
"""Tag of an MLflow run that says why its trial failed."""
CHECKPOINT = "rllib_empathy.checkpoint"
"""Tag of a registered model's version that names the checkpoint it was made of."""

_FILES = (
    "experiment.yaml",
    "resolved.yaml",
    "versions.json",
    "metrics.csv",
    "curves.png",
    "results.json",
    "exploits.json",
)
_ALWAYS = {"seed", "environment", "population"}  # parameters by which runs are told apart, also where they are defaults
_MOST_METRICS, _MOST_PARAMETERS = 1000, 100  # what MLflow takes at once
_LONGEST, _LONGEST_ERROR = 500, 5000  # characters of a parameter's value, and of a tag's


@dataclass
class _Followed:
    """A folder and its MLflow run."""

    name: str
    folder: Path
    run_id: str | None = None
    has_parameters: bool = False
    iteration: int = 0  # up to which metrics have been copied
    seen: int = 0  # when metrics.csv was last changed, as far as we know
    closed: bool = False


class Tracker:
    """Follows a run, or a study with all its trials, from entering to leaving its context.

    The work is done in a thread, from what lies on disk: a store that is slow or fails costs training nothing. What could not be
    copied is copied in the next pass, and when the run is resumed; the folders have all of it.

    Args:
        uri: the store; None: nothing is done.
        experiment: what is run; it names MLflow's experiment and the registered model.
        folder: of the run or of the study.
        trials: of a study: name -> run folder.
        outcomes: of a study: gives the trials that have ended, and how.
        storage: of a run: where its folder is copied to, if it is; a URI without credentials.
    """

    def __init__(
        self,
        uri: str | None,
        experiment: Experiment,
        folder: Path,
        trials: Mapping[str, RunFolder] | None = None,
        outcomes: Callable[[], Mapping[str, Outcome]] = dict,
        storage: str | None = None,
    ) -> None:
        self.uri = uri
        self.problem: str | None = None
        """Why the last pass failed, if it did."""
        self._experiment = experiment
        self._top = _Followed(folder.name, folder)
        self._storage = quote(storage, safe=":/%") if storage else None
        self._trials = [_Followed(name, run.path) for name, run in (trials or {}).items()]
        self._best: Path | None = None if trials else folder
        self._outcomes = outcomes
        # A study that is resumed tries these trials again.
        self._failed_before = {name: how for name, how in outcomes().items() if how.ended == "failed"} if uri else {}
        self._ended: Mapping[str, Outcome] = {}
        self._status = "KILLED"
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._copy_until_the_end, name="mlflow", daemon=True)

    def __enter__(self) -> Tracker:
        if self.uri:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.uri:
            if kind is not None:
                self._status = "FAILED"
            self._end.set()
            self._thread.join()

    def finished(self, best: Path | None) -> None:
        """All has been done.

        Args:
            best: the run folder whose last checkpoint becomes the registered model's next version; None: none.
        """
        self._status, self._best = "FINISHED", best

    def settle(self, best: Path) -> None:
        """Brings the store up to date with a run that had ended before; leaves alone what is all there.

        Args:
            best: as for `finished`.
        """
        if self.uri:
            self.finished(best)
            failure = _failure(self._settle)
            if failure:
                self.problem = _in_words(failure)

    def _settle(self) -> None:
        if not self._is_settled():
            self._pass(last=True)

    def _is_settled(self) -> bool:
        """Whether the store has all of the run, as one that is finished."""
        same = self._found(self._top.folder)
        metrics = read_metrics(self._top.folder / "metrics.csv")
        last = int(metrics["iteration"][-1]) if metrics else 0
        if same is None or same.info.status != "FINISHED":
            return False
        return int(same.data.metrics.get("iteration", 0)) >= last

    # -- the thread

    def _copy_until_the_end(self) -> None:
        while not self._end.wait(SECONDS_BETWEEN_PASSES):
            self._pass()
        self._pass(last=True)

    def _pass(self, last: bool = False) -> None:
        """Copies all that has changed, and what can be copied where some cannot; the last pass closes all runs."""
        failures = []
        for work in self._works(last):
            failure = _failure(work)
            if failure:
                failures.append(failure)
                # Where the store itself is gone, or has no run for all others to belong to, the rest would only wait in vain.
                if _failure(lambda: self._store.get_run(self._top.run_id)):
                    break
        self.problem = _in_words(failures[0]) if failures else None

    def _works(self, last: bool) -> Iterator[Callable[[], None]]:
        """What a pass has to do, in parts that can fail without each other."""
        yield partial(self._copy, self._top)
        yield partial(self._see_who_has_ended, last)
        for trial in self._trials:
            yield partial(self._copy_trial, trial)
        if last:
            for trial in self._trials:
                if trial.run_id and not trial.closed:
                    yield partial(self._close_trial, trial)
            yield partial(self._close_run, self._top, self._status)
            if self._status == "FINISHED" and self._best is not None:
                # Behind all else: not every server has a registry.
                yield partial(self._register, RunFolder(self._best))

    def _see_who_has_ended(self, last: bool) -> None:
        outcomes = self._outcomes()
        # Whether a trial has failed anew in just the old way cannot be seen before the end.
        self._ended = {name: how for name, how in outcomes.items() if last or how != self._failed_before.get(name)}

    def _copy_trial(self, trial: _Followed) -> None:
        ended = trial.name in self._ended
        if not trial.closed and (ended or (trial.folder / "metrics.csv").exists()):
            self._copy(trial)
            if ended:
                self._close_trial(trial)

    def _close_trial(self, trial: _Followed) -> None:
        outcome = self._ended.get(trial.name)
        if outcome is None:
            self._close_run(trial, "KILLED")
        else:
            self._close_run(trial, "FAILED" if outcome.ended == "failed" else "FINISHED", outcome.error)

    @cached_property
    def _store(self) -> MlflowClient:
        assert self.uri
        return client(self.uri)

    def _copy(self, followed: _Followed) -> None:
        """Brings the MLflow run of a folder up to date; makes it if there is none."""
        if followed.run_id is None:
            followed.run_id = self._run_of(followed)
        self._copy_metrics(followed)
        if not followed.has_parameters:
            self._log_parameters(followed)
            followed.has_parameters = True

    def _run_of(self, followed: _Followed) -> str:
        """The MLflow run of a folder, found or made, and under way."""
        same = self._found(followed.folder)
        if same is None:
            name = self._experiment.name
            found = self._store.get_experiment_by_name(name)
            experiment_id = found.experiment_id if found else self._store.create_experiment(name, self._artifacts())
            parent = {} if followed is self._top else {"mlflow.parentRunId": self._top.run_id}
            stored = {STORAGE: self._storage} if self._storage else {}
            tags = {FOLDER: _uri(followed.folder), **stored, **parent}
            return str(self._store.create_run(experiment_id, run_name=followed.name, tags=tags).info.run_id)
        run_id = str(same.info.run_id)
        self._store.update_run(run_id, "RUNNING")
        if ERROR in same.data.tags:
            self._store.delete_tag(run_id, ERROR)
        followed.iteration = int(same.data.metrics.get("iteration", 0))
        return run_id

    def _found(self, folder: Path) -> Any:
        """The MLflow run that mirrors a folder, or None."""
        experiment = self._store.get_experiment_by_name(self._experiment.name)
        if experiment is None:
            return None
        for tag, value in ((FOLDER, _uri(folder)), (STORAGE, self._storage)):
            if value:  # in which whatever would end a quoted string is encoded
                same = self._store.search_runs([experiment.experiment_id], f"tags.`{tag}` = '{value}'", max_results=1)
                if same:
                    return same[0]
        return None

    def _artifacts(self) -> str | None:
        assert self.uri
        beside = artifacts_beside(self.uri)
        return f"{beside}/{self._experiment.name}" if beside else None

    def _log_parameters(self, followed: _Followed) -> None:
        from mlflow.entities import Param

        asked = load_experiment(followed.folder / "experiment.yaml")
        chosen = {
            **asked.model_dump(mode="json", include=_ALWAYS),
            **asked.model_dump(mode="json", exclude_defaults=True),
        }
        known = self._store.get_run(followed.run_id).data.params  # which MLflow lets nobody change
        new = [Param(key, str(value)[:_LONGEST]) for key, value in _flattened(chosen).items() if key not in known]
        for first in range(0, len(new), _MOST_PARAMETERS):
            self._store.log_batch(followed.run_id, params=new[first : first + _MOST_PARAMETERS])

    def _copy_metrics(self, followed: _Followed) -> None:
        from mlflow.entities import Metric

        path = followed.folder / "metrics.csv"
        changed = path.stat().st_mtime_ns if path.exists() else 0
        if changed == followed.seen:
            return
        columns = {name: values for name, values in read_metrics(path).items() if is_curated(name)} if changed else {}
        if not columns:
            return
        new = columns["iteration"] > followed.iteration
        metrics = [
            Metric(name, float(value), changed // 10**6, int(iteration))
            for name, values in columns.items()
            for iteration, value in zip(columns["iteration"][new], values[new], strict=True)
            if isfinite(value)
        ]
        for first in range(0, len(metrics), _MOST_METRICS):
            self._store.log_batch(followed.run_id, metrics=metrics[first : first + _MOST_METRICS])
        followed.seen, followed.iteration = changed, int(columns["iteration"][-1])

    def _close_run(self, followed: _Followed, status: str, error: str | None = None) -> None:
        """Adds what is in a folder, and why it failed, and ends its MLflow run."""
        try:
            if error:
                self._store.set_tag(followed.run_id, ERROR, error[:_LONGEST_ERROR])
            self._copy_files(followed)
        finally:  # it has ended, whatever is missing
            self._store.set_terminated(followed.run_id, status)
        followed.closed = True

    def _copy_files(self, followed: _Followed) -> None:
        """Adds a folder's files, its last checkpoint, and pictures of it."""
        run = RunFolder(followed.folder)
        for name in _FILES:
            if (run.path / name).exists():
                self._store.log_artifact(followed.run_id, str(run.path / name))
        last = run.last_checkpoint()
        if last is not None:
            self._store.log_artifacts(followed.run_id, str(last), f"checkpoints/{last.name}")
        with tempfile.TemporaryDirectory() as folder:
            for picture in _pictures(run, Path(folder)):
                self._store.log_artifact(followed.run_id, str(picture))

    def _register(self, best: RunFolder) -> None:
        """Makes the agents of a run's last checkpoint the next version of the model that has the experiment's name.

        Where they are one already, since the command is repeated, nothing is done.
        """
        import mlflow
        from mlflow.exceptions import MlflowException

        from rllib_empathy.tracking.agent_model import AgentModel

        checkpoint = best.last_checkpoint()
        if checkpoint is None:
            return
        name, tags = self._experiment.name, {FOLDER: _uri(best.path), CHECKPOINT: checkpoint.name}
        with contextlib.suppress(MlflowException):  # a server without a registry says so below
            earlier = self._store.search_model_versions(f"name = '{name}' and run_id = '{self._top.run_id}'")
            if any(tags.items() <= version.tags.items() for version in earlier):
                return
        with tempfile.TemporaryDirectory() as folder:
            mlflow.pyfunc.save_model(
                f"{folder}/model",
                python_model=AgentModel(),
                artifacts={"checkpoint": str(checkpoint)},
                pip_requirements=["rllib-empathy"],
            )
            self._store.log_artifacts(self._top.run_id, f"{folder}/model", "model")
        try:
            self._store.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"{self._store.get_run(self._top.run_id).info.artifact_uri}/model"
        self._store.create_model_version(name, source, self._top.run_id, tags=tags)


def _failure(work: Callable[[], Any]) -> Exception | None:
    """What it raises: whatever MLflow, its database or the network come up with."""
    try:
        work()
    except Exception as error:
        logger.debug("MLflow", exc_info=True)
        return error
    return None


def _in_words(error: Exception) -> str:
    first_line, *_ = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {first_line}"


def _uri(folder: Path) -> str:
    return folder.absolute().as_uri()


def _pictures(run: RunFolder, folder: Path) -> Iterator[Path]:
    """Draws into `folder` what there is to be seen of a run, its curves too if it has not drawn them: trials do not."""
    metrics = read_metrics(run.metrics) if run.metrics.exists() else {}
    if not metrics:
        return
    if not run.curves.exists():
        group = Group(run.path.name, [Run(run.path, load_experiment(run.resolved), metrics)])
        title = f"{group.experiment.name}: {group.experiment.environment}"
        draw_curves(metrics, group.population, title, folder / run.curves.name)
        yield folder / run.curves.name
    if draw_between_agents(metrics, folder / "between_agents.png"):
        yield folder / "between_agents.png"


def _flattened(values: Any, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": [1]}} -> {"a.b.0": 1}; lists of plain values stay as they are."""
    if isinstance(values, Mapping):
        items = [(str(key), value) for key, value in values.items()]
    elif isinstance(values, list) and any(isinstance(value, Mapping) for value in values):
        items = [(str(number), value) for number, value in enumerate(values)]
    else:
        return {prefix: values}
    return {k: v for key, value in items for k, v in _flattened(value, f"{prefix}.{key}" if prefix else key).items()}
