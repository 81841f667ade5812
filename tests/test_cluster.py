"""Cluster definitions are what Ray expects."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

FOLDER = Path(__file__).parent.parent / "cluster"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_definition_fits_rays_schema(path):
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load(path.read_text()))
    validate_config(config)
    for command in (*config["head_start_ray_commands"], *config["worker_start_ray_commands"]):
        assert command == "ray stop" or "RAY_AUTH_MODE=token" in command
    with pytest.raises(Exception, match="misspelt"):
        validate_config({**config, "misspelt": 1})


def test_what_is_submitted_trains_with_the_command_line(tmp_path):
    arguments = [sys.executable, str(FOLDER / "train.py"), "no_such_experiment"]
    ran = subprocess.run(
        arguments, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(FOLDER.parent)}
    )
    assert ran.returncode != 0
    assert "no_such_experiment" in ran.stdout + ran.stderr
