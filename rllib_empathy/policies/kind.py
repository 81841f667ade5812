"""What a kind of agent is: how it acts, how it feels about rewards, how it learns."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, NamedTuple

import torch
from gymnasium.spaces import Box, Discrete
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from torch import Tensor, nn

from env_registry.observations import Layout
from env_registry.parameters import SettingError, Settings, checked, unknown_name
from rllib_empathy.joint import JointTrajectory
from rllib_empathy.policies.networks import Parameters, State

Statistics = dict[str, Tensor]
"""Name -> [G], one number for each agent of a group."""


CONTEXT = "context"
"""Name of the part of an agent's state that it keeps of the joint steps."""


class WorldFacts(NamedTuple):
    """What agents may need to know of a world before they enter it."""

    name: str | None  # in `env_registry.WORLDS`; None: it has none there, or wrappers have changed it
    env_config: Mapping[str, Any]
    type: type  # the class of the world
    num_agents: int
    observation_space: Any
    action_spaces: Sequence[Any]  # of all agents
    title: str  # what the world is called in messages; worlds of one title are the same but for their env_config
    episode_length: int | None = None  # steps after which every episode is cut off, where the world says so
    fully_observed: bool = False  # every agent's observation shows the whole state
    masked: bool = False  # the world announces masks of actions; those in infos are not announced
    layout: Layout | None = None  # from what one game's environment shows to `observation_space`


class Action(NamedTuple):
    """What G agents do in M games."""

    actions: Tensor  # [G, M] int64
    log_probs: Tensor  # [G, M]
    state: State  # after it, name -> [G, M, size]


class AgentModule(TorchRLModule, ABC):
    """The RLModule of an agent. Modules with equal `group` are evaluated together, as the G agents of a group."""

    observation_space: Box
    action_space: Discrete

    @property
    @abstractmethod
    def group(self) -> Hashable:
        """Modules may be evaluated together if and only if their groups are equal."""

    @classmethod
    @abstractmethod
    def act(
        cls,
        modules: Sequence[Any],
        parameters: Parameters,
        observations: Tensor,
        state: State,
        generator: torch.Generator,
        explore: bool,
        allowed: Tensor | None = None,
    ) -> Action:
        """Actions of a group.

        Args:
            modules: the G agents' modules.
            parameters: `cls.stacked(modules, M)`.
            observations: `[G, M, *observation_shape]`.
            state: name -> `[G, M, size]`, see `initial_state`; rows of games that just began are zero.
            generator: the source of all chance.
            explore: sample from the policy; otherwise its most probable action.
            allowed: `[G, M, A]` bool, what may be done; None: everything, at all times. It is handed over only where the world
                has masks, so that kinds without this argument play in all other worlds.
        """

    @classmethod
    def stacked(cls, modules: Sequence[Any], rows: int) -> Parameters:
        """Parameters of a group in the form that `act` wants for this many rows; computed once for many steps."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes over weights, all or none.

        Raises:
            ValueError: they are of another network.
        """
        for name, own in self.state_dict().items():
            given = state.get(name)
            if given is None or tuple(given.shape) != tuple(own.shape):
                found = "missing" if given is None else f"of shape {tuple(given.shape)}"
                raise ValueError(
                    f"These weights do not fit this agent: {name!r} is {found}, needed is {tuple(own.shape)}. They are from "
                    "another world or another network; use the settings that they were trained with."
                )
        super().set_state(state)

    def initial_state(self, rows: int) -> dict[str, Tensor]:
        """What is carried through an episode, as it is at its start: zeros, name -> `[M, size]`.

        That is recurrent state, and under CONTEXT what the agent keeps of the joint steps, if it keeps anything (`notice`).
        """
        return {}

    @classmethod
    def notice(
        cls,
        modules: Sequence[Any],
        parameters: Parameters,
        agents: Tensor,
        observations: Tensor,
        actions: Tensor,
        alive: Tensor,
        context: Tensor,
        masks: Tensor | None = None,
    ) -> Tensor:
        """The context `[G, M, E]` after a step; asked of agents that have one, once all agents have chosen their actions.

        What it was before each step is noted in the joint trajectory, so that an agent learns from what it acted on.

        Args:
            modules: the G agents' modules.
            parameters: `cls.stacked(modules, M)`.
            agents: `[G, n]`, which agents each module plays; their rows M are the first one's games, then the second's.
            observations: `[B, N, *observation_shape]`, what all agents acted on.
            actions: `[B, N]` of all agents.
            alive: `[B, N]`, who takes part in the step.
            context: `[G, M, E]` before the step.
            masks: `[B, N, A]` bool, what all might do; None: everything. Handed over only where the world has masks.
        """
        return context


class AgentKind(ABC):
    """One kind of agent: a subclass in a file of its own, registered by `name`.

    An instance belongs to one module id and lives on the Learner.

    Args:
        module_id: the RLModule's id.
        options: this kind's options, checked.
        agents: the agents (indices into N) that share the module.
    """

    name: ClassVar[str]
    Options: ClassVar[type[Settings]]
    Module: ClassVar[type[AgentModule]]
    learns: ClassVar[bool] = True
    needs_whole_episodes: ClassVar[bool] = False
    """Whether its trajectories have to begin where episodes begin."""

    def __init__(self, module_id: str, options: Any, agents: tuple[int, ...]) -> None:
        self.module_id = module_id
        self.options = options
        self.agents = agents

    @classmethod
    def check_spaces(cls, observation_space: Any, action_space: Any, options: Any) -> None:
        """Raises SettingError if this kind cannot live with these spaces."""
        if not isinstance(observation_space, Box):
            raise SettingError(f"Agents of kind {cls.name!r} need Box observations, the world has {observation_space}.")
        if not isinstance(action_space, Discrete):
            raise SettingError(f"Agents of kind {cls.name!r} need Discrete actions, the world has {action_space}.")

    @classmethod
    def check_world(cls, world: WorldFacts, options: Any) -> None:
        """Raises SettingError if this kind cannot play this world, whatever its spaces."""
        return

    @classmethod
    def module_class(cls, options: Any) -> type[AgentModule]:
        """The class of these agents' module."""
        return cls.Module

    @classmethod
    def model_config(cls, options: Any, world: WorldFacts, agents: tuple[int, ...]) -> dict[str, Any]:
        """What the module of these agents needs to know of the options and the world, in plain types.

        Raises:
            SettingError: these agents cannot share a module, or this kind cannot play this world.
        """
        return {}

    @classmethod
    def carried(cls, options: Any) -> dict[str, Any]:
        """Options that were read from files, in the form in which they travel to processes that do not see the files."""
        return {}

    def initialise(self, module: Any) -> None:
        """Called once with this kind's new module; where a run goes on from a checkpoint, its weights come after that."""
        return

    @classmethod
    def auxiliary_networks(
        cls, options: Any, observation_space: Box, world: WorldFacts, agents: tuple[int, ...]
    ) -> nn.ModuleDict | None:
        """The networks that the module of these agents holds beside the acting one, under the names of its attributes.

        With them the kind reshapes rewards of agents whose acting networks are none of ours (`rllib_empathy.stock`). None: it
        needs none, nor does it look at observations and actions.

        Raises:
            SettingError: see `model_config`.
        """
        return None

    def observe(self, joint: JointTrajectory, modules: dict[str, Any], population: dict[str, AgentKind]) -> None:
        """Called once per iteration with the new trajectory, before rewards are reshaped.

        Args:
            joint: torch columns.
            modules: all RLModules, or what `auxiliary_networks` gave, by module id.
            population: the kinds of all module ids, this one included.
        """
        return

    def gift_weights(self, joint: JointTrajectory, agent: int) -> Tensor | None:
        """The share `[T, B, N]` of its own reward that `agent` hands to each agent, itself included; rows sum to 1.

        None: it keeps all.
        """
        return None

    def reward(self, joint: JointTrajectory, agent: int, received: Tensor) -> Tensor:
        """The reward `[T, B]` that `agent` learns from.

        Args:
            joint: the trajectory; its rewards are the extrinsic ones of all agents.
            agent: index into N.
            received: `[T, B]`, the agent's extrinsic reward after all gifts.
        """
        return received

    def get_state(self) -> dict[str, Any]:
        """What a checkpoint needs beside networks and optimisers."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues from `get_state`'s answer."""
        return

    def statistics(self) -> dict[str, float]:
        """What this kind logs per iteration beside its losses."""
        return {}


@cache
def check_action_masks(kind: str, module: type[AgentModule]) -> None:
    """Raises SettingError if agents of this kind cannot be told which actions are allowed."""
    for method, argument in (("act", "allowed"), ("notice", "masks")):
        if argument not in inspect.signature(getattr(module, method)).parameters:
            raise SettingError(
                f"The world has masks of actions, but agents of kind {kind!r} do not look at them: "
                f"{module.__qualname__}.{method} takes no argument {argument!r}. Give it one (see AgentModule.{method}), or "
                "choose another kind."
            )


KINDS: dict[str, type[AgentKind]] = {}
"""All kinds of agents by name."""


def register_kind(kind: type[AgentKind]) -> type[AgentKind]:
    """Class decorator: makes a kind known under its `name`.

    Raises:
        ValueError: another kind has this name.
    """
    if KINDS.get(kind.name, kind) is not kind:
        raise ValueError(f"There is a kind of agent named {kind.name!r} already: {KINDS[kind.name].__qualname__}.")
    KINDS[kind.name] = kind
    return kind


def kind_named(name: str) -> type[AgentKind]:
    """The kind with this name.

    Raises:
        SettingError: there is none.
    """
    if name not in KINDS:
        raise unknown_name("kind of agent", name, KINDS)
    return KINDS[name]


def checked_options(kind: type[AgentKind], values: dict[str, Any]) -> Settings:
    """The kind's options from the user's values.

    Raises:
        SettingError: every wrong key with the reason and what is allowed.
    """
    return checked(kind.Options, values, f"options of agents of kind {kind.name!r}")
