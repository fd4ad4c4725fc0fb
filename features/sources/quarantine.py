"""Quarantine of rows that cannot be used: counted, kept in a file with the reason; too many of them stop the job."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from artefacts.files import json_text
from features.sources.raw import Chunk

# No declared column begins with `_`, so that these are free beside any.
SOURCE, SOURCE_ROW = "_source", "_source_row"
ROW_GROUP_ROWS = 65_536
SCHEMA = pa.schema([("source", pa.string()), ("source_row", pa.int64()), ("reason", pa.string()), ("raw", pa.string())])


class Reason(StrEnum):
    """Why a row was set aside. A row has one reason: the first that applies, in this order."""

    OPEN_QUOTE = "open_quote"  # a line in a quoted field that is not closed, or closed in the row of another
    WRONG_FIELDS = "wrong_fields"  # a line with more or fewer fields than the header
    NULL_ID = "null_id"  # an id is null or empty
    BAD_ID = "bad_id"  # an id has control characters, is too long, or is a float that has lost digits
    UNPARSABLE_TIMESTAMP = "unparsable_timestamp"  # null (of an event), no moment, before year 1 or after 9999
    FUTURE_TIMESTAMP = "future_timestamp"  # after the moment of the run
    UNPARSABLE_NUMBER = "unparsable_number"  # text that is no number in a numeric column
    NUMBER_TOO_LARGE = "number_too_large"  # beyond LARGEST_NUMBER, up to which sums are finite as 32-bit floats
    UNPARSABLE_VALUE = "unparsable_value"  # no boolean, place or list where one is declared
    WRONG_WIDTH = "wrong_width"  # a vector of another width than most, or not one weight for each value
    NEGATIVE_REWARD = "negative_reward"  # below zero, NaN or infinite
    NEGATIVE_VALUE = "negative_value"  # below zero, NaN or infinite
    UNKNOWN_KIND = "unknown_kind"  # null (of an event), or none of the kinds that are declared
    NO_VALIDITY = "no_validity"  # a dated fact without a first day, or with a last day before it
    DUPLICATE = "duplicate"  # user, item, timestamp, and kind where there are any, of an earlier row
    DUPLICATE_ID = "duplicate_id"  # id of an earlier row of the users or items table


REASONS = tuple(Reason)


class QuarantineError(ValueError):
    """More rows were set aside than allowed; the message has counts, an example, the file and what to do."""


class Quarantine:
    """The rows of one table that were set aside: a Parquet file that grows, closed at the end of a `with` block.

    Its rows are in the order of the source, followed by the repeated rows. Memory: one row group.

    Args:
        path: The file, with columns source, source_row, reason, raw.
        table: What the rows are, for messages: `events`, `users` or `items`.
    """

    def __init__(self, path: Path, table: str) -> None:
        """Creates the file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.counts: Counter[str] = Counter()
        self._path = path
        self._table = table
        self._examples: dict[str, tuple[str, int, str]] = {}
        self._held = SCHEMA.empty_table()
        self._writer = pq.ParquetWriter(path, SCHEMA, compression="zstd")

    def __enter__(self) -> Quarantine:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Writes what is held and closes the file, also after an error."""
        if self._held.num_rows:
            self._writer.write_table(self._held)
        self._writer.close()

    def add_faults(self, chunk: Chunk, faults: npt.NDArray[np.int8]) -> None:
        """Sets aside the faulty rows of a chunk.

        Args:
            chunk: Raw rows.
            faults: [n], position in `REASONS`, -1 for a good row.
        """
        positions = np.flatnonzero(faults >= 0)
        if not len(positions):
            return
        taken = pa.array(positions)
        texts = as_json(chunk.rows.take(taken), chunk.broken.take(taken))
        reasons = np.array([reason.value for reason in REASONS], dtype=object)[faults[positions]]
        self._add([pa.repeat(chunk.file, len(positions)), chunk.numbers.take(taken), pa.array(reasons), texts])

    def add_canonical(self, traced: pa.Table, reason: Reason) -> None:
        """Sets aside canonical rows that only the whole table shows to be faulty, such as those that repeat others.

        Of these the file holds the canonical columns.
        """
        if not traced.num_rows:
            return
        rows = traced.drop_columns([SOURCE, SOURCE_ROW])
        texts = as_json(rows, pa.nulls(rows.num_rows, pa.string()))
        where = [traced.column(name).combine_chunks() for name in (SOURCE, SOURCE_ROW)]
        self._add([*where, pa.repeat(reason.value, rows.num_rows), texts])

    def add_kept(self, rows: pa.Table) -> None:
        """Sets aside rows that an earlier ingestion of the same source set aside, as its file has them."""
        self._add([rows.column(name) for name in SCHEMA.names])

    def _add(self, arrays: Sequence[pa.Array]) -> None:
        rows = pa.table([array.cast(field.type) for array, field in zip(arrays, SCHEMA, strict=True)], schema=SCHEMA)
        names, first, counts = np.unique(rows.column("reason").to_numpy(), return_index=True, return_counts=True)
        for name, position, count in zip(names, first, counts, strict=True):
            row = rows.slice(position, 1).to_pylist()[0]
            self._examples.setdefault(name, (row["source"], row["source_row"], row["raw"]))
            self.counts[name] += int(count)
        self._held = pa.concat_tables([self._held, rows])
        while self._held.num_rows >= ROW_GROUP_ROWS:
            # Row groups of one size, so that the file does not depend on the chunks that filled it.
            self._writer.write_table(self._held.slice(0, ROW_GROUP_ROWS))
            self._held = self._held.slice(ROW_GROUP_ROWS)

    def counts_by_reason(self) -> dict[str, int]:
        """Reason -> rows set aside, in the order of `REASONS`."""
        return {reason.value: self.counts[reason] for reason in REASONS if self.counts[reason]}

    def check(self, num_rows: int, *, max_share: float, kept_at: Path) -> None:
        """Stops the job when too many rows were set aside.

        Args:
            num_rows: Rows read.
            max_share: Largest share of them that may be set aside.
            kept_at: Where people will find the file, for the message.

        Raises:
            QuarantineError: More were.
        """
        total = self.counts.total()
        if total <= max_share * num_rows:
            return
        by_reason = ", ".join(f"{count:,} {reason}" for reason, count in self.counts.most_common())
        worst = self.counts.most_common(1)[0][0]
        file, row, raw = self._examples[worst]
        raise QuarantineError(
            f"{total:,} of {num_rows:,} rows of {self._table} ({total / num_rows:.2%}) were set aside, more than "
            f"max_quarantine_share allows ({max_share:.2%}): {by_reason}. An example of {worst} is row {row} of "
            f"{file}: {raw}. All of them are in {kept_at}. Correct the source, its columns or its timestamp_unit; "
            "where these rows may be left out, raise ingest.max_quarantine_share"
        )


def as_json(rows: pa.Table, broken: pa.Array) -> pa.Array:
    """Each row as JSON text.

    Args:
        rows: n raw rows; every value becomes the text that Arrow gives it, null stays null.
        broken: [n] string, the line of a row that could not be split; its JSON is `{"line": ...}`.

    Returns:
        [n] string.
    """
    names = rows.column_names
    values = [_as_texts(column) for column in rows.columns]
    whole = (dict(zip(names, row, strict=True)) for row in zip(*values, strict=True))
    return pa.array(
        [
            json_text(row if line is None else {"line": line}, ensure_ascii=False)
            for row, line in zip(whole, broken.to_pylist(), strict=True)
        ],
        pa.string(),
    )


def _as_texts(column: pa.ChunkedArray) -> list[str | None]:
    try:
        texts: list[str | None] = column.cast(pa.string()).to_pylist()
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        texts = [None if value is None else str(value) for value in column.to_pylist()]
    return texts
