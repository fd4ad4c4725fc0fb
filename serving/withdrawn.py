"""Which items of the catalogue are offered no more? Rows that stay in the catalogue and leave every index.

    withdrawn.npy   [W] int32 catalogue rows, ascending; missing where there are none

N items of the catalogue, W withdrawn ones.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from serving.denied import NO_ITEMS, Items

WITHDRAWN_FILE = "withdrawn.npy"


def withdrawn_in(folder: Path, *, num_items: int) -> Items:
    """Reads the rows of a folder, which has the file only where something was withdrawn: [W] int32.

    Raises:
        ValueError: See `load_withdrawn`.
    """
    path = folder / WITHDRAWN_FILE
    return load_withdrawn(path, num_items=num_items) if path.exists() else NO_ITEMS


def load_withdrawn(path: Path, *, num_items: int) -> Items:
    """Reads the rows of a file: [W] int32.

    Raises:
        ValueError: It holds anything else than int32 rows that ascend within the catalogue.
    """
    rows: Items = np.load(path, allow_pickle=False)
    if rows.dtype != np.int32 or rows.ndim != 1 or not _ascend(rows, num_items):
        raise ValueError(
            f"{path}: holds {rows.dtype} {_shown(rows)}, expected int32 rows that ascend from 0 to {num_items - 1} at "
            "most; run the index step again"
        )
    return rows


def offered_rows(withdrawn: npt.NDArray[np.integer], *, num_items: int) -> npt.NDArray[np.int64]:
    """The other rows: [N - W] int64, ascending.

    Args:
        withdrawn: [W] rows, ascending.
        num_items: N.

    Raises:
        ValueError: The rows do not ascend within the catalogue, or nothing is left.
    """
    if not _ascend(withdrawn, num_items):
        raise ValueError(
            f"rows that are left out are {_shown(withdrawn)}, expected them to ascend within 0 to {num_items - 1}"
        )
    if len(withdrawn) == num_items:
        raise ValueError(
            f"all {num_items:,} items of the catalogue are withdrawn, expected at least one that is offered; look at "
            "the source's table of items, which has none of those that events know"
        )
    return np.delete(np.arange(num_items), withdrawn)


def _ascend(rows: npt.NDArray[np.integer], num_items: int) -> bool:
    return bool((np.diff(rows, prepend=-1) > 0).all()) and int(rows.max(initial=-1)) < num_items


def _shown(rows: npt.NDArray[np.generic]) -> str:
    return np.array2string(rows, threshold=6, edgeitems=2)
