"""What was each user shown? Pairs from a Parquet file, or from the lists that servers have logged.

Whether something was taken is not asked here: whoever draws from these pairs masks what the user is known to have met.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features import columns
from features.encoding import Encoder
from features.ids import IdMap
from serving.exposures import ITEM_IDS, are_exposures, read_exposures

Ints = npt.NDArray[np.int64]
# Pairs that wait to be counted among the distinct ones: 32 MB.
MERGE_PAIRS = 4_000_000


def read_impressions(path: Path, encoder: Encoder, *, before: dt.date) -> tuple[Ints, Ints]:
    """Pairs of a user and an item that the user was shown; unknown users and items are left out.

    Args:
        path: A Parquet file with `user_id` and `item_id`, read whole and as it is, or a folder of exposures, of which
            each pair comes once, by user and item.
        encoder: Whose rows the pairs are given as.
        before: Exposures are read up to this day, UTC, so that none of what a phase is judged by is fitted.

    Returns:
        User rows [P] and item rows [P].

    Raises:
        ValueError: The path is not there, or has not these columns.
    """
    if are_exposures(path):
        return _of_exposures(path, encoder, before)
    if not path.exists():
        raise ValueError(
            f"training.negatives.impressions is {path}, which does not exist; expected a Parquet file with "
            f"{columns.USER_ID} and {columns.ITEM_ID}, or the exposures that a server has logged"
        )
    table = pq.read_table(path)
    missing = [name for name in (columns.USER_ID, columns.ITEM_ID) if name not in table.column_names]
    if missing:
        raise ValueError(
            f"{path} has the columns {', '.join(table.column_names)}; expected {' and '.join(missing)} too"
        )
    users, items = (
        ids.rows(table.column(name).cast("string").to_numpy(zero_copy_only=False)).astype(np.int64)
        for ids, name in ((encoder.user_ids, columns.USER_ID), (encoder.item_ids, columns.ITEM_ID))
    )
    known = (users > 0) & (items > 0)
    return users[known], items[known]


def _of_exposures(folder: Path, encoder: Encoder, before: dt.date) -> tuple[Ints, Ints]:
    """Memory goes with the distinct pairs, not with how often they were shown."""
    num_item_rows = len(encoder.item_ids)
    distinct = np.empty(0, np.int64)
    waiting: list[Ints] = []
    num_waiting = 0
    for batch in read_exposures(folder, dt.date.min, before, columns=[columns.USER_ID, ITEM_IDS]):
        lists = batch.column(ITEM_IDS)
        users = _rows(encoder.user_ids, batch.column(columns.USER_ID))[pc.list_parent_indices(lists).to_numpy()]
        items = _rows(encoder.item_ids, pc.list_flatten(lists))
        known = (users > 0) & (items > 0)
        waiting.append(np.unique(users[known] * num_item_rows + items[known]))
        num_waiting += len(waiting[-1])
        # As many as there are already, so that all merges together cost a few passes.
        if num_waiting >= max(MERGE_PAIRS, len(distinct)):
            distinct, waiting, num_waiting = np.unique(np.concatenate([distinct, *waiting])), [], 0
    distinct = np.unique(np.concatenate([distinct, *waiting]))
    return distinct // num_item_rows, distinct % num_item_rows


def _rows(ids: IdMap, names: pa.Array) -> Ints:
    """Rows of names, each distinct one looked up once: [n] int64."""
    encoded = names.dictionary_encode()
    rows: Ints = ids.rows(encoded.dictionary.to_numpy(zero_copy_only=False)).astype(np.int64)
    return np.asarray(rows[encoded.indices.to_numpy()])
