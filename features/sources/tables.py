"""Adapter of a user's own Parquet or CSV tables, read by the column names of the configuration.

Where the events are a folder of files, one a day or in any parts, those that are as they were are not read again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from features import columns
from features.schema import ENTITY_KEY, Schema, Tower
from features.sources.files import Dialect, TableFile, file_columns, file_kinds, read_files, table_files
from features.sources.raw import (
    Chunk,
    RawTable,
    Source,
    SourceError,
    SourcePart,
    TimestampUnit,
    choose_columns,
    nearest,
    refuse_columns,
    unused_columns,
)

NUM_NAMED = 5


class NamedTable(Protocol):
    """A table and which of its columns are which."""

    @property
    def path(self) -> Path:
        """A `.parquet` or `.csv` file, or a folder of either."""

    @property
    def columns(self) -> Mapping[str, str]:
        """Canonical or declared name -> name in the file; what is not listed keeps its name."""

    @property
    def delimiter(self) -> str:
        """Between the fields of a CSV file."""


def open_tables(
    *,
    schema: Schema,
    events: NamedTable,
    users: NamedTable | None = None,
    items: NamedTable | None = None,
    dated: NamedTable | None = None,
    timestamp_unit: TimestampUnit = "s",
) -> Source:
    """Opens tables and checks that every column is there.

    Args:
        schema: The declared columns.
        events: Has user_id, item_id and timestamp, a kind where kinds are declared, and the declared event columns;
            perhaps reward and value.
        users: Has user_id and the declared user columns.
        items: Has item_id and the declared item columns, perhaps item_name.
        dated: Has item_id, first_day, last_day and the declared dated columns.
        timestamp_unit: Of numeric timestamps, those of users and items too.

    Returns:
        The dataset.

    Raises:
        SourceError: A file or a column is missing, or a column is mapped that nothing asks for.
    """
    needed = [columns.USER_ID, columns.ITEM_ID, columns.TIMESTAMP, *([columns.KIND] if schema.event_kinds else [])]
    needed += schema.event_columns
    return Source(
        events=_table(events, needed, [columns.REWARD, columns.VALUE], key="events", timestamp_unit=timestamp_unit),
        users=entities_table(users, schema, "user", timestamp_unit),
        items=entities_table(items, schema, "item", timestamp_unit),
        dated=_dated(dated, schema, timestamp_unit),
    )


def _dated(table: NamedTable | None, schema: Schema, timestamp_unit: TimestampUnit) -> RawTable | None:
    if (table is None) != (not schema.dated_columns):
        raise SourceError(
            f"ingest.source.dated is {'absent' if table is None else table.path}, and dataset.dated_columns declares: "
            f"{', '.join(schema.dated_columns) or '(none)'}. Give both, or neither"
        )
    if table is None:
        return None
    needed = [columns.ITEM_ID, columns.FIRST_DAY, columns.LAST_DAY, *schema.dated_columns]
    return _table(table, needed, [], key="dated", timestamp_unit=timestamp_unit)


def entities_table(
    table: NamedTable | None, schema: Schema, tower: Tower, timestamp_unit: TimestampUnit
) -> RawTable | None:
    """A users or items table; None where there is none.

    Args:
        table: The table; without one, no columns may be declared.
        schema: The declared columns.
        tower: Whose table it is.
        timestamp_unit: Of numeric timestamps.

    Raises:
        SourceError: A file or a column is missing, or a column is mapped that nothing asks for.
    """
    optional = [columns.ITEM_NAME] if tower == "item" else []
    if table is None:
        refuse_columns(schema, tower, where="ingest.source")
        return None
    needed = [ENTITY_KEY[tower], *schema.columns_of(tower)]
    return _table(table, needed, optional, key=f"{tower}s", timestamp_unit=timestamp_unit)


def _table(
    table: NamedTable, needed: Sequence[str], optional: Sequence[str], *, key: str, timestamp_unit: TimestampUnit = "s"
) -> RawTable:
    names = [*needed, *optional]
    for name in table.columns:
        if name not in names:
            raise SourceError(
                f"ingest.source.{key}.columns: {name!r} is neither a canonical nor a declared column; did you mean "
                f"{nearest(name, names)}? Expected some of: {', '.join(names)}"
            )
    wanted = {name: table.columns.get(name, name) for name in names}
    may_lack = [name for name in optional if name not in table.columns]
    # A column that has a role by configuration does not get another one by its name.
    wanted = {name: raw for name, raw in wanted.items() if name not in may_lack or raw not in table.columns.values()}
    files, others = table_files(table.path)
    dialect = Dialect(table.delimiter)
    found = {file.name: [*file_columns(file.path, dialect), *file.partition] for file in files}
    chosen = choose_columns(wanted, may_lack, available=_union(found.values()), where=str(files[0].path))
    keys = {name: raw for name, raw in chosen.items() if name in (columns.USER_ID, columns.ITEM_ID, columns.TIMESTAMP)}
    for file in files:
        choose_columns(keys, (), available=found[file.name], where=str(file.path))
        _refuse_twice(chosen, found[file.name], where=str(file.path))

    def reader(some: Sequence[TableFile]) -> Callable[[int], Iterator[Chunk]]:
        return lambda chunk_rows: read_files(some, dialect, columns=chosen, chunk_rows=chunk_rows)

    kinds: dict[str, str] = {}
    for file in reversed(files):
        kinds |= dict.fromkeys(file.partition, "text") | file_kinds(file.path, dialect)
    return RawTable(
        chosen,
        unused_columns(_union(found.values()), chosen),
        reader(files),
        timestamp_unit,
        parts=tuple(SourcePart(file.path, file.name, reader([file])) for file in files) if len(files) > 1 else (),
        dialect=repr(dialect),
        kinds=kinds,
        notes=_notes(table.path, found, chosen, others),
    )


def _union(found: Iterable[Sequence[str]]) -> list[str]:
    """All columns in the order in which files have them; one that a file has twice is in it twice."""
    union: list[str] = []
    for names in found:
        union += [name for name in dict.fromkeys(names) for _ in range(names.count(name) - union.count(name))]
    return union


def _refuse_twice(chosen: Mapping[str, str], available: Sequence[str], *, where: str) -> None:
    there = {name: raw for name, raw in chosen.items() if raw in available}
    choose_columns(there, (), available=available, where=where)


def _notes(
    path: Path, found: Mapping[str, Sequence[str]], chosen: Mapping[str, str], others: Sequence[str]
) -> tuple[str, ...]:
    """Files that are not read, and columns that are null in some files."""
    notes = []
    if others:
        more = ", ..." if len(others) > NUM_NAMED else ""
        notes.append(f"{path}: {len(others)} files are not read: {', '.join(others[:NUM_NAMED])}{more}")
    for raw in chosen.values():
        without = [name for name, names in found.items() if raw not in names]
        if without:
            notes.append(f"{path}: {len(without)} of {len(found)} files have no {raw}, the first is {without[0]}")
    return tuple(notes)
