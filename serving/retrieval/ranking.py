"""Ranked lists: scored items as one padded list per user.

B users, E loose entries, N items of the catalogue. A list is rows [B, k] int32 and scores [B, k] float32, best first,
padded with row -1 and score -inf.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int32]
Scores = npt.NDArray[np.float32]

NO_ROW = -1
NO_SCORE = -np.inf


def best_of_each(
    owners: npt.NDArray[np.int64],
    items: npt.NDArray[np.integer],
    *,
    scores: npt.NDArray[np.floating],
    num_users: int,
    k: int,
    ascending_keys: Sequence[npt.NDArray[np.generic]] = (),
) -> tuple[Rows, Scores]:
    """Sorts the entries of each user and keeps the first k.

    Args:
        owners: [E] which of the B users an entry belongs to.
        items: [E] catalogue row, distinct within a user.
        scores: [E] higher is better.
        num_users: B.
        k: Length of the lists.
        ascending_keys: [E] each; the order within a user, first key first, where it is finer than the score. Empty
            means by descending score. The item's row breaks ties, so that the order is the same on every machine.

    Returns:
        Rows [B, k] and scores [B, k].
    """
    keys = tuple(ascending_keys) or (-scores,)
    order = np.lexsort((items, *reversed(keys), owners))
    sorted_owners = owners[order]
    ranks = np.arange(len(order)) - np.searchsorted(sorted_owners, sorted_owners)
    kept = ranks < k
    rows, row_scores = padding(num_users, k)
    rows[sorted_owners[kept], ranks[kept]] = items[order][kept]
    row_scores[sorted_owners[kept], ranks[kept]] = scores[order][kept]
    return rows, row_scores


def without(
    rows: Rows,
    scores: Scores,
    *,
    known_keys: npt.NDArray[np.int64],
    num_items: int,
    k: int,
    offered: npt.NDArray[np.bool_] | None = None,
) -> tuple[Rows, Scores]:
    """Takes known items, and those that are not offered, out of lists and moves the rest up.

    Args:
        rows: [B, F] lists, F >= k.
        scores: [B, F] their scores.
        known_keys: `user * N + item` of each pair to take out, ascending; user counts the rows of this batch.
        num_items: N.
        k: Length of the resulting lists.
        offered: [N] what may stay; None lets everything.

    Returns:
        Rows [B, k] and scores [B, k].
    """
    if len(known_keys) or offered is not None:
        gone = rows < 0
        if offered is not None:
            gone |= ~offered[rows]
        if len(known_keys):
            keys = np.arange(len(rows), dtype=np.int64)[:, None] * num_items + rows
            places = np.minimum(np.searchsorted(known_keys, keys), len(known_keys) - 1)
            gone |= known_keys[places] == keys
        if not gone.any():
            return fit(rows, scores, k=k)
        order = np.argsort(gone, axis=1, kind="stable")[:, :k]
        rows = np.take_along_axis(np.where(gone, NO_ROW, rows), order, axis=1)
        scores = np.take_along_axis(np.where(gone, np.float32(NO_SCORE), scores), order, axis=1)
    return fit(rows, scores, k=k)


def fit(rows: Rows, scores: Scores, *, k: int) -> tuple[Rows, Scores]:
    """Cuts or pads lists to length k."""
    width = rows.shape[1]
    if width >= k:
        return rows[:, :k], scores[:, :k]
    more_rows, more_scores = padding(len(rows), k - width)
    return np.hstack([rows, more_rows]), np.hstack([scores, more_scores])


def padding(num_users: int, k: int) -> tuple[Rows, Scores]:
    """Empty lists."""
    return np.full((num_users, k), NO_ROW, np.int32), np.full((num_users, k), NO_SCORE, np.float32)
