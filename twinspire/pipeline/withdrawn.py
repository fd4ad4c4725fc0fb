"""Which rows of a fit's catalogue left the source's table of items?"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from artefacts.paths import RunPaths
from features.ids import IdMap
from features.tables import withdrawn_items
from serving.denied import NO_ITEMS, Items
from serving.withdrawn import WITHDRAWN_FILE


def withdrawn_rows(paths: RunPaths) -> Items:
    """Catalogue rows of a fit whose items are withdrawn by the tables of now: [W] int32, ascending."""
    names = withdrawn_items(paths.tables)
    if not names:
        return NO_ITEMS
    rows = IdMap.load(paths.model / "encoder" / "item_ids.parquet").rows(names)
    return np.sort(rows[rows > 0] - 1).astype(np.int32)


def write_withdrawn(paths: RunPaths, folder: Path) -> Path | None:
    """Writes these rows into a folder, for jobs and for whoever reads the folder later; None where there are none."""
    rows = withdrawn_rows(paths)
    if not len(rows):
        return None
    np.save(folder / WITHDRAWN_FILE, rows, allow_pickle=False)
    return folder / WITHDRAWN_FILE
