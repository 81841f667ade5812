"""MLflow: what is in a store after a run and a study, and what happens where a store fails."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from time import monotonic, sleep
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urlsplit

import mlflow
import numpy as np
import pytest
import torch
import yaml
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from typer.testing import CliRunner, Result

from rllib_empathy.cli import app
from rllib_empathy.experiments.building import build_config, resolved
from rllib_empathy.experiments.checkpoints import read_config
from rllib_empathy.experiments.experiment import Experiment
from rllib_empathy.experiments.metrics_table import MetricsTable, read_metrics
from rllib_empathy.experiments.run_folder import RunFolder
from rllib_empathy.learning.config import EmpathyConfig
from rllib_empathy.sampling.acting import JointPolicy
from rllib_empathy.studies.study_folder import Outcome
from rllib_empathy.tracking import tracker as tracking
from rllib_empathy.tracking.store import OFF, store_uri
from rllib_empathy.tracking.tracker import Tracker

EXPERIMENT: dict[str, Any] = {
    "name": "small",
    "environment": "iterated_prisoners_dilemma",
    "env_config": {"episode_length": 5},
    "population": ["blind_gift", "a2c"],
    "training": {"network": {"hidden": [4], "memory": "gru", "memory_size": 4}},
    "env_runners": {"num_envs_per_env_runner": 2, "rollout_fragment_length": 5},
    "stop": {"iterations": 5},
    "study": {"seeds": [0, 1], "max_concurrent_trials": 1},
}

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def call(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def out(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all runs, with a run and a study in it and in its store."""
    out = tmp_path_factory.mktemp("tracked")
    path = out / "small.yaml"
    path.write_text(yaml.safe_dump(EXPERIMENT), encoding="utf-8")
    uri = f"sqlite:///{out / 'mlflow.db'}"
    for command in ("train", "tune"):
        result = call(command, path, "--out", out, "--mlflow", uri)
        assert result.exit_code == 0, result.output
        assert "MLflow" not in result.stderr
    return out


@pytest.fixture(scope="module")
def client(out: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{out / 'mlflow.db'}")


def runs(client: MlflowClient) -> dict[str, Any]:
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    return {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}


def folder_of(run: Any) -> Path:
    return Path(unquote(urlsplit(run.data.tags[tracking.FOLDER]).path))


def artifacts(client: MlflowClient, run: Any) -> set[str]:
    return {artifact.path for artifact in client.list_artifacts(run.info.run_id)}


def test_a_run_and_a_study_are_in_the_store_with_their_trials(out, client):
    found = runs(client)
    assert len(found) == 4
    trial = found["small/seed_1"]
    parent = client.get_run(trial.data.tags["mlflow.parentRunId"])
    assert (folder_of(parent) / "outcomes.jsonl").is_file()
    assert "curves.png" in artifacts(client, parent)
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    single = [run for run in found.values() if run is not trial and run.data.metrics and "/" not in run.info.run_name]
    assert len(single) == 1
    for run in (trial, *single):
        folder = RunFolder(folder_of(run))
        columns = read_metrics(folder.metrics)
        history = client.get_metric_history(run.info.run_id, "group_return")
        assert [(point.step, point.value) for point in history] == list(
            zip(columns["iteration"], columns["group_return"], strict=True)
        )
        assert run.data.params["environment"] == "iterated_prisoners_dilemma"
        assert run.data.params["training.network.hidden"] == "[4]"
        files = {
            "experiment.yaml",
            "resolved.yaml",
            "versions.json",
            "metrics.csv",
            "curves.png",
            "between_agents.png",
            "checkpoints",
        }
        assert files <= artifacts(client, run)
    assert trial.data.params["seed"] == "1"


def test_metrics_are_a_chosen_few(client):
    for run in runs(client).values():
        assert len(run.data.metrics) < 40
        assert not [name for name in run.data.metrics if name.startswith(("learner/", "agent_"))]


def test_the_best_agents_are_a_model_that_loads_and_acts(out, client, monkeypatch):
    versions = client.search_model_versions("name = 'small'")
    assert sorted(int(version.version) for version in versions) == [1, 2], "one of the run, one of the study"
    uri = f"sqlite:///{out / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    model = mlflow.pyfunc.load_model("models:/small/2")
    (results,) = (out / "small").glob("*/results.json")
    best = json.loads(results.read_text())["best"]
    last = RunFolder(results.parent / best).last_checkpoint()
    assert last is not None
    world = read_config(last).make_world(6)
    observations = world.reset(0)
    actions = model.predict(observations)
    assert actions.shape == (6, 2)
    assert actions.dtype == np.int64
    world.step(actions)
    agents = model.unwrap_python_model()
    agents.greedy = True
    agents.restart()
    first = model.predict(observations)
    agents.restart()
    np.testing.assert_array_equal(model.predict(observations), first)


def test_a_resumed_run_goes_on_in_the_same_mlflow_run(out, client):
    before = {run.info.run_id for run in runs(client).values()}
    (folder,) = (path.parent for path in (out / "small").glob("*/metrics.csv"))
    uri = f"sqlite:///{out / 'mlflow.db'}"
    assert call("train", "--resume", folder, "--set", "stop.iterations=7", "--mlflow", uri).exit_code == 0
    after = runs(client)
    assert {run.info.run_id for run in after.values()} == before
    history = client.get_metric_history(after[folder.name].info.run_id, "env_steps")
    assert [point.step for point in history] == [1, 2, 3, 4, 5, 6, 7]


# -- runs and studies that are made up, in a store of their own


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> MlflowClient:
    """A store for many tests; each has an experiment of its own in it."""
    return MlflowClient(f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}")


def row(iteration: int, group_return: float) -> dict[str, float]:
    returns = {f"agent_return/{agent}": group_return / 2 for agent in range(2)}
    return {
        "iteration": iteration,
        "env_steps": 10 * iteration,
        "episodes": 2,
        "group_return": group_return,
        **returns,
    }


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = monotonic() + 60
    while not condition():
        assert monotonic() < deadline
        sleep(0.005)


class Unreliable:
    """A store whose methods fail where `fails` says so, given a method's name and its arguments."""

    def __init__(self, store: MlflowClient, fails: Callable[[str, dict[str, Any]], bool]) -> None:
        self._store, self._fails = store, fails

    def __getattr__(self, name: str) -> Any:
        def method(*arguments: Any, **named: Any) -> Any:
            if self._fails(name, named):
                raise RuntimeError(f"{name} is out of order")
            return getattr(self._store, name)(*arguments, **named)

        return method


@dataclass
class MadeUp:
    """A run or a study on disk, whose trials and outcomes a test makes up, and what the store has of it."""

    path: Path
    store: MlflowClient
    patch: pytest.MonkeyPatch
    trials: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    looks: int = 0  # at the outcomes
    fails: Callable[[str, dict[str, Any]], bool] = lambda method, named: False

    def __post_init__(self) -> None:
        values = {"name": self.path.name, "environment": EXPERIMENT["environment"], "stop": {"iterations": 5}}
        self.experiment = Experiment.model_validate({**values, **self.settings})
        everything = resolved(self.experiment, build_config(self.experiment))
        for folder in (self.path, *(self.path / name for name in self.trials)):
            folder.mkdir(parents=True)
            RunFolder(folder).describe(self.experiment, everything)
        self.patch.setattr(tracking, "client", lambda uri: Unreliable(self.store, lambda *call: self.fails(*call)))
        self.patch.setattr(tracking, "SECONDS_BETWEEN_PASSES", 0.01)
        self.patch.setattr(tracking, "artifacts_beside", lambda uri: (self.path / "artifacts").as_uri())

    def trained(self, name: str = ".", iteration: int = 1, group_return: float = 3.0) -> None:
        MetricsTable(self.path / name / "metrics.csv").append(row(iteration, group_return))

    def ended(self, name: str, how: Any, error: str | None = None) -> None:
        self.outcomes[name] = Outcome(name, how, {}, error)

    def seen(self) -> dict[str, Outcome]:
        self.looks += 1
        return dict(self.outcomes)

    def tracker(self) -> Tracker:
        runs = {name: RunFolder(self.path / name) for name in self.trials}
        return Tracker("made up", self.experiment, self.path, runs, self.seen)

    def wait_for_passes(self, number: int = 2) -> None:
        """Until so many passes have looked at the outcomes: with 2, one has been made as a whole."""
        enough = self.looks + number
        wait_until(lambda: self.looks >= enough)

    def found(self) -> dict[str, Any]:
        """Name -> MLflow run."""
        experiment = self.store.get_experiment_by_name(self.experiment.name)
        assert experiment is not None
        found = self.store.search_runs([experiment.experiment_id])
        assert len({run.info.run_name for run in found}) == len(found)
        return {run.info.run_name: run for run in found}

    def steps(self, name: str) -> list[int]:
        history = self.store.get_metric_history(self.found()[name].info.run_id, "group_return")
        return [point.step for point in history]


@pytest.fixture
def made_up(tmp_path: Path, store: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> Callable[..., MadeUp]:
    def make(*trials: str, **settings: Any) -> MadeUp:
        return MadeUp(tmp_path / tmp_path.name, store, monkeypatch, trials, settings)

    return make


def test_a_trial_that_failed_and_is_tried_again_is_followed_to_its_new_end(made_up):
    study = made_up("a", "b")
    study.trained("a")
    study.ended("a", "failed", "NonFiniteError: once")
    study.trained("b")
    study.ended("b", "finished")
    with study.tracker():
        pass
    assert study.found()["a"].info.status == "FAILED"
    assert study.found()["a"].data.tags[tracking.ERROR] == "NonFiniteError: once"
    with study.tracker() as tracker:
        study.wait_for_passes()
        under_way = study.found()["a"]
        assert under_way.info.status == "RUNNING"
        assert tracking.ERROR not in under_way.data.tags
        study.trained("a", 2)
        study.ended("a", "finished")
        tracker.finished(best=None)
    assert tracker.problem is None
    assert {run.info.status for run in study.found().values()} == {"FINISHED"}
    assert study.steps("a") == [1, 2]


@pytest.mark.parametrize("again", ["NonFiniteError: once", "NonFiniteError: twice"])
def test_a_trial_that_fails_again_is_said_to_have_failed(made_up, again):
    study = made_up("a", "b")
    study.trained("a")
    study.trained("b")
    study.ended("a", "failed", "NonFiniteError: once")
    with study.tracker():
        study.wait_for_passes()
        assert study.found()["a"].info.status == "RUNNING"
        study.trained("a", 2)
        study.ended("a", "failed", again)
    found = study.found()
    assert found["a"].info.status == "FAILED"
    assert found["a"].data.tags[tracking.ERROR] == again
    assert study.steps("a") == [1, 2]
    assert found["b"].info.status == "KILLED", "it had not ended"


@pytest.mark.parametrize("resumed", [False, True])
def test_a_trial_that_fails_before_its_first_iteration_is_there_with_its_error(made_up, resumed):
    study = made_up("early", "not begun")
    if resumed:
        study.ended("early", "failed", "SettingError: no such file")
    with study.tracker():
        study.wait_for_passes()
        study.ended("early", "failed", "SettingError: no such file")
        study.wait_for_passes()
        assert ("early" in study.found()) is not resumed, "how it failed in an earlier session says nothing yet"
    found = study.found()
    assert found.keys() == {study.path.name, "early"}
    early, parent = found["early"], found[study.path.name]
    assert early.info.status == "FAILED"
    assert early.data.tags[tracking.ERROR] == "SettingError: no such file"
    assert early.data.tags["mlflow.parentRunId"] == parent.info.run_id


def test_what_the_last_pass_could_not_copy_is_told(made_up):
    run = made_up()
    run.trained()
    run.fails = lambda method, named: method == "log_batch" and "metrics" in named
    with run.tracker() as tracker:
        tracker.finished(best=None)
    assert tracker.problem == "RuntimeError: log_batch is out of order"
    assert run.found()[run.path.name].info.status == "FINISHED"


def test_a_failure_that_was_made_good_is_not_told(made_up):
    run = made_up()
    run.trained()
    run.fails = lambda method, named: True
    with run.tracker() as tracker:
        wait_until(lambda: tracker.problem is not None)
        run.fails = lambda method, named: False
        tracker.finished(best=None)
    assert tracker.problem is None
    assert run.steps(run.path.name) == [1]


def test_a_trial_that_cannot_be_copied_takes_no_other_along(made_up):
    study = made_up("a", "b", "c")
    for name, score in (("a", 3.0), ("b", 13.0), ("c", 3.0)):
        study.trained(name, group_return=score)
        study.ended(name, "finished")
    study.fails = lambda method, named: any(metric.value == 13 for metric in named.get("metrics", ()))
    with study.tracker() as tracker:
        study.wait_for_passes()
        found = study.found()
        assert [found[name].info.status for name in ("a", "b", "c")] == ["FINISHED", "RUNNING", "FINISHED"]
        tracker.finished(best=None)
    assert tracker.problem == "RuntimeError: log_batch is out of order"
    assert {run.info.status for run in study.found().values()} == {"FINISHED"}
    assert study.steps("c") == [1]


def test_trials_do_not_wait_one_by_one_for_a_store_that_is_gone(made_up):
    study = made_up(*"abcdefgh")
    calls: Counter[int] = Counter()  # number of the pass -> calls in it

    def gone(method: str, named: dict[str, Any]) -> bool:
        calls[study.looks] += 1
        return True

    with study.tracker() as tracker:
        study.wait_for_passes()
        for name in study.trials:
            study.trained(name)
        study.fails = gone
    assert tracker.problem is not None
    assert 0 < max(calls.values()) < len(study.trials) / 2


def test_parameters_that_could_not_be_logged_at_first_are_logged_later(made_up):
    run = made_up()
    failures: list[str] = []

    def once(method: str, named: dict[str, Any]) -> bool:
        if "params" not in named or failures:
            return False
        failures.append(method)
        return True

    run.fails = once
    with run.tracker() as tracker:
        run.wait_for_passes()
    assert failures
    assert tracker.problem is None
    assert run.found()[run.path.name].data.params["environment"] == EXPERIMENT["environment"]


def test_parameters_of_a_run_that_was_begun_without_them_are_logged_when_it_is_resumed(made_up):
    run = made_up()
    run.fails = lambda method, named: "params" in named
    with run.tracker() as tracker:
        pass
    assert tracker.problem == "RuntimeError: log_batch is out of order"
    assert not run.found()[run.path.name].data.params
    run.fails = lambda method, named: False
    for limit in (6, 7):
        longer = run.experiment.model_copy(
            update={"stop": run.experiment.stop.model_copy(update={"iterations": limit})}
        )
        (run.path / "experiment.yaml").write_text(longer.to_yaml(), encoding="utf-8")
        with run.tracker() as tracker:
            pass
        assert tracker.problem is None
        assert run.found()[run.path.name].data.params["stop.iterations"] == "6", "MLflow's parameters never change"


def test_runs_can_be_filtered_by_seed_environment_and_population_though_these_are_defaults(made_up):
    run = made_up(training={"network": {"hidden": [4]}})
    with run.tracker():
        pass
    assert run.found()[run.path.name].data.params == {
        "name": run.path.name,
        "environment": "iterated_prisoners_dilemma",
        "population": "ppo",
        "seed": "0",
        "training.network.hidden": "[4]",
        "stop.iterations": "5",
    }


def test_a_store_without_a_registry_has_all_else(made_up, monkeypatch):
    def fails(method: str, named: dict[str, Any]) -> bool:
        if method == "create_registered_model":
            raise MlflowException("no registry here")
        return False

    run = made_up()
    run.trained()
    (run.path / "checkpoints" / "iteration_000001").mkdir(parents=True)
    (run.path / "checkpoints" / "iteration_000001" / "weights").touch()
    run.fails = fails
    models = import_module("mlflow.pyfunc")  # mlflow's own attribute stands in for it until it is used
    monkeypatch.setattr(models, "save_model", lambda path, **rest: Path(path).mkdir())
    with run.tracker() as tracker:
        tracker.finished(best=run.path)
    assert tracker.problem == "MlflowException: no registry here"
    found = run.found()[run.path.name]
    assert found.info.status == "FINISHED"
    assert {"metrics.csv", "checkpoints", "curves.png"} <= artifacts(run.store, found)


def test_a_run_that_has_ended_does_not_seem_to_go_on_for_want_of_its_files(made_up):
    run = made_up()
    run.fails = lambda method, named: method == "log_artifact"
    with run.tracker() as tracker:
        pass
    assert tracker.problem == "RuntimeError: log_artifact is out of order"
    assert run.found()[run.path.name].info.status == "KILLED"


def test_folders_may_be_called_anything(tmp_path, store, monkeypatch):
    """Also what would end a string in MLflow's language of filters."""
    strange = MadeUp(tmp_path / 'it\'s 100 % "mine"' / "strange", store, monkeypatch)
    strange.trained()
    for _ in range(2):
        with strange.tracker() as tracker:
            pass
        assert tracker.problem is None
    found = strange.found()["strange"]
    assert folder_of(found) == strange.path
    assert "curves.png" in artifacts(store, found)


def test_curves_are_those_in_the_run_folder_where_it_has_some(made_up):
    run = made_up()
    run.trained()
    (run.path / "curves.png").write_bytes(b"as drawn")
    with run.tracker():
        pass
    found = run.found()[run.path.name]
    assert Path(run.store.download_artifacts(found.info.run_id, "curves.png")).read_bytes() == b"as drawn"


# -- commands that are repeated, and what a kill or a store that was away left undone


def saved(run: MadeUp, iteration: int) -> None:
    checkpoint = run.path / "checkpoints" / f"iteration_{iteration:06d}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "weights").touch()


@pytest.mark.parametrize("before", ["FINISHED", "FAILED", "KILLED", "RUNNING", "away"])
def test_a_run_that_had_ended_is_finished_in_the_store_however_often_its_command_is_repeated(
    made_up, monkeypatch, before
):
    models = import_module("mlflow.pyfunc")
    monkeypatch.setattr(models, "save_model", lambda path, **rest: Path(path).mkdir())
    run = made_up()
    run.trained()
    saved(run, 1)
    run.fails = lambda method, named: before == "away"
    with run.tracker() as tracker:
        tracker.finished(best=run.path)
    run.fails = lambda method, named: False
    name = run.path.name
    if before == "FINISHED":
        ended = run.found()[name].info.end_time
    elif before != "away":
        run.store.update_run(run.found()[name].info.run_id, before)
    for _ in range(2):
        tracker = run.tracker()
        tracker.settle(best=run.path)
        assert tracker.problem is None
        found = run.found()[name]
        assert found.info.status == "FINISHED"
        assert run.steps(name) == [1]
        assert {"metrics.csv", "checkpoints"} <= artifacts(run.store, found)
        (version,) = run.store.search_model_versions(f"name = '{name}'")
        assert version.run_id == found.info.run_id
    if before == "FINISHED":
        assert found.info.end_time == ended, "nothing was done"
    longer = run.tracker()
    run.trained(iteration=2)
    saved(run, 2)
    with longer:
        longer.finished(best=run.path)
    assert run.found()[name].info.status == "FINISHED"
    assert run.steps(name) == [1, 2]
    assert len(run.store.search_model_versions(f"name = '{name}'")) == 2, "of two checkpoints"


def test_a_store_that_is_away_when_the_command_is_repeated_is_told(made_up):
    run = made_up()
    run.trained()
    run.fails = lambda method, named: True
    tracker = run.tracker()
    tracker.settle(best=run.path)
    assert tracker.problem == "RuntimeError: get_experiment_by_name is out of order"


@pytest.mark.parametrize("status", ["FAILED", "KILLED", "RUNNING"])
def test_a_run_that_was_cut_off_is_under_way_again_and_ends_as_it_ends(made_up, status):
    run = made_up()
    run.trained()
    with run.tracker():
        pass
    name = run.path.name
    run.store.update_run(run.found()[name].info.run_id, status)
    with run.tracker() as tracker:
        wait_until(lambda: run.found()[name].info.status == "RUNNING")
        run.trained(iteration=2)
        tracker.finished(best=None)
    assert run.found()[name].info.status == "FINISHED"
    assert run.steps(name) == [1, 2]


def test_a_run_in_object_storage_is_the_same_mlflow_run_on_another_machine(made_up, tmp_path):
    run = made_up()
    run.trained()
    place = "s3://bucket/it's 1/first"
    for path in (run.path, tmp_path / "elsewhere"):
        if path != run.path:
            shutil.copytree(run.path, path)
        with Tracker("made up", run.experiment, path, storage=place) as tracker:
            tracker.finished(best=None)
        assert tracker.problem is None
    assert run.found()[run.path.name].info.status == "FINISHED", "of this name there is one"
    assert len(run.found()) == 1


def test_the_command_of_a_finished_run_leaves_it_finished(out, client):
    """The command itself, twice; the run keeps its name, its end and its one model."""
    path, uri = out / "small.yaml", f"sqlite:///{out / 'mlflow.db'}"
    arguments = ["train", path, "--out", out, "--mlflow", uri, "--run", "again", "--set", "stop.iterations=2"]
    assert call(*arguments).exit_code == 0
    before = runs(client)["again"]
    versions = len(client.search_model_versions("name = 'small'"))
    for _ in range(2):
        result = call(*arguments)
        assert result.exit_code == 2
        assert "has reached its end" in result.stderr
    after = runs(client)["again"]
    assert (after.info.status, after.info.end_time) == ("FINISHED", before.info.end_time)
    assert len(client.search_model_versions("name = 'small'")) == versions
    assert client.delete_run(after.info.run_id) is None  # other tests count runs


# -- the model


@pytest.fixture
def reciprocators(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, EmpathyConfig, dict[str, Any]]:
    """A model of two Reciprocators that were not trained, and whose choices depend on their balances; its config and modules."""
    from rllib_empathy.tracking import agent_model  # MLflow's models warn when they are imported

    experiment = Experiment.model_validate(
        {
            "name": "pair",
            "environment": "coin_game",
            "population": [{"kind": "reciprocator", "count": 2}],
            "training": {"network": {"conv_filters": [], "hidden": [8]}, "estimator": {"form": "twins"}},
            "env_runners": {"batch_mode": "complete_episodes"},
            "stop": {"iterations": 1},
        }
    )
    config = build_config(experiment)
    torch.manual_seed(0)
    modules = dict(config.get_multi_rl_module_spec().build().items())
    for module in modules.values():
        for parameter in module.parameters():
            parameter.data.mul_(8.0)  # fresh networks act nearly at random and see hardly any influence
    agents = config.resolved_population().module_of_agent
    monkeypatch.setattr(agent_model, "read_config", lambda path: config)
    monkeypatch.setattr(
        agent_model,
        "read_agent",
        lambda path, agent: SimpleNamespace(module=lambda: modules[agents[agent]], masked=False),
    )
    model = agent_model.AgentModel()
    model.load_context(SimpleNamespace(artifacts={"checkpoint": "made up"}))
    return model, config, modules


def test_a_model_keeps_account_of_what_all_did(reciprocators):
    """As runners do: actions are theirs, from episode to episode; without the account they are others."""
    model, config, modules = reciprocators
    games, steps = 32, 12
    players = {
        keeps_account: JointPolicy(config.resolved_population(), modules, games, torch.Generator().manual_seed(0))
        for keeps_account in (True, False)
    }
    world, alike = config.make_world(games), []
    for _ in range(2):
        observations = world.reset(0).astype(np.float32)
        for step in range(steps):
            starts = np.full(games, step == 0)
            actions = model.predict(None, observations)
            for keeps_account, player in players.items():
                expected, _ = player.act(observations, starts, True)
                if keeps_account:
                    player.notice(observations, expected, np.ones(expected.shape, np.bool_))
                    np.testing.assert_array_equal(actions, expected)
                else:
                    alike.append(np.array_equal(actions, expected))
            observations = world.step(actions).observations.astype(np.float32)
        model.restart()
    assert alike[0], "no account is kept before the first step"
    assert np.mean(alike) < 0.8


def test_a_model_forgets_its_account_where_episodes_begin(reciprocators):
    model, config, _ = reciprocators
    model.greedy = True
    observations = config.make_world(32).reset(0).astype(np.float32)
    first = model.predict(None, observations)
    later = [model.predict(None, observations) for _ in range(5)]
    assert any((actions != first).any() for actions in later), "the same is seen, but not for the first time"
    model.restart()
    np.testing.assert_array_equal(model.predict(None, observations), first)
    np.testing.assert_array_equal(model.predict(None, observations[:7]), first[:7])
    np.testing.assert_array_equal(model.predict(None, observations), first)


# -- stores that fail


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("http://127.0.0.1:9", "'http://127.0.0.1:9' cannot be used"),
        ("sqlite:////dev/null/mlflow.db", "cannot be used"),
        ("localhost", "give a URI, for instance http://HOST:5000"),
    ],
)
@pytest.mark.parametrize(("command", "module"), [("train", "training"), ("tune", "tuning")])
def test_a_store_that_cannot_be_reached_is_refused_before_anything_starts(
    tmp_path, monkeypatch, command, module, uri, message
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(f"rllib_empathy.cli.{module}.ray_running", None)
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(EXPERIMENT), encoding="utf-8")
    result = call(command, path, "--out", tmp_path / "runs", "--mlflow", uri)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "runs").exists()


def test_a_store_that_fails_amid_a_run_costs_nothing(ray_local, tmp_path, monkeypatch):
    def fail(*arguments: Any) -> None:
        raise RuntimeError("the server is gone")

    monkeypatch.setattr(tracking, "client", fail)
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(EXPERIMENT), encoding="utf-8")
    result = call("train", path, "--out", tmp_path, "--mlflow", "")
    assert result.exit_code == 0, result.output
    assert "has not got all of it (RuntimeError: the server is gone). Nothing is lost" in result.stderr
    (folder,) = map(RunFolder, (tmp_path / "small").iterdir())
    np.testing.assert_array_equal(read_metrics(folder.metrics)["iteration"], [1, 2, 3, 4, 5])
    assert folder.last_checkpoint() is not None


def test_the_store_is_a_file_among_the_runs_unless_said_otherwise(tmp_path):
    assert store_uri(None, tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    assert store_uri(OFF, tmp_path) is None


def test_mlflow_is_not_imported_by_commands_that_do_without():
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom rllib_empathy.cli import app\n"
        "CliRunner().invoke(app, ['agents'])\nprint('mlflow' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.split()[-1] == "False"


def test_ui_opens_the_store_of_the_runs(tmp_path, monkeypatch):
    refused = call("ui", "--out", tmp_path)
    assert refused.exit_code == 2
    assert "nothing has been trained under" in refused.stderr
    (tmp_path / "mlflow.db").touch()
    called: list[list[str]] = []

    def record(command: list[str]) -> int:
        called.append(command)
        return 0

    monkeypatch.setattr(subprocess, "call", record)
    assert call("ui", "--out", tmp_path, "--port", 5050).exit_code == 0
    assert called[0][1:] == [
        "-m",
        "mlflow",
        "ui",
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/mlflow.db",
        "--port",
        "5050",
    ]
