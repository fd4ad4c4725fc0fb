"""Conversion of raw columns to text, numbers and timestamps."""

from __future__ import annotations

from collections.abc import Container, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from features.forgotten import are_of, name_any
from features.ids import are_faulty, normal_ids
from features.numbers import LARGEST_NUMBER
from features.sources.raw import Chunk, SourceError, TimestampUnit

PER_SECOND: dict[TimestampUnit, int] = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
FIRST = -62_135_596_800_000_000  # 0001-01-01, the first day that has a date
LARGEST = 2**63 - 1

WHOLE_NUMBER = r"^-?\d{1,18}$"
NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
# ISO 8601 as databases and pandas write it; each text is read by itself, so that no row depends on another.
DATE = (
    r"^(?P<year>\d{4})-(?P<month>\d{2})-(?P<day>\d{2})"
    r"(?:[Tt ]+(?P<hour>\d{2})(?::?(?P<minute>\d{2})(?::?(?P<second>\d{2})(?:[.,](?P<fraction>\d+))?)?)?)?"
    r" ?(?P<zone>[Zz]|UTC|GMT|[+-]\d{2}(?::?\d{2})?(?::?\d{2})?)?$"
)
TIME_FORMS = "a number, or ISO 8601 text such as 2024-05-31, 2024-05-31 10:00:00 or 2024-05-31T10:00:00+02:00"


def to_microseconds(column: pa.Array | pa.ChunkedArray, unit: TimestampUnit) -> pa.Array:
    """Raw timestamps as microseconds.

    Args:
        column: [n] timestamps, dates, numbers, or text that holds a number or an ISO 8601 date. A timestamp without a
            zone is read as UTC; parts smaller than a microsecond are cut off, those of floats rounded.
        unit: Of numbers; typed timestamps know theirs.

    Returns:
        [n] int64, null where the value is null or means no moment from year 1 on. What lies beyond the range of int64
        becomes its largest value, so that a wrong unit shows as a time in the future.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    kind = array.type
    if pt.is_dictionary(kind):
        return to_microseconds(array.cast(kind.value_type), unit)
    if pt.is_timestamp(kind):
        return _from_integers(array.cast(pa.int64()), kind.unit)
    if pt.is_date(kind):
        return _from_integers(array.cast(pa.timestamp("ms")).cast(pa.int64()), "ms")
    if pt.is_signed_integer(kind):
        return _from_integers(array.cast(pa.int64()), unit)
    if pt.is_integer(kind) or pt.is_floating(kind) or pt.is_decimal(kind):
        return _from_floats(array.cast(pa.float64(), safe=False), unit)
    if is_text(kind):
        return _from_text(array.cast(pa.string()), unit)
    return pa.nulls(len(array), pa.int64())


def _from_integers(array: pa.Array, unit: TimestampUnit) -> pa.Array:
    values = array.fill_null(0).to_numpy(zero_copy_only=False)
    if unit == "ns":
        return _checked(values // 1_000, array)
    factor = 1_000_000 // PER_SECOND[unit]
    largest = LARGEST // factor
    inside = np.clip(values, -largest, largest) * factor
    return _checked(np.where(values > largest, LARGEST, inside), array)


def _from_floats(array: pa.Array, unit: TimestampUnit) -> pa.Array:
    values = array.fill_null(np.nan).to_numpy(zero_copy_only=False)
    finite = np.isfinite(values)
    scaled = np.where(finite, values, 0.0) * (1_000_000 / PER_SECOND[unit])
    # The largest float below 2**63; 2**63 - 1 itself would round up and overflow.
    rounded = np.clip(np.round(scaled), -(2.0**63), np.nextafter(2.0**63, 0)).astype(np.int64)
    return _checked(rounded, pc.if_else(pa.array(finite), array, None))


def _from_text(array: pa.Array, unit: TimestampUnit) -> pa.Array:
    text = pc.utf8_trim_whitespace(array)
    whole = pc.match_substring_regex(text, WHOLE_NUMBER)
    number = pc.and_not(pc.match_substring_regex(text, NUMBER), whole)
    parts = [
        _from_integers(pc.if_else(whole, text, None).cast(pa.int64()), unit),
        _from_floats(pc.if_else(number, text, None).cast(pa.float64()), unit),
    ]
    date = pc.match_substring_regex(text, r"^\d{4}-")
    if pc.any(date).as_py():
        parts.append(_from_dates(pc.if_else(date, text, None)))
    return pc.coalesce(*parts)


def _from_dates(array: pa.Array) -> pa.Array:
    parts = pc.extract_regex(array, DATE)
    texts = {name: pc.struct_field(parts, name) for name in parts.type.names}

    def number(name: str) -> npt.NDArray[np.int64]:
        text = texts[name]
        filled: npt.NDArray[np.int64] = (
            pc.fill_null(pc.if_else(pc.equal(text, ""), "0", text), "0").cast(pa.int64()).to_numpy()
        )
        return filled

    year, month, day = number("year"), number("month"), number("day")
    hour, minute, second = number("hour"), number("minute"), number("second")
    months = ((year - 1970) * 12 + np.clip(month, 1, 12) - 1).astype("datetime64[M]")
    days = months.astype("datetime64[D]") + (day - 1)
    valid = (year > 0) & (month >= 1) & (month <= 12) & (day >= 1) & (days.astype("datetime64[M]") == months)
    valid &= (hour < 24) & (minute < 60) & (second < 60)
    digits = pc.utf8_rpad(pc.utf8_slice_codeunits(texts["fraction"], 0, 6), 6, padding="0")
    fraction = pc.fill_null(digits, "0").cast(pa.int64()).to_numpy()
    offset, has_offset = _offset_seconds(texts["zone"])
    seconds = days.astype(np.int64) * 86_400 + hour * 3_600 + minute * 60 + second - offset
    return _checked(seconds * 1_000_000 + fraction, pc.if_else(pa.array(valid & has_offset), parts.is_valid(), None))


def _offset_seconds(zone: pa.Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """How far each zone is ahead of UTC, 0 where there is none; and whether that can be."""
    digits = pc.utf8_rpad(pc.replace_substring_regex(zone, r"[^\d]", ""), 6, padding="0")
    numbers = [
        pc.fill_null(pc.utf8_slice_codeunits(digits, start, start + 2), "0").cast(pa.int64()).to_numpy()
        for start in (0, 2, 4)
    ]
    hours, minutes, seconds = numbers
    sign = np.where(pc.fill_null(pc.starts_with(zone, "-"), False).to_numpy(zero_copy_only=False), -1, 1)
    possible = (hours < 24) & (minutes < 60) & (seconds < 60)
    return sign * (hours * 3_600 + minutes * 60 + seconds), possible


def _checked(microseconds: npt.NDArray[np.int64], array: pa.Array) -> pa.Array:
    """The values, null where `array` is null or the moment lies before the first date."""
    absent = array.is_null().to_numpy(zero_copy_only=False) | (microseconds < FIRST)
    return pa.array(microseconds, pa.int64(), mask=absent)


SPECIAL_NUMBER = r"(?i)^[+-]?(nan|inf|infinity)$"
# Whole numbers below these are exact as floats of so many bits.
EXACT_BELOW = {16: 2.0**11, 32: 2.0**24, 64: 2.0**53}


def to_text(column: pa.Array | pa.ChunkedArray, where: str) -> pa.Array:
    """A raw column as text, null where it is null or empty.

    Whole floats read like integers (`12.0` as `12`), because a null among integers makes floats of them; the elements
    of a list that are not null are joined by spaces.

    Args:
        column: [n] values.
        where: Column and file, for the message.

    Returns:
        [n] string.

    Raises:
        SourceError: The type has no text, such as a struct.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    kind = array.type
    if pt.is_dictionary(kind):
        return to_text(array.cast(kind.value_type), where)
    if pt.is_floating(kind):
        text = _text_of_floats(array.cast(pa.float64()))
    elif is_list(kind):
        text = _text_of_lists(array, where)
    else:
        try:
            text = array.cast(pa.string())
        except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
            raise SourceError(
                f"{where}: has type {kind}, which cannot be read as text ({error}); expected text, numbers, times or "
                "a list of texts. Convert the column in the source"
            ) from error
    return pc.if_else(pc.equal(text, ""), None, text)


def is_text(kind: pa.DataType) -> bool:
    """Whether a type is of texts of any form."""
    return pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind)  # type: ignore[no-any-return]


def is_list(kind: pa.DataType) -> bool:
    """Whether a type is of lists of any form."""
    forms = (pt.is_list, pt.is_large_list, pt.is_fixed_size_list, pt.is_list_view, pt.is_large_list_view)
    return any(is_form(kind) for is_form in forms)


def _text_of_lists(array: pa.Array, where: str) -> pa.Array:
    owners = pc.list_parent_indices(array).to_numpy()
    texts = to_text(pc.list_flatten(array), where)
    known = texts.is_valid()
    counts = np.bincount(owners[known.to_numpy(zero_copy_only=False)], minlength=len(array))
    offsets = np.concatenate([[0], np.cumsum(counts)])
    lists = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), texts.filter(known))
    return pc.if_else(array.is_valid(), pc.binary_join(lists, " "), None)


def _text_of_floats(array: pa.Array) -> pa.Array:
    exact = pc.and_(pc.equal(array, pc.trunc(array)), pc.less(pc.abs(array), EXACT_BELOW[64]))
    whole = pc.if_else(exact, array, None).cast(pa.int64()).cast(pa.string())
    other = pc.if_else(pc.is_nan(array), None, array).cast(pa.string())
    return pc.coalesce(whole, other)


def to_ids(column: pa.Array | pa.ChunkedArray, where: str) -> tuple[pa.Array, pa.Array]:
    """A raw column of ids as `features.ids` writes them.

    Args:
        column: [n] text or numbers.
        where: Column and file, for the message.

    Returns:
        [n] string, null where there is none; [n] bool, true where there is one that cannot be used: a float that is
        too large to be exact, or text that no other door takes.

    Raises:
        SourceError: The type has no text, such as a struct.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pt.is_dictionary(array.type):
        return to_ids(array.cast(array.type.value_type), where)
    text = to_text(array, where)
    if pt.is_integer(array.type):
        return text, pa.repeat(False, len(array))
    faulty = are_faulty(text)
    if pt.is_floating(array.type):
        too_large = pc.greater_equal(pc.abs(array.cast(pa.float64())), EXACT_BELOW[array.type.bit_width])
        faulty = pc.or_(faulty, pc.fill_null(too_large, False))
    return normal_ids(text), faulty


def to_numbers(column: pa.Array | pa.ChunkedArray, where: str) -> tuple[pa.Array, pa.Array]:
    """A raw column as numbers.

    Args:
        column: [n] numbers, booleans or text that holds numbers.
        where: Column and file, for the message.

    Returns:
        [n] float64, null where the value is null, empty or no number; [n] bool, true where there is something that is
        no number. NaN and infinities are numbers here.

    Raises:
        SourceError: The type has neither numbers nor text.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    kind = array.type
    if pt.is_integer(kind) or pt.is_floating(kind) or pt.is_decimal(kind) or pt.is_boolean(kind):
        numbers = array.cast(pa.float64(), safe=False)
        return numbers, pa.repeat(False, len(array))
    text = pc.utf8_trim_whitespace(to_text(array, where))
    special = pc.fill_null(pc.match_substring_regex(text, SPECIAL_NUMBER), False)
    good = pc.fill_null(pc.or_(pc.match_substring_regex(text, NUMBER), special), False)
    plain = pc.replace_substring_regex(pc.if_else(good, text, None), r"^\+", "")
    filled = pc.and_(pc.is_valid(text), pc.not_equal(text, ""))
    return plain.cast(pa.float64()), pc.and_not(pc.fill_null(filled, False), good)


# Stored as float32, which ends at 3.4e38; up to here sums of 100 million are finite too.


def too_large(numbers: pa.Array) -> pa.Array:
    """[n] float64 -> [n] bool, finite numbers beyond what is kept; false for null."""
    found = pc.and_(pc.is_finite(numbers), pc.greater(pc.abs(numbers), LARGEST_NUMBER))
    return pc.fill_null(found, False)


def join_known(columns: Sequence[pa.Array | pa.ChunkedArray], separator: str) -> pa.Array:
    """Joins the texts of each row that are known.

    Arrow's own join with `null_handling="skip"` leaves out a row in which nothing is known.

    Args:
        columns: Texts, [n] each.
        separator: Between them.

    Returns:
        [n] string, null where no text is known.
    """
    parts = [pc.fill_null(pc.binary_join_element_wise(separator, column, ""), "") for column in columns]
    joined = pc.utf8_slice_codeunits(pc.binary_join_element_wise(*parts, ""), start=len(separator))
    return pc.if_else(pc.equal(joined, ""), None, joined)


def without(chunk: Chunk, column: str, people: Container[str]) -> Chunk:
    """The rows of a chunk that are not of some people.

    Args:
        chunk: n raw rows.
        column: Raw column of the user id.
        people: Who is left out; also where a line could not be split and one of its fields is an id of theirs.
    """
    ids, _ = to_ids(chunk.rows.column(column), f"{chunk.file}, column {column!r}")
    gone = are_of(people, ids)
    if chunk.broken.null_count < len(chunk.broken):
        gone |= name_any(people, chunk.broken)
    if not gone.any():
        return chunk
    return chunk.filter(pa.array(~gone))
