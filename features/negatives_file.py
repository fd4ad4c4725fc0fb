"""Mined hard negatives as Parquet: the format and its reader."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from artefacts.files import all_files
from features import columns
from features.encoding import Encoder

Ints = npt.NDArray[np.int64]

RANK, SCORE = "rank", "score"

NEGATIVES_SCHEMA = pa.schema(
    [(columns.USER_ID, pa.string()), (columns.ITEM_ID, pa.string()), (RANK, pa.int32()), (SCORE, pa.float32())]
)


def read_negatives(path: Path, encoder: Encoder) -> tuple[Ints, Ints]:
    """Mined negatives as rows of an encoder's id maps, by user, then rank.

    Args:
        path: Folder that the job has written.
        encoder: Its ids may be others than those mined with; pairs of which it does not know both are left out.

    Returns:
        user_rows [P] and item_rows [P] int64, from 1 on.

    Raises:
        ValueError: A file is missing.
    """
    files = all_files(path, advice="mine the negatives again")
    table = pq.read_table(files, columns=[columns.USER_ID, columns.ITEM_ID, RANK])
    users = encoder.user_ids.rows(table.column(columns.USER_ID).to_numpy()).astype(np.int64)
    items = encoder.item_ids.rows(table.column(columns.ITEM_ID).to_numpy()).astype(np.int64)
    order = np.lexsort((table.column(RANK).to_numpy(), users))
    order = order[(users[order] > 0) & (items[order] > 0)]
    return users[order], items[order]
