"""What an experiment needs, whether a cluster has it, and what is said when something is wrong."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from env_registry.parameters import SettingError
from rllib_empathy.cli import app
from rllib_empathy.cluster import preflight, submission
from rllib_empathy.cluster.capacity import NodeType, capacity_of, check_fits, live_capacity
from rllib_empathy.cluster.errors import ClusterError
from rllib_empathy.cluster.needs import needs_of, places_of
from rllib_empathy.experiments.building import build_config
from rllib_empathy.experiments.errors import RunFolderError
from rllib_empathy.experiments.experiment import load_experiment
from rllib_empathy.experiments.mirror import Mirror
from rllib_empathy.learning.config import EmpathyConfig
from rllib_empathy.sampling.joint_env_runner import JointEnvRunner

FOLDER = Path(__file__).parents[2] / "cluster"


def needs(runners: int, learners: int = 0, gpus: float = 0) -> Any:
    overrides = [f"env_runners.num_env_runners={runners}", f"learners.num_learners={learners}"]
    return needs_of(build_config(load_experiment("quickstart", [*overrides, f"learners.num_gpus_per_learner={gpus}"])))


def test_needs_count_processes_and_measure_trajectories():
    found = needs(3, learners=2, gpus=1)
    assert [(group.what, group.count, group.resources) for group in found.processes] == [
        ("driver", 1, {}),
        ("runner", 3, {"CPU": 1.0}),
        ("learner", 2, {"GPU": 1.0}),
    ]
    assert found.bundles() == [{"GPU": 1.0}] * 2 + [{"CPU": 1.0}] * 3
    assert found.env_steps == 3 * 64 * 25
    config = build_config(load_experiment("quickstart"))
    whole = JointEnvRunner(config=config, worker_index=0).sample()[0]
    # Of a short fragment, what follows the last row weighs more: a step's observation once more for each game.
    assert found.bytes_per_env_step == pytest.approx(whole.nbytes() / whole.env_steps(), rel=0.3)
    assert found.object_store == pytest.approx(2 * 3 * whole.nbytes(), rel=0.3)


@pytest.mark.parametrize(
    ("runners", "learners", "evaluation", "wanted"),
    [
        ({"num_env_runners": 2, "num_gpus_per_env_runner": 0.5}, {}, {}, [{"CPU": 1, "GPU": 0.5}] * 2),
        ({"num_env_runners": 1, "num_cpus_per_env_runner": 3}, {}, {}, [{"CPU": 3}]),
        ({"num_env_runners": 1, "custom_resources_per_env_runner": {"tpu": 2}}, {}, {}, [{"CPU": 1, "tpu": 2}]),
        ({}, {"num_learners": 2}, {}, [{"CPU": 1}] * 2),
        ({}, {"num_learners": 1, "num_gpus_per_learner": 1}, {}, [{"GPU": 1}]),
        ({}, {"num_learners": 0, "num_gpus_per_learner": 1}, {}, [{"GPU": 1}]),
        ({}, {}, {"evaluation_interval": 1, "evaluation_num_env_runners": 2}, [{"CPU": 1}] * 2),
        ({}, {}, {"evaluation_num_env_runners": 2}, []),
        ({}, {}, {}, []),
    ],
)
def test_every_resource_that_a_configuration_asks_for_is_looked_for(runners, learners, evaluation, wanted):
    config = (
        EmpathyConfig().environment("snowdrift").env_runners(**runners).learners(**learners).evaluation(**evaluation)
    )
    assert places_of(config) == wanted


@pytest.mark.parametrize(
    ("runners", "learners", "lacking"),
    [
        ({"num_env_runners": 1, "num_gpus_per_env_runner": 1}, {}, "1 CPU and 1 GPU"),
        ({"num_env_runners": 1, "num_cpus_per_env_runner": 99}, {}, "99 CPU"),
        ({"num_env_runners": 1, "custom_resources_per_env_runner": {"tpu": 2}}, {}, "1 CPU and 2 tpu"),
        ({}, {"num_learners": 99}, "99 processes of 1 CPU each, of which 8 find a place"),
        ({}, {"num_learners": 1, "num_gpus_per_learner": 99}, "99 GPU"),
    ],
)
def test_an_algorithm_that_finds_no_place_is_refused_instead_of_waited_for(ray_local, runners, learners, lacking):
    config = EmpathyConfig().environment("snowdrift").env_runners(**runners).learners(**learners)
    with pytest.raises(
        SettingError, match=rf"more than the running Ray ever has: .*{lacking}.*Lower .*wait_for_places"
    ):
        config.build_algo()


@pytest.mark.parametrize(
    ("runners", "learners", "fits"),
    [(4, 0, True), (5, 0, False), (2, 1, True), (3, 1, False), (0, 2, False)],
)
def test_all_processes_find_a_place_at_the_same_time_or_not(runners, learners, fits):
    """Two CPUs without a GPU, and a node whose two CPUs the learner's one takes a half of."""
    capacity = [NodeType("cpus", 1, {"CPU": 2}), NodeType("gpus", 1, {"CPU": 2, "GPU": 1})]
    wanted = needs(runners, learners, gpus=1)
    if learners:  # let each learner take CPUs too
        for group in wanted.processes:
            if group.what == "learner":
                group.resources["CPU"] = 2.0
    if fits:
        check_fits(wanted.bundles(), capacity, "it", "grow")
    else:
        with pytest.raises(SettingError, match=r"more than it ever has: .*find a place.*num_env_runners.*grow"):
            check_fits(wanted.bundles(), capacity, "it", "grow")


@pytest.mark.parametrize(
    ("name", "runners"),
    [("aws.yaml", 528), ("gcp.yaml", 528), ("kubernetes/cluster.yaml", 528), ("kubernetes/job.yaml", 528)],
)
def test_definitions_say_what_they_can_ever_hold(name, runners):
    capacity = capacity_of(FOLDER / name)
    check_fits(needs(runners, learners=2, gpus=1).bundles(), capacity, name, "grow")
    with pytest.raises(SettingError, match="of which 528 find a place"):
        check_fits(needs(runners + 1).bundles(), capacity, name, "grow")
    with pytest.raises(SettingError, match="of which 2 find a place"):
        check_fits(needs(1, learners=4, gpus=1).bundles(), capacity, name, "grow")


def test_machines_of_ones_own_are_known_once_they_are_up():
    capacity = capacity_of(FOLDER / "on_prem.yaml")
    assert [node_type.most for node_type in capacity] == [1, 2]
    check_fits(needs(1000).bundles(), capacity, "it", "grow")
    up = live_capacity(
        [{"NodeManagerAddress": "a", "Alive": alive, "Resources": {"CPU": 2.0}} for alive in (True, False)]
    )
    with pytest.raises(SettingError, match="3 processes of 1 CPU each, of which 2 find"):
        check_fits(needs(3).bundles(), up, "it", "grow")


@pytest.mark.parametrize("text", ["{}", "kind: Pod", "a: [", None])
def test_what_is_no_cluster_definition_is_refused(tmp_path, text):
    path = tmp_path / "cluster.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SettingError, match=r"cluster.yaml.*(cannot be read|no cluster definition)"):
        capacity_of(path)


def test_nodes_with_unlike_versions_are_named():
    mine = dict.fromkeys((*preflight.COMPARED, "python"), "1.0")
    preflight._check_versions(mine, {"10.0.0.1": mine})
    with pytest.raises(ClusterError, match=r"10.0.0.2 has torch 2.0, the head 1.0.*constraints"):
        preflight._check_versions(mine, {"10.0.0.1": mine, "10.0.0.2": {**mine, "torch": "2.0"}})


def test_nodes_that_cannot_see_the_storage_are_named(tmp_path):
    probe = tmp_path / "probe"
    probe.write_text("17")
    seen, blind = preflight._facts(str(probe)), preflight._facts(str(tmp_path / "elsewhere" / "probe"))
    preflight._check_storage(probe, {"10.0.0.1": seen})
    with pytest.raises(ClusterError, match=rf"^10.0.0.2 cannot see {tmp_path}.*--out"):
        preflight._check_storage(probe, {"10.0.0.1": seen, "10.0.0.2": blind})


def test_nodes_of_a_running_cluster_are_asked(ray_local, tmp_path):
    preflight.check_nodes(tmp_path)
    assert not list(tmp_path.iterdir())
    preflight.wait_for_places(needs(4).bundles(), 0, pytest.fail)
    told: list[str] = []
    with pytest.raises(SettingError, match=r"100 processes of 1 CPU each, of which 8 find a place.*--wait"):
        preflight.wait_for_places(needs(100).bundles(), 1, told.append)
    assert len(told) == 1


def call(*arguments: object) -> Any:
    words = [str(argument) for argument in arguments]
    return CliRunner().invoke(app, words, env={"RAY_AUTH_MODE": "token"})  # which other tests shall not see


def test_a_dry_run_shows_the_plan(monkeypatch, tmp_path):
    result = call("submit", "quickstart", "--set", "env_runners.num_env_runners=7", "--dry-run", "--run", "first")
    assert result.exit_code == 0, result.output
    row = next(line for line in result.output.splitlines() if "runner" in line)
    assert "7" in row
    assert "1 CPU" in row
    assert "driver quickstart --set env_runners.num_env_runners=7 --run first --out ~/runs" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--set", "env_runners.num_env_runners=9999", "--dry-run", "--cluster", FOLDER / "aws.yaml"],
            "9999 processes",
        ),
        ([], "--cluster DEFINITION or --address"),
        (["--cluster", FOLDER / "aws.yaml", "--address", "http://localhost:1"], "not both"),
        (["--address", "http://127.0.0.1:9"], "No cluster answers at http://127.0.0.1:9"),
    ],
)
def test_what_cannot_be_submitted_is_refused(arguments, message):
    result = call("submit", "quickstart", *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


@contextmanager
def refusing_head(status: int) -> Iterator[tuple[str, list[str | None]]]:
    """The address of a head that answers everything with this status, and the credentials that it is shown."""
    shown: list[str | None] = []

    class Head(BaseHTTPRequestHandler):
        def do_GET(self):
            shown.append(self.headers["Authorization"])
            self.send_error(status)

        def log_message(self, *arguments):
            pass

    with HTTPServer(("127.0.0.1", 0), Head) as head:
        Thread(target=head.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{head.server_port}", shown
        head.shutdown()


def test_a_missing_token_is_named():
    refused = pytest.raises(ClusterError, match=r"does not accept this machine's token.*~/.ray/auth_token")
    with refusing_head(401) as (address, _), refused:
        submission.connect(address)


def test_the_token_is_shown_to_the_head_and_a_wrong_one_is_named():
    """In a process of its own: Ray reads what it needs for that when it is imported."""
    with refusing_head(403) as (address, shown):
        ran = subprocess.run(
            [sys.executable, "-m", "rllib_empathy.cli", "submit", "quickstart", "--address", address],
            env={**os.environ, "RAY_AUTH_TOKEN": "wrong"},
            capture_output=True,
            text=True,
            timeout=200,
        )
    assert ran.returncode == 2
    assert "does not accept this machine's token" in " ".join(ran.stderr.split())
    assert shown[0] == "Bearer wrong"


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "[::1]:9"])
def test_an_address_where_nobody_listens_is_named(address):
    with pytest.raises(ClusterError, match=rf"No cluster answers at {re.escape(address)}: .*HOST:PORT"):
        preflight.check_reachable(address)
    preflight.check_reachable("auto")


def test_a_head_that_ssh_does_not_reach_is_named(tmp_path):
    definition = tmp_path / "cluster.yaml"
    never_up = {**yaml.safe_load((FOLDER / "on_prem.yaml").read_text()), "cluster_name": f"never-up-{tmp_path.name}"}
    definition.write_text(yaml.safe_dump(never_up))
    refused = pytest.raises(ClusterError, match=rf"head of {definition} cannot be reached: .*ray up")
    with refused, submission.tunnel(definition):
        pass


def test_an_experiment_outside_of_the_working_directory_is_refused(tmp_path, monkeypatch):
    outside, inside = tmp_path / "mine.yaml", tmp_path / "work"
    outside.write_text("name: mine\nenvironment: snowdrift\nstop: {iterations: 1}\n")
    inside.mkdir()
    monkeypatch.chdir(inside)
    result = call("submit", outside, "--dry-run")
    assert result.exit_code == 2
    assert "not in the working directory" in " ".join(result.output.split())


def test_words_reach_the_cluster_as_they_are():
    command = submission.entrypoint("a b.yaml", ["stop={iterations: 5}"], "run", "/shared/my runs")
    words = shlex.split(command)
    assert words[3:] == ["a b.yaml", "--set", "stop={iterations: 5}", "--run", "run", "--storage", "/shared/my runs"]


@pytest.mark.parametrize(("last", "succeeds"), [("SUCCEEDED", True), ("FAILED", False), ("STOPPED", False)])
def test_a_log_is_followed_to_its_end(monkeypatch, last, succeeds):
    monkeypatch.setattr(submission, "SECONDS_BETWEEN_LOOKS", 0)
    looks = iter(
        [("RUNNING", "a\n"), ("RUNNING", "a\n"), ConnectionError("lost"), ("RUNNING", "a\nb\n"), (last, "a\nb\nc\n")]
    )
    shown = SimpleNamespace(log="")

    def status(job: str) -> Any:
        look: Any = next(looks)
        if isinstance(look, Exception):
            raise look
        shown.log = look[1]
        return SimpleNamespace(value=look[0], is_terminal=lambda: look[0] != "RUNNING")

    told: list[str] = []
    client = SimpleNamespace(get_job_status=status, get_job_logs=lambda job: shown.log)
    assert submission.follow(client, "job", told.append) == succeeds
    assert told == ["a\n", "b\n", "c\n"]


def test_a_run_in_object_storage_can_be_taken_up_elsewhere(tmp_path):
    here, there, storage = tmp_path / "here", tmp_path / "there", tmp_path / "storage"
    for number in (1, 2):
        (here / "checkpoints" / f"iteration_00000{number}").mkdir(parents=True)
        (here / "checkpoints" / f"iteration_00000{number}" / "state").write_text(str(number))
    (here / "experiment.yaml").write_text("name: x")
    mirror = Mirror(storage.as_uri())
    mirror.upload(here)
    (here / "checkpoints" / "iteration_000001" / "state").unlink()
    (here / "checkpoints" / "iteration_000001").rmdir()
    (here / "metrics.csv").write_text("iteration\n2\n")
    mirror.upload(here)
    (storage / "checkpoints" / "iteration_000003").mkdir()  # which was being uploaded when the machine died
    Mirror(storage.as_uri()).download(there)
    files = {path.relative_to(there).as_posix() for path in there.rglob("*") if path.is_file()}
    assert files == {"experiment.yaml", "metrics.csv", "checkpoints/iteration_000002/state"}
    assert [path.name for path in (there / "checkpoints").iterdir()] == ["iteration_000002"]


@pytest.mark.parametrize("uri", ["nowhere://bucket", "s3:///"])
def test_storage_that_is_none_is_refused(uri):
    with pytest.raises(RunFolderError, match=r"cannot be used.*s3://BUCKET/FOLDER"):
        Mirror(uri)
