"""Agents that follow a script and never learn: partners of known character for those that do.

They keep all of their reward, and receive what others give them. Chance is part of a script, so they act alike whether or not
the population explores. They do not look at masks of actions: where a script chooses what a world forbids, the runner stops
with an error that says so.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from ray.rllib.core.columns import Columns
from torch import Tensor

import env_registry
from env_registry.matrix_game import MatrixGame
from env_registry.parameters import SettingError, Settings
from env_registry.scripted import SCRIPTED, ScriptedPolicy, scripted_policy
from rllib_empathy.policies.kind import Action, AgentKind, AgentModule, WorldFacts, register_kind
from rllib_empathy.policies.networks import Parameters, State


class ScriptedModule(AgentModule):
    """Plays a script of `env_registry.scripted`; `model_config` holds its name, the world's name and its `env_config`."""

    @cached_property
    def player(self) -> ScriptedPolicy:
        """Made where agents act, and not where they learn."""
        name = self.model_config["world"]
        world = env_registry.make(name, **self.model_config["env_config"])
        return scripted_policy(name, self.model_config["player"], world)

    @property
    def group(self) -> Hashable:
        return (type(self), repr(self.model_config))

    @classmethod
    def act(
        cls,
        modules: Sequence[ScriptedModule],
        parameters: Parameters,
        observations: Tensor,
        state: State,
        generator: torch.Generator,
        explore: bool,
        allowed: Tensor | None = None,
    ) -> Action:
        actions = modules[0]._choose(observations.flatten(0, 1), generator).view(observations.shape[:2])
        return Action(actions, torch.zeros(actions.shape), {})

    def _choose(self, observations: Tensor, generator: torch.Generator) -> Tensor:
        """Actions `[M]`. A script draws from NumPy's generators: each call gets one, seeded by ours."""
        seed = int(torch.randint(2**63 - 1, (), generator=generator))
        actions = self.player.act(observations.cpu().numpy(), np.random.default_rng(seed))
        return torch.from_numpy(np.asarray(actions, np.int64))

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """The action as a certainty: a script does not say what else it might have done."""
        observations = batch[Columns.OBS]
        actions = self._choose(observations, torch.default_generator).to(observations.device)
        certain = torch.nn.functional.one_hot(actions, int(self.action_space.n))
        return {Columns.ACTION_DIST_INPUTS: _finite_log(certain.float())}


class ScriptedOptions(Settings):
    """Scripted agents have no options."""


class ScriptedKind(AgentKind):
    """A kind whose script for a world is the one of its own name in `env_registry.scripted.SCRIPTED`."""

    Options: ClassVar[type[Settings]] = ScriptedOptions
    Module: ClassVar[type[AgentModule]] = ScriptedModule
    learns = False

    @classmethod
    def check_world(cls, world: WorldFacts, options: Any) -> None:
        known = [name for name, scripts in SCRIPTED.items() if cls.name in scripts]
        if world.name not in known:
            raise _no_script(cls.name, world, known)

    @classmethod
    def model_config(cls, options: Any, world: WorldFacts, agents: tuple[int, ...]) -> dict[str, Any]:
        return {"player": cls.name, "world": world.name, "env_config": dict(world.env_config)}


@register_kind
class Cooperator(ScriptedKind):
    """Does what helps the group: cleans, hunts stags, removes drifts, leaves others' coins to them, cooperates."""

    name = "cooperator"


@register_kind
class Defector(ScriptedKind):
    """Does what helps itself: picks apples, hunts hares, removes no drift, takes all coins, defects."""

    name = "defector"


STRATEGIES: dict[str, tuple[float, float, float, float, float]] = {
    "tit_for_tat": (1, 1, 0, 1, 0),
    "generous_tit_for_tat": (1, 1, 1 / 3, 1, 1 / 3),
    "win_stay_lose_shift": (1, 1, 0, 0, 1),
    "grim_trigger": (1, 1, 0, 0, 0),
    "always_cooperate": (1, 1, 1, 1, 1),
    "always_defect": (0, 0, 0, 0, 0),
}
"""Name -> probabilities of cooperating at the start and after [CC, CD, DC, DD], the own action first.

Generous tit-for-tat forgives as much as pays in a prisoner's dilemma with payoffs T, R, P, S = 5, 3, 1, 0: with probability
min(1 - (T - R) / (R - S), (R - P) / (T - P)) = 1/3 (Nowak and Sigmund 1992).
"""


class MemoryOneOptions(Settings):
    """Options of memory-one agents; what the strategy says are defaults: probabilities that are given win."""

    strategy: Literal[
        "tit_for_tat",
        "generous_tit_for_tat",
        "win_stay_lose_shift",
        "grim_trigger",
        "always_cooperate",
        "always_defect",
    ] = Field("tit_for_tat", description="sets the probabilities of cooperating")
    p_start: float = Field(1.0, ge=0, le=1, description="probability of cooperating in an episode's first step")
    p_cc: float = Field(1.0, ge=0, le=1, description="... after both cooperated")
    p_cd: float = Field(0.0, ge=0, le=1, description="... after it cooperated and the other defected")
    p_dc: float = Field(1.0, ge=0, le=1, description="... after it defected and the other cooperated")
    p_dd: float = Field(0.0, ge=0, le=1, description="... after both defected")

    @model_validator(mode="before")
    @classmethod
    def _fill_from_strategy(cls, values: dict[str, Any]) -> dict[str, Any]:
        strategy = str(values.get("strategy", cls.model_fields["strategy"].default))
        if strategy not in STRATEGIES:
            return values  # refused where the field is checked
        names = ("p_start", "p_cc", "p_cd", "p_dc", "p_dd")
        return {**dict(zip(names, STRATEGIES[strategy], strict=True)), **values}


class MemoryOneModule(AgentModule):
    """Cooperates with the probabilities in `model_config["cooperation"]`, which are those after [CC, CD, DC, DD, start]."""

    def setup(self) -> None:
        probabilities = torch.tensor(self.model_config["cooperation"], dtype=torch.float32)
        self.register_buffer("cooperation", probabilities, persistent=False)

    @property
    def group(self) -> Hashable:
        return MemoryOneModule

    @classmethod
    def stacked(cls, modules: Sequence[MemoryOneModule], rows: int) -> Parameters:
        return {"cooperation": torch.stack([module.cooperation for module in modules])}

    @classmethod
    def act(
        cls,
        modules: Sequence[MemoryOneModule],
        parameters: Parameters,
        observations: Tensor,
        state: State,
        generator: torch.Generator,
        explore: bool,
        allowed: Tensor | None = None,
    ) -> Action:
        probability = parameters["cooperation"].gather(1, observations.argmax(-1))
        # Numbers in [0, 1) are never below 0 and always below 1: a sure thing is sure.
        cooperates = torch.rand(probability.shape, generator=generator) < probability
        log_probs = torch.where(cooperates, probability, 1 - probability).log()
        return Action((~cooperates).long(), log_probs, {})

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        probability = self.cooperation[batch[Columns.OBS].argmax(-1)]
        return {Columns.ACTION_DIST_INPUTS: _finite_log(torch.stack([probability, 1 - probability], -1))}


@register_kind
class MemoryOne(AgentKind):
    """Cooperates in a matrix game with a probability that depends on the last outcome only.

    Cooperation, at the start and after CC, CD, DC, DD (the own action first):

        tit_for_tat            1;  1  0  1  0      what the other did last
        generous_tit_for_tat   1;  1 1/3 1 1/3     forgives a third of the defections
        win_stay_lose_shift    1;  1  0  0  1      the same again unless the other defected
        grim_trigger           1;  1  0  0  0      never again after a defection
        always_cooperate       1;  1  1  1  1
        always_defect          0;  0  0  0  0
    """

    name = "memory_one"
    Options = MemoryOneOptions
    Module = MemoryOneModule
    learns = False

    @classmethod
    def check_world(cls, world: WorldFacts, options: MemoryOneOptions) -> None:
        if not issubclass(world.type, MatrixGame):
            worlds = env_registry.WORLDS.items()
            games = [name for name, made in worlds if isinstance(made, type) and issubclass(made, MatrixGame)]
            raise _no_script(cls.name, world, games)

    @classmethod
    def model_config(cls, options: MemoryOneOptions, world: WorldFacts, agents: tuple[int, ...]) -> dict[str, Any]:
        return {"cooperation": [options.p_cc, options.p_cd, options.p_dc, options.p_dd, options.p_start]}


def _no_script(kind: str, world: WorldFacts, known: Sequence[str]) -> SettingError:
    return SettingError(
        f"Agents of kind {kind!r} do not know how to play {world.name or world.type.__name__!r}. Worlds that they play: "
        f"{', '.join(known)}; none in wrappers. Choose one of these, or another kind such as 'random'."
    )


def _finite_log(probabilities: Tensor) -> Tensor:
    """Logits; of impossible actions so low that they are never drawn, but finite."""
    return probabilities.clamp(min=torch.finfo(torch.float32).tiny).log()
