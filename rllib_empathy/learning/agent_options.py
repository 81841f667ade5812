"""Options of agents as settings of RLlib's configuration, in whatever way they are written."""

from __future__ import annotations

import copy
import logging
from typing import Any, Self

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided
from ray.tune.result import TRIAL_INFO

from env_registry.parameters import SettingError, unknown_name
from rllib_empathy.learning import settings
from rllib_empathy.learning.settings_table import FORMER_NAMES
from rllib_empathy.policies import KINDS
from rllib_empathy.population import Member, Population, PopulationSpec, options_of_entries, who_takes

logger = logging.getLogger(__name__)

_SHARED = {"lr", "gamma", "grad_clip", "num_epochs", "minibatch_size", "exploration", "buffer_size"}
"""Options of agents whose names RLlib's configuration has, too."""


def agent_options() -> set[str]:
    """The names of all options of all kinds of agents."""
    return {name for kind in KINDS.values() for name in kind.Options.model_fields}


def is_agent_option(name: str) -> bool:
    """Whether a setting of this name is an option of agents; a kind of a user's takes none of RLlib's names away."""
    if not any(name in kind.Options.model_fields for kind in KINDS.values()):
        return False
    return name in _SHARED or not (hasattr(AlgorithmConfig, name) or name in settings.rllib_attributes())


class AgentOptionsConfig(AlgorithmConfig):
    """RLlib's configuration for agents that have options of their own.

    What is set for all agents lies in one place, `agent_defaults`, and nowhere else: `config.lr = 0.01`, `config["lr"] = 0.01`,
    `update_from_dict({"lr": 0.01})` and Tune's configs do what `training(lr=0.01)` does. `config.lr` is what all agents that have
    the option use; where they differ, what was set for all, or None.
    """

    def __init__(self, algo_class: type | None = None) -> None:
        self.agent_defaults: dict[str, Any] = {}
        super().__init__(algo_class=algo_class)
        self.agent_defaults = {}  # without RLlib's own, which nobody set: each kind of agent has its own defaults
        self.population_spec: PopulationSpec = "ppo"
        self.of_a_trial = False  # of Ray Tune

    def resolved_population(self) -> Population:
        """The population, checked against the world's seats."""
        raise NotImplementedError

    def __setattr__(self, key: str, value: Any) -> None:
        """Sets a setting; options of agents become defaults of all agents that have them."""
        if key == "population":  # a method's name, which RLlib's `update_from_dict` would overwrite
            key = "population_spec"
        if getattr(getattr(type(self), key, None), "fset", None) is None:
            key = settings.attribute_of(key)
        if not is_agent_option(key) or self.__dict__.get("_is_frozen"):
            super().__setattr__(key, value)
        else:
            self.__dict__["agent_defaults"] = {**self.agent_defaults, key: value}

    def __setitem__(self, key: str, value: Any) -> None:
        """The same for those who take the configuration for a dict."""
        if key == "multiagent":
            super().__setitem__(key, value)
        setattr(self, self._translate_special_keys(key), value)

    def __getattr__(self, name: str) -> Any:
        """An option of agents: what all that have it use; where they differ, what was set for all, or None."""
        if name.startswith("__") or not is_agent_option(name):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return self._agent_option(name)

    @property
    def exploration(self) -> Any:
        """See `__getattr__`. RLlib keeps this name for a method that only says that it is no more."""
        return self._agent_option("exploration")

    def to_dict(self) -> dict[str, Any]:
        """All settings, with options of agents beside RLlib's own, as Tune's schedulers and samplers want them."""
        whole: dict[str, Any] = super().to_dict()
        options = whole.pop("agent_defaults")
        if "lambda_" in options:  # RLlib's name in dicts
            options["lambda"] = options.pop("lambda_")
        beside = {key: value for key, value in options.items() if is_agent_option(key) or key == "lambda"}
        hidden = {key: value for key, value in options.items() if key not in beside}  # under names of RLlib's settings
        return {**whole, **({"agent_defaults": hidden} if hidden else {}), **beside}

    def update_from_dict(self, config_dict: dict[str, Any]) -> Self:
        """Sets whatever a dict says; see the class."""
        super().update_from_dict(config_dict)
        self.of_a_trial = self.of_a_trial or TRIAL_INFO in config_dict
        return self

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Any:
        """A configuration from `get_state`'s answer; of older ones, too, in which RLlib's defaults lay beside agents' options."""
        return super().from_state({key: value for key, value in state.items() if not is_agent_option(key)})

    def training(self, **options: Any) -> Self:
        """Sets RLlib's training settings and defaults for the agents.

        Args:
            **options: any option of a kind of agent (`lr`, `gamma`, `lambda_`, `entropy_coeff`, `num_epochs`,
                `minibatch_size`, `network` ...) becomes the default of all agents that have it; all others are settings of
                RLlib's `AlgorithmConfig.training`, such as `train_batch_size_per_learner`.

        Raises:
            SettingError: neither RLlib nor any kind of agent has such an option.
        """
        of_rllib = set(settings.arguments_of("training"))
        of_agents = agent_options()
        mine = {key: value for key, value in options.items() if key in of_agents and value is not NotProvided}
        others = {key: value for key, value in options.items() if key not in of_agents}
        for key in others:
            if key not in of_rllib:
                raise unknown_name("training option", key, sorted(of_agents | of_rllib - FORMER_NAMES.keys()))
        if mine:
            self.agent_defaults = {**self.agent_defaults, **mine}
        super().training(**others)
        return self

    def get_config_for_module(self, module_id: str) -> Any:
        """The configuration with one agent's options in the place of what is set for all."""
        member = next((m for m in self.resolved_population().members if m.module_id == module_id), None)
        if member is None:
            return self
        own = copy.copy(self)
        own.__dict__["agent_defaults"] = {**self.agent_defaults, **_options_of(member)}
        own.__dict__["population_spec"] = [member.kind.name]
        own.__dict__["algorithm_config_overrides_per_module"] = {}
        return own

    def _agent_option(self, name: str) -> Any:
        set_for_all = self.agent_defaults.get(name)
        try:
            used = options_of_entries(self.population_spec, self.agent_defaults, name)
        except (SettingError, TypeError):  # Tune is still to choose something, or `validate` will say what is wrong
            return set_for_all
        used += [
            of_module[name] for of_module in self.algorithm_config_overrides_per_module.values() if name in of_module
        ]
        return used[0] if used and all(value == used[0] for value in used) else set_for_all

    def check_defaults(self) -> None:
        """Tells of options that are set for all agents and taken by none.

        A study's variants may do without what is set for all of them. A trial of Tune's may not: its loggers would report, and
        its schedulers change, a value that nobody learns with.
        """
        for name, value in self.agent_defaults.items():
            have, take = who_takes(self.population_spec, name)
            if take:
                continue
            why = "each entry of the population has its own" if have else "no agent of this population has it"
            said = f"{name} = {value!r} is set for all agents and taken by none: {why}."
            if have and self.of_a_trial:
                raise SettingError(f"{said} Leave it out here, or leave {name} out of the entries that should take it.")
            logger.warning(said)


def _options_of(member: Member) -> dict[str, Any]:
    return {name: getattr(member.options, name) for name in type(member.options).model_fields}
