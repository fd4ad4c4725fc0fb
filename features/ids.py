"""External ids: the one way in which they are written, and their map to rows.

Row 0 of a map is the null id and the padding; rows 1..n are the ids. Ids that the map does not know are in row 0 too,
unless it has hash buckets: then they share out the rows after n.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import repeat
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

# The default of pandas, spelled out: rows that towers have learned and shards of yesterday depend on it.
HASH_KEY = "0123456789123456"
NUM_BUCKETS_KEY = b"num_buckets"
# Up to here a dictionary beats the vectorised index, which pays 20 microseconds before its first id.
FEW = 256
Ids = Sequence[str | None] | npt.NDArray[np.object_]
Rows = npt.NDArray[np.int32]


MAX_LENGTH = 256
"""Characters of an id."""
# White space of Unicode and the byte order mark, which no id begins or ends with.
BLANKS = "".join(
    map(chr, (*range(9, 14), *range(28, 33), 133, 160, 5760, *range(8192, 8203), 8232, 8233, 8239, 8287, 12288, 65279))
)
_WHOLE = r"^(-?(?:0|[1-9][0-9]*))\.0+$"
# Written by what had made a float of a number: its last digits may be lost.
_DAMAGED = r"^-?[0-9]\.[0-9]+[eE]\+?[0-9]+$"
_CONTROL = "[" + "".join(map(chr, (*range(1, 32), 127, 133, 8232, 8233))) + r"\x00]"
_LONG_WHOLE = r"^-?[1-9][0-9]{15,}\.0+$"


def normal_ids(texts: pa.Array) -> pa.Array:
    """Ids as they are written everywhere: without blanks at the ends, whole numbers without `.0`; null where empty.

    Args:
        texts: [n] string.

    Returns:
        [n] string.
    """
    trimmed = pc.replace_substring_regex(pc.utf8_trim(texts, characters=BLANKS), _WHOLE, r"\1")
    return pc.if_else(pc.equal(trimmed, ""), None, pc.if_else(pc.equal(trimmed, "-0"), "0", trimmed))


def are_faulty(texts: pa.Array) -> pa.Array:
    """Ids that cannot be used: with control characters, too long, or numbers whose last digits a float has lost.

    Args:
        texts: [n] string.

    Returns:
        [n] bool, false for null.
    """
    trimmed = pc.utf8_trim(texts, characters=BLANKS)
    faulty = pc.greater(pc.utf8_length(trimmed), MAX_LENGTH)
    for pattern in (_CONTROL, _DAMAGED):
        faulty = pc.or_(faulty, pc.match_substring_regex(trimmed, pattern))
    whole = pc.if_else(pc.match_substring_regex(trimmed, _LONG_WHOLE), trimmed, None).cast(pa.float64())
    inexact = pc.greater_equal(pc.abs(whole), 2.0**53)
    return pc.or_(pc.fill_null(faulty, False), pc.fill_null(inexact, False))


def normal_id(value: object) -> str:
    """An id as it is written everywhere.

    Args:
        value: Text or a number.

    Raises:
        ValueError: It is empty, cannot be used, or is neither text nor a number.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{value!r} is no id; expected text or a number")
    if isinstance(value, float):
        if not abs(value) < 2.0**53 or value != int(value):
            raise ValueError(f"{value!r} is no id; expected text or a whole number below 2^53")
        value = int(value)
    text = str(value).strip(BLANKS)
    whole = re.fullmatch(_WHOLE, text)
    found = (whole[1] if whole[1] != "-0" else "0") if whole else text
    is_inexact = whole is not None and abs(int(whole[1])) >= 2**53
    if not 0 < len(text) <= MAX_LENGTH or is_inexact or re.search(_CONTROL, text) or re.search(_DAMAGED, text):
        shown = repr(value) if len(text) <= MAX_LENGTH else f"{text[:MAX_LENGTH]!r}..."
        raise ValueError(
            f"{shown} is no id: expected 1 to {MAX_LENGTH} characters without line breaks and control characters, and "
            "numbers in full, not as a float that has lost digits"
        )
    return found


def stable_number(ids: Iterable[str]) -> npt.NDArray[np.int64]:
    """A number for each id that is the same in every process and on every day: [n] int64, not negative.

    It is SipHash of the id's UTF-8 bytes under a fixed key, without its lowest bit.
    """
    hashed = pd.util.hash_array(np.asarray(list(ids), dtype=object), hash_key=HASH_KEY, categorize=False)
    return (hashed >> np.uint64(1)).astype(np.int64)


class IdMap:
    """A frozen two-way map between external ids and consecutive rows.

    There are two numberings. `rows` are those of the catalogue: what is unknown is in row 0. `table_rows` are those of
    an embedding table, where an unknown id has the row of its hash bucket:

        0 | 1 ... n | n + 1 ... n + num_buckets,   bucket row of an id = n + 1 + stable_number(id) mod num_buckets

    Args:
        ids: n distinct ids; the id at position i gets row i + 1.
        num_buckets: Rows that ids from outside share out; with 0 they are in row 0 of a table too.

    Raises:
        ValueError: An id is null or occurs twice, or the number of buckets is negative.

    Source: hash buckets for ids out of the vocabulary, Yi et al., RecSys 2019, section 4.
    """

    def __init__(self, ids: Sequence[str] | npt.NDArray[np.object_], num_buckets: int = 0) -> None:
        """Takes the ids in the order of their rows."""
        self._index = pd.Index(np.asarray(ids, dtype=object))
        self.num_buckets = num_buckets
        if num_buckets < 0:
            raise ValueError(f"num_buckets is {num_buckets}, expected 0 or more")
        if self._index.hasnans:
            raise ValueError(f"id at position {int(np.argmax(self._index.isna()))} is null; give every row an id")
        if not self._index.is_unique:
            twice = self._index[self._index.duplicated()][0]
            raise ValueError(f"id {twice!r} occurs more than once; ids must be distinct")

    def __len__(self) -> int:
        """Number of catalogue rows, the unknown row 0 included, buckets not."""
        return len(self._index) + 1

    @property
    def num_table_rows(self) -> int:
        """Rows of an embedding table of these ids, buckets included."""
        return len(self) + self.num_buckets

    def rows(self, ids: Ids) -> Rows:
        """Catalogue rows of ids: [n] int32, 0 where an id is null or unknown."""
        if len(ids) <= FEW:
            names = ids.tolist() if isinstance(ids, np.ndarray) else ids
            return np.fromiter(map(self._row_of.get, names, repeat(0)), np.int32, len(ids))
        found = self._index.get_indexer(pd.Index(np.asarray(ids, dtype=object), dtype=object))
        return (found + 1).astype(np.int32)

    def table_rows(self, ids: Ids) -> Rows:
        """Table rows of ids: [n] int32, that of its bucket where an id is unknown, 0 where it is null."""
        rows = self.rows(ids)
        if self.num_buckets and not rows.all():
            asked = np.asarray(ids, dtype=object)
            unknown = (rows == 0) & ~pd.isna(asked)
            rows[unknown] = self._bucket_rows(asked[unknown])
        return rows

    def bucket_of_row(self) -> Rows:
        """The bucket row that the id of each catalogue row would have if it were unknown: [n + 1] int32.

        0 for row 0, and everywhere where there are no buckets: the row of an unknown id in either case.
        """
        if not self.num_buckets:
            return np.zeros(len(self), np.int32)
        return np.concatenate([np.zeros(1, np.int32), self._bucket_rows(self._values)])

    def stable_numbers(self) -> npt.NDArray[np.int64]:
        """`stable_number` of each row's id, independent of its row on other days: [n + 1] int64, 0 for row 0."""
        return np.concatenate([np.zeros(1, np.int64), stable_number(self._values)])

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

    @cached_property
    def _row_of(self) -> dict[str | None, int]:
        return {name: row for row, name in enumerate(self._values.tolist(), start=1)}

    def _bucket_rows(self, ids: npt.NDArray[np.object_]) -> Rows:
        return (len(self) + stable_number(ids) % self.num_buckets).astype(np.int32)

    def save(self, path: Path) -> None:
        """Writes the ids in row order as the column `id` of a Parquet file; buckets are in its metadata."""
        schema = pa.schema([("id", pa.string())], metadata={NUM_BUCKETS_KEY: str(self.num_buckets)})
        pq.write_table(pa.table([pa.array(self._values, pa.string())], schema=schema), path)

    @classmethod
    def load(cls, path: Path) -> IdMap:
        """Reads what `save` wrote."""
        table = pq.read_table(path)
        num_buckets = int((table.schema.metadata or {}).get(NUM_BUCKETS_KEY, b"0"))
        return cls(table.column("id").to_numpy(zero_copy_only=False), num_buckets)
