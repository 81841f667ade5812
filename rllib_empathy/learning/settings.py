"""Holds a configuration against the table of RLlib's settings: what nothing would read is refused."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

from ray.rllib.algorithms.algorithm_config import DEFAULT_POLICY_ID, AlgorithmConfig
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.utils import force_list

from env_registry.parameters import SettingError, unknown_name
from rllib_empathy.learning.settings_table import (
    CALLBACKS,
    FORMER_NAMES,
    INTERNAL,
    LEAVE_OUT,
    METHODS,
    OLD,
    SETTINGS,
    Setting,
)

_OTHER_ATTRIBUTES = {
    "framework": "framework_str",
    "custom_stats_cls_lookup": "stats_cls_lookup",
    "dataset_num_iters_per_offline_eval_runner": "dataset_num_iters_per_eval_runner",
}


@cache
def rllib_attributes() -> frozenset[str]:
    """All attributes of RLlib's own configuration."""
    return frozenset(vars(AlgorithmConfig()))


def attribute_of(argument: str) -> str:
    """The attribute in which a method's argument is kept."""
    for name in (_OTHER_ATTRIBUTES.get(argument, argument), f"_{argument}", f"callbacks_{argument}"):
        if name in rllib_attributes():
            return name
    return argument


@cache
def arguments_of(method: str) -> tuple[str, ...]:
    """The names of what a method of `AlgorithmConfig` takes."""
    parameters = list(inspect.signature(getattr(AlgorithmConfig, method)).parameters.values())[1:]
    return tuple(p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL))


@cache
def shown(attribute: str) -> str:
    """An attribute as users set it: `.method(argument=...)`."""
    for method in METHODS:
        for argument in arguments_of(method):
            if argument not in FORMER_NAMES and attribute_of(argument) == attribute:
                return f".{method}({argument}=...)"
    return attribute


def setting(attribute: str) -> Setting:
    """What becomes of an attribute; of one that RLlib knows and this table does not, too."""
    if attribute in SETTINGS:
        return SETTINGS[attribute]
    callback = attribute.removeprefix("callbacks_")
    if callback != attribute and callback in CALLBACKS:
        return CALLBACKS[callback]
    return Setting(False, OLD, LEAVE_OUT)


def check_settings(config: Any, default: Any, known: Iterable[str], options: Iterable[str]) -> None:
    """Holds a configuration against the table, however its values came into it.

    Args:
        config: an EmpathyConfig.
        default: a new one.
        known: attributes that are no settings of RLlib's.
        options: the names of all options of agents.

    Raises:
        SettingError: every setting that nothing would read, with its value, the reason, and what to do instead.
    """
    known = frozenset(known) | INTERNAL
    allowed = rllib_attributes() | known
    problems = []
    for name, value in vars(config).items():
        if name.startswith("__"):  # Tune's own, which it puts into every trial's settings
            continue
        if name not in allowed:
            where = [n for n in (*rllib_attributes(), *options) if not n.startswith("_")]
            problems.append(f"{name} = {_short(value)}: {unknown_name('setting', name, where)}".split(" Known:")[0])
        elif name in LIMITS:
            problems.extend(LIMITS[name](config))
        elif name not in known and not _same(value, getattr(default, name, None)):
            found = setting(name)
            if not found.honoured:
                problems.append(_sentence(shown(name), value, found))
    if problems:
        lines = "\n".join(f"  - {problem}" for problem in problems)
        raise SettingError(f"Settings of RLlib's that would have no effect (docs/settings.md lists all):\n{lines}")


def _sentence(name: str, value: Any, found: Setting) -> str:
    return f"{name}, here {_short(value)}, is refused: {found.note}. {found.instead}."


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    try:
        return bool(one == other)
    except Exception:  # arrays, for instance, have no one answer
        return False


# -- Settings that are honoured within limits


def _callbacks(config: Any) -> list[str]:
    """The methods of the user's callback classes that nobody would call."""
    problems = []
    for made in force_list(config.callbacks_class):
        for kind in _callback_classes(made):
            for method in dir(kind):
                known = getattr(RLlibCallback, method, None)
                if not method.startswith("on_") or known is None or getattr(kind, method) is known:
                    continue
                found = CALLBACKS.get(method, Setting(False, OLD, LEAVE_OUT))
                if not found.honoured:
                    problems.append(_sentence(f"{method} of .callbacks(...)", kind, found))
    return problems


def _callback_classes(made: Any) -> list[type]:
    """The classes that a callback class, or what makes a callback, stands for."""
    if isinstance(made, type) and not getattr(made, "IS_CALLBACK_CONTAINER", False):
        return [made]
    one = made()
    return [type(part) for part in getattr(one, "_callback_list", [one])]


def _runner_class(config: Any) -> list[str]:
    from rllib_empathy.sampling.joint_env_runner import JointEnvRunner

    return _derived(config.env_runner_cls, JointEnvRunner, ".env_runners(env_runner_cls=...)")


def _learner_class(config: Any) -> list[str]:
    from rllib_empathy.learning.learner import EmpathyLearner

    given = config._learner_class
    return [] if given is None else _derived(given, EmpathyLearner, ".learners(learner_class=...)")


def _derived(given: Any, base: type, name: str) -> list[str]:
    if isinstance(given, type) and issubclass(given, base):
        return []
    return [f"{name}, here {_short(given)}, is refused: needed is a class derived from {base.__name__}. {LEAVE_OUT}."]


def _policies(config: Any) -> list[str]:
    allowed = ({DEFAULT_POLICY_ID}, set(config.population_policies))
    if config.policies is None or set(config.policies) in allowed:
        return []
    if config.env is not None and set(config.policies) == set(config.resolved_population().module_of_agent.values()):
        return []
    return [_sentence(shown("policies"), sorted(map(str, config.policies)), SETTINGS["policies"])]


def _mapping(config: Any) -> list[str]:
    given = config.policy_mapping_fn
    if isinstance(given, SeatOfAgent) or given in (
        AlgorithmConfig.DEFAULT_POLICY_MAPPING_FN,
        None,
        "__not_serializable__",
    ):
        return []
    return [_sentence(shown("policy_mapping_fn"), given, SETTINGS["policy_mapping_fn"])]


LIMITS: Mapping[str, Callable[[Any], list[str]]] = {
    "callbacks_class": _callbacks,
    "env_runner_cls": _runner_class,
    "_learner_class": _learner_class,
    "policies": _policies,
    "policy_mapping_fn": _mapping,
}
"""Attribute -> what says, in sentences, which of its values nothing would read."""


class SeatOfAgent:
    """The policy mapping of a population.

    Args:
        of_agent: agent -> module id.
    """

    def __init__(self, of_agent: Mapping[int, str]) -> None:
        self.of_agent = dict(of_agent)

    def __call__(self, agent_id: Any, *args: Any, **kwargs: Any) -> str:
        """The module id of an agent, given as a number or as "agent_3"."""
        number = agent_id if isinstance(agent_id, int) else int(str(agent_id).rsplit("_", 1)[-1])
        return self.of_agent[number]
