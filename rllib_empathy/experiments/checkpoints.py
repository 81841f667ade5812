"""Checkpoints as they lie on disk: finding them, and reading what they hold without building an algorithm.

Checkpoints are pickles, which can run code when they are read: load only those that you trust.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule
from ray.rllib.core.rl_module.rl_module import RLModule

from env_registry.pettingzoo_world import PettingZooWorld
from rllib_empathy.experiments.errors import CheckpointError
from rllib_empathy.experiments.run_folder import RunFolder
from rllib_empathy.learning.algorithm import Empathy
from rllib_empathy.learning.config import EmpathyConfig
from rllib_empathy.policies.actor_critic import FACTORS, LARGEST, SCALING
from rllib_empathy.policies.frozen import TrainedAgent

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
    """Gives the networks of a population, the auxiliary ones included, the weights that the checkpoint at `path` holds.

    Raises:
        CheckpointError: it is damaged, or its networks are others.
    """
    try:
        module.restore_from_path(str(path / _WEIGHTS))
    except Exception as error:  # a damaged pickle can raise anything
        raise _damaged(path, error) from error


def read_agent(checkpoint: str | Path, agent: int = 0) -> TrainedAgent:
    """One agent of a run, as it was when the checkpoint was written.

    Args:
        checkpoint: a checkpoint's folder, or a run folder for its last one.
        agent: its number in that run.

    Raises:
        CheckpointError: the checkpoint cannot be used, or it has no such agent.
    """
    path = find_checkpoint(checkpoint)
    config = read_config(path)
    population = config.resolved_population()
    if agent not in population.module_of_agent:
        last = len(population.module_of_agent) - 1
        raise CheckpointError(f"Checkpoint {path} has no agent {agent}; its agents are 0 to {last}.")
    (member,) = (member for member in population.members if agent in member.agents)
    masked = _has_masks(config)
    folder = path / _WEIGHTS / member.module_id
    try:
        stored = pickle.loads((folder / Empathy.CLASS_AND_CTOR_ARGS_FILE_NAME).read_bytes())
        settings = stored["ctor_args_and_kwargs"][1]
        weights = pickle.loads((folder / f"{RLModule.STATE_FILE_NAME}.pkl").read_bytes())
        trained = TrainedAgent(
            checkpoint=str(path),
            agent=agent,
            kind=member.kind.name,
            world=config.world_facts().title,
            module_class=stored["class"],
            model_config=_as_it_learned(settings["model_config"], weights),
            observation_space=settings["observation_space"],
            action_space=settings["action_space"],
            weights=weights,
            layout=config.world_facts().layout,
            first_actions=tuple(int(space.start) for space in config.world_facts().action_spaces),
            masked=masked,
        )
        return replace(trained, weights=trained.module().get_state())  # without what helped it to learn
    except Exception as error:  # a damaged pickle can raise anything
        raise _damaged(path, error) from error


def _has_masks(config: EmpathyConfig) -> bool:
    """Whether the world says which actions are allowed; environments that say it in infos only have to be asked."""
    facts = config.world_facts()
    if facts.masked or not issubclass(facts.type, PettingZooWorld):
        return facts.masked
    world: Any = config.make_world(1)
    world.reset(0)
    return world.action_masks is not None


def _as_it_learned(model_config: dict[str, Any], weights: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a network whose weights may be of a version that scaled all observations by one number."""
    return model_config if FACTORS in weights else {**model_config, SCALING: LARGEST}


def _damaged(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"Checkpoint {path} cannot be read: it is damaged, incomplete, or from other versions ({type(error).__name__}: "
        f"{error}). versions.json in the run folder says which it was written with; older checkpoints lie beside it."
    )
