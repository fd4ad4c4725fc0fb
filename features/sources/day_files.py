"""How do events in any order become one sorted file per UTC day, without holding them all?

Each chunk is sorted by day and appended, as one batch, to a scratch file. At the end that file is mapped into memory: a
day is a slice of some batches, so only the events of one day are ever copied out of it. Disk: the events once more,
uncompressed, while the job runs.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa

from features import columns
from features.sources.events import TRACED_SCHEMA

DAY_MICROSECONDS = 86_400_000_000


class DaySpill:
    """Events on their way to their days; writing ends with the `with` block, after it `days` can be read.

    Args:
        path: The scratch file.
    """

    def __init__(self, path: Path) -> None:
        """Creates the file."""
        self._path = path
        self._file = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._file, TRACED_SCHEMA)
        self._num_batches = 0
        self._slices: dict[int, list[tuple[int, int, int]]] = defaultdict(list)

    def __enter__(self) -> DaySpill:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Ends writing."""
        self._writer.close()
        self._file.close()

    def add(self, events: pa.Table) -> None:
        """Appends events, `TRACED_SCHEMA`, in the order of the source."""
        if not events.num_rows:
            return
        moments = events.column(columns.TIMESTAMP).cast(pa.int64()).to_numpy()
        day = moments // DAY_MICROSECONDS
        order = np.argsort(day, kind="stable")
        [batch] = events.take(pa.array(order)).combine_chunks().to_batches()
        self._writer.write_batch(batch)
        days, starts, counts = np.unique(day[order], return_index=True, return_counts=True)
        for number, start, count in zip(days.tolist(), starts.tolist(), counts.tolist(), strict=True):
            self._slices[number].append((self._num_batches, start, count))
        self._num_batches += 1

    def days(self) -> Iterator[tuple[dt.date, pa.Table]]:
        """Each day with its events, day by day; within a day in the order of the source."""
        with pa.memory_map(str(self._path)) as mapped:
            reader = pa.ipc.open_file(mapped)
            for number in sorted(self._slices):
                parts = [reader.get_batch(index).slice(start, count) for index, start, count in self._slices[number]]
                yield dt.date(1970, 1, 1) + dt.timedelta(days=number), pa.Table.from_batches(parts)
