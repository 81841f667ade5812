"""Copies what run folders hold to an MLflow store, beside training and never in its way."""

from __future__ import annotations

import logging
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rllib_empathy.experiments.between_agents import draw_between_agents
from rllib_empathy.experiments.experiment import Experiment, load_experiment
from rllib_empathy.experiments.metrics_table import is_curated, read_metrics
from rllib_empathy.experiments.run_folder import RunFolder
from rllib_empathy.studies.study_folder import Outcome
from rllib_empathy.tracking.store import artifacts_beside, client

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_PASSES = 5.0
FOLDER = "rllib_empathy.folder"
"""Tag of an MLflow run that names the folder it mirrors; so a resumed run goes on in the same MLflow run."""

_FILES = (
    "experiment.yaml",
    "resolved.yaml",
    "versions.json",
    "metrics.csv",
    "curves.png",
    "results.json",
    "exploits.json",
)
_MOST_METRICS, _MOST_PARAMETERS, _LONGEST = 1000, 100, 500  # what MLflow takes at once, and a value's characters


@dataclass
class _Followed:
    """A folder and its MLflow run."""

    name: str
    folder: Path
    run_id: str | None = None
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
    """

    def __init__(
        self,
        uri: str | None,
        experiment: Experiment,
        folder: Path,
        trials: Mapping[str, RunFolder] | None = None,
        outcomes: Callable[[], Mapping[str, Outcome]] = dict,
    ) -> None:
        self.uri = uri
        self.problem: str | None = None
        """Why the last pass failed, if it did."""
        self._experiment = experiment
        self._top = _Followed(folder.name, folder)
        self._trials = [_Followed(name, run.path) for name, run in (trials or {}).items()]
        self._best: Path | None = None if trials else folder
        self._outcomes = outcomes
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

    # -- the thread

    def _copy_until_the_end(self) -> None:
        while not self._end.wait(SECONDS_BETWEEN_PASSES):
            self._try(self._copy)
        self._try(self._copy)
        self._try(self._close)

    def _try(self, work: Any) -> None:
        try:
            work()
            self.problem = None
        except Exception as error:  # whatever MLflow, its database or the network come up with
            self.problem = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
            logger.debug("MLflow", exc_info=True)

    def _copy(self) -> None:
        """One pass over all that has changed."""
        store = self._store()
        self._begin(store, self._top, None)
        if not self._trials:
            self._copy_metrics(store, self._top)
        outcomes = self._outcomes()
        for trial in self._trials:
            if not trial.closed and (trial.folder / "metrics.csv").exists():
                self._begin(store, trial, self._top.run_id)
                self._copy_metrics(store, trial)
                if trial.name in outcomes:
                    self._close_run(store, trial, "FAILED" if outcomes[trial.name].error else "FINISHED")

    def _close(self) -> None:
        """Closes all runs, with what came out."""
        store = self._store()
        for trial in self._trials:
            if trial.run_id and not trial.closed:
                self._close_run(store, trial, "KILLED")
        if self._status == "FINISHED" and self._best is not None:
            self._register(store, RunFolder(self._best))
        self._close_run(store, self._top, self._status)

    def _store(self) -> MlflowClient:
        assert self.uri
        return client(self.uri)

    def _begin(self, store: MlflowClient, followed: _Followed, parent: str | None) -> None:
        """Finds or makes the MLflow run of a folder."""
        if followed.run_id:
            return
        name = self._experiment.name
        found = store.get_experiment_by_name(name)
        experiment_id = found.experiment_id if found else store.create_experiment(name, self._artifacts())
        same = store.search_runs([experiment_id], f"tags.`{FOLDER}` = '{followed.folder}'", max_results=1)
        if same:
            run = same[0]
            followed.iteration = int(run.data.metrics.get("iteration", 0))
            store.update_run(run.info.run_id, "RUNNING")
        else:
            tags = {FOLDER: str(followed.folder), **({"mlflow.parentRunId": parent} if parent else {})}
            run = store.create_run(experiment_id, run_name=followed.name, tags=tags)
            self._log_parameters(store, run.info.run_id, followed.folder)
        followed.run_id = run.info.run_id

    def _artifacts(self) -> str | None:
        assert self.uri
        beside = artifacts_beside(self.uri)
        return f"{beside}/{self._experiment.name}" if beside else None

    def _log_parameters(self, store: MlflowClient, run_id: str, folder: Path) -> None:
        from mlflow.entities import Param

        asked = load_experiment(folder / "experiment.yaml").model_dump(mode="json", exclude_defaults=True)
        flat = [Param(key, str(value)[:_LONGEST]) for key, value in _flattened(asked).items()]
        for first in range(0, len(flat), _MOST_PARAMETERS):
            store.log_batch(run_id, params=flat[first : first + _MOST_PARAMETERS])

    def _copy_metrics(self, store: MlflowClient, followed: _Followed) -> None:
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
            store.log_batch(followed.run_id, metrics=metrics[first : first + _MOST_METRICS])
        followed.seen, followed.iteration = changed, int(columns["iteration"][-1])

    def _close_run(self, store: MlflowClient, followed: _Followed, status: str) -> None:
        """Adds a folder's files and its last checkpoint, and ends its MLflow run."""
        for name in _FILES:
            if (followed.folder / name).exists():
                store.log_artifact(followed.run_id, str(followed.folder / name))
        run = RunFolder(followed.folder)
        if run.metrics.exists():
            with tempfile.TemporaryDirectory() as folder:
                picture = Path(folder) / "between_agents.png"
                if draw_between_agents(read_metrics(run.metrics), picture):
                    store.log_artifact(followed.run_id, str(picture))
        last = run.last_checkpoint()
        if last is not None:
            store.log_artifacts(followed.run_id, str(last), f"checkpoints/{last.name}")
        store.set_terminated(followed.run_id, status)
        followed.closed = True

    def _register(self, store: MlflowClient, best: RunFolder) -> None:
        """Makes the agents of a run's last checkpoint the next version of the model that has the experiment's name."""
        import mlflow
        from mlflow.exceptions import MlflowException

        from rllib_empathy.tracking.agent_model import AgentModel

        checkpoint = best.last_checkpoint()
        if checkpoint is None:
            return
        with tempfile.TemporaryDirectory() as folder:
            mlflow.pyfunc.save_model(
                f"{folder}/model",
                python_model=AgentModel(),
                artifacts={"checkpoint": str(checkpoint)},
                pip_requirements=["rllib-empathy"],
            )
            store.log_artifacts(self._top.run_id, f"{folder}/model", "model")
        name = self._experiment.name
        try:
            store.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"{store.get_run(self._top.run_id).info.artifact_uri}/model"
        store.create_model_version(name, source, self._top.run_id, tags={FOLDER: str(best.path)})


def _flattened(values: Any, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": [1]}} -> {"a.b.0": 1}; lists of plain values stay as they are."""
    if isinstance(values, Mapping):
        items = [(str(key), value) for key, value in values.items()]
    elif isinstance(values, list) and any(isinstance(value, Mapping) for value in values):
        items = [(str(number), value) for number, value in enumerate(values)]
    else:
        return {prefix: values}
    return {k: v for key, value in items for k, v in _flattened(value, f"{prefix}.{key}" if prefix else key).items()}
