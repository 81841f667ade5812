"""Frozen agents: co-players that were trained in an earlier run and play on as they were, without learning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, PlainSerializer, ValidationInfo, WithJsonSchema, field_validator

from env_registry.observations import Layout
from env_registry.parameters import SettingError, Settings
from rllib_empathy.policies.kind import AgentKind, AgentModule, WorldFacts, register_kind


@dataclass(frozen=True)
class TrainedAgent:
    """One agent of an earlier run, weights and all: whoever holds it needs the run's files no more."""

    checkpoint: str  # the folder that it was read from
    agent: int  # its number in that run
    kind: str = field(compare=False)
    world: str = field(compare=False)  # `WorldFacts.title`
    module_class: type[AgentModule] = field(compare=False, repr=False)
    model_config: dict[str, Any] = field(compare=False, repr=False)
    observation_space: Any = field(compare=False, repr=False)
    action_space: Any = field(compare=False, repr=False)
    weights: Mapping[str, Any] = field(compare=False, repr=False)  # parameter -> numpy array
    layout: Layout | None = field(default=None, compare=False, repr=False)  # of what its environment showed all agents
    first_actions: tuple[int, ...] = field(default=(), compare=False, repr=False)  # of all agents there; mostly 0
    masked: bool = field(default=False, compare=False)  # its world has masks of actions, without which it cannot act

    def module(self) -> AgentModule:
        """Its acting network."""
        module = self.module_class(
            observation_space=self.observation_space,
            action_space=self.action_space,
            model_config=self.model_config,
            inference_only=True,
        )
        module.set_state(dict(self.weights))
        return module


class FrozenOptions(Settings):
    """Who plays."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    agent: int = Field(0, ge=0, description="number of the agent in its run")
    checkpoint: Annotated[
        TrainedAgent,
        PlainSerializer(lambda trained: trained.checkpoint, return_type=str),
        WithJsonSchema({"type": "string"}),
    ] = Field(description="a run folder, for its last checkpoint, or a checkpoint's folder")

    @field_validator("checkpoint", mode="before")
    @classmethod
    def _read(cls, checkpoint: Any, info: ValidationInfo) -> Any:
        from rllib_empathy.experiments.checkpoints import read_agent  # which knows runs and so, by their configs, us

        return read_agent(checkpoint, info.data.get("agent", 0)) if isinstance(checkpoint, str | Path) else checkpoint


@register_kind
class Frozen(AgentKind):
    """An agent of an earlier run, of whatever kind it was: it plays with the weights that it had, and is not trained.

    It keeps all of its reward, and receives what others give it.
    """

    name = "frozen"
    Options = FrozenOptions
    learns = False
    options: FrozenOptions

    @classmethod
    def module_class(cls, options: FrozenOptions) -> type[AgentModule]:
        return options.checkpoint.module_class

    @classmethod
    def model_config(cls, options: FrozenOptions, world: WorldFacts, agents: tuple[int, ...]) -> dict[str, Any]:
        return options.checkpoint.model_config

    @classmethod
    def carried(cls, options: FrozenOptions) -> dict[str, Any]:
        return {"checkpoint": options.checkpoint}

    @classmethod
    def check_world(cls, world: WorldFacts, options: FrozenOptions) -> None:
        trained = options.checkpoint
        if trained.world != world.title:
            raise SettingError(
                f"Agent {trained.agent} of {trained.checkpoint} was trained in {trained.world!r}, this world is "
                f"{world.title!r}. Give a checkpoint from {world.title!r}."
            )

    @classmethod
    def check_spaces(cls, observation_space: Any, action_space: Any, options: FrozenOptions) -> None:
        trained = options.checkpoint
        for what, known, met in (
            ("observations", trained.observation_space, observation_space),
            ("actions", trained.action_space, action_space),
        ):
            if known != met:
                raise SettingError(
                    f"Agent {trained.agent} of {trained.checkpoint} knows {what} {known}, on its seat here they are {met}. "
                    "Use the env_config that it was trained with (it is in its run's resolved.yaml), or another checkpoint."
                )

    def initialise(self, module: Any) -> None:
        module.set_state(dict(self.options.checkpoint.weights))
