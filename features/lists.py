"""Columns that hold a list in each row: several values, their weights, and vectors of numbers.

    <column>_values   [B, L] rows of the values, for a mean of their embeddings; 0 is padding, or a value not known
    <column>_weights  [B, L] what each value counts, 1 on average; all alike in a row without weights
    <column>          [B, W + 1] the vector, scaled to a mean norm of 1; zeros and a last 1 where there is none

Shape letters: B rows, L values kept of each, W width of a vector.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.column_kind import Encoding, Input, InputSpec, Ints, Measure, OwnInput

MAX_VALUES = 32
"""Values of a row that are read at most, the first ones."""
TINY = np.float32(1e-30)
MOST = 10.0
"""A scaled number of a vector ends here."""
VALUES_SUFFIX, WEIGHTS_SUFFIX = "_values", "_weights"
Flat = tuple[npt.NDArray[np.object_], tuple[Ints, Ints]]


def flat(column: pa.ChunkedArray, length: int) -> Flat:
    """Values of a list column cut to `length` each, and the (row, place) that each belongs to."""
    lists = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    if len(lists) == 1:  # One user of a request: a quarter of the time.
        values = lists.flatten().to_numpy(zero_copy_only=False)[:length]
        return values, (np.zeros(len(values), np.int64), np.arange(len(values)))
    counts = np.diff(lists.offsets.to_numpy()).astype(np.int64)
    if lists.null_count:
        counts[lists.is_null().to_numpy(zero_copy_only=False)] = 0
    row = np.repeat(np.arange(len(lists)), counts)
    place = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    values = lists.flatten().to_numpy(zero_copy_only=False)
    if counts.max(initial=0) <= length:
        return values, (row, place)
    kept = place < length
    return values[kept], (row[kept], place[kept])


def weighted_column(weights: str) -> str:
    """The column whose values the weights of a column are of."""
    return weights.removesuffix(WEIGHTS_SUFFIX)


def numbers_of(column: pa.ChunkedArray, width: int) -> npt.NDArray[np.float32]:
    """Lists of exactly `width` numbers as one array: [B, width] float32, nan in the rows of all others."""
    lengths = pc.fill_null(pc.list_value_length(column), -1).to_numpy()
    dense = np.full((len(column), width), np.nan, np.float32)
    values, place = flat(column, width)
    dense[place] = values
    dense[lengths != width] = np.nan
    return dense


def as_text(raw: pa.ChunkedArray) -> pa.ChunkedArray:
    """[B] texts; a list is one text, its values separated by blanks, null where it is empty."""
    if not pa.types.is_list(raw.type):
        return raw
    joined = pc.binary_join(raw, " ")
    return pc.if_else(pc.equal(joined, ""), None, joined)


def most_common_width(lists: pa.ChunkedArray) -> int:
    """Of lists, the width that most have, the smallest of several; 0 where there is no list."""
    widths, counts = np.unique(pc.list_value_length(lists).drop_null().to_numpy(), return_counts=True)
    return int(widths[counts.argmax()]) if len(widths) else 0


def _measure_values(lists: pa.ChunkedArray) -> Measure:
    longest = pc.max(pc.list_value_length(lists)).as_py() or 1
    return Measure(min(max(longest, 1), MAX_VALUES))


def _values_spec(encoder: Encoding, column: str) -> InputSpec:
    name = column + VALUES_SUFFIX
    length, num_rows = encoder.measures[name].length, len(encoder.vocabularies[name])
    return InputSpec(name, "categories", length, num_rows, weights=encoder.weights_of(column), is_fact=True)


def _encode_values(encoder: Encoding, column: str, raw: pa.ChunkedArray) -> Input:
    name = column + VALUES_SUFFIX
    values, place = flat(raw, encoder.measures[name].length)
    rows = np.zeros((len(raw), encoder.measures[name].length), np.int32)
    rows[place] = encoder.vocabularies[name].rows(values)
    return rows


def _weights_spec(encoder: Encoding, column: str) -> InputSpec:
    length = encoder.measures[weighted_column(column) + VALUES_SUFFIX].length
    return InputSpec(column, "weights", length)


def _encode_weights(encoder: Encoding, column: str, raw: pa.ChunkedArray) -> Input:
    length = encoder.measures[weighted_column(column) + VALUES_SUFFIX].length
    weights = np.zeros((len(raw), length), np.float32)
    values, place = flat(raw, length)
    weights[place] = values
    weights[raw.is_null().to_numpy()] = 1.0
    totals = weights.sum(axis=1, keepdims=True)
    numbers = (weights > 0).sum(axis=1, keepdims=True, dtype=np.float32)
    return np.asarray(weights * (numbers / np.maximum(totals, TINY)), np.float32)


def _measure_vectors(lists: pa.ChunkedArray) -> Measure:
    width = most_common_width(lists)
    norms = np.linalg.norm(numbers_of(lists, width).astype(np.float64), axis=1)
    mean = float(norms[np.isfinite(norms)].mean()) if np.isfinite(norms).any() else 0.0
    return Measure(width, 1 / mean if mean > 0 else 1.0)


def _vector_spec(encoder: Encoding, column: str) -> InputSpec:
    return InputSpec(column, "vector", encoder.measures[column].length + 1, is_fact=True)


def _encode_vector(encoder: Encoding, column: str, raw: pa.ChunkedArray) -> Input:
    measure = encoder.measures[column]
    vectors = numbers_of(raw, measure.length)
    lengths = pc.fill_null(pc.list_value_length(raw), -1).to_numpy()
    missing = (lengths != measure.length) | ~np.isfinite(vectors).all(axis=1)
    scaled = np.clip(np.where(missing[:, None], 0, vectors) * np.float32(measure.scale), -MOST, MOST)
    return np.concatenate([scaled, missing[:, None]], axis=1).astype(np.float32)


CATEGORIES_INPUT = OwnInput(
    VALUES_SUFFIX,
    _values_spec,
    _encode_values,
    values=pc.list_flatten,
    measure=_measure_values,
    are_categories=True,
)
WEIGHTS_INPUT = OwnInput("", _weights_spec, _encode_weights)
VECTOR_INPUT = OwnInput("", _vector_spec, _encode_vector, measure=_measure_vectors)


def codes_of(values: pa.Array) -> npt.NDArray[np.int32]:
    """[N] a number for each distinct value, -1 for null."""
    encoded = values.dictionary_encode()
    return np.asarray(encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False), np.int32)


def first_codes_of(values: pa.Array) -> npt.NDArray[np.int32]:
    """The same of a column of lists, by the first value of each list; -1 for an empty one."""
    if pa.types.is_list(values.type):
        values = pa.array([one[0] if one else None for one in values.to_pylist()], values.type.value_type)
    return codes_of(values)
