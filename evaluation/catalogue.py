"""The catalogue of a comparison: names, categories and values of the items.

N items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from evaluation.foreign_tables import rows_of
from features import columns
from features.lists import as_text, codes_of
from features.tables import read_items
from serving.retrieval.weights import positive


@dataclass(frozen=True)
class Catalogue:
    """What is known of the items, the same in every fold.

    Attributes:
        names: [N] what people call them.
        categories: [N] int64, number of the category; -1 for none.
        values: [N] float64, what a sale is worth, at least 0; None if unknown.
        families: [N] int64, number of the family, -1 for none; None where the data set has no families.
    """

    names: Sequence[str]
    categories: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64] | None = None
    families: npt.NDArray[np.int64] | None = None


def catalogue_of(
    tables: Path, features: Path, *, item_category: str | None, item_family: str | None = None
) -> Catalogue:
    """Names, categories, families and values of the items: values are mean prices before the cut, where there are any.

    Args:
        tables: Folder of the canonical tables.
        features: Folder of the features of the first cut; may be missing.
        item_category: Column of the items' category.
        item_family: Column of the items' family.
    """
    items = read_items(tables)
    ids = items.column(columns.ITEM_ID).to_pylist()
    names = items.column(columns.ITEM_NAME).to_pylist()
    return Catalogue(
        [name or item_id for name, item_id in zip(names, ids, strict=True)],
        _labels(items.column(item_category)) if item_category else np.full(items.num_rows, -1, np.int64),
        _values(features / "items.parquet", np.asarray(ids, dtype=object)),
        _labels(items.column(item_family)) if item_family else None,
    )


def _labels(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    return codes_of(as_text(column).combine_chunks().cast(pa.string())).astype(np.int64)


def _values(path: Path, item_ids: npt.NDArray[np.object_]) -> npt.NDArray[np.float64] | None:
    if not path.exists():
        return None
    table = pq.read_table(path, columns=[columns.ITEM_ID, "item_price", "item_num_events"])
    # An item without events has a mean of 0, which is not what it is worth.
    priced = pc.if_else(pc.greater(table.column("item_num_events"), 0), table.column("item_price"), None)
    prices = priced.cast("float64").to_numpy(zero_copy_only=False)
    rows = rows_of(pa.array(item_ids, pa.string()), table.column(columns.ITEM_ID))
    values = np.where(rows >= 0, prices[rows], np.nan)
    return positive(values).values if np.nanmax(values, initial=0.0) > 0 else None
