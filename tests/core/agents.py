"""Agents without a runner or a Learner around them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from torch import nn

from rllib_empathy.learning.groups import LearningGroup
from rllib_empathy.policies import KINDS
from rllib_empathy.policies.kind import WorldFacts, checked_options
from rllib_empathy.population import Population

SMALL = {"hidden": (6,), "conv_filters": (4,), "memory_size": 5}
STATES: dict[str, dict[str, int]] = {"none": {}, "lstm": {"h": 5, "c": 5}, "gru": {"h": 5}}
"""Recurrent states of the small networks, as `made_up` wants them."""

READY = sorted(n for n, k in KINDS.items() if not any(field.is_required() for field in k.Options.model_fields.values()))
"""Kinds that need no more than their name; frozen agents need a checkpoint."""


def facts_of(observation_space: Any, actions: int = 4) -> WorldFacts:
    """A world of three agents that nobody has registered."""
    return WorldFacts(None, {}, object, 3, observation_space, (Discrete(actions),) * 3, "a world")


def module_of(
    kind: str = "ppo",
    shape: tuple[int, ...] = (5,),
    actions: int = 4,
    seed: int = 0,
    options: Mapping[str, Any] = MappingProxyType({}),
    **network: Any,
) -> Any:
    """An RLModule with a small network and random parameters, biases included."""
    space = Box(0, 255, shape, np.uint8) if len(shape) == 3 else Box(-np.inf, np.inf, shape, np.float32)
    of = KINDS[kind]
    has_network = "network" in of.Options.model_fields
    sizes = {"network": {**SMALL, **network}} if has_network else {}
    checked = checked_options(of, {**sizes, **options})
    torch.manual_seed(seed)
    config = of.model_config(checked, facts_of(space, actions), (0,))
    module = of.Module(observation_space=space, action_space=Discrete(actions), model_config=config)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.4)
    return module


def group_of(*entries: Any, shape: tuple[int, ...] = (5,), actions: int = 4, **network: Any) -> LearningGroup:
    """The population's members as one group; all must be alike."""
    seats = sum(1 if isinstance(entry, str) else entry.get("count", 1) for entry in entries)
    population = Population.of(entries, seats, {"network": {**SMALL, **network}})
    kinds: Any = population.kinds()
    modules = [
        module_of(member.kind.name, shape, actions, number, **network)
        for number, member in enumerate(population.members)
    ]
    return LearningGroup(tuple(kinds.values()), tuple(modules))
