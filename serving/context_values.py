"""Context of a request: values of user columns at this moment, in place of the stored ones, and of event columns.

B users of a request.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from features.encoding import Encoder
from features.geo import MOST_EAST, MOST_NORTH
from features.kinds import Kind, Storage, stored_as
from features.lists import weighted_column
from features.moments import LAST_SECOND
from features.numbers import LARGEST_NUMBER
from features.schema import ARROW_TYPES, Schema
from serving.answers import MOST_VALUES, ContextValue, RequestError, did_you_mean

NUMBER_AS_TEXT = r"^-?[0-9]{1,30}(\.[0-9]{1,30})?$"
"""What the text of a column looks like that is read as a number, too."""
_NUMBER: dict[str, Any] = {"type": "number", "minimum": -LARGEST_NUMBER, "maximum": LARGEST_NUMBER}
_SCHEMAS: dict[Storage, dict[str, Any]] = {
    Storage.STRING: {"type": "string"},
    Storage.FLOAT: _NUMBER,
    Storage.BOOL: {"type": "boolean"},
    Storage.MOMENT: {"type": "integer", "minimum": -LAST_SECOND, "maximum": LAST_SECOND},
    Storage.STRINGS: {"type": "array", "items": {"type": "string"}, "maxItems": MOST_VALUES},
    Storage.WEIGHTS: {"type": "array", "items": _NUMBER | {"minimum": 0}, "maxItems": MOST_VALUES},
    Storage.PLACE: {
        "type": "array",
        "prefixItems": [{"type": "number", "minimum": -limit, "maximum": limit} for limit in (MOST_NORTH, MOST_EAST)],
        "minItems": 2,
        "maxItems": 2,
    },
}


def context_columns(schema: Schema) -> dict[str, tuple[str, ...]]:
    """What a request may give a value of: the columns of users and of events, and their kinds."""
    return {**schema.user_columns, **schema.event_columns}


def value_schema(encoder: Encoder, column: str) -> dict[str, Any]:
    """JSON schema of a value of this moment of a column, without null, which any column takes.

    Args:
        encoder: Of the bundle.
        column: Of users or events.
    """
    kinds = context_columns(encoder.schema)[column]
    storage = stored_as(kinds)
    if storage is Storage.VECTOR:
        width = encoder.measures[column].length
        return {"type": "array", "items": _NUMBER, "minItems": width, "maxItems": width}
    return _SCHEMAS[storage] | (
        {"pattern": NUMBER_AS_TEXT} if Kind.NUMERIC in kinds and storage is Storage.STRING else {}
    )


def check_context(context: Mapping[str, ContextValue], encoder: Encoder) -> None:
    """Validates the values of a request.

    Args:
        context: Column of users or events -> value.
        encoder: Of the bundle.

    Raises:
        RequestError: A column is neither of users nor of events, or a value is not of its kind.
    """
    allowed = context_columns(encoder.schema)
    for name, value in context.items():
        if name not in allowed:
            whose = "users or events" if encoder.schema.event_columns else "users"
            known, meant = ", ".join(allowed) or "(none declared)", did_you_mean(name, allowed)
            raise RequestError(f"context.{name}", f"is not a column of {whose}; expected some of: {known}{meant}")
        wanted = value_schema(encoder, name)
        if value is not None and not _fits(value, wanted):
            raise RequestError(f"context.{name}", f"is {value!r}, expected {_in_words(wanted)}")


def _fits(value: object, wanted: Mapping[str, Any]) -> bool:
    """Whether a value is as a schema of `value_schema` has it."""
    if wanted["type"] == "string":
        pattern = wanted.get("pattern")
        return isinstance(value, str) and (pattern is None or re.fullmatch(pattern, value) is not None)
    if wanted["type"] == "boolean":
        return isinstance(value, bool)
    if wanted["type"] == "array":
        if not isinstance(value, list | tuple) or not wanted.get("minItems", 0) <= len(value) <= wanted["maxItems"]:
            return False
        each = wanted.get("prefixItems") or [wanted["items"]] * len(value)
        return all(_fits(one, schema) for one, schema in zip(value, each, strict=True))
    if isinstance(value, bool) or not isinstance(value, int | float) or not wanted["minimum"] <= value:
        return False
    return value <= wanted["maximum"] and (wanted["type"] == "number" or value == int(value))


def _in_words(wanted: Mapping[str, Any]) -> str:
    """What a schema of `value_schema` allows."""
    if wanted["type"] == "string":
        return "a number, as text" if "pattern" in wanted else "text"
    if wanted["type"] == "boolean":
        return "true or false"
    if wanted["type"] == "integer":
        return "a moment, in whole Unix seconds"
    if wanted["type"] == "number":
        return f"a number of at most {LARGEST_NUMBER:g}"
    if "prefixItems" in wanted:
        return f"[latitude, longitude] in degrees, of at most {MOST_NORTH:g} and {MOST_EAST:g}"
    least, most = wanted.get("minItems", 0), wanted["maxItems"]
    several = f"{most}" if least == most else f"at most {most:,}"
    if wanted["items"]["type"] == "string":
        return f"a list of {several} texts"
    return f"a list of {several} numbers{' of at least 0' if wanted['items']['minimum'] == 0 else ''}"


def with_context(raw: pa.Table, context: Mapping[str, ContextValue], schema: Schema) -> pa.Table:
    """Replaces stored values by those of the request, and adds those of events, which are stored nowhere.

    Args:
        raw: [B] rows of the user view.
        context: Column -> value, the same for all rows; validated by `check_context`.
        schema: The dataset.
    """
    # Weights are of the stored values, and count for no others.
    of_others = [name for name in schema.columns_of_kind("user", Kind.WEIGHTS) if weighted_column(name) in context]
    for name, value in {**dict.fromkeys(of_others), **context}.items():
        values = pa.array([value] * raw.num_rows)
        if name in schema.event_columns:
            raw = raw.append_column(name, values.cast(ARROW_TYPES[stored_as(schema.event_columns[name])]))
            continue
        place = raw.schema.get_field_index(name)
        raw = raw.set_column(place, name, values.cast(raw.schema.field(place).type))
    return raw
