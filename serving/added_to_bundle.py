"""A bundle that answers with items added since it was made, too.

An added item is encoded as the night encodes an item without events, and searched exactly next to the index. Once a
bundle has an item in its catalogue, the file's row of it is left alone.

N items of the catalogue, A added ones, D vector width.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from features import columns
from features.ids import IdMap
from features.lists import codes_of
from features.schema import STATISTICS, view_schema
from serving.added_items import known_items, without_items
from serving.bundles.bundle import FAMILY, ITEM_TOWER, ITEMS, Bundle
from serving.retrieval.added import AddedItems
from serving.retrieval.exported_tower import ExportedTower
from serving.sparse.more_items import with_items


def with_added(bundle: Bundle, rows: pa.Table) -> Bundle:
    """A bundle that answers with added items too.

    Args:
        bundle: The bundle.
        rows: The items of the file; those that the bundle has are left out.

    Returns:
        The bundle with their names, words, categories, families and vectors behind those of its own; itself where there
        is nothing to add.
    """
    rows = without_items(rows, known_items(rows, bundle.encoder.item_ids))
    if not rows.num_rows:
        return bundle
    weight = 1.0 if bundle.item_weights is None else float(np.median(bundle.item_weights))
    declared = bundle.encoder.schema
    category = declared.item_category
    found = rows.column(category).to_pylist() if category else [None] * rows.num_rows
    categories = [tuple(value) if isinstance(value, list) else value for value in found]
    families = bundle.families
    if families is not None and declared.item_family:
        own = pq.read_table(bundle.folder / ITEMS, columns=[FAMILY]).column(0).combine_chunks()
        families = codes_of(pa.concat_arrays([own, rows.column(declared.item_family).combine_chunks().cast(own.type)]))
    names = rows.column(columns.ITEM_ID).to_pylist()
    own_ids = bundle.encoder.item_ids.ids(np.arange(1, len(bundle.encoder.item_ids)))
    return dataclasses.replace(
        bundle,
        added=AddedItems(IdMap([*own_ids, *names]), vectors_of_new(bundle, rows), weight),
        item_names=[*bundle.item_names, *rows.column(columns.ITEM_NAME).to_pylist()],
        categories=[*bundle.categories, *categories],
        families=families,
        sparse_with_added=None if bundle.sparse is None else with_items(bundle.sparse, rows),
    )


def vectors_of_new(bundle: Bundle, rows: pa.Table) -> npt.NDArray[np.float32]:
    """[A, D] what the item tower makes of items that nobody has met yet."""
    declared = bundle.encoder.schema
    moments = np.full(rows.num_rows, columns.seconds_of(bundle.manifest.facts.as_of), np.int64)
    counts = {statistic.name for statistic in STATISTICS["item"]} | set(declared.computed_of("item"))
    raw = rows.select([columns.ITEM_ID])
    for field in view_schema(declared, "item"):
        if field.name in rows.column_names:
            values = rows.column(field.name).cast(field.type)
        elif field.name == columns.ITEM_AS_OF:
            values = pa.array(moments)
        elif field.name in counts:
            values = pa.array(np.zeros(rows.num_rows), field.type)
        else:
            values = pa.nulls(rows.num_rows, field.type)
        raw = raw.append_column(field, values)
    inputs = bundle.encoder.encode_items(raw, as_of_seconds=moments)
    vectors: npt.NDArray[np.float32] = ExportedTower(bundle.folder / ITEM_TOWER).embed(inputs)
    return vectors
