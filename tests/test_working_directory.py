"""Commands as a user types them: all find modules and files of the working directory, and none waits for a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

WORLD = """
from mpe2 import simple_spread_v3

def make(level, **options):
    with open(level) as file:
        return simple_spread_v3.parallel_env(max_cycles=int(file.read()))
"""

EXPERIMENT = """
name: mine
environment: my_world:make
env_config: {level: level.txt}
population: ppo
env_runners: {num_envs_per_env_runner: 2, rollout_fragment_length: 5}
stop: {iterations: 1}
study: {seeds: [0]}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "my_world.py").write_text(WORLD)
    (tmp_path / "mine.yaml").write_text(EXPERIMENT)
    (tmp_path / "level.txt").write_text("5")
    return tmp_path


def said(folder: Path, *words: str, code: int = 0) -> str:
    """What the console script prints; its path is the interpreter's own, with the checkout only where that is installed."""
    script = Path(sys.executable).with_name("rllib-empathy")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ran = subprocess.run(
        [str(script), *words],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=200,
        check=False,
    )
    assert ran.returncode == code, ran.stdout
    assert "Traceback" not in ran.stdout
    return ran.stdout


@pytest.mark.parametrize("runners", [0, 1])
def test_train_finds_a_module_and_a_file_of_the_working_directory(folder, runners):
    said(folder, "train", "mine.yaml", "--set", f"env_runners.num_env_runners={runners}")


def test_trials_find_what_train_finds(folder):
    said(folder, "tune", "mine.yaml")


def test_a_dry_run_finds_what_the_job_would_find(folder):
    assert "runner" in said(folder, "submit", "mine.yaml", "--dry-run", "--set", "env_runners.num_env_runners=2")


def test_a_gpu_that_is_not_there_is_an_error_before_anything_starts(folder):
    wanted = ["--set", "learners.num_learners=1", "--set", "learners.num_gpus_per_learner=64"]
    text = said(folder, "train", "mine.yaml", *wanted, code=2)
    assert "64 GPU" in text
    assert "learners.num_gpus_per_learner" in text
