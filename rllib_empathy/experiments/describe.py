"""Worlds and kinds of agents in words: what can be set, to what, and what happens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table


class Setting(NamedTuple):
    """One key of a settings model."""

    key: str
    default: str
    allowed: str
    description: str


def settings(model: type[BaseModel]) -> list[Setting]:
    """All keys of a model, those of nested models as "network.hidden", in their order."""
    schema = model.model_json_schema(by_alias=False)
    return list(_settings(schema, schema.get("$defs", {}), ""))


def settings_table(title: str, model: type[BaseModel]) -> Table:
    """A model's keys with default, allowed values and description."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("key", no_wrap=True)
    for column in ("default", "allowed", "what it is"):
        table.add_column(column)
    for setting in settings(model):
        table.add_row(*map(escape, setting))
    return table


def overview_table(title: str, things: Mapping[str, Any]) -> Table:
    """Names and the first lines of docstrings."""
    table = Table(title=title, title_justify="left", show_header=False, box=None)
    table.add_column(no_wrap=True)
    table.add_column()
    for name, thing in things.items():
        table.add_row(name, escape(summary(thing)))
    return table


def presets_of(parameters: Any) -> dict[str, str]:
    """Name of each preset of a world -> what it sets, as in an experiment file."""
    return {
        name: ", ".join(f"{key}: {_value(value)}" for key, value in values.items()) or "the defaults"
        for name, values in parameters.presets.items()
    }


def summary(thing: Any) -> str:
    """The first line of a docstring."""
    return (thing.__doc__ or "").strip().partition("\n")[0]


def _settings(schema: dict[str, Any], definitions: dict[str, Any], prefix: str) -> list[Setting]:
    found: list[Setting] = []
    for key, entry in schema["properties"].items():
        nested = definitions.get(entry.get("$ref", "").rpartition("/")[2], {})
        if "properties" in nested:
            found += _settings(nested, definitions, f"{prefix}{key}.")
            continue
        default = "(needed)" if "default" not in entry else _value(entry["default"])
        found.append(Setting(prefix + key, default, _allowed(entry), entry.get("description", "")))
    return found


def _allowed(entry: dict[str, Any]) -> str:
    if "anyOf" in entry:
        return " or ".join(_allowed(option) for option in entry["anyOf"])
    if "prefixItems" in entry:
        return f"[{', '.join(_allowed(item) for item in entry['prefixItems'])}]"
    if entry.get("type") == "array":
        return f"[{_allowed(entry.get('items', {}))}, ...]"
    if "enum" in entry:
        return " or ".join(_value(choice) for choice in entry["enum"])
    if "const" in entry:
        return _value(entry["const"])
    bounds = [f"{sign} {_exact(entry[key])}" for key, sign in _BOUNDS if key in entry]
    return f"{entry.get('type', 'anything')} {' and '.join(bounds)}".rstrip()


def _exact(bound: float) -> str:
    """A bound in few characters, but never rounded: 1e+06, 0.5, 4294967295."""
    return f"{bound:g}" if float(f"{bound:g}") == bound else str(bound)


def _value(value: Any) -> str:
    """As it is written in YAML."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"[{', '.join(_value(item) for item in value)}]" if isinstance(value, list | tuple) else str(value)


_BOUNDS = (("minimum", ">="), ("exclusiveMinimum", ">"), ("maximum", "<="), ("exclusiveMaximum", "<"))
