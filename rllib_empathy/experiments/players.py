"""Players as a person names them on the command line: kinds that need no training, strategies, and agents of earlier runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from env_registry.parameters import SettingError, checked, unknown_name
from rllib_empathy.policies import KINDS, kind_named
from rllib_empathy.policies.scripted import STRATEGIES
from rllib_empathy.population import Entry

Player = str | Mapping[str, Any]
"""See `player_entry`."""


def player_entry(player: Player) -> dict[str, Any]:
    """The entry of a population for one player.

    Args:
        player: a kind ("cooperator"), a strategy of memory-one agents ("tit_for_tat"), a run folder or a checkpoint's with an
            agent's number behind it ("runs/cleanup/2026-11-22_05-59-59:2"; default: agent 0), or an entry of a population as a
            mapping or as YAML ("{kind: memory_one, p_cd: 0.5}").

    Raises:
        SettingError: nobody is called so.
    """
    if isinstance(player, Mapping):
        return dict(player)
    if player.startswith("{"):
        return _from_yaml(player)
    if player in KINDS:
        return {"kind": player}
    if player in STRATEGIES:
        return {"kind": "memory_one", "strategy": player}
    path, _, number = player.rpartition(":")
    if not (path and number.isdigit()):
        path, number = player, "0"
    if not Path(path).exists():
        if "/" in path:
            raise SettingError(f"Player {player!r}: there is no run folder or checkpoint {path!r}.")
        raise unknown_name("player (neither a folder, nor a kind or strategy)", player, [*KINDS, *STRATEGIES])
    return {"kind": "frozen", "checkpoint": path, "agent": int(number)}


def plays_at_once(player: Player) -> dict[str, Any]:
    """The entry of a player that needs no training.

    Raises:
        SettingError: nobody is called so, or it has to learn first.
    """
    entry = player_entry(player)
    kind = checked(Entry, entry, f"player {player!r}").kind
    if kind_named(kind).learns:
        raise SettingError(
            f"Agents of kind {kind!r} have to be trained before they can play. Name an agent of a run (RUN_FOLDER:0), or a kind "
            f"that does not learn: {', '.join(name for name, known in KINDS.items() if not known.learns)}."
        )
    return entry


def _from_yaml(text: str) -> dict[str, Any]:
    try:
        entry = yaml.safe_load(text)
    except yaml.YAMLError:
        entry = None
    if not isinstance(entry, dict):
        raise SettingError(f"Player {text!r} is no YAML mapping; write for instance '{{kind: memory_one, p_cd: 0.5}}'.")
    return entry
