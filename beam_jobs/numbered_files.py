"""Where does a block's table go, whichever runner works it out? Into the file of its number, as soon as it is there.

Beam's own sink names files at the end, from what the bundles hand over when they finish. DaskRunner drops what comes so
late, and the files with it, without an error. A file of a block needs no end: written twice, it is the same file.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq


class WriteNumbered(beam.DoFn):  # type: ignore[misc]
    """(number, Arrow table) -> path of `<prefix>-<number>-of-<total>.parquet`, one row group.

    Args:
        prefix: Folder, which exists, and beginning of the names.
        total: Number of tables of the whole job: names promise them, so that a reader notices what is missing.
    """

    def __init__(self, prefix: Path, *, total: int) -> None:
        """Takes what the names are made of."""
        self._prefix, self._total = str(prefix), total

    def process(self, element: tuple[int, pa.Table]) -> Iterator[str]:
        """Writes one table; a name appears only with the whole file behind it."""
        number, table = element
        path = f"{self._prefix}-{number:05d}-of-{self._total:05d}.parquet"
        unfinished = f"{path}.{uuid.uuid4().hex}"
        pq.write_table(table, unfinished, compression="zstd", row_group_size=max(table.num_rows, 1))
        os.replace(unfinished, path)
        yield path
