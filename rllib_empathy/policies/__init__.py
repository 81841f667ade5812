"""Kinds of agents: one file each, registered by name. All files of this package are imported with it."""

from importlib import import_module
from pkgutil import iter_modules

from rllib_empathy.policies.kind import KINDS, AgentKind, AgentModule, kind_named, register_kind

__all__ = ["KINDS", "AgentKind", "AgentModule", "kind_named", "register_kind"]

for _file in iter_modules(__path__):
    import_module(f"{__name__}.{_file.name}")
