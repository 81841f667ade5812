"""The on-prem definition over host boundaries: brought up, used, cut, torn down. `make test-hosts` runs it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from rllib_empathy.experiments.metrics_table import read_metrics
from tests.cluster.hosts import Network, obstacle

CHECKOUT = Path(__file__).parents[2]
RUNNERS, GAMES, STEPS = 4, 8, 20
SECONDS = 300
"""Of training: long enough to lose a host and to get its runners back."""

RUNS_OF_THE_SERVER = """
import os
os.environ["MLFLOW_TRACKING_URI"] = "http://127.0.0.1:5000"
from mlflow import MlflowClient
client = MlflowClient()
experiments = [experiment.experiment_id for experiment in client.search_experiments()]
for run in client.search_runs(experiments):
    print(run.info.run_name, run.info.status)
"""
"""What is asked on the head: all runs that its MLflow server knows, and how they ended."""


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    reason = obstacle()
    if reason:
        pytest.fail(f"Several hosts cannot be had here: {reason}.")
    variables = {
        "PYTHONPATH": str(CHECKOUT),
        "OMP_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_raylet_start_wait_time_s": "120",
        "RAY_worker_niceness": "0",
    }
    with Network(
        tmp_path_factory.mktemp("hosts"), ["head", "first", "second", "laptop"], Path(sys.executable).parent, variables
    ) as network:
        yield network


@pytest.fixture(scope="module")
def definition(network: Network) -> Iterator[Path]:
    """The definition with its places filled in; the cluster is up meanwhile."""
    filled: dict[str, Any] = yaml.safe_load((CHECKOUT / "cluster" / "on_prem.yaml").read_text())
    hosts = network.hosts
    filled["provider"].update(
        head_ip=hosts["head"].address, worker_ips=[hosts["first"].address, hosts["second"].address]
    )
    filled["auth"] = {"ssh_user": "root", "ssh_private_key": str(network.key)}
    filled["setup_commands"] = []  # all hosts have this machine's disk
    path = hosts["laptop"].home / "cluster.yaml"
    path.write_text(yaml.safe_dump(filled))
    network.run("laptop", "ray", "get-auth-token", "--generate")
    network.run("laptop", "ray", "up", "--yes", str(path), timeout=300)
    yield path
    network.run("laptop", "ray", "down", "--yes", str(path))
    for name in ("head", "first", "second"):
        wait_for(lambda name=name: not hosts[name].processes("raylet"), 60, f"ray has ended on {name}")  # type: ignore[misc]


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.5)


def settings(**changed: Any) -> list[str]:
    values = {
        "env_runners.num_env_runners": RUNNERS,
        "env_runners.num_envs_per_env_runner": GAMES,
        "env_runners.rollout_fragment_length": STEPS,
        **changed,
    }
    return [part for key, value in values.items() for part in ("--set", f"{key}={value}")]


@pytest.mark.hosts
@pytest.mark.timeout(900)
def test_training_goes_on_when_a_host_is_cut_off(network, definition):
    """A silent host, not a dead process: nothing tells the others that it is gone."""
    metrics = network.hosts["head"].home / "runs" / "quickstart" / "cut" / "metrics.csv"

    def column(name: str) -> np.ndarray:
        return read_metrics(metrics)[name] if metrics.exists() else np.zeros(0)

    log = (network.hosts["laptop"].home / "log").open("w")
    command = ["ray", "submit", str(definition), str(CHECKOUT / "cluster" / "train.py"), "quickstart"]
    command += ["--run", "cut"]
    submitted = subprocess.Popen(
        network.command("laptop", *command, *settings(**{"stop.env_steps": "null", "stop.seconds": SECONDS})),
        env=network.environment(network.hosts["laptop"]),
        stdout=log,
        stderr=subprocess.STDOUT,
        cwd=network.hosts["laptop"].home,
    )
    try:
        wait_for(lambda: len(column("iteration")) >= 3, 240, "training has begun")
        assert column("remote_runners")[-1] == RUNNERS
        cut = next(
            host for host in (network.hosts["first"], network.hosts["second"]) if host.processes("ray::JointEnv")
        )
        lost = len(cut.processes("ray::JointEnv"))
        cut.cut_off()
        wait_for(lambda: column("remote_runners")[-1] < RUNNERS, 150, "Ray has declared the host dead")
        iterations = len(column("iteration"))
        wait_for(lambda: len(column("iteration")) > iterations, 60, "training goes on")
        wait_for(lambda: column("remote_runners")[-1] == RUNNERS, 150, "all runners are back")
        cut.reconnect()
        assert submitted.wait(SECONDS + 120) == 0
    finally:
        submitted.kill()
        submitted.wait()
        log.close()
    network.run("laptop", "ray", "rsync-down", str(definition), "~/runs/", f"{network.hosts['laptop'].home / 'runs'}/")
    fetched = network.hosts["laptop"].home / "runs" / "quickstart" / "cut"
    rows = read_metrics(fetched / "metrics.csv")
    np.testing.assert_array_equal(rows["iteration"], np.arange(1, len(rows["iteration"]) + 1))
    fragments = np.diff(rows["env_steps"], prepend=0) / (GAMES * STEPS)
    assert set(fragments) <= set(range(1, RUNNERS + 1)), "every fragment counts once"
    assert fragments.min() >= RUNNERS - lost, "only the cut host's are missing"
    assert fragments[-1] == RUNNERS
    assert (fetched / "curves.png").is_file()
    assert list((fetched / "checkpoints").iterdir())
    seen = network.run("head", "python", "-c", RUNS_OF_THE_SERVER)
    assert "cut FINISHED" in seen.splitlines(), "what `ray submit` runs reaches the head's MLflow too"


@pytest.mark.hosts
@pytest.mark.timeout(400)
def test_the_short_form_sends_follows_and_fetches(network, definition):
    arguments = ["submit", "quickstart", "--cluster", str(definition), "--run", "short"]
    laptop = network.hosts["laptop"].home
    (laptop / "work").mkdir()
    ran = subprocess.run(
        network.command("laptop", "python", "-m", "rllib_empathy.cli", *arguments, *settings(**{"stop.iterations": 2})),
        env=network.environment(network.hosts["laptop"]),
        cwd=laptop / "work",
        capture_output=True,
        text=True,
        timeout=350,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "Run folder" in ran.stdout, "the job's log was followed"
    seen = network.run("head", "python", "-c", RUNS_OF_THE_SERVER)
    assert "short FINISHED" in seen.splitlines(), "MLflow on the head, which the definition has started, has the run"
    rows = read_metrics(laptop / "work" / "runs" / "quickstart" / "short" / "metrics.csv")
    np.testing.assert_array_equal(rows["iteration"], [1, 2])
