"""Kinds of agents: one file each, registered by name."""

from rllib_empathy.policies import a2c, ppo, random_agent
from rllib_empathy.policies.kind import KINDS, AgentKind, AgentModule, kind_named, register_kind

__all__ = ["KINDS", "AgentKind", "AgentModule", "a2c", "kind_named", "ppo", "random_agent", "register_kind"]
