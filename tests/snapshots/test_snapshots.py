"""Training comes to what it came to: refactorings change no bit. `make snapshots` records anew what is meant to change."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.snapshots import training

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def recorded() -> dict[str, training.Snapshot]:
    file = training.file_of_this_platform()
    known = json.loads(file.read_text()) if file.exists() else {}
    if known.get("arithmetic") != training.arithmetic():
        pytest.skip("no snapshot was recorded on a machine with this platform, version of torch, and arithmetic")
    return known["snapshots"]


@pytest.fixture(scope="module")
def trained(recorded: dict[str, training.Snapshot]) -> dict[str, training.Snapshot]:
    command = [sys.executable, "-m", "tests.snapshots.training"]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    answer = subprocess.run(
        command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)["snapshots"]


@pytest.mark.parametrize("name", training.PATHS)
def test_training_is_bit_equal_to_its_snapshot(recorded, trained, name):
    assert trained[name] == recorded[name]


def test_a_weight_that_differs_in_one_bit_changes_the_snapshot(ray_local):
    algorithm, snapshot = training.own_path("ppo")
    weight = next(iter(algorithm.learner_group._learner.module["ppo_0"].parameters()))
    with torch.no_grad():
        weight.view(-1)[0] = torch.nextafter(weight.view(-1)[0], torch.tensor(torch.inf))
    perturbed = training.of_learner(algorithm, training.RecordingLearner.rewards)
    algorithm.stop()
    assert {part for part, hashed in snapshot.items() if hashed != perturbed[part]} == {"parameters"}
