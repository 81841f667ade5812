"""Checked settings: every setting has a type and a range, and a wrong one names itself, its value and what is allowed."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError


class SettingError(ValueError):
    """A setting is unknown or its value impossible; the message says which one and how to mend it."""


class Settings(BaseModel):
    """Base of all checked settings: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


S = TypeVar("S", bound=BaseModel)


def unknown_name(what: str, name: object, known: Mapping[str, Any] | list[str]) -> SettingError:
    """An error for a name that is not registered, with the nearest one that is."""
    names = sorted(known)
    near = get_close_matches(str(name), names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return SettingError(f"Unknown {what} {name!r}.{hint} Known: {', '.join(names) or 'none'}.")


def checked(model: type[S], values: Mapping[str, Any] | None, where: str) -> S:
    """Builds `model` from `values`.

    Args:
        model: the settings' type.
        values: the user's keys and values.
        where: what the settings are for, named in the error ("env_config of 'cleanup'").

    Raises:
        SettingError: every wrong key with its value, the reason, and what is allowed.
    """
    try:
        return model.model_validate(dict(values or {}))
    except ValidationError as error:
        lines = [_explain(model, problem) for problem in error.errors()]
        raise SettingError(f"Wrong {where}:\n" + "\n".join(f"  - {line}" for line in lines)) from None


def _explain(model: type[BaseModel], problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        *path, last = problem["loc"]
        where = f" in {'.'.join(map(str, path))}" if path else ""
        return str(unknown_name(f"key{where}", last, list(_nested(model, path).model_fields)))
    if problem["type"] == "missing":
        return f"{key!r} is missing."
    reason = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:
        return f"{reason}."
    return f"{key!r} = {problem['input']!r}: {reason}."


def _nested(model: type[BaseModel], path: list[Any]) -> type[BaseModel]:
    """The type of the settings that lie at `path` within `model`; also within optional ones and in mappings of names."""
    keys = iter(path)
    for key in keys:
        field = model.model_fields.get(key)
        if field is None:
            return model
        annotation = field.annotation
        if get_origin(annotation) is dict:
            annotation = get_args(annotation)[1]
            next(keys, None)  # the name
        for option in (annotation, *get_args(annotation)):
            if isinstance(option, type) and issubclass(option, BaseModel):
                model = option
                break
        else:
            return model
    return model
