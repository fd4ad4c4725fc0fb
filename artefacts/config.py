"""Sections of the configuration, and what a step declares to read of them.

A step names the keys that it reads in a frozen dataclass:

    @dataclass(frozen=True)
    class IndexSections:
        index: IndexConfig = read("index")
        ks: tuple[int, ...] = read("evaluation.ks")

`pick` takes exactly those values out of a configuration. The step is given that value and nothing else, and its digest
is the hash of that value: what was not declared can neither be read nor make a step run again.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter

_KEY = "key"


class ConfigError(ValueError):
    """The configuration cannot be used; the message names the key or the file."""


def as_tuple(value: object) -> object:
    """For a `BeforeValidator`: one value alone is a list of one."""
    return value if isinstance(value, (list, tuple)) else (value,)


class Section(BaseModel):
    """A frozen part of the configuration that knows no other keys than its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


Sections = TypeVar("Sections")


def read(key: str) -> Any:
    """Declares a field of a step's sections.

    Args:
        key: Where the value is in the configuration, such as `training.negatives`. A field whose annotation is a base
            class of the section that is found there gets the fields of the base class only.
    """
    return dataclasses.field(metadata={_KEY: key})


def pick(kind: type[Sections], config: Section) -> Sections:
    """The values that a step declares to read.

    Args:
        kind: A dataclass whose fields are made with `read`.
        config: The whole configuration.

    Raises:
        TypeError: A field is not made with `read`.
        AttributeError: A key is not in the configuration.
    """
    annotations = typing.get_type_hints(kind)
    found = {name: _narrowed(_value_at(config, key), annotations[name]) for name, key in keys_of(kind).items()}
    return kind(**found)


def keys_of(kind: type[object]) -> dict[str, str]:
    """Field of a step's sections -> key of the configuration that it is read from."""
    if not dataclasses.is_dataclass(kind):
        raise TypeError(f"{kind.__name__} is not a dataclass")
    fields = dataclasses.fields(kind)
    if unread := [field.name for field in fields if _KEY not in field.metadata]:
        raise TypeError(f"{kind.__name__}.{unread[0]} names no key of the configuration; declare it with read(...)")
    return {field.name: field.metadata[_KEY] for field in fields}


def as_read(sections: object) -> dict[str, Any]:
    """What a step reads, as JSON has it: key of the configuration -> value."""
    keys = keys_of(type(sections))
    return {key: _plain(getattr(sections, name)) for name, key in keys.items()}


def nested(*read_by: Mapping[str, Any]) -> dict[str, Any]:
    """What several steps read, as the one nested mapping that a YAML file holds.

    Args:
        read_by: Of each step, what `as_read` gives.
    """
    out: dict[str, Any] = {}
    for values in read_by:
        for key, value in values.items():
            for part in reversed(key.split(".")):
                value = {part: value}
            _merge(out, value)
    return out


def _merge(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _value_at(config: Section, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


def _narrowed(value: Any, annotation: Any) -> Any:
    """The value with the fields of the declared class alone, where it is of a class derived from it."""
    is_union = isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union
    for kind in typing.get_args(annotation) if is_union else (annotation,):
        if isinstance(kind, type) and issubclass(kind, Section) and isinstance(value, kind) and type(value) is not kind:
            return kind.model_construct(**{name: getattr(value, name) for name in kind.model_fields})
    return value


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else _ANYTHING.dump_python(value, mode="json")


_ANYTHING: TypeAdapter[Any] = TypeAdapter(Any)
