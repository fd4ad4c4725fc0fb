"""How does a raw column become text or numbers?"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from features.sources.raw import SourceError
from features.sources.timestamps import NUMBER

SPECIAL_NUMBER = r"(?i)^[+-]?(nan|inf|infinity)$"


def to_text(column: pa.Array | pa.ChunkedArray, where: str) -> pa.Array:
    """A raw column as text, null where it is null or empty.

    Whole floats read like integers (`12.0` as `12`), because a null among integers makes floats of them; a list of
    texts is joined by spaces.

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
    elif pt.is_list(kind) and pt.is_string(kind.value_type):
        text = pc.binary_join(array, " ")
    else:
        try:
            text = array.cast(pa.string())
        except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
            raise SourceError(
                f"{where}: has type {kind}, which cannot be read as text ({error}); expected text, numbers, times or "
                "a list of texts. Convert the column in the source"
            ) from error
    return pc.if_else(pc.equal(text, ""), None, text)


def _text_of_floats(array: pa.Array) -> pa.Array:
    exact = pc.and_(pc.equal(array, pc.trunc(array)), pc.less(pc.abs(array), float(2**53)))
    whole = pc.if_else(exact, array, None).cast(pa.int64()).cast(pa.string())
    other = pc.if_else(pc.is_nan(array), None, array).cast(pa.string())
    return pc.coalesce(whole, other)


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
