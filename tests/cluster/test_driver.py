"""A run that is taken up again by its name, and the process that does so when training is killed."""

from __future__ import annotations

import signal
import sys

import pytest

from rllib_empathy.cluster import driver
from rllib_empathy.experiments.errors import RunFolderError
from rllib_empathy.experiments.experiment import load_experiment
from rllib_empathy.experiments.run_folder import RunFolder


def test_a_run_is_taken_up_by_its_name(tmp_path):
    experiment = load_experiment("quickstart")
    begun = RunFolder.take_up(tmp_path, experiment, "first")
    begun.describe(experiment, experiment)
    assert begun.path == tmp_path / "quickstart" / "first"
    assert RunFolder.take_up(tmp_path, experiment, "first").path == begun.path
    other = load_experiment("quickstart", ["training.lr=0.5"])
    with pytest.raises(RunFolderError, match=r"another experiment.*--run"):
        RunFolder.take_up(tmp_path, other, "first")


@pytest.mark.parametrize(("kills", "ends_with"), [(2, 3), (driver.MOST_RESTARTS + 1, 1)])
def test_a_killed_driver_is_started_anew_with_the_same_run(tmp_path, monkeypatch, kills, ends_with):
    """A stand-in for the training process is killed some times, and then ends with exit code 3."""
    code = (
        "import os, pathlib, signal, sys\n"
        f"log = pathlib.Path({str(tmp_path / 'log')!r})\n"
        "anew = [name for name in os.environ if name == 'RLLIB_EMPATHY_STARTED_ANEW']\n"
        "with log.open('a') as file: file.write(' '.join([*sys.argv[1:], *anew]) + '\\n')\n"
        f"sys.exit(3) if len(log.read_text().splitlines()) > {kills} else os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    stand_in = tmp_path / "python"
    stand_in.write_text(f"#!{sys.executable}\n{code}")
    stand_in.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stand_in))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        assert driver.drive(["quickstart"]) == ends_with
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) == min(kills, driver.MOST_RESTARTS) + 1
    assert {line.replace(lines[0], "") for line in lines[1:]} == {" RLLIB_EMPATHY_STARTED_ANEW"}
    assert lines[0].startswith("-m rllib_empathy.cli train quickstart --run ")
