"""How does a column of lists become arrays?

Shape letters: B rows, V rows of a vocabulary.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.ids import IdMap
from features.schema import MAX_SHARES, Shares


def flat_list(
    raw: pa.Table, name: str, length: int
) -> tuple[npt.NDArray[np.object_], tuple[npt.NDArray[np.int64], ...]]:
    """Values of a list column cut to `length` each, and the (row, place) that each belongs to."""
    lists = pc.list_slice(raw.column(name).combine_chunks(), 0, length)
    counts = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    row = np.repeat(np.arange(raw.num_rows), counts)
    place = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return pc.list_flatten(lists).to_numpy(zero_copy_only=False), (row, place)


def dense_shares(raw: pa.Table, field: Shares, vocabulary: IdMap) -> npt.NDArray[np.float32]:
    """Shares of a column's values as one vector a row.

    The values kept are scaled to a sum of 1; those that the vocabulary does not know come together in column 0.

    Args:
        raw: [B] rows with the two list fields; nulls and empty lists where nobody was met.
        field: Which fields.
        vocabulary: Rows of the values, V with row 0.

    Returns:
        [B, V] float32, rows that sum to 1 or are all 0.
    """
    values, (row, _) = flat_list(raw, field.values, MAX_SHARES)
    shares, _ = flat_list(raw, field.shares, MAX_SHARES)
    dense = np.zeros((raw.num_rows, len(vocabulary)), np.float32)
    total = np.bincount(row, weights=shares, minlength=raw.num_rows)
    np.add.at(dense, (row, vocabulary.rows(values)), shares / total[row])
    return dense
