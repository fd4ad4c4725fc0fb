"""Which row belongs to which external id? Row 0 is the unknown id and the padding; rows 1..n are the ids."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq


class IdMap:
    """A frozen two-way map between external ids and consecutive rows.

    Args:
        ids: n distinct ids; the id at position i gets row i + 1.

    Raises:
        ValueError: An id is null or occurs twice.
    """

    def __init__(self, ids: Sequence[str] | npt.NDArray[np.object_]) -> None:
        """Takes the ids in the order of their rows."""
        self._index = pd.Index(np.asarray(ids, dtype=object))
        if self._index.hasnans:
            raise ValueError(f"id at position {int(np.argmax(self._index.isna()))} is null; give every row an id")
        if not self._index.is_unique:
            twice = self._index[self._index.duplicated()][0]
            raise ValueError(f"id {twice!r} occurs more than once; ids must be distinct")

    def __len__(self) -> int:
        """Number of rows, the unknown row 0 included."""
        return len(self._index) + 1

    def rows(self, ids: Sequence[str | None] | npt.NDArray[np.object_]) -> npt.NDArray[np.int32]:
        """Rows of ids: [n] int32, 0 where an id is null or unknown."""
        found = self._index.get_indexer(pd.Index(np.asarray(ids, dtype=object), dtype=object))
        return (found + 1).astype(np.int32)

    def ids(self, rows: npt.ArrayLike) -> list[str]:
        """Ids of rows.

        Raises:
            ValueError: A row is 0 (the unknown id has no name) or beyond the last one.
        """
        wanted = np.asarray(rows, dtype=np.int64)
        if wanted.size and (wanted.min() < 1 or wanted.max() >= len(self)):
            raise ValueError(f"rows run from {wanted.min()} to {wanted.max()}, expected 1 to {len(self) - 1}")
        return list(self._values[wanted - 1])

    @cached_property
    def _values(self) -> npt.NDArray[np.object_]:
        return self._index.to_numpy()

    def save(self, path: Path) -> None:
        """Writes the ids in the order of their rows as a Parquet file with the column `id`."""
        pq.write_table(pa.table({"id": pa.array(self._values, pa.string())}), path)

    @classmethod
    def load(cls, path: Path) -> IdMap:
        """Reads what `save` wrote."""
        return cls(pq.read_table(path).column("id").to_numpy(zero_copy_only=False))
