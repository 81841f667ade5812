"""PettingZoo environments without the wrappers that only check how they are used."""

from __future__ import annotations

from pettingzoo.utils.conversions import aec_to_parallel_wrapper
from pettingzoo.utils.wrappers import AssertOutOfBoundsWrapper, BaseParallelWrapper, OrderEnforcingWrapper

from env_registry.wrappers import Environment

CHECKS = (AssertOutOfBoundsWrapper, OrderEnforcingWrapper)
"""That actions are in their space, and that nothing is asked before `reset`."""


def unchecked(env: Environment) -> Environment:
    """The environment, changed so that nobody checks what its caller guarantees.

    Most of PettingZoo's environments take turns inside. Every attribute that is read of them goes through these wrappers,
    which takes as long as the game itself (simple_spread).
    """
    inner = env
    while isinstance(inner, BaseParallelWrapper):
        inner = inner.env
    if isinstance(inner, aec_to_parallel_wrapper):
        while type(inner.aec_env) in CHECKS:
            inner.aec_env = inner.aec_env.env
    return env
