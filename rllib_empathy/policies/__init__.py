"""Kinds of agents: one file each, registered by name."""

from rllib_empathy.policies import a2c, blind_gift, frozen, go, lase, ppo, random_agent, scripted
from rllib_empathy.policies.kind import KINDS, AgentKind, AgentModule, kind_named, register_kind

__all__ = [
    "KINDS",
    "AgentKind",
    "AgentModule",
    "a2c",
    "blind_gift",
    "frozen",
    "go",
    "kind_named",
    "lase",
    "ppo",
    "random_agent",
    "register_kind",
    "scripted",
]
