"""Conversion of raw columns to the values that kinds of columns store: flags, moments, lists, vectors and places.

Lists come from Parquet as lists, and as text from CSV files: as JSON, `["a", "b"]` or `[0.5, 1]`, or separated, values
by `|`, numbers by `|`, `;`, commas or blanks. Of a place the text is `latitude,longitude`.

Shape letters: n rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from artefacts.files import json_value
from features import geo, lists, moments
from features.kinds import FALSE_TEXTS, KINDS, TRUE_TEXTS, Storage, stored_as
from features.sources.quarantine import Reason
from features.sources.raw import SourceError, TimestampUnit
from features.sources.values import is_list, is_text, to_microseconds, to_numbers, to_text, too_large

LATITUDES, LONGITUDES = ("lat", "latitude"), ("lon", "lng", "long", "longitude")
BETWEEN_NUMBERS = r"[\s,;|]+"
_NUMBERS = pa.list_(pa.float32())


@dataclass(frozen=True)
class Converted:
    """A column as it is stored.

    Attributes:
        values: [n] of the storage's type, null where nothing is known.
        faults: Reason -> [n] bool, rows that hold something which is no such value.
    """

    values: pa.Array
    faults: Mapping[Reason, pa.Array] = field(default_factory=dict)


def convert(
    column: pa.Array | pa.ChunkedArray, storage: Storage, *, where: str, timestamp_unit: TimestampUnit
) -> Converted:
    """A raw column as it is stored.

    Args:
        column: [n] raw values.
        storage: How they are stored, and so what they are read as.
        where: Column and file, for the message.
        timestamp_unit: Of numbers that are moments.

    Raises:
        SourceError: The column's type cannot be read so.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pt.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    if storage == Storage.MOMENT:
        return _moments(array, timestamp_unit)
    return _CONVERSIONS[storage](array, where)


def convert_declared(
    column: pa.Array | pa.ChunkedArray, kinds: Sequence[str], *, where: str, timestamp_unit: TimestampUnit
) -> Converted:
    """A raw column as a declared one is stored; faulty is what any of its kinds cannot read.

    Args:
        column: [n] raw values.
        kinds: Of the column.
        where: As for `convert`.
        timestamp_unit: As for `convert`.

    Raises:
        SourceError: The column's type cannot be read so.
    """
    stored = stored_as(tuple(kinds))
    read = {
        storage: convert(column, storage, where=where, timestamp_unit=timestamp_unit)
        for storage in (stored, *(KINDS[kind].storage for kind in kinds))
    }
    faults: dict[Reason, pa.Array] = {}
    for one in read.values():
        for reason, mask in one.faults.items():
            faults[reason] = pc.or_(faults[reason], mask) if reason in faults else mask
    return Converted(read[stored].values, faults)


def are_of_wrong_width(table: pa.Table, kinds: Mapping[str, Sequence[str]]) -> npt.NDArray[np.bool_]:
    """Rows with a vector of another width than most have, or with another number of weights than of values: [n] bool.

    Args:
        table: [n] rows of a whole users or items table.
        kinds: Its declared columns and their kinds.
    """
    wrong = np.zeros(table.num_rows, np.bool_)
    for name in kinds:
        storage = stored_as(tuple(kinds[name]))
        if storage not in (Storage.VECTOR, Storage.WEIGHTS):
            continue
        widths = pc.list_value_length(table.column(name))
        expected: pa.Scalar | pa.ChunkedArray = pa.scalar(lists.most_common_width(table.column(name)), pa.int32())
        if storage == Storage.WEIGHTS:
            expected = pc.fill_null(pc.list_value_length(table.column(lists.weighted_column(name))), 0)
        wrong |= pc.fill_null(pc.not_equal(widths, expected), False).to_numpy()
    return wrong


def _text(array: pa.Array, where: str) -> Converted:
    return Converted(to_text(array, where))


def _numbers(array: pa.Array, where: str) -> Converted:
    numbers, wrong = to_numbers(array, where)
    # NaN and infinities are no knowledge.
    known = pc.if_else(pc.is_finite(numbers), numbers, None)
    return Converted(known, {Reason.UNPARSABLE_NUMBER: wrong, Reason.NUMBER_TOO_LARGE: too_large(known)})


def _flags(array: pa.Array, where: str) -> Converted:
    text = pc.utf8_lower(pc.utf8_trim_whitespace(to_text(array, where)))
    text = pc.if_else(pc.equal(text, ""), None, text)
    is_true, is_false = (pc.is_in(text, value_set=pa.array(texts)) for texts in (TRUE_TEXTS, FALSE_TEXTS))
    known = pc.if_else(is_true, True, pc.if_else(is_false, False, pa.scalar(None, pa.bool_())))
    return Converted(known, {Reason.UNPARSABLE_VALUE: pc.and_(pc.is_valid(text), pc.is_null(known))})


def _moments(array: pa.Array, unit: TimestampUnit) -> Converted:
    found = to_microseconds(array, unit)
    seconds = pa.array(found.fill_null(0).to_numpy(zero_copy_only=False) // 1_000_000, pa.int64())
    known = pc.and_(pc.is_valid(found), pc.less_equal(seconds, moments.LAST_SECOND))
    filled = array.is_valid()
    if is_text(array.type):
        trimmed = pc.utf8_trim_whitespace(array.cast(pa.string()))
        filled = pc.and_(filled, pc.fill_null(pc.not_equal(trimmed, ""), False))
    elif pt.is_floating(array.type):
        filled = pc.and_(filled, pc.fill_null(pc.invert(pc.is_nan(array)), False))
    return Converted(pc.if_else(known, seconds, None), {Reason.UNPARSABLE_TIMESTAMP: pc.and_(filled, pc.invert(known))})


def _texts(array: pa.Array, where: str) -> Converted:
    if is_list(array.type):
        found, no_list = array, pa.repeat(False, len(array))
    else:
        found, no_list = _split_texts(to_text(array, where))
    owners = pc.list_parent_indices(found).to_numpy()
    texts = pc.utf8_trim_whitespace(to_text(pc.list_flatten(found), where))
    kept = pc.fill_null(pc.not_equal(texts, ""), False)
    counts = np.bincount(owners[kept.to_numpy(zero_copy_only=False)], minlength=len(array))
    return Converted(_lists(counts, texts.filter(kept), counts > 0), {Reason.UNPARSABLE_VALUE: no_list})


def _split_texts(texts: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Lists of texts, and which are JSON of something else."""
    trimmed = pc.utf8_trim_whitespace(texts)
    is_json = pc.fill_null(pc.starts_with(trimmed, "["), False).to_numpy(zero_copy_only=False)
    found = pc.split_pattern(texts, "|")
    no_list = np.zeros(len(texts), np.bool_)
    if is_json.any():
        rows = zip(trimmed.to_pylist(), is_json, strict=True)
        parsed = [_parsed(text) if of_json else None for text, of_json in rows]
        no_list = is_json & np.array([values is None for values in parsed])
        found = pc.if_else(pa.array(is_json), pa.array(parsed, pa.list_(pa.string())), found)
    return found, pa.array(no_list)


def _parsed(text: str) -> list[str | None] | None:
    """Values of a JSON list as texts; None where it is no list of single values."""
    try:
        values = json_value(text)
    except ValueError:
        return None
    if not isinstance(values, list) or any(isinstance(value, list | dict) for value in values):
        return None
    return [None if value is None else value if isinstance(value, str) else _one_text(value) for value in values]


def _one_text(value: float | bool) -> str:
    text: str = to_text(pa.array([value]), "").to_pylist()[0]
    return text


@dataclass(frozen=True)
class _NumberLists:
    """Lists of numbers: their lengths [n], all their numbers, nan where unknown, and rows with something else [n]."""

    lengths: pa.Array
    numbers: pa.Array
    owners: npt.NDArray[np.int64]
    faults: dict[Reason, pa.Array]

    def any_of(self, mask: pa.Array) -> pa.Array:
        """[n] bool, whether the mask is true of any number of a row."""
        found = pc.fill_null(mask, False).to_numpy(zero_copy_only=False)
        return pa.array(np.bincount(self.owners[found], minlength=len(self.lengths)) > 0)

    def where(self, known: pa.Array) -> pa.Array:
        """The lists, null where they are not known or empty."""
        kept = pc.fill_null(pc.and_(known, pc.greater(self.lengths, 0)), False).to_numpy(zero_copy_only=False)
        counts = np.where(kept, self.lengths.fill_null(0).to_numpy(), 0)
        return _lists(counts, self.numbers.filter(pa.array(kept[self.owners])), kept)


def _number_lists(array: pa.Array, where: str) -> _NumberLists:
    if pt.is_struct(array.type):
        array = _pairs(array, where)
    elif not is_list(array.type):
        if not is_text(array.type) and not pt.is_null(array.type):
            raise SourceError(
                f"{where}: has type {array.type}, which holds no lists of numbers; expected a list, a struct of a "
                "latitude and a longitude, or text such as [0.5, 1]. Convert the column in the source"
            )
        text = pc.utf8_trim(array.cast(pa.string()), "[]() \t\r\n")
        array = pc.split_pattern_regex(pc.if_else(pc.equal(text, ""), None, text), BETWEEN_NUMBERS)
    owners = pc.list_parent_indices(array).to_numpy().astype(np.int64)
    elements = pc.list_flatten(array)
    if pt.is_string(elements.type):
        elements = pc.if_else(pc.equal(elements, "null"), None, elements)
    numbers, wrong = to_numbers(elements, where)
    read = _NumberLists(pc.list_value_length(array), numbers, owners, {})
    beyond = too_large(pc.if_else(pc.is_finite(numbers), numbers, None))
    read.faults.update({Reason.UNPARSABLE_NUMBER: read.any_of(wrong), Reason.NUMBER_TOO_LARGE: read.any_of(beyond)})
    return read


def _pairs(array: pa.Array, where: str) -> pa.Array:
    """Structs of a latitude and a longitude as lists of two."""
    names = {name.lower(): name for name in array.type.names}
    found = [next((names[name] for name in some if name in names), None) for some in (LATITUDES, LONGITUDES)]
    if None in found:
        raise SourceError(
            f"{where}: has the fields {', '.join(array.type.names)}, expected one of {', '.join(LATITUDES)} and one of "
            f"{', '.join(LONGITUDES)}; rename them in the source"
        )
    both = [to_text(pc.struct_field(array, name), where) for name in found]
    flat = np.stack([texts.to_numpy(zero_copy_only=False) for texts in both], axis=1).ravel()
    known = array.is_valid().to_numpy(zero_copy_only=False)
    return _lists(np.where(known, 2, 0), pa.array(flat, pa.string()).filter(pa.array(np.repeat(known, 2))), known)


def _not_finite(numbers: pa.Array) -> pa.Array:
    return pc.invert(pc.fill_null(pc.is_finite(numbers), False))


def _vectors(array: pa.Array, where: str) -> Converted:
    read = _number_lists(array, where)
    # As of a number: NaN and infinities are no knowledge, and a vector with one is none.
    return Converted(read.where(pc.invert(read.any_of(_not_finite(read.numbers)))), read.faults)


def _weights(array: pa.Array, where: str) -> Converted:
    read = _number_lists(array, where)
    wrong = read.any_of(pc.or_kleene(_not_finite(read.numbers), pc.less(read.numbers, 0.0)))
    return Converted(read.where(pc.is_valid(read.lengths)), {**read.faults, Reason.UNPARSABLE_VALUE: wrong})


def _places(array: pa.Array, where: str) -> Converted:
    read = _number_lists(array, where)
    unknown = read.any_of(_not_finite(read.numbers))
    is_pair = pc.fill_null(pc.equal(read.lengths, 2), False)
    has_any = pc.fill_null(pc.greater(read.lengths, 0), False)
    is_first = np.arange(len(read.owners)) == np.searchsorted(read.owners, read.owners)
    limits = np.where(is_first, geo.MOST_NORTH, geo.MOST_EAST)
    beyond = read.any_of(pc.greater(pc.abs(read.numbers), pa.array(limits)))
    wrong = pc.and_(has_any, pc.or_(pc.invert(is_pair), pc.and_(beyond, pc.invert(unknown))))
    return Converted(read.where(pc.and_(is_pair, pc.invert(unknown))), {**read.faults, Reason.UNPARSABLE_VALUE: wrong})


def _lists(counts: npt.NDArray[np.int64], values: pa.Array, known: npt.NDArray[np.bool_]) -> pa.Array:
    """Lists of so many values each, null where they are not known; of 32-bit numbers, or of texts."""
    kind = values.type if pt.is_string(values.type) else _NUMBERS.value_type
    offsets = np.concatenate([[0], np.cumsum(counts)])
    starts = pa.array(offsets, pa.int32(), mask=np.append(~known, False))
    return pa.ListArray.from_arrays(starts, values.cast(kind))


_CONVERSIONS: dict[Storage, Callable[[pa.Array, str], Converted]] = {
    Storage.STRING: _text,
    Storage.FLOAT: _numbers,
    Storage.BOOL: _flags,
    Storage.STRINGS: _texts,
    Storage.VECTOR: _vectors,
    Storage.WEIGHTS: _weights,
    Storage.PLACE: _places,
}
