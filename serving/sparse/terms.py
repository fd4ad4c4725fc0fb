"""Terms of items: the values of categories as they are, and the words of texts.

N items, T terms.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp

from features.lists import as_text
from serving.sparse.fields import Field

WORD = re.compile(r"\w+")
ROW, FIELD, TERM, COUNT = "row", "field", "term", "count"
TERMS_SCHEMA = pa.schema([(ROW, pa.int64()), (FIELD, pa.int16()), (TERM, pa.string()), (COUNT, pa.int32())])
"""Row of the catalogue, place of the field, term, and how often it occurs there."""


def words(text: str) -> list[str]:
    """The words of a text, in lower case: runs of letters, digits and underscores of any script."""
    return WORD.findall(text.lower())


def terms_of(items: pa.Table, fields: Sequence[Field], *, first_row: int = 0) -> pa.Table:
    """The terms of some items: `TERMS_SCHEMA`, by field, row and term.

    Args:
        items: With the columns of the fields.
        fields: What gives terms.
        first_row: Row of the catalogue that the first item has.
    """
    parts = [TERMS_SCHEMA.empty_table()]
    for place, field in enumerate(fields):
        values = _values(items.column(field.column), is_text=field.is_text)
        lengths = [len(found) for found in values]
        flat = pa.array([value for found in values for value in found], pa.string())
        rows = first_row + np.repeat(np.arange(len(values)), lengths)
        found = pa.table([pa.array(rows, pa.int64()), flat], [ROW, TERM])
        counted = found.group_by([ROW, TERM], use_threads=False).aggregate([([], "count_all")])
        places = pa.array(np.full(counted.num_rows, place), pa.int16())
        of_field = [counted.column(ROW), places, counted.column(TERM), counted.column("count_all").cast(pa.int32())]
        parts.append(pa.table(of_field, schema=TERMS_SCHEMA).sort_by([(ROW, "ascending"), (TERM, "ascending")]))
    return pa.concat_tables(parts)


def _values(column: pa.ChunkedArray, *, is_text: bool) -> list[list[str]]:
    if is_text:
        return [words(text or "") for text in as_text(column).cast(pa.string()).to_pylist()]
    if pa.types.is_list(column.type):
        return [[str(value) for value in found or () if value] for found in column.to_pylist()]
    return [[text] if text else [] for text in column.cast(pa.string()).to_pylist()]


@dataclass(frozen=True)
class Vocabulary:
    """The terms of a catalogue by number, those of a field one behind the other, in the order of their code points."""

    fields: tuple[Field, ...]
    """What gives terms."""
    field_of: npt.NDArray[np.int16]
    """[T] place of each term's field."""
    terms: tuple[str, ...]
    """[T]."""

    def __len__(self) -> int:
        """T."""
        return len(self.terms)

    @property
    def weights(self) -> npt.NDArray[np.float64]:
        """[T] what each counts in the query of a history."""
        of_field = np.array([field.weight for field in self.fields], np.float64)
        return of_field[self.field_of]

    @cached_property
    def of_word(self) -> dict[str, list[int]]:
        """Word -> the terms that it is, one for each field of words that has it."""
        is_text = np.array([field.is_text for field in self.fields], np.bool_)
        numbers: dict[str, list[int]] = {}
        for number in np.flatnonzero(is_text[self.field_of]).tolist():
            numbers.setdefault(self.terms[number], []).append(number)
        return numbers


def count_terms(
    found: pa.Table, fields: tuple[Field, ...], *, num_items: int
) -> tuple[Vocabulary, sp.csr_array[np.float64]]:
    """Numbers the terms, and counts them.

    Args:
        found: `TERMS_SCHEMA`, of all items, in any order.
        fields: What gave them.
        num_items: N.

    Returns:
        The vocabulary, and how often each item has each term: [N, T] float64.
    """
    texts = found.column(TERM).combine_chunks().dictionary_encode()
    names: npt.NDArray[np.object_] = texts.dictionary.to_numpy(zero_copy_only=False)
    order = np.argsort(names, kind="stable")
    rank = np.empty(len(names), np.int64)
    rank[order] = np.arange(len(names))
    place = rank[texts.indices.to_numpy()]
    keys = found.column(FIELD).to_numpy().astype(np.int64) * max(len(names), 1) + place
    distinct, number = np.unique(keys, return_inverse=True)
    field_of, place_of = np.divmod(distinct, max(len(names), 1))
    vocabulary = Vocabulary(fields, field_of.astype(np.int16), tuple(names[order][place_of].tolist()))
    counts = pc.cast(found.column(COUNT), pa.float64()).to_numpy()
    rows = found.column(ROW).to_numpy()
    matrix = sp.csr_array((counts, (rows, number)), shape=(num_items, len(vocabulary)))
    matrix.sort_indices()
    return vocabulary, matrix
