"""The folder of a run: what was asked, with which versions, what came out, and the state to go on from.

In runs/NAME/TIMESTAMP lie

- experiment.yaml: what was asked, overrides included; it can be run again
- resolved.yaml: the same with every default written out
- versions.json: one entry for each start or resume, with versions, command, and where it began
- metrics.csv: one row per iteration
- curves.png: learning curves
- checkpoints: iteration_000100 ..., the last few
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rllib_empathy import __version__
from rllib_empathy.experiments.errors import RunFolderError
from rllib_empathy.experiments.experiment import Experiment

LEAST_FREE_BYTES = 256 * 2**20
"""Space that a run needs on its disk before it starts: a few checkpoints, metrics, pictures."""

PACKAGES = ("ray", "torch", "numpy", "numba", "gymnasium", "pettingzoo", "supersuit")


class RunFolder:
    """A run's folder, which exists. Make new ones by `create`, take up old ones by `open`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.experiment = path / "experiment.yaml"
        self.resolved = path / "resolved.yaml"
        self.versions = path / "versions.json"
        self.metrics = path / "metrics.csv"
        self.curves = path / "curves.png"
        self.checkpoints = path / "checkpoints"

    @classmethod
    def create(cls, root: str | Path, name: str, run: str | None = None) -> RunFolder:
        """Makes root/name/run, which did not exist; without `run` it is named by the time.

        Raises:
            RunFolderError: it cannot be written, it exists, or its disk is nearly full.
        """
        folder = cls(new_folder(root, name, run))
        folder.checkpoints.mkdir()
        return folder

    @classmethod
    def take_up(cls, root: str | Path, experiment: Experiment, run: str) -> RunFolder:
        """root/NAME/run, whether it is new, has been begun, or has checkpoints to go on from.

        Raises:
            RunFolderError: its name is none, it holds a run of another experiment or something else, or it cannot be written.
        """
        check_run_name(run)
        folder = cls(Path(root).absolute() / experiment.name / run)
        if not folder.experiment.is_file():
            return cls._begin_anew(folder.path) if folder.path.is_dir() else cls.create(root, experiment.name, run)
        if folder.experiment.read_text(encoding="utf-8") != experiment.to_yaml():
            raise RunFolderError(
                f"The run {folder.path} exists, and {folder.experiment.name} in it is another experiment. Choose another name "
                "with --run, or run the experiment as it was."
            )
        check_writable(folder.path)
        return folder

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Takes up a run folder.

        Raises:
            RunFolderError: it is none, it cannot be written, or it holds no checkpoint to go on from.
        """
        folder = cls(Path(path).absolute())
        if not folder.experiment.is_file():
            what = "holds no experiment.yaml" if folder.path.is_dir() else "is no folder"
            raise RunFolderError(f"{path} is no run folder: it {what}. Give a folder as runs/NAME/TIMESTAMP.")
        if folder.last_checkpoint() is None:
            raise RunFolderError(f"{path} holds no checkpoint to resume from; start the experiment anew.")
        check_writable(folder.path)
        return folder

    @classmethod
    def _begin_anew(cls, path: Path) -> RunFolder:
        """A folder in which a run was to be made when its process or its machine failed.

        Raises:
            RunFolderError: it holds something, or it cannot be written.
        """
        checkpoints = path / "checkpoints"
        found = [entry for entry in path.iterdir() if entry != checkpoints and not entry.name.startswith(".")]
        found += checkpoints.glob("iteration_*")
        if found:
            raise RunFolderError(
                f"{path} exists and is no run: it holds {found[0].relative_to(path)}, but no experiment.yaml. Choose another "
                "name with --run, or another place with --out."
            )
        check_writable(path)
        checkpoints.mkdir(exist_ok=True)
        return cls(path)

    def describe(self, experiment: Experiment, resolved: Experiment) -> None:
        """Writes down what is run and with which versions."""
        write_whole(self.experiment, experiment.to_yaml())
        write_whole(self.resolved, resolved.to_yaml())
        last = self.last_checkpoint()
        add_versions(self.versions, from_checkpoint=last.name if last else None)

    def last_checkpoint(self) -> Path | None:
        """The newest complete checkpoint, if there is one."""
        found = self._all_checkpoints()
        return found[-1] if found else None

    def save_checkpoint(self, algorithm: Any, iteration: int, keep: int) -> Path:
        """Saves the algorithm and removes all but the last `keep` checkpoints.

        It is written beside and then renamed: a checkpoint is there as a whole or not at all.

        Raises:
            OSError: it cannot be written; the earlier ones are untouched.
            ClusterFault: nor can it be by a Learner.
        """
        for leftover in (*self.checkpoints.glob(".iteration_*"), *self.checkpoints.glob(".replaced_*")):
            shutil.rmtree(leftover)
        target = self.checkpoints / f"iteration_{iteration:06d}"
        partial = self.checkpoints / f".{target.name}"
        try:
            algorithm.save_to_path(str(partial))
            replace_folder(partial, target)
        except OSError:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        for old in self._all_checkpoints()[:-keep]:
            _remove(old)
        return target

    def remove_checkpoints(self, after: int) -> None:
        """Removes the checkpoints of all iterations after this one."""
        for checkpoint in self._all_checkpoints():
            if iteration_of(checkpoint) > after:
                _remove(checkpoint)

    def checkpoint(self, iteration: int) -> Path | None:
        """The checkpoint after this iteration, if it is there as a whole."""
        path = self.checkpoints / f"iteration_{iteration:06d}"
        return path if path.is_dir() else None

    def _all_checkpoints(self) -> list[Path]:
        return sorted(self.checkpoints.glob("iteration_*"), key=iteration_of)


def new_folder(root: str | Path, name: str, run: str | None = None) -> Path:
    """Makes root/name/run, which did not exist; without `run` it is named by the time.

    Raises:
        RunFolderError: it cannot be written, it exists, or its disk is nearly full.
    """
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    parent = Path(root).absolute() / name
    try:
        parent.mkdir(parents=True, exist_ok=True)
        path, number = parent / (run or stamp), 1
        while run is None and path.exists():
            number += 1
            path = parent / f"{stamp}_{number}"
        path.mkdir()
    except OSError as error:
        raise RunFolderError(
            f"The run folder cannot be made under {parent}: {error.strerror or error}. Choose another place with --out."
        ) from error
    check_writable(path)
    return path


def check_run_name(run: str) -> None:
    """Checks that a run's name is that of a folder among the experiment's others, here and in a storage.

    Raises:
        RunFolderError: it is not.
    """
    if not run or run.startswith(".") or not run.isprintable() or any(letter in run for letter in "/\\:"):
        raise RunFolderError(
            f"--run {run!r}: a run's name is the name of its folder: letters, digits and signs, of which the first is no dot and "
            "none is / \\ or a colon, for instance first or 2026-05-01_lr=0.1."
        )


def replace_folder(partial: Path, target: Path) -> None:
    """Puts a folder in the place of another one beside it, if there is one; either is there as a whole, or none is.

    Raises:
        OSError: it cannot be moved.
    """
    replaced = target.with_name(f".replaced_{target.name}")
    shutil.rmtree(replaced, ignore_errors=True)
    if target.exists():
        target.rename(replaced)
    partial.rename(target)
    shutil.rmtree(replaced, ignore_errors=True)


def try_to_write(folder: Path) -> None:
    """Writes a file to a folder, and removes it.

    Raises:
        OSError: it cannot be written.
    """
    probe = folder / ".probe"
    probe.write_bytes(b"0")
    probe.unlink()


def check_writable(path: Path) -> None:
    """Checks that files can be written to a run's folder and there is space for them.

    Raises:
        RunFolderError: it is not so.
    """
    try:
        try_to_write(path)
    except OSError as error:
        raise RunFolderError(
            f"The run folder {path} cannot be written: {error.strerror or error}. Choose another place with --out."
        ) from error
    free = shutil.disk_usage(path).free
    if free < LEAST_FREE_BYTES:
        raise RunFolderError(
            f"The disk of {path} has {free / 2**20:.0f} MiB left, a run needs {LEAST_FREE_BYTES / 2**20:.0f} MiB. Make "
            "space, or choose another place with --out."
        )


def _remove(checkpoint: Path) -> None:
    """Removes a checkpoint; it is hidden first, so that none is ever there in part."""
    shutil.rmtree(checkpoint.rename(checkpoint.with_name(f".{checkpoint.name}")))


def iteration_of(checkpoint: Path) -> int:
    """The iteration after which one of our checkpoints was written."""
    return int(checkpoint.name.removeprefix("iteration_"))


def add_versions(path: Path, **facts: Any) -> None:
    """Adds an entry for this start, with its time and all that its result may depend on, to a versions.json."""
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    entry = {"started": datetime.now(timezone.utc).isoformat(timespec="seconds"), **facts, **versions()}
    write_whole(path, json.dumps([*earlier, entry], indent=2) + "\n")


def versions(command: Sequence[str] = tuple(sys.argv)) -> dict[str, Any]:
    """What a result may depend on: Python, packages, the checkout's commit, and the command that was given."""
    return {
        "command": list(command),
        "python": platform.python_version(),
        "system": platform.platform(),
        "rllib-empathy": __version__,
        **{package: _version(package) for package in PACKAGES},
        "git_commit": git_commit(Path(__file__).parents[2]),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def git_commit(checkout: Path) -> str | None:
    """The commit that is checked out here, with "-modified" where files differ from it; None if this is no checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(checkout), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != checkout.resolve():
            return None
        modified = "-modified" if git("status", "--porcelain", "--untracked-files=no") else ""
        return git("rev-parse", "HEAD") + modified
    except (OSError, subprocess.SubprocessError):
        return None


def write_whole(path: Path, text: str) -> None:
    """Writes a file so that it holds either the old text or all of the new one."""
    partial = path.with_name(f".{path.name}")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
