"""Who plays: which kind of agent with which options sits where, and who shares networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pydantic import ConfigDict, Field

from env_registry.parameters import SettingError, Settings, checked, unknown_name
from rllib_empathy.policies.kind import AgentKind, checked_options, kind_named

PopulationSpec = str | Sequence[str | Mapping[str, Any]]
"""A kind for all seats, or a list of kinds and of entries {kind, count, shared, name, **options}."""


class Entry(Settings):
    """One entry of a population; all further keys are options of its kind."""

    model_config = ConfigDict(frozen=True, extra="allow")

    kind: str
    count: int = Field(1, ge=1, description="seats that it fills")
    shared: bool = Field(False, description="whether these seats share one network")
    name: str | None = Field(None, pattern=r"^[A-Za-z]\w*$", description="prefix of the module ids; default: the kind")

    def options(self, defaults: Mapping[str, Any], overrides: Mapping[str, Any] | None = None) -> Settings:
        """The kind's options: the overrides, else the entry's own, else the defaults that the kind has, else the kind's.

        Raises:
            SettingError: an unknown kind or option, or an impossible value.
        """
        kind = kind_named(self.kind)
        wanted = {key: value for key, value in defaults.items() if key in kind.Options.model_fields}
        return checked_options(kind, {**wanted, **(self.model_extra or {}), **(overrides or {})})

    def carried(self, defaults: Mapping[str, Any]) -> dict[str, Any]:
        """See `AgentKind.carried`."""
        return kind_named(self.kind).carried(self.options(defaults))


def as_mapping(entry: str | Mapping[str, Any]) -> Mapping[str, Any]:
    """An entry of a population with its kind as a key."""
    return {"kind": entry} if isinstance(entry, str) else entry


def self_contained(spec: PopulationSpec, defaults: Mapping[str, Any]) -> PopulationSpec:
    """The same population with everything in it that had to be read from files.

    Raises:
        SettingError: an unknown kind or option, or an impossible value.
    """
    if isinstance(spec, str):
        return spec
    carried = [checked(Entry, raw, "population entry").carried(defaults) for raw in map(as_mapping, spec)]
    return [{**as_mapping(raw), **more} if more else raw for raw, more in zip(spec, carried, strict=True)]


def options_of_entries(spec: PopulationSpec, defaults: Mapping[str, Any], name: str) -> list[Any]:
    """The values of one option in all entries of a population whose kind has it.

    Raises:
        SettingError: an unknown kind or option, or an impossible value.
    """
    entries = [spec] if isinstance(spec, str) else spec
    options = [checked(Entry, as_mapping(raw), "population entry").options(defaults) for raw in entries]
    return [getattr(one, name) for one in options if name in type(one).model_fields]


def who_takes(spec: PopulationSpec, name: str) -> tuple[int, int]:
    """How many entries of a population have an option, and how many of them leave it to the default for all.

    Raises:
        SettingError: an unknown kind.
    """
    entries = [
        checked(Entry, as_mapping(raw), "population entry") for raw in ([spec] if isinstance(spec, str) else spec)
    ]
    have = [entry for entry in entries if name in kind_named(entry.kind).Options.model_fields]
    return len(have), sum(name not in (entry.model_extra or {}) for entry in have)


@dataclass(frozen=True)
class Member:
    """One RLModule of a population and the agents that it plays."""

    module_id: str
    kind: type[AgentKind]
    options: Any
    agents: tuple[int, ...]


@dataclass(frozen=True)
class Population:
    """All members; every agent 0 .. N-1 belongs to exactly one."""

    members: tuple[Member, ...]

    @classmethod
    def of(
        cls,
        spec: PopulationSpec,
        num_agents: int,
        defaults: Mapping[str, Any] | None = None,
        overrides: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> Population:
        """Reads a population.

        Args:
            spec: see `PopulationSpec`.
            num_agents: seats of the world.
            defaults: options for every kind that has them, unless its entry says otherwise.
            overrides: module id -> options that this member has, whatever its entry says.

        Raises:
            SettingError: an unknown kind or option, an impossible value, or a number of seats that the world has not.
        """
        entries = [{"kind": spec, "count": num_agents}] if isinstance(spec, str) else spec
        if not isinstance(entries, Sequence) or not all(isinstance(entry, str | Mapping) for entry in entries):
            raise SettingError(
                f"The population is {spec!r}; needed is the name of a kind for all seats, or a list of names and of entries "
                "{kind, count, shared, name, **options}."
            )
        members: list[Member] = []
        overrides = overrides or {}
        seat = 0
        for number, raw in enumerate(entries):
            entry = checked(Entry, as_mapping(raw), f"population entry {number}")
            kind, options = kind_named(entry.kind), partial(entry.options, defaults or {})
            agents = tuple(range(seat, seat + entry.count))
            seat += entry.count
            name = entry.name or entry.kind
            if entry.shared:
                members.append(Member(name, kind, options(overrides.get(name)), agents))
            else:
                ids = [f"{name}_{agent}" for agent in agents]
                members.extend(
                    Member(id_, kind, options(overrides.get(id_)), (agent,))
                    for id_, agent in zip(ids, agents, strict=True)
                )
        if seat != num_agents:
            raise SettingError(
                f"The population fills {seat} seats, the world has {num_agents}. Change the entries' counts or num_agents."
            )
        ids = [member.module_id for member in members]
        if len(set(ids)) < len(ids):
            repeated = sorted({module_id for module_id in ids if ids.count(module_id) > 1})
            raise SettingError(f"Module ids appear twice: {', '.join(repeated)}. Give the entries names of their own.")
        for module_id in overrides:
            if module_id not in ids:
                raise unknown_name("module id in algorithm_config_overrides_per_module", module_id, ids)
        for member in members:
            if overrides.get(member.module_id) and member.kind.carried(member.options):
                raise SettingError(
                    f"algorithm_config_overrides_per_module names {member.module_id!r}, a {member.kind.name} agent, which is "
                    "read from a file as it is. Write its options into its entry in the population."
                )
        return cls(tuple(members))

    @property
    def module_of_agent(self) -> dict[int, str]:
        """Agent -> module id."""
        return {agent: member.module_id for member in self.members for agent in member.agents}

    def kinds(self) -> dict[str, AgentKind]:
        """Module id -> a fresh instance of its kind."""
        return {m.module_id: m.kind(m.module_id, m.options, m.agents) for m in self.members}


def check_change(before: Population, after: Population) -> None:
    """Raises SettingError if a module id that stays stands for another kind of agent or other options."""
    earlier = {member.module_id: member for member in before.members}
    for member in after.members:
        known = earlier.get(member.module_id, member)
        if (known.kind, known.options) != (member.kind, member.options):
            raise SettingError(
                f"{member.module_id!r} would go on as another agent ({known.kind.name} with {known.options}; now "
                f"{member.kind.name} with {member.options}). Agents that keep their names keep kind and options; give the new "
                "one a name of its own."
            )
