"""Kinds of columns: the registry of the ways in which a declared column enters its tower.

A kind is registered in `KINDS` under the word that a configuration uses. It either gives numbers of a row, which join
the tower's numeric input and are scaled with it, or an input of its own.

Shape letters: B rows.
"""

from __future__ import annotations

from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from features.column_kind import (
    ColumnKind,
    Encoding,
    Floats,
    Input,
    InputSpec,
    Ints,
    Measure,
    OwnInput,
    Storage,
    to_floats,
)
from features.geo import PLACE_INPUT
from features.lists import CATEGORIES_INPUT, VECTOR_INPUT, WEIGHTS_INPUT, as_text
from features.moments import MOMENT_NUMBERS
from features.text import TEXT_INPUT, TEXT_SUFFIX, trigrams

__all__ = [
    "KINDS", "TEXT_SUFFIX", "ColumnKind", "Encoding", "Input", "InputSpec", "Kind", "Measure", "OwnInput", "Storage",
    "stored_as", "to_floats", "trigrams",
]  # fmt: skip


class Kind:
    """The words of the kinds that other code asks for by name."""

    CATEGORICAL: Final = "categorical"
    CATEGORIES: Final = "categories"
    NUMERIC: Final = "numeric"
    TEXT: Final = "text"
    WEIGHTS: Final = "weights"


TRUE_TEXTS = ("true", "yes", "1", "1.0", "t", "y")
FALSE_TEXTS = ("false", "no", "0", "0.0", "f", "n")


def flags(raw: pa.ChunkedArray) -> Floats:
    """1 for true, 0 for false, nan where unknown: [B] float64. Texts are those of `TRUE_TEXTS` and `FALSE_TEXTS`."""
    if pa.types.is_string(raw.type):
        text = pc.utf8_lower(pc.utf8_trim_whitespace(raw))
        is_true, is_false = (pc.is_in(text, value_set=pa.array(texts)) for texts in (TRUE_TEXTS, FALSE_TEXTS))
        raw = pc.if_else(is_true, True, pc.if_else(is_false, False, pa.scalar(None, pa.bool_())))
    return to_floats(raw.cast(pa.float64()))


def _number(raw: pa.ChunkedArray, moments: Ints) -> Floats:
    return to_floats(raw)


def _flag(raw: pa.ChunkedArray, moments: Ints) -> Floats:
    return flags(raw)


def _categorical_spec(encoder: Encoding, column: str) -> InputSpec:
    return InputSpec(column, "categorical", None, len(encoder.vocabularies[column]), is_fact=True)


def _encode_category(encoder: Encoding, column: str, raw: pa.ChunkedArray) -> Input:
    return encoder.vocabularies[column].rows(as_text(raw).to_numpy(zero_copy_only=False))


CATEGORY_INPUT = OwnInput("", _categorical_spec, _encode_category, values=as_text, are_categories=True)

# Inputs of a tower come in this order.
KINDS: dict[str, ColumnKind] = {
    Kind.CATEGORICAL: ColumnKind(Storage.STRING, own=CATEGORY_INPUT),
    Kind.NUMERIC: ColumnKind(Storage.FLOAT, numbers={"": _number}),
    Kind.TEXT: ColumnKind(Storage.STRING, own=TEXT_INPUT),
    Kind.CATEGORIES: ColumnKind(Storage.STRINGS, own=CATEGORIES_INPUT),
    Kind.WEIGHTS: ColumnKind(Storage.WEIGHTS, own=WEIGHTS_INPUT),
    "vector": ColumnKind(Storage.VECTOR, own=VECTOR_INPUT),
    "timestamp": ColumnKind(Storage.MOMENT, numbers=MOMENT_NUMBERS, moves_with_time=True),
    "geo": ColumnKind(Storage.PLACE, own=PLACE_INPUT),
    "boolean": ColumnKind(Storage.BOOL, numbers={"": _flag}),
}

# Text holds any single value, and a list of texts is stored as one wherever something reads it so.
_TOGETHER = {
    frozenset({Storage.STRING, Storage.FLOAT}): Storage.STRING,
    frozenset({Storage.STRING, Storage.BOOL}): Storage.STRING,
    frozenset({Storage.STRING, Storage.STRINGS}): Storage.STRINGS,
}


def stored_as(kinds: tuple[str, ...]) -> Storage:
    """How a column is stored that is used in these ways.

    Raises:
        ValueError: They cannot be stored together.
    """
    storages = frozenset(KINDS[kind].storage for kind in kinds)
    if len(storages) == 1:
        return next(iter(storages))
    if storages not in _TOGETHER:
        raise ValueError(
            f"is used as {' and '.join(kinds)}, whose values are stored in different ways; declare it under two names "
            "and give both the same column under `columns` of its source"
        )
    return _TOGETHER[storages]
