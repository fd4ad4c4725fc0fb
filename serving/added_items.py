"""Items added between two nights: a file of their columns, which servers follow (`serving.added_to_bundle`)."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from artefacts.files import replaced
from artefacts.locks import locked
from features import columns
from features.ids import IdMap
from features.schema import Schema
from features.sources.entities import entity_schema, read_entities
from features.sources.quarantine import Quarantine
from features.sources.raw import Chunk, RawTable, nearest

MOST_ADDED = 10_000
"""Items that are searched exactly next to the index, at most: the night takes over what its items table has."""
_CHUNK_ROWS = 65_536


class Outcome(NamedTuple):
    """What became of items that were to be added.

    Attributes:
        added: Ids that are new in the file.
        replaced: Ids whose columns in the file are others now.
        in_catalogue: Ids that the bundle has: the next night reads their columns from the items table.
        set_aside: Number of a row, from 1, and why it cannot be used.
    """

    added: tuple[str, ...]
    replaced: tuple[str, ...]
    in_catalogue: tuple[str, ...]
    set_aside: tuple[tuple[int, str], ...]


def add_items(path: Path, table: RawTable, schema: Schema, catalogue: IdMap) -> Outcome:
    """Adds items to the file; a running server offers them within seconds.

    Args:
        path: The file; made where it is missing.
        table: The items, as their source has them.
        schema: The declared columns.
        catalogue: Ids of the published bundle; rows of them are not added.

    Raises:
        SourceError: A column has a type that cannot be read.
        ValueError: There would be more than `MOST_ADDED`, or the file is of other columns.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        aside = Path(scratch) / "set_aside.parquet"
        with Quarantine(aside, "items") as quarantine:
            rows, _, _ = read_entities(table, schema, "item", chunk_rows=_CHUNK_ROWS, quarantine=quarantine)
        faults = pq.read_table(aside, columns=["source_row", "reason"])
    set_aside = tuple(zip(faults.column(0).to_pylist(), faults.column(1).to_pylist(), strict=True))
    known = known_items(rows, catalogue)
    in_catalogue = tuple(name for name in rows.column(columns.ITEM_ID).to_pylist() if name in known)
    new = without_items(rows, known)
    # Against another call: what it adds must not be lost.
    with locked(path.parent):
        before = read_items(path, schema)
        earlier = set(before.column(columns.ITEM_ID).to_pylist())
        names = new.column(columns.ITEM_ID).to_pylist()
        stays = without_items(before, {*names, *known_items(before, catalogue)})
        kept = pa.concat_tables([stays, new])
        if kept.num_rows > MOST_ADDED:
            raise ValueError(
                f"{path}: would hold {kept.num_rows:,} items, more than the {MOST_ADDED:,} that are searched next to "
                "the index; put them into the items table of the source, which the next night reads"
            )
        if new.num_rows or stays.num_rows < before.num_rows:
            _write(path, kept)
    added = tuple(name for name in names if name not in earlier)
    return Outcome(added, tuple(name for name in names if name in earlier), in_catalogue, set_aside)


def remove_items(path: Path, names: Sequence[str], schema: Schema) -> list[str]:
    """Takes items out of the file again; returns those that were there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.parent):
        before = read_items(path, schema)
        found = [name for name in before.column(columns.ITEM_ID).to_pylist() if name in set(names)]
        if found:
            _write(path, without_items(before, set(found)))
    return found


def read_items(path: Path, schema: Schema) -> pa.Table:
    """The items of the file, as `entity_schema` has them; none where there is no file.

    Raises:
        ValueError: The file cannot be read, or is of other columns than the schema declares.
    """
    expected = entity_schema(schema, "item")
    if not path.exists():
        return expected.empty_table()
    try:
        found = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{path}: cannot be read ({error}); remove it, and add the items again") from None
    if not found.schema.equals(expected):
        raise ValueError(
            f"{path}: has the columns {', '.join(found.column_names)}, expected {', '.join(expected.names)} of the "
            "kinds that the bundle's dataset declares; remove it, and add the items again"
        )
    return found


def from_records(records: Sequence[Mapping[str, Any]], schema: Schema) -> RawTable:
    """Items of a request as a table of a source.

    Raises:
        ValueError: An item has a column that is not declared, or a column's values are of several types.
    """
    allowed = entity_schema(schema, "item").names
    for place, record in enumerate(records):
        for name in record:
            if name not in allowed:
                raise ValueError(
                    f"items.{place}.{name}: no such column; did you mean {nearest(name, allowed)}? Expected some of: "
                    f"{', '.join(allowed)}"
                )
    arrays = {}
    for name in allowed:
        try:
            arrays[name] = pa.array([record.get(name) for record in records])
        except pa.ArrowException as error:
            raise ValueError(f"items, column {name!r}: {error}; expected values of one type") from None
    num_rows = len(records)
    chunk = Chunk(
        "items", pa.array(range(1, num_rows + 1)), pa.table(arrays), pa.nulls(num_rows, pa.string()),
        pa.repeat(False, num_rows),
    )  # fmt: skip
    read: Callable[[int], Any] = chunk.slices
    return RawTable({name: name for name in allowed}, (), read)


def known_items(rows: pa.Table, catalogue: IdMap) -> set[str]:
    """Ids of items that a catalogue has."""
    names = rows.column(columns.ITEM_ID).to_pylist()
    return {name for name, row in zip(names, catalogue.rows(names).tolist(), strict=True) if row}


def without_items(rows: pa.Table, names: set[str]) -> pa.Table:
    """The other items."""
    stays = [name not in names for name in rows.column(columns.ITEM_ID).to_pylist()]
    return rows.filter(pa.array(stays, pa.bool_()))


def _write(path: Path, rows: pa.Table) -> None:
    with replaced(path) as temporary:
        pq.write_table(rows.combine_chunks(), temporary)
