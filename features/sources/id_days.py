"""Which ids occur, and on how many days? So that a day can be taken away again without reading the others."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

COMPACT_AT = 1_000_000
SCHEMA = pa.schema([("id", pa.string()), ("num_days", pa.int64())])


class IdDays:
    """Counts days for each id; all distinct ids are held in memory.

    Args:
        known: Counts to begin with, as `table` gives them; None for no day.
    """

    def __init__(self, known: pa.Table | None = None) -> None:
        """Begins with what is known."""
        self._parts: list[pa.Table] = [SCHEMA.empty_table() if known is None else known]
        self._num_pending = 0

    def add(self, ids: pa.ChunkedArray, num_days: int = 1) -> None:
        """Counts a day with these ids, or takes one away with `num_days` -1."""
        distinct = ids.unique()
        self._parts.append(pa.table([distinct, pa.repeat(num_days, len(distinct))], schema=SCHEMA))
        self._num_pending += len(distinct)
        if self._num_pending > max(COMPACT_AT, self._parts[0].num_rows):
            self._parts, self._num_pending = [self._sums()], 0

    def table(self) -> pa.Table:
        """Ids that occur on some day, by id, and on how many."""
        found = self._sums()
        return found.filter(pc.greater(found.column("num_days"), 0)).sort_by("id").combine_chunks()

    def _sums(self) -> pa.Table:
        # Without threads: the same order each time.
        summed = pa.concat_tables(self._parts).group_by("id", use_threads=False).aggregate([("num_days", "sum")])
        return summed.rename_columns(SCHEMA.names).cast(SCHEMA)
