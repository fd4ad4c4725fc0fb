"""How are the rows that an earlier ingestion set aside taken over? Some stretches of its file, front to back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from features.quarantine import SCHEMA


class KeptRows:
    """Reads stretches of a quarantine file, each behind the one before; memory: one batch.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        """Opens the file."""
        self._batches = pq.ParquetFile(path).iter_batches()
        self._batch = pa.RecordBatch.from_pylist([], SCHEMA)
        self._begin = 0

    def read(self, start: int, num_rows: int) -> Iterator[pa.Table]:
        """Rows from position `start` on.

        Raises:
            StopIteration: The file has fewer rows.
        """
        end = start + num_rows
        while num_rows:
            batch_end = self._begin + self._batch.num_rows
            low, high = max(start, self._begin), min(end, batch_end)
            if low < high:
                yield pa.Table.from_batches([self._batch.slice(low - self._begin, high - low)])
            if end <= batch_end:
                return
            self._begin, self._batch = batch_end, next(self._batches)
