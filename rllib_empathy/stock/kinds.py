"""Kinds of agents whose rewards can be reshaped without their acting networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from env_registry.parameters import SettingError, unknown_name
from rllib_empathy.policies.actor_critic import ActorCriticKind
from rllib_empathy.policies.kind import KINDS, AgentKind, checked_options
from rllib_empathy.policies.ppo import PPOOptions

KindSpec = str | Mapping[str, Any]
"""The name of a kind, or {kind, **options}."""

ALSO_OF_KINDS = frozenset({"gamma", "network", "grad_clip", "adam_epsilon"})
"""Options of acting networks that hold for what a kind has beside them too; of `network`, the convolutions."""


class Reshaping(NamedTuple):
    """How one policy's rewards are reshaped."""

    kind: type[AgentKind]
    options: Any


def reshaping_of(module_id: str, spec: KindSpec, discount: float | None = None) -> Reshaping:
    """Reads what a user wants for one policy.

    Args:
        module_id: the policy.
        spec: what the user says.
        discount: of the policy, unless the user gives its kind a `gamma`; None: the kind's own.

    Raises:
        SettingError: an unknown kind, one that leaves rewards as they are, an unknown option, one that is the policy's own
            affair, or an impossible value.
    """
    entry = {"kind": spec} if isinstance(spec, str) else spec
    if not isinstance(entry, Mapping) or "kind" not in entry:
        raise SettingError(f"Policy {module_id!r}: {spec!r} is neither a kind nor {{'kind': NAME, **options}}.")
    known = kinds_that_reshape()
    if entry["kind"] not in known:
        raise unknown_name("kind of agent that reshapes rewards", entry["kind"], known)
    kind, options = KINDS[entry["kind"]], {key: value for key, value in entry.items() if key != "kind"}
    own = set(PPOOptions.model_fields) - ALSO_OF_KINDS
    wrong = sorted(own & set(options))
    if wrong:
        raise SettingError(
            f"Policy {module_id!r}: {', '.join(wrong)} is a setting of the algorithm that learns the policy; use its own "
            f"config.training(...). Options of {entry['kind']!r} here: {', '.join(sorted(set(kind.Options.model_fields) - own))}."
        )
    if discount is not None and "gamma" in kind.Options.model_fields:
        options.setdefault("gamma", discount)
    return Reshaping(kind, checked_options(kind, options))


def needs_networks(kind: type[AgentKind]) -> bool:
    """Whether a kind has auxiliary networks, and with them looks at observations and actions."""
    return _overrides(kind, AgentKind, "auxiliary_networks")


def kinds_that_reshape() -> list[str]:
    """Names of all kinds that a policy can be given."""
    return [name for name, kind in KINDS.items() if _reshapes(kind)]


def _reshapes(kind: type[AgentKind]) -> bool:
    """Whether a kind makes something of rewards, and needs no more for it than its auxiliary networks."""
    changes = kind.gift_weights is not AgentKind.gift_weights or kind.reward is not AgentKind.reward
    return changes and (needs_networks(kind) or not _has_other_networks(kind))


def _has_other_networks(kind: type[AgentKind]) -> bool:
    return issubclass(kind, ActorCriticKind) and kind.auxiliary_parameters is not ActorCriticKind.auxiliary_parameters


def _overrides(kind: type, base: type, method: str) -> bool:
    return bool(getattr(kind, method).__func__ is not getattr(base, method).__func__)
