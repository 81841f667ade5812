"""Runs in object storage: begun, taken up elsewhere, cut off at every moment; over file:// and a server that speaks S3."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pyarrow.fs import FileSystem, FileSystemHandler, LocalFileSystem, PyFileSystem
from typer.testing import CliRunner, Result

from rllib_empathy.cli import app
from rllib_empathy.cli import training as command
from rllib_empathy.cluster.driver import STARTED_ANEW
from rllib_empathy.experiments.errors import RunFolderError
from rllib_empathy.experiments.experiment import load_experiment
from rllib_empathy.experiments.metrics_table import MetricsTable, read_metrics
from rllib_empathy.experiments.mirror import Mirror, is_uri
from rllib_empathy.experiments.run_folder import RunFolder

SMALL: dict[str, Any] = {
    "name": "small",
    "environment": "iterated_prisoners_dilemma",
    "env_config": {"episode_length": 5},
    "training": {"network": {"hidden": [4]}},
    "env_runners": {"num_envs_per_env_runner": 2, "rollout_fragment_length": 5},
    "checkpoint": {"every_iterations": 1},
    "stop": {"iterations": 4},
}


@pytest.fixture(scope="module")
def s3() -> Iterator[Callable[[str], str]]:
    """Storages of a server that speaks S3: a bucket's name -> the URI of a folder in a new bucket of that name."""
    from boto3 import client
    from moto.server import ThreadedMotoServer

    with pytest.MonkeyPatch.context() as patch:
        for name, value in (
            ("AWS_ACCESS_KEY_ID", "key"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ):
            patch.setenv(name, value)
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        user = client("s3", endpoint_url=f"http://{host}:{port}")

        def storage(bucket: str) -> str:
            user.create_bucket(Bucket=bucket)
            return f"s3://{bucket}/runs?endpoint_override={host}:{port}&scheme=http"

        yield storage
        server.stop()


NAMES = (f"bucket{number}" for number in count())


@pytest.fixture(params=["file", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URI of a new, empty storage."""
    if request.param == "file":
        return (tmp_path / "the storage").as_uri()
    return str(request.getfixturevalue("s3")(next(NAMES)))


# -- a run, made up


def advance(folder: Path, iteration: int, keep: int = 2) -> None:
    """A run's folder after this iteration: with its metrics, and the last checkpoints, of which each knows whose it is."""
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    (folder / "experiment.yaml").write_text("name: small")
    table = MetricsTable(folder / "metrics.csv")
    table.cut(iteration - 1)  # as a run does that goes on from a checkpoint
    table.append({"iteration": iteration, "env_steps": 1_000_000 + iteration})
    checkpoint = folder / "checkpoints" / f"iteration_{iteration:06d}"
    (checkpoint / "learner" / "state").mkdir(parents=True)
    for name in ("one", "learner/state/two"):
        (checkpoint / name).write_text(str(iteration))
    for old in sorted((folder / "checkpoints").glob("iteration_*"))[:-keep]:
        shutil.rmtree(old)


def state(folder: Path) -> tuple[int, list[int]]:
    """The iteration of a folder's last checkpoint, and those of the metrics that a resumed run goes on with.

    Checks that all that is there belongs together.
    """
    if not (folder / "experiment.yaml").exists():
        return 0, []
    last = 0
    for checkpoint in sorted((folder / "checkpoints").glob("iteration_*")):
        last = int(checkpoint.name.removeprefix("iteration_"))
        assert [(checkpoint / name).read_text() for name in ("one", "learner/state/two")] == [str(last)] * 2
    rows = read_metrics(folder / "metrics.csv")["iteration"] if (folder / "metrics.csv").exists() else np.zeros(0)
    return last, [int(iteration) for iteration in rows if iteration <= last]


def test_a_run_can_be_taken_up_elsewhere_and_brought_back(storage, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    mirror = Mirror.of_run(storage, "small", "lr=0.1 #1")
    mirror.bring(here)
    assert not here.exists(), "nothing is there yet, and nothing stands in the run folder's way"
    for iteration in (1, 2, 3):
        advance(here, iteration)
        mirror.upload(here)
    other = Mirror.of_run(storage, "small", "lr=0.1 #1")
    other.bring(there)
    assert state(there) == (3, [1, 2, 3])
    assert [path.name for path in sorted((there / "checkpoints").iterdir())] == ["iteration_000002", "iteration_000003"]
    advance(there, 4)
    other.upload(there)
    mirror.bring(here)
    assert state(here) == (4, [1, 2, 3, 4])
    assert Mirror.of_run(storage, "small", "another").download(tmp_path / "nothing") is False


def test_a_folder_that_has_gone_on_further_than_its_storage_stays_as_it_is(storage, tmp_path):
    """The machine's own last copy had failed: what it has is not thrown back, metrics included."""
    mirror = Mirror.of_run(storage, "small", "first")
    advance(tmp_path / "run", 1)
    mirror.upload(tmp_path / "run")
    for iteration in (2, 3):
        advance(tmp_path / "run", iteration)
    mirror.bring(tmp_path / "run")
    assert state(tmp_path / "run") == (3, [1, 2, 3])
    mirror.upload(tmp_path / "run")
    mirror.bring(tmp_path / "new")
    assert state(tmp_path / "new") == (3, [1, 2, 3])


def test_runs_of_unlike_experiments_are_not_mixed(storage, tmp_path):
    mirror = Mirror.of_run(storage, "small", "first")
    for folder, text in ((tmp_path / "run", "name: small"), (tmp_path / "other", "name: small\nseed: 1")):
        advance(folder, 1)
        (folder / "experiment.yaml").write_text(text)
    mirror.upload(tmp_path / "run")
    with pytest.raises(RunFolderError, match=r"unlike experiments.*--run.*--out"):
        mirror.bring(tmp_path / "other")


# -- cut off


class Crash(Exception):
    """The machine fails."""


class Failing(FileSystemHandler):
    """A storage that is there for so many calls, and then never again."""

    def __init__(self, storage: FileSystem, calls: int) -> None:
        self._storage, self._left = storage, calls

    def _call(self, name: str, *arguments: Any, **named: Any) -> Any:
        self._left -= 1
        if self._left < 0:
            raise OSError("the machine fails")
        return getattr(self._storage, name)(*arguments, **named)

    def get_type_name(self) -> str:
        return "failing"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> Any:
        return self._call("get_file_info", paths)

    def get_file_info_selector(self, selector: Any) -> Any:
        return self._call("get_file_info", selector)

    def create_dir(self, path: str, recursive: bool) -> None:
        self._call("create_dir", path, recursive=recursive)

    def delete_dir(self, path: str) -> None:
        self._call("delete_dir", path)

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        self._call("delete_dir_contents", path, missing_dir_ok=missing_dir_ok)

    def delete_root_dir_contents(self) -> None:
        raise NotImplementedError

    def delete_file(self, path: str) -> None:
        self._call("delete_file", path)

    def move(self, src: str, dest: str) -> None:
        self._call("move", src, dest)

    def copy_file(self, src: str, dest: str) -> None:
        self._call("copy_file", src, dest)

    def open_input_stream(self, path: str) -> Any:
        return self._call("open_input_stream", path)

    def open_input_file(self, path: str) -> Any:
        return self._call("open_input_file", path)

    def open_output_stream(self, path: str, metadata: Any) -> Any:
        return self._call("open_output_stream", path, metadata=metadata)

    def open_append_stream(self, path: str, metadata: Any) -> Any:
        return self._call("open_append_stream", path, metadata=metadata)


def failing(mirror: Mirror, calls: int) -> Mirror:
    mirror._storage = PyFileSystem(Failing(mirror._storage, calls))
    return mirror


def succeeds(work: Callable[[], None]) -> bool:
    """Whether it comes to its end before the machine fails; if not, the user is told what could not be done, and why."""
    try:
        work()
    except RunFolderError as error:
        if not re.search(r"The storage file://.* cannot be (read|written): the machine fails", str(error)):
            raise
        return False
    return True


def test_a_copy_that_is_cut_off_at_any_moment_is_the_state_before_or_after(tmp_path):
    """And the next copy completes it."""
    storage = (tmp_path / "storage").as_uri()
    seen, calls = set(), 0
    while True:
        run, name = tmp_path / f"run{calls}", f"run{calls}"
        for iteration in (1, 2, 3):
            advance(run, iteration)
            if iteration < 3:
                Mirror.of_run(storage, "small", name).upload(run)
        mirror = failing(Mirror.of_run(storage, "small", name), calls)
        if succeeds(lambda: mirror.upload(run)):  # noqa: B023
            break
        Mirror.of_run(storage, "small", name).bring(tmp_path / f"new{calls}")
        found = state(tmp_path / f"new{calls}")
        assert found == (found[0], list(range(1, found[0] + 1)))
        seen.add(found[0])
        advance(tmp_path / f"new{calls}", found[0] + 1)
        Mirror.of_run(storage, "small", name).upload(tmp_path / f"new{calls}")
        Mirror.of_run(storage, "small", name).download(tmp_path / f"newest{calls}")
        assert state(tmp_path / f"newest{calls}") == (found[0] + 1, list(range(1, found[0] + 2)))
        calls += 1
    assert calls > 10
    assert seen == {2, 3}


@pytest.mark.parametrize("before", [[], [1, 2]])
def test_a_folder_that_is_brought_and_cut_off_at_any_moment_can_be_brought_again(tmp_path, before):
    storage = (tmp_path / "storage").as_uri()
    run = tmp_path / "run"
    for iteration in (1, 2, 3, 4):
        advance(run, iteration)
    Mirror.of_run(storage, "small", "first").upload(run)
    for calls in count():
        new = tmp_path / f"new{calls}"
        for iteration in before:
            advance(new, iteration)
        mirror = failing(Mirror.of_run(storage, "small", "first"), calls)
        if succeeds(lambda: mirror.bring(new)):  # noqa: B023
            break
        last, iterations = state(new)
        assert iterations == list(range(1, last + 1)), "what is there can be gone on with, even without the storage"
        Mirror.of_run(storage, "small", "first").bring(new)
        assert state(new) == (4, [1, 2, 3, 4])
    assert calls > 10


@pytest.mark.parametrize(
    "left", [[], ["checkpoints/"], ["checkpoints/.iteration_000001/"], [".probe"], [".experiment.yaml", "checkpoints/"]]
)
def test_a_run_folder_that_was_being_made_when_the_machine_failed_is_no_dead_end(tmp_path, left):
    experiment = load_experiment("quickstart")
    path = tmp_path / "quickstart" / "first"
    path.mkdir(parents=True)
    for name in left:
        if name.endswith("/"):
            (path / name).mkdir(parents=True)
        else:
            (path / name).touch()
    folder = RunFolder.take_up(tmp_path, experiment, "first")
    assert folder.path == path
    assert folder.checkpoints.is_dir()
    folder.describe(experiment, experiment)
    assert RunFolder.take_up(tmp_path, experiment, "first").path == path


@pytest.mark.parametrize("there", ["metrics.csv", "thesis.tex", "checkpoints/iteration_000003/"])
def test_a_folder_of_something_else_is_not_taken_for_a_run(tmp_path, there):
    path = tmp_path / "quickstart" / "first" / there
    path.mkdir(parents=True)
    with pytest.raises(RunFolderError, match=rf"holds {there.rstrip('/')}, but no experiment.yaml.*--run.*--out"):
        RunFolder.take_up(tmp_path, load_experiment("quickstart"), "first")


# -- names


@pytest.mark.parametrize(
    "listed", ["../../evil", "/etc", "..", "iteration_1/../../..", "iteration_000001 ", "", "iteration_x", "a\\b"]
)
@pytest.mark.parametrize("method", ["bring", "download", "upload"])
def test_a_list_of_checkpoints_with_another_name_in_it_is_refused(tmp_path, listed, method):
    storage = tmp_path / "storage"
    advance(tmp_path / "run", 1)
    mirror = Mirror(storage.as_uri())
    mirror.upload(tmp_path / "run")
    (storage / "checkpoints" / "complete").write_text(f"iteration_000001\n{listed}\n")
    with pytest.raises(RunFolderError) as refused:
        getattr(mirror, method)(tmp_path / "new" if method != "upload" else tmp_path / "run")
    assert f"lists {listed!r} in checkpoints/complete" in str(refused.value)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "key",
    [
        "../evil",
        "checkpoints/iteration_000001/../../../../evil",
        "checkpoints/iteration_000001//etc/evil",
        "/evil",
        "a\\..\\evil",
        "C:evil",
        "./evil",
        "checkpoints/../../evil/",
    ],
)
def test_an_object_whose_name_would_leave_the_folder_is_refused(s3, tmp_path, key):
    """A name of S3 is any text; a file system would never hold these."""
    from boto3 import client

    bucket = next(NAMES)
    storage = s3(bucket)
    mirror = Mirror.of_run(storage, "small", "first")
    advance(tmp_path / "run", 1)
    mirror.upload(tmp_path / "run")
    server = storage.partition("endpoint_override=")[2].partition("&")[0]
    client("s3", endpoint_url=f"http://{server}").put_object(Bucket=bucket, Key=f"runs/small/first/{key}", Body=b"x")
    before = sorted(tmp_path.rglob("*"))
    for method in (mirror.bring, mirror.download):
        with pytest.raises(RunFolderError, match=r"is no name inside a run's folder.*remove it"):
            method(tmp_path / "deep" / "er" / "new")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_listed_checkpoint_of_which_nothing_is_there_is_named(storage, tmp_path):
    mirror = Mirror(storage)
    advance(tmp_path / "run", 1)
    mirror.upload(tmp_path / "run")
    mirror._remove(mirror._at("iteration_000001"))
    with pytest.raises(RunFolderError, match="lists the checkpoint iteration_000001, of which nothing is there"):
        mirror.bring(tmp_path / "new")


@pytest.mark.parametrize("storage_is", ["the run folder", "around it", "inside it"])
def test_a_storage_that_is_the_run_folder_itself_is_refused(tmp_path, storage_is):
    run = tmp_path / "runs" / "small" / "first"
    advance(run, 1)
    place = {"the run folder": run, "around it": tmp_path / "runs", "inside it": run / "copy"}[storage_is]
    mirror = Mirror(place.as_uri())
    for method in (mirror.bring, mirror.download, mirror.upload):
        with pytest.raises(RunFolderError, match=r"lie in each other.*--out.*without file://"):
            method(run)
    assert state(run) == (1, [1])


@pytest.mark.parametrize("run", ["../x", "a/b", "..", ".hidden", "", "a\\b", "a\nb", "file:x"])
def test_names_of_runs_that_would_leave_the_folder_of_all_runs_are_refused(tmp_path, run):
    for arguments in (["train", "quickstart", "--out", str(tmp_path)], ["submit", "quickstart", "--dry-run"]):
        environment = {"RAY_AUTH_MODE": "token"}  # which `submit` sets, and other tests shall not see
        result = CliRunner().invoke(app, [*arguments, "--run", run], env=environment)
        assert result.exit_code == 2
        assert f"--run {run!r}: a run's name" in result.stderr
    assert not list(tmp_path.iterdir())


def test_what_is_a_uri_and_what_a_folder():
    assert all(map(is_uri, ("s3://bucket", "gs://bucket/x", "file:///x", "file:/x", "file:x", "abfs://x")))
    assert not any(map(is_uri, (None, "/shared/runs", "runs", "./s3:/x", "C:/runs", "~/runs")))


def test_credentials_are_not_told(tmp_path):
    mirror = Mirror(f"{(tmp_path / 's').as_uri()}")
    assert mirror.place == (tmp_path / "s").as_uri()


# -- the command


def call(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit | Crash):
        raise result.exception
    return result


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL), encoding="utf-8")
    return path


def test_a_run_whose_machine_is_lost_goes_on_elsewhere_and_ends_once(
    ray_local, experiment, storage, tmp_path, monkeypatch
):
    """The same command all the time. The first machine is lost while the copy of its third iteration is under way."""
    uploads = iter([None, None, Crash(), Crash()])
    upload = Mirror.upload

    def upload_or_crash(mirror: Mirror, folder: Path) -> None:
        crash = next(uploads)
        if crash:
            raise crash
        upload(mirror, folder)

    arguments = ["train", experiment, "--storage", storage, "--run", "first"]
    with monkeypatch.context() as patch:
        patch.setattr(Mirror, "upload", upload_or_crash)
        patch.setattr(command, "_uploaded", lambda mirror, folder: mirror.upload(folder.path) is None)
        assert isinstance(call(*arguments, "--out", tmp_path / "lost").exception, Crash)
    shutil.rmtree(tmp_path / "lost")
    on = call(*arguments, "--out", tmp_path / "elsewhere")
    assert on.exit_code == 0, on.output
    rows = read_metrics(tmp_path / "elsewhere" / "small" / "first" / "metrics.csv")
    np.testing.assert_array_equal(rows["iteration"], [1, 2, 3, 4])
    np.testing.assert_array_equal(rows["env_steps"], [10, 20, 30, 40])
    np.testing.assert_array_equal(rows["resumes"], [0, 0, 1, 1])
    monkeypatch.setenv(STARTED_ANEW, "1")
    killed = call(*arguments, "--out", tmp_path / "elsewhere")
    assert killed.exit_code == 0, "a driver that was killed behind the end of its run has done what it was to do"
    assert "has reached its end" in killed.stdout
    monkeypatch.delenv(STARTED_ANEW)
    for place in ("elsewhere", "third"):
        again = call(*arguments, "--out", tmp_path / place)
        assert again.exit_code == 2
        assert "has reached its end" in again.stderr
        folder = RunFolder(tmp_path / place / "small" / "first")
        np.testing.assert_array_equal(read_metrics(folder.metrics)["iteration"], [1, 2, 3, 4])
        assert len(list(folder.checkpoints.iterdir())) == 2
        assert folder.curves.is_file()


def test_a_storage_that_is_away_stops_no_training_and_is_told_at_the_end(ray_local, experiment, tmp_path, monkeypatch):
    """The repeated command brings what is missing, though the run has ended."""
    storage = (tmp_path / "storage").as_uri()
    arguments = ["train", experiment, "--storage", storage, "--run", "first", "--out", tmp_path / "runs"]
    with monkeypatch.context() as patch:
        patch.setattr(Mirror, "_put", lambda *anything: LocalFileSystem().delete_file("/nowhere/at/all"))
        result = call(*arguments)
    assert result.exit_code == 1
    assert "Nothing is lost" in result.stderr
    assert "The same command with --run first copies the rest" in " ".join(result.stderr.split())
    folder = RunFolder(tmp_path / "runs" / "small" / "first")
    np.testing.assert_array_equal(read_metrics(folder.metrics)["iteration"], [1, 2, 3, 4])
    assert call(*arguments).exit_code == 2
    Mirror.of_run(storage, "small", "first").bring(tmp_path / "new")
    assert (tmp_path / "new" / "metrics.csv").read_bytes() == folder.metrics.read_bytes()
    assert RunFolder(tmp_path / "new").last_checkpoint() == tmp_path / "new" / "checkpoints" / "iteration_000004"
