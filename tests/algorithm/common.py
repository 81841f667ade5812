"""What tests of whole algorithms share."""

from __future__ import annotations

from typing import Any

import numpy as np

from rllib_empathy.learning.algorithm import Empathy
from rllib_empathy.learning.config import EmpathyConfig


def small_config(world: Any = "stag_hunt", population: Any = "ppo", games: int = 8, steps: int = 20) -> EmpathyConfig:
    """A population of small networks that learns within a second per iteration."""
    return (
        EmpathyConfig()
        .environment(world)
        .population(population)
        .env_runners(num_envs_per_env_runner=games, rollout_fragment_length=steps)
        .training(network={"hidden": (16,), "conv_filters": (4,), "memory_size": 8})
        .debugging(seed=3, log_level="ERROR")
    )


def weights(algorithm: Empathy) -> np.ndarray:
    """All parameters of all agents, in one row."""
    modules = algorithm.learner_group.get_state(components="learner/rl_module")["learner"]["rl_module"]
    return np.concatenate([modules[mid][name].ravel() for mid in sorted(modules) for name in sorted(modules[mid])])
