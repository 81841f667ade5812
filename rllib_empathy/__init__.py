"""Empathetic and reciprocal agents for mixed-motive games, as a plugin of Ray RLlib.

The names below are imported when they are first used, so that `import rllib_empathy` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from rllib_empathy.experiments.evaluation import evaluate
    from rllib_empathy.experiments.experiment import Experiment, load_experiment
    from rllib_empathy.inference import Agent, load_agent
    from rllib_empathy.joint import JointTrajectory
    from rllib_empathy.learning.algorithm import Empathy
    from rllib_empathy.learning.config import EmpathyConfig
    from rllib_empathy.policies import KINDS, AgentKind, AgentModule, register_kind
    from rllib_empathy.stock.config import with_gifting

__all__ = [
    "KINDS",
    "Agent",
    "AgentKind",
    "AgentModule",
    "Empathy",
    "EmpathyConfig",
    "Experiment",
    "JointTrajectory",
    "evaluate",
    "load_agent",
    "load_experiment",
    "register_kind",
    "with_gifting",
]

_HOME = {
    "KINDS": "policies",
    "Agent": "inference",
    "AgentKind": "policies",
    "AgentModule": "policies",
    "Empathy": "learning.algorithm",
    "EmpathyConfig": "learning.config",
    "Experiment": "experiments.experiment",
    "JointTrajectory": "joint",
    "evaluate": "experiments.evaluation",
    "load_agent": "inference",
    "load_experiment": "experiments.experiment",
    "register_kind": "policies",
    "with_gifting": "stock.config",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
