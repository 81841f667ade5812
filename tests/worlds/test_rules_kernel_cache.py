"""Compiled worlds are compiled again when anything that they inline has changed."""

from __future__ import annotations

import os
from pathlib import Path

from env_registry.kernel_cache import forget_stale_kernels


def test_kernels_older_than_any_source_are_forgotten(tmp_path: Path) -> None:
    (tmp_path / "__pycache__").mkdir()
    files = {"grid.py": 100, "world.py": 200, "__pycache__/world.old.nbi": 199, "__pycache__/world.new.nbi": 201}
    for name, time in files.items():
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time, time))
    forget_stale_kernels(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["grid.py", "world.new.nbi", "world.py"]


def test_a_package_without_compiled_code_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "world.py").touch()
    forget_stale_kernels(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["world.py"]
