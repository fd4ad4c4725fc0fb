"""Which rows say again what an earlier row of the source said?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

SOURCE, SOURCE_ROW = "source", "source_row"


def split_repeats(table: pa.Table, keys: Sequence[str]) -> tuple[pa.Table, pa.Table]:
    """Sorts a table by its keys and takes out all but the first row of each key.

    Args:
        table: Rows with the key columns, `source` (file) and `source_row`. Files are read in the order of their names,
            so these two give the order of the source.
        keys: Columns that together must be unique.

    Returns:
        The first row of each key, by key (text by code point); the other rows, in the order of the source.
    """
    table = _in_order(table, [*keys, SOURCE, SOURCE_ROW])
    if table.num_rows < 2:
        return table, table.slice(0, 0)
    again = np.zeros(table.num_rows, dtype=bool)
    again[1:] = True
    for key in keys:
        values = table.column(key).combine_chunks()
        again[1:] &= pc.equal(values.slice(1), values.slice(0, len(values) - 1)).to_numpy(zero_copy_only=False)
    if not again.any():
        return table, table.slice(0, 0)
    return table.filter(pa.array(~again)), _in_order(table.filter(pa.array(again)), [SOURCE, SOURCE_ROW])


def _in_order(table: pa.Table, keys: Sequence[str]) -> pa.Table:
    return table.take(pc.sort_indices(table, sort_keys=[(key, "ascending") for key in keys])).combine_chunks()
