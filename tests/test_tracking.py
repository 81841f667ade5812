"""MLflow: what is in a store after a run and a study, and what happens where a store fails."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import yaml
from mlflow import MlflowClient
from typer.testing import CliRunner, Result

from rllib_empathy.cli import app
from rllib_empathy.experiments.checkpoints import read_config
from rllib_empathy.experiments.metrics_table import read_metrics
from rllib_empathy.experiments.run_folder import RunFolder
from rllib_empathy.tracking import tracker as tracking
from rllib_empathy.tracking.store import OFF, store_uri

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


def test_a_run_and_a_study_are_in_the_store_with_their_trials(out, client):
    found = runs(client)
    assert len(found) == 4
    trial = found["small/seed_1"]
    parent = client.get_run(trial.data.tags["mlflow.parentRunId"])
    assert (Path(parent.data.tags[tracking.FOLDER]) / "outcomes.jsonl").is_file()
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    single = [run for run in found.values() if run is not trial and run.data.metrics and "/" not in run.info.run_name]
    assert len(single) == 1
    for run in (trial, *single):
        folder = RunFolder(Path(run.data.tags[tracking.FOLDER]))
        columns = read_metrics(folder.metrics)
        history = client.get_metric_history(run.info.run_id, "group_return")
        assert [(point.step, point.value) for point in history] == list(
            zip(columns["iteration"], columns["group_return"], strict=True)
        )
        assert run.data.params["environment"] == "iterated_prisoners_dilemma"
        assert run.data.params["training.network.hidden"] == "[4]"
        names = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
        files = {
            "experiment.yaml",
            "resolved.yaml",
            "versions.json",
            "metrics.csv",
            "between_agents.png",
            "checkpoints",
        }
        assert files <= names
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


# -- stores that fail


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("http://127.0.0.1:9", "'http://127.0.0.1:9' cannot be used"),
        ("sqlite:////dev/null/mlflow.db", "cannot be used"),
        ("localhost", "give a URI, for instance http://HOST:5000"),
    ],
)
@pytest.mark.parametrize("command", ["train", "tune"])
def test_a_store_that_cannot_be_reached_is_refused_before_anything_starts(tmp_path, monkeypatch, command, uri, message):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr("rllib_empathy.cli.common.ray_running", None)
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
