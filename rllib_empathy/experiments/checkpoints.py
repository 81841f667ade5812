"""Checkpoints as they lie on disk: finding them, and reading what they hold without building an algorithm.

Checkpoints are pickles, which can run code when they are read: load only those that you trust.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path

from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule

from rllib_empathy.experiments.errors import CheckpointError
from rllib_empathy.experiments.run_folder import RunFolder
from rllib_empathy.learning.algorithm import Empathy
from rllib_empathy.learning.config import EmpathyConfig

_WEIGHTS = Path("learner_group") / "learner" / "rl_module"


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint at `path`; a run folder stands for its last one.

    Raises:
        CheckpointError: there is none.
    """
    path = Path(path).absolute()
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise CheckpointError(
            f"Checkpoint {path} {what}. Give a checkpoint's folder, or a run folder for its last one."
        )
    folder = RunFolder(path)
    if folder.experiment.is_file():
        last = folder.last_checkpoint()
        if last is None:
            raise CheckpointError(f"The run {path} has no checkpoint yet.")
        return last
    if not (path / Empathy.METADATA_FILE_NAME).is_file():
        raise CheckpointError(
            f"{path} is no RLlib checkpoint: it holds no {Empathy.METADATA_FILE_NAME}. Checkpoints lie in "
            "runs/NAME/TIMESTAMP/checkpoints."
        )
    return path


def read_config(path: Path) -> EmpathyConfig:
    """The configuration in a checkpoint.

    Raises:
        CheckpointError: it is damaged, or of another algorithm.
    """
    try:
        json.loads((path / Empathy.METADATA_FILE_NAME).read_text(encoding="utf-8"))
        stored = pickle.loads((path / Empathy.CLASS_AND_CTOR_ARGS_FILE_NAME).read_bytes())
        algorithm, (state, *_) = stored["class"], stored["ctor_args_and_kwargs"][0]
    except Exception as error:  # a damaged pickle can raise anything
        raise _damaged(path, error) from error
    if not (isinstance(algorithm, type) and issubclass(algorithm, Empathy)):
        raise CheckpointError(
            f"{path} is a checkpoint of {getattr(algorithm, '__name__', algorithm)}, which this package does not play. Load it "
            "with that algorithm's own from_checkpoint."
        )
    return EmpathyConfig.from_state(state).copy(copy_frozen=False)


def restore_weights(module: MultiRLModule, path: Path) -> None:
    """Gives the networks of a population the weights that the checkpoint at `path` holds.

    Raises:
        CheckpointError: it is damaged, or its networks are others.
    """
    try:
        module.restore_from_path(str(path / _WEIGHTS))
    except Exception as error:  # a damaged pickle can raise anything
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"Checkpoint {path} cannot be read: it is damaged, incomplete, or from other versions ({type(error).__name__}: "
        f"{error}). versions.json in the run folder says which it was written with; older checkpoints lie beside it."
    )
