"""Which part of a batch does one of several processes take? Its rows, compared with the candidates of all.

Shape letters: W processes, B rows of the batch, b of them in a share, C shared candidates in the batch, c of them
computed for a share, H private negatives of a row.
"""

from __future__ import annotations

import numpy as np

from training.dataset import ITEM_PREFIX, LOG_Q, MASK, PRIVATE_LOG_Q, USER_PREFIX, WEIGHT, Batch

ORDER, COLUMNS = "order", "columns"


def share_of(batch: Batch, *, number: int, size: int) -> Batch:
    """The share of a batch that a process takes, in the form of a batch.

    Args:
        batch: As `training.dataset.batches` makes it, without a queue.
        number: Of the process, from 0.
        size: W.

    Returns:
        Its b rows, as near to B / W as can be; all C candidates, those of its own rows first, then those of the other
        rows, then the uniform ones; the private negatives of its rows. `mask` [b, C + H] and `log_q` [C] follow. Beside
        them `order` [C] int32, where in the whole batch each candidate is, and `columns` [c] int32, those whose vectors
        this process computes, as numbered in the whole batch.

    Raises:
        ValueError: There are fewer rows than processes, or columns of a queue.
    """
    num_rows = len(batch[WEIGHT])
    num_private = batch[PRIVATE_LOG_Q].shape[1] if PRIVATE_LOG_Q in batch else 0
    num_items = len(next(values for name, values in batch.items() if name.startswith(ITEM_PREFIX)))
    num_shared = num_items - num_rows * num_private
    num_columns = batch[MASK].shape[1]
    if num_rows < size:
        raise ValueError(
            f"a batch of {num_rows} rows for {size} processes, expected one for each; raise training.shuffle_days, so "
            "that more examples are shuffled together, or start fewer processes"
        )
    if num_columns != num_shared + num_private:
        raise ValueError(
            f"the mask has {num_columns} columns, expected {num_shared} of shared and {num_private} of private "
            "candidates: a queue cannot be shared out; set training.negatives.queue_size: 0"
        )
    rows = np.array_split(np.arange(num_rows), size)[number]
    uniform = np.array_split(np.arange(num_rows, num_shared), size)[number]
    order = np.concatenate([rows, np.setdiff1d(np.arange(num_shared), rows)])
    private = num_shared + (rows[:, None] * num_private + np.arange(num_private)).ravel()
    share: Batch = {
        MASK: batch[MASK][rows][:, np.concatenate([order, np.arange(num_shared, num_columns)])],
        LOG_Q: batch[LOG_Q][order],
        WEIGHT: batch[WEIGHT][rows],
        ORDER: order.astype(np.int32),
        COLUMNS: np.concatenate([rows, uniform]).astype(np.int32),
    }
    if PRIVATE_LOG_Q in batch:
        share[PRIVATE_LOG_Q] = batch[PRIVATE_LOG_Q][rows]
    for name, values in batch.items():
        if name.startswith(USER_PREFIX):
            share[name] = values[rows]
        elif name.startswith(ITEM_PREFIX):
            share[name] = values[np.concatenate([order, private])]
    return share
