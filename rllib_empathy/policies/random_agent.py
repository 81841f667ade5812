"""Agents that act uniformly at random and never learn."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from math import log
from typing import Any

import torch
from ray.rllib.core.columns import Columns
from torch import Tensor

from env_registry.action_masks import ACTION_MASK
from env_registry.parameters import Settings
from rllib_empathy.policies.kind import Action, AgentKind, AgentModule, register_kind
from rllib_empathy.policies.networks import Parameters, State, drawn, masked


class RandomModule(AgentModule):
    """Every action that is allowed is equally likely."""

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
        allowed: Tensor | None = None,
    ) -> Action:
        choices = int(modules[0].action_space.n)
        if allowed is not None:
            even = torch.log_softmax(masked(torch.zeros(allowed.shape), allowed), -1)
            drawn_ones = drawn(even, generator)
            return Action(drawn_ones, even.gather(-1, drawn_ones.unsqueeze(-1)).squeeze(-1), {})
        actions = torch.randint(choices, observations.shape[:2], generator=generator)
        return Action(actions, torch.full(actions.shape, -log(choices)), {})

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        rows = batch[Columns.OBS].shape[0]
        even = torch.zeros(rows, int(self.action_space.n))
        return {Columns.ACTION_DIST_INPUTS: masked(even, batch.get(ACTION_MASK))}


class RandomOptions(Settings):
    """Random agents have no options."""


@register_kind
class Random(AgentKind):
    """Acts uniformly at random."""

    name = "random"
    Options = RandomOptions
    Module = RandomModule
    learns = False
