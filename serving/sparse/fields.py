"""Fields of the sparse index: which columns of items give terms, how, and what each counts in a history's query."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from features import columns
from features.kinds import TEXT_SUFFIX, Kind
from features.schema import Schema


@dataclass(frozen=True)
class Field:
    """What gives terms of one sort."""

    name: str
    """The column, with `_text` behind it where its words count."""
    column: str
    """Of the items table."""
    is_text: bool
    """Whether each word is a term; if not, each value is."""
    weight: float
    """What its terms count in the query of a history; 0 leaves it to typed words."""


def fields_of(schema: Schema, weights: Mapping[str, float] | None = None) -> tuple[Field, ...]:
    """The fields of a dataset: its categorical and text columns, and the words of the items' names.

    Args:
        schema: Of the dataset.
        weights: Field -> weight; a field that is not named counts 0. None weighs all alike, but for the names of items,
            which mostly repeat other columns.

    Raises:
        ValueError: There is no such field.
    """
    found = {columns.ITEM_NAME: (columns.ITEM_NAME, True)}
    for column, kinds in schema.item_columns.items():
        if Kind.CATEGORICAL in kinds or Kind.CATEGORIES in kinds:
            found[column] = (column, False)
        if Kind.TEXT in kinds:
            found[column + TEXT_SUFFIX] = (column, True)
    for name in weights or ():
        if name not in found:
            raise ValueError(f"sparse.fields names {name!r}, expected some of: {', '.join(found)}")
    default = {name: float(name != columns.ITEM_NAME or len(found) == 1) for name in found}
    chosen = default if weights is None else {name: weights.get(name, 0.0) for name in found}
    return tuple(Field(name, column, is_text, chosen[name]) for name, (column, is_text) in found.items())
