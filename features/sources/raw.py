"""What an adapter provides: chunks of raw columns, and the meaning of each column."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from features.hidden_past import HiddenPast
from features.schema import Schema, Tower

TimestampUnit = Literal["s", "ms", "us", "ns"]


class SourceError(ValueError):
    """A source cannot be read as described; the message names the file and what to change."""


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of one file, as read.

    Attributes:
        file: Name of the file, for messages and for the quarantine.
        numbers: [n] int64, number of each data row in its file, from 1; a header does not count.
        rows: n rows of raw columns.
        broken: [n] string, text of a line that is no row (its raw columns are null); else null.
        swallowed: [n] bool, those of them that an open quote swallowed; the others have the wrong number of fields.
        num_other_lines: Of the last chunk of a text file, the file's lines that are no row: the header, blank lines,
            and further lines of rows whose fields have line breaks.
    """

    file: str
    numbers: pa.Array
    rows: pa.Table
    broken: pa.Array
    swallowed: pa.Array
    num_other_lines: int = 0

    def slices(self, num_rows: int) -> Iterator[Chunk]:
        """Parts of at most `num_rows` rows; nothing is copied."""
        for start in range(0, self.rows.num_rows, num_rows):
            yield self._each(lambda values, start=start: values.slice(start, num_rows))  # type: ignore[misc]

    def take(self, places: pa.Array) -> Chunk:
        """The rows at some places, in their order."""
        return self._each(lambda values: values.take(places))

    def filter(self, kept: pa.Array) -> Chunk:
        """The rows where a mask is true."""
        return self._each(lambda values: values.filter(kept))

    def _each(self, change: Callable[[Any], Any]) -> Chunk:
        names = ("numbers", "rows", "broken", "swallowed")
        return replace(self, **{name: change(getattr(self, name)) for name in names})


@dataclass(frozen=True)
class SourcePart:
    """One of the files that a table is made of.

    Attributes:
        path: The file.
        name: Its path from the table's folder, which is the name of its chunks too.
        read: As that of the table, for this file alone.
    """

    path: Path
    name: str
    read: Callable[[int], Iterator[Chunk]]


@dataclass(frozen=True)
class RawTable:
    """A table of a source: how it is read and what its columns are called.

    Attributes:
        columns: Canonical or declared name -> raw column.
        unused: Raw columns that nothing uses.
        read: Number of rows -> chunks of at most so many rows, each with all raw columns named in `columns`.
        timestamp_unit: Unit of numeric timestamps.
        min_reward: Events with a smaller reward are no interaction: filtered and counted, not quarantined.
        hidden_past: Items whose earlier events are filtered likewise; None reads all.
        parts: The files, in the order of `read`, where there are several: then those that are as they were need not be
            read again. Empty where the table is one file.
        dialect: How its text is delimited, where it is text.
        kinds: Raw column -> type in the source, of all columns, also those that are not read.
        notes: What people should know: files that are not read, columns that only some files have.
    """

    columns: Mapping[str, str]
    unused: tuple[str, ...]
    read: Callable[[int], Iterator[Chunk]]
    timestamp_unit: TimestampUnit = "s"
    min_reward: float | None = None
    hidden_past: HiddenPast | None = None
    parts: tuple[SourcePart, ...] = ()
    dialect: str = ""
    kinds: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def reading(self) -> str:
        """How rows are understood, as text: where it changes, what was read before is of no use."""
        # Nothing where nothing is hidden, so that what earlier versions have read is of use.
        hidden = () if self.hidden_past is None else (self.hidden_past,)
        return repr((sorted(self.columns.items()), self.timestamp_unit, self.min_reward, self.dialect, *hidden))


@dataclass(frozen=True)
class Source:
    """A dataset as its adapter found it; without a users or items table, both are known from the events alone.

    Dated facts of items are there where the dataset declares some.
    """

    events: RawTable
    users: RawTable | None = None
    items: RawTable | None = None
    dated: RawTable | None = None

    def with_hidden_past(self, past: HiddenPast) -> Source:
        """The same without the earlier events of some items."""
        return replace(self, events=replace(self.events, hidden_past=past))

    def tables(self) -> dict[str, RawTable]:
        """The tables that are there, by name."""
        return {name: table for name, table in vars(self).items() if table is not None}


def nearest(name: str, names: Collection[str]) -> str:
    """The most similar of `names`, for error messages; '(none)' where there are none."""
    found = difflib.get_close_matches(name, list(names), n=1, cutoff=0.0)
    return repr(found[0]) if found else "(none)"


def choose_columns(
    wanted: Mapping[str, str], optional: Collection[str], *, available: Sequence[str], where: str
) -> dict[str, str]:
    """Which of the wanted columns a table has.

    Args:
        wanted: Canonical or declared name -> raw column.
        optional: Raw columns that may be absent.
        available: Raw columns of the table.
        where: File or folder, for the message.

    Returns:
        `wanted` without optional columns that are absent.

    Raises:
        SourceError: A column is absent, or occurs twice.
    """
    for name, raw in wanted.items():
        if raw not in available and raw not in optional:
            meant = f"column {raw!r}" if raw == name else f"column {raw!r} (for {name})"
            raise SourceError(
                f"{where}: has no {meant}; the nearest existing column is {nearest(raw, available)}, and there are: "
                f"{', '.join(available)}. Correct the name in the configuration, or do not declare the column"
            )
        if available.count(raw) > 1:
            raise SourceError(f"{where}: has {available.count(raw)} columns named {raw!r}; rename all but one")
    return {name: raw for name, raw in wanted.items() if raw in available}


def unused_columns(available: Sequence[str], used: Mapping[str, str]) -> tuple[str, ...]:
    """Raw columns that are not read, in the order of the table."""
    return tuple(name for name in available if name not in used.values())


def refuse_event_columns(schema: Schema, *, where: str) -> None:
    """A source without dated facts, whose events have no kinds and no further columns, cannot have declared ones.

    Raises:
        SourceError: The schema declares some.
    """
    refuse_event_kinds(schema, where=where)
    for what, key in (("its events have no further columns", "event"), ("it has no dated facts", "dated")):
        if declared := getattr(schema, f"{key}_columns"):
            raise SourceError(
                f"{where}: {what}, but dataset.{key}_columns declares: {', '.join(declared)}. Remove them from the "
                "configuration"
            )


def refuse_event_kinds(schema: Schema, *, where: str) -> None:
    """A source whose events have no kinds cannot have declared ones.

    Raises:
        SourceError: The schema declares some.
    """
    if schema.event_kinds:
        raise SourceError(
            f"{where}: its events have no kinds, but dataset.event_kinds declares: {', '.join(schema.event_kinds)}. "
            "Remove it from the configuration"
        )


def refuse_columns(schema: Schema, tower: Tower, *, where: str) -> None:
    """A source without a table for `tower` cannot have declared columns for it.

    Raises:
        SourceError: The schema declares some.
    """
    if declared := list(schema.columns_of(tower)):
        raise SourceError(
            f"{where}: has no {tower}s table, but dataset.{tower}_columns declares: {', '.join(declared)}. "
            f"Remove them from the configuration, or add a {tower}s table"
        )
