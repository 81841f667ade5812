"""Sends an experiment to a cluster as a Ray job, follows it, and fetches its results."""

from __future__ import annotations

import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rllib_empathy.cluster.errors import ClusterError
from rllib_empathy.experiments.mirror import Mirror, is_uri

NOT_SENT = ["/.git", "/.venv", "/runs", "/build", "**/__pycache__", "/.mypy_cache", "/.pytest_cache", "/.ruff_cache"]
"""What of the working directory stays here."""

HEAD_FOLDER = "~/runs"
"""Where results go on the head, unless there is a storage."""

DASHBOARD_PORT = 8265
LONGEST_TUNNEL_S = 60
SECONDS_BETWEEN_LOOKS = 1.0


def entrypoint(
    experiment: str, overrides: Sequence[str], run: str, storage: str | None, mlflow: str | None = None
) -> str:
    """The command that the cluster runs.

    Args:
        experiment: a path inside the working directory, or the name of an experiment of the package.
        overrides: "key=value".
        run: name of the run's folder.
        storage: where results go; None: to the head's own folder.
        mlflow: the store, as the cluster reaches it; None: what the head's environment names (the shipped definitions name the
            server that they start).
    """
    settings = [part for override in overrides for part in ("--set", override)]
    words = ["python", "-m", "rllib_empathy.cluster.driver", experiment, *settings, "--run", run]
    words += ["--mlflow", mlflow] if mlflow else []
    where = (
        f"--storage {shlex.quote(storage)}" if storage else f"--out {HEAD_FOLDER}"
    )  # the head's shell knows its home
    return f"{shlex.join(words)} {where}"


@contextmanager
def tunnel(definition: Path) -> Iterator[str]:
    """The address of a cluster's dashboard here; it is reached through ssh, as long as this lasts.

    Raises:
        ClusterError: the head does not answer.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ray = str(Path(sys.executable).with_name("ray"))
    command = [ray, "dashboard", str(definition), "--port", str(port), "--remote-port", str(DASHBOARD_PORT)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + LONGEST_TUNNEL_S
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                said = process.communicate()[0].decode(errors="replace").strip().splitlines()
                raise ClusterError(
                    f"The head of {definition} cannot be reached: {said[-1] if said else 'no answer'}. Is it up (ray up "
                    f"{definition}), and may you log in there by ssh?"
                )
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def connect(address: str) -> Any:
    """A client for the jobs of a cluster. It has a token only if RAY_AUTH_MODE was "token" when Ray was imported.

    Args:
        address: of its dashboard, http://HOST:8265.

    Raises:
        ClusterError: nobody answers, the token is missing or wrong.
    """
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except Exception as error:
        message = " ".join(str(error).split())
        if "uthenticat" in message or "401" in message or "403" in message or "token" in message:
            raise ClusterError(
                f"The cluster at {address} does not accept this machine's token: {message:.300} Copy the cluster's token to "
                "~/.ray/auth_token, or set RAY_AUTH_TOKEN."
            ) from error
        raise ClusterError(
            f"No cluster answers at {address}: {message:.300} Give the address of its dashboard, http://HOST:8265, or "
            "--cluster DEFINITION, which goes there through ssh."
        ) from error


def submit(client: Any, command: str, working_directory: Path) -> str:
    """Packs the working directory, sends it with the command, and returns the job's id.

    Raises:
        ClusterError: the cluster does not take it, for instance since the directory is too large.
    """
    try:
        environment = {"working_dir": str(working_directory), "excludes": NOT_SENT}
        return client.submit_job(entrypoint=command, runtime_env=environment)
    except (RuntimeError, ValueError, OSError) as error:
        raise ClusterError(f"The cluster does not take the job: {error}") from error


def follow(client: Any, job: str, tell: Callable[[str], None]) -> bool:
    """Hands out a job's log as it grows, and returns whether the job succeeded when it has ended.

    A connection that breaks is tried again; the job goes on meanwhile.
    """
    told, failures = 0, 0
    while True:
        try:
            status = client.get_job_status(job)
            log = client.get_job_logs(job)
        except (RuntimeError, OSError) as error:
            failures += 1
            if failures > 30:
                raise ClusterError(
                    f"The cluster no longer answers ({error}); the job may go on: ray job logs {job}"
                ) from error
            time.sleep(SECONDS_BETWEEN_LOOKS)
            continue
        failures = 0
        if len(log) > told:
            tell(log[told:])
            told = len(log)
        if status.is_terminal():
            return status.value == "SUCCEEDED"
        time.sleep(SECONDS_BETWEEN_LOOKS)


def fetch(name: str, run: str, out: Path, definition: Path | None, storage: str | None) -> Path | None:
    """Copies a run's folder to this machine and returns it, or None where there is no way to.

    Raises:
        ClusterError: it cannot be copied.
    """
    target = out / name / run
    if storage is not None and is_uri(storage):
        return target if Mirror.of_run(storage, name, run).download(target) else None
    if definition is None:
        return None
    from ray.autoscaler.sdk import rsync

    source = f"{(storage or HEAD_FOLDER).rstrip('/')}/{name}/{run}/"
    target.mkdir(parents=True, exist_ok=True)
    try:
        rsync(str(definition), source=source, target=f"{target}/", down=True)
    except Exception as error:
        raise ClusterError(f"{source} cannot be fetched from the head: {error}") from error
    return target


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
