"""Agents that act uniformly at random and never learn."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from math import log
from typing import Any

import torch
from ray.rllib.core.columns import Columns
from torch import Tensor

from env_registry.parameters import Settings
from rllib_empathy.policies.kind import Action, AgentKind, AgentModule, register_kind
from rllib_empathy.policies.networks import Parameters, State


class RandomModule(AgentModule):
    """Every action is equally likely."""

    @property
    def group(self) -> Hashable:
        return (RandomModule, int(self.action_space.n))

    @classmethod
    def act(
        cls,
        modules: Sequence[RandomModule],
        parameters: Parameters,
        observations: Tensor,
        state: State,
        generator: torch.Generator,
        explore: bool,
    ) -> Action:
        choices = int(modules[0].action_space.n)
        actions = torch.randint(choices, observations.shape[:2], generator=generator)
        return Action(actions, torch.full(actions.shape, -log(choices)), {})

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        rows = batch[Columns.OBS].shape[0]
        return {Columns.ACTION_DIST_INPUTS: torch.zeros(rows, int(self.action_space.n))}


class RandomOptions(Settings):
    """Random agents have no options."""


@register_kind
class Random(AgentKind):
    """Acts uniformly at random."""

    name = "random"
    Options = RandomOptions
    Module = RandomModule
    learns = False
