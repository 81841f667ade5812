"""The MLflow servers that the shipped definitions start: who may call them, and that jobs reach them."""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread, Timer
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from rllib_empathy.cli import app
from rllib_empathy.cluster import driver, submission
from rllib_empathy.tracking.store import wait_for_server

FOLDER = Path(__file__).parents[2] / "cluster"
MACHINES = sorted(FOLDER.glob("*.yaml"))
SMALL = {
    "name": "small",
    "environment": "iterated_prisoners_dilemma",
    "training": {"network": {"hidden": [4]}},
    "env_runners": {"num_envs_per_env_runner": 2, "rollout_fragment_length": 5},
    "stop": {"iterations": 2},
}


def head_commands(path: Path) -> list[str]:
    commands: list[str] = yaml.safe_load(path.read_text())["head_start_ray_commands"]
    return commands


def server_command(path: Path) -> str:
    """How a definition starts its MLflow server."""
    (command,) = (command for command in head_commands(path) if "mlflow server" in command)
    return command


def free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def environment(home: Path, **more: str) -> dict[str, str]:
    """What a program finds on a head of its own, whose Python is this one."""
    foreign = ("RAY_", "RLLIB_", "MLFLOW_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    programs = f"{Path(sys.executable).parent}:{inherited['PATH']}"
    return {**inherited, "HOME": str(home), "PATH": programs, "PYTHONPATH": str(FOLDER.parent), **more}


def answer(url: str, host: str | None = None, body: Any = None) -> tuple[int, Any]:
    """Status and content of a server's answer to a question that is asked under this name of the server."""
    headers = {"Content-Type": "application/json", **({"Host": host} if host else {})}
    data = json.dumps(body).encode() if body is not None else None
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=30) as got:
            return got.status, json.load(got)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, None


@contextmanager
def running(command: str, home: Path, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command of a definition, in a shell and a session of its own, which ends with all that it has started."""
    with (home / "log").open("ab") as log:
        process = subprocess.Popen(
            ["bash", "-c", command],
            env=environment(home, **variables),
            cwd=home,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        for number, seconds in ((signal.SIGTERM, 15), (signal.SIGKILL, 5)):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(seconds)


@contextmanager
def mlflow_server(command: str, home: Path, **variables: str) -> Iterator[str]:
    """The address of a server that a definition's command starts, whose only change is its port."""
    (port,) = free_ports(1)
    assert "5000" in command
    with running(f"{command.replace('5000', str(port))} wait", home, **variables):
        assert wait_for_server(f"http://127.0.0.1:{port}", 120), (home / "mlflow.log").read_text()
        yield f"http://127.0.0.1:{port}"


EXPERIMENTS = "api/2.0/mlflow/experiments/search?max_results=1"


def test_the_server_in_kubernetes_answers_to_its_service_and_to_no_foreign_name(tmp_path):
    """Its own container's command and environment. MLflow 3.5 and newer answer 403 to any name that they do not know."""
    manifests = yaml.safe_load_all((FOLDER / "kubernetes" / "storage.yaml").read_text())
    (deployment,) = (manifest for manifest in manifests if manifest["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    words = shlex.join([*container["command"], *container["args"]]).replace("/results", str(tmp_path))
    variables = {entry["name"]: entry["value"] for entry in container["env"]}
    with mlflow_server(f"{words.replace('0.0.0.0', '127.0.0.1')} > mlflow.log 2>&1 &", tmp_path, **variables) as url:
        own = ["mlflow:5000", "mlflow.team.svc:5000", "mlflow.team.svc.cluster.local:5000", "localhost:5000"]
        foreign = ["example.org", "mlflow.example.org:5000", "mlflow.team.svc.example.org:5000", "10.0.0.1.example.org"]
        asked = {host: answer(f"{url}/{EXPERIMENTS}", host)[0] for host in (*own, *foreign)}
        assert asked == dict.fromkeys(own, 200) | dict.fromkeys(foreign, 403)
    for name in ("cluster", "job"):
        manifest = yaml.safe_load((FOLDER / "kubernetes" / f"{name}.yaml").read_text())
        spec = manifest["spec"].get("rayClusterSpec", manifest["spec"])
        (head,) = spec["headGroupSpec"]["template"]["spec"]["containers"]
        assert {"name": "MLFLOW_TRACKING_URI", "value": "http://mlflow:5000"} in head["env"]


@pytest.mark.parametrize("path", MACHINES, ids=lambda path: path.stem)
def test_jobs_on_machines_are_told_of_the_server_that_the_head_starts(path, monkeypatch):
    """By both ways in: as a Ray job, which has the environment of the head's Ray, and by `ray submit`, which has not."""
    server = server_command(path)
    host, port = (re.findall(rf"--{what} (\S+)", server) for what in ("host", "port"))
    (start,) = (command for command in head_commands(path) if "ray start" in command)
    (told,) = re.findall(r"MLFLOW_TRACKING_URI=(\S+) .*ray start", start)
    assert told == f"http://{host[0]}:{port[0]}"
    assert head_commands(path).index(server) < head_commands(path).index(start)

    def drive(arguments: list[str]) -> int:
        assert os.environ["MLFLOW_TRACKING_URI"] == expected
        return 0

    monkeypatch.setattr(driver, "drive", drive)
    for mine in (None, "http://mine:1"):
        expected = mine or told
        monkeypatch.setenv("MLFLOW_TRACKING_URI", str(mine))
        if mine is None:
            monkeypatch.delenv("MLFLOW_TRACKING_URI")
        with pytest.raises(SystemExit):
            runpy.run_path(str(FOLDER / "train.py"), run_name="__main__")


@pytest.mark.timeout(400)
def test_a_job_on_the_on_prem_head_is_in_the_pages_of_its_server(tmp_path):
    """The head's own commands, with other ports, on this machine; then `rllib-empathy submit` from elsewhere."""
    path = FOLDER / "on_prem.yaml"
    (start,) = (command for command in head_commands(path) if "ray start" in command)
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL))
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("a-token-of-this-test-only-0123456789abcdef")
    ray, dashboard, client, listen, grpc, metrics = free_ports(6)
    start = start.replace("--autoscaling-config=~/ray_bootstrap_config.yaml", "").replace(
        "--port=6379", f"--port={ray}"
    )
    options = {
        "include-dashboard": "true",
        "dashboard-port": dashboard,
        "ray-client-server-port": client,
        "dashboard-agent-listen-port": listen,
        "dashboard-agent-grpc-port": grpc,
        "metrics-export-port": metrics,
        "min-worker-port": 0,
        "max-worker-port": 0,
        "num-cpus": 4,
        "object-store-memory": 100 * 2**20,
    }
    start = " ".join([start, *(f"--{name}={value}" for name, value in options.items()), "--block"])
    with mlflow_server(server_command(path), tmp_path) as url, TemporaryDirectory(prefix="ray") as short:
        start += f" --temp-dir={short}"  # other tests' Ray is not found there; sockets' paths must not be long
        start = start.replace("http://127.0.0.1:5000", url)
        with running(start, tmp_path, OMP_NUM_THREADS="1", RAY_USAGE_STATS_ENABLED="0"):
            address = f"http://127.0.0.1:{dashboard}"
            assert wait_for_server(address, 120), (tmp_path / "log").read_text()
            submit = f"submit small.yaml --address {address} --run first"
            ran = subprocess.run(
                [sys.executable, "-m", "rllib_empathy.cli", *submit.split()],
                env=environment(tmp_path),
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=300,
            )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        _, found = answer(f"{url}/api/2.0/mlflow/experiments/get-by-name?experiment_name=small")
        body = {"experiment_ids": [found["experiment"]["experiment_id"]]}
        (run,) = answer(f"{url}/api/2.0/mlflow/runs/search", body=body)[1]["runs"]
    assert (run["info"]["run_name"], run["info"]["status"]) == ("first", "FINISHED")
    logged = {metric["key"]: metric["value"] for metric in run["data"]["metrics"]}
    assert (logged["iteration"], logged["env_steps"]) == (2, 20)
    assert not (tmp_path / "runs" / "mlflow.db").exists(), "no store of the run's own"
    assert list((tmp_path / "mlartifacts").rglob("metrics.csv"))


# -- who says which store it is


def test_a_store_that_is_named_at_submission_comes_before_all_others():
    command = submission.entrypoint("quickstart", [], "first", None, "http://mine:5000/a b")
    words = shlex.split(command)
    assert words[3:8] == ["quickstart", "--run", "first", "--mlflow", "http://mine:5000/a b"]
    assert "--mlflow" not in submission.entrypoint("quickstart", [], "first", None)
    arguments = ["submit", "quickstart", "--dry-run", "--mlflow"]
    for uri, code in (("http://mine:5000", 0), ("off", 0), ("mine", 2)):
        result = CliRunner().invoke(app, [*arguments, uri], env={"RAY_AUTH_MODE": "token"})
        assert result.exit_code == code, result.output
    assert "MLflow store 'mine': give a URI" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "variables", "store"),
    [
        ([], {}, None),
        ([], {"MLFLOW_TRACKING_URI": "http://a"}, "http://a"),
        ([], {"MLFLOW_TRACKING_URI": "http://a", "RLLIB_EMPATHY_MLFLOW": "off"}, "off"),
        (["--mlflow", "http://b"], {"MLFLOW_TRACKING_URI": "http://a"}, "http://b"),
        (["--mlflow=off"], {"MLFLOW_TRACKING_URI": "http://a"}, "off"),
    ],
)
def test_the_driver_waits_for_the_server_that_training_will_use(monkeypatch, arguments, variables, store):
    for name in ("MLFLOW_TRACKING_URI", "RLLIB_EMPATHY_MLFLOW"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    waited: list[str] = []

    def wait(uri: str, seconds: float) -> bool:
        waited.append(uri)
        return True

    monkeypatch.setattr(driver, "wait_for_server", wait)
    monkeypatch.setattr(subprocess, "Popen", lambda *anything, **named: SimpleNamespace(wait=lambda: 0))
    monkeypatch.setattr(signal, "signal", lambda *anything: None)
    assert driver.drive(["quickstart", *arguments]) == 0
    assert waited == ([store] if store else [])


def test_a_server_that_starts_late_is_waited_for_and_one_that_never_comes_is_not_for_ever():
    (port,) = free_ports(1)
    uri = f"http://127.0.0.1:{port}"
    begun = time.monotonic()
    assert not wait_for_server(uri, 0.1)
    assert time.monotonic() - begun < 10
    assert wait_for_server("sqlite:///nowhere/mlflow.db", 0)
    assert wait_for_server("off", 0)

    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(403)

        def log_message(self, *arguments):
            pass

    servers: list[HTTPServer] = []

    def start() -> None:
        servers.append(HTTPServer(("127.0.0.1", port), Refusing))
        Thread(target=servers[0].serve_forever, daemon=True).start()

    Timer(0.5, start).start()
    assert wait_for_server(uri, 30), "an answer is an answer"
    servers[0].shutdown()
    servers[0].server_close()
