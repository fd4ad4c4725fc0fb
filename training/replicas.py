"""What do processes that fit together tell each other within a step? Vectors of candidates, and what sums divide by.

Outside of such a step, and where one process fits alone, nothing is told and everything stays as it is.

Shape letters: W processes, b rows of a share, C shared candidates in the batch, c of them computed for a share, H
private negatives of a row.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow as tf
import tf_keras

from training.dataset import ITEM_PREFIX, LOG_Q, MASK, PRIVATE_LOG_Q, USER_PREFIX, WEIGHT, Batch

Tensors = dict[str, tf.Tensor]


def mean_over_replicas(value: tf.Tensor) -> tf.Tensor:
    """The mean of what each process has: [] -> []."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return value
    return context.all_reduce(tf.distribute.ReduceOp.MEAN, value)


def share_of_mean(value: tf.Tensor) -> tf.Tensor:
    """What a process adds to the mean over processes: value / W, [] -> []."""
    num_replicas = tf.distribute.get_strategy().num_replicas_in_sync
    return value if num_replicas == 1 else value / num_replicas


def item_parts(tower: tf_keras.Model, inputs: Tensors, batch: Mapping[str, tf.Tensor], *, training: bool) -> Tensors:
    """What the item tower makes of the candidates of a batch; of a share of one, with the other processes.

    Each computes the vectors of its own columns and gets those of the others, to which the gradients of all processes
    flow back.

    Args:
        tower: Parts of the item tower.
        inputs: [C + b H, ...] its inputs.
        batch: Where they are from.
        training: Whether the tower is being fitted.

    Returns:
        [C + b H, ...] each, in the order of the inputs.
    """
    if ORDER not in batch:
        parts: Tensors = tower(inputs, training=training)
        return parts
    # Copied: TensorFlow gathers only what was made on a device, and these are arguments.
    columns, order = tf.identity(batch[COLUMNS]), tf.identity(batch[ORDER])
    num_own, num_shared = tf.shape(columns)[0], tf.shape(order)[0]
    places = tf.math.invert_permutation(order)
    private = tf.range(num_shared, tf.shape(next(iter(inputs.values())))[0])
    taken = tf.concat([tf.gather(places, columns), private], axis=0)
    found = tower({name: tf.gather(values, taken) for name, values in inputs.items()}, training=training)
    shared = _Gathering(columns, order)
    return {name: tf.concat([shared(part[:num_own]), part[num_own:]], axis=0) for name, part in sorted(found.items())}


class _Gathering:
    """Brings together what the processes have of the columns of a batch.

    TensorFlow's own gradient of a gathering takes no sparse one, and relies on the processes' order.

    Args:
        columns: [c] int32, the columns that this process has.
        order: [C] int32, the columns in the order in which they are wanted.
    """

    def __init__(self, columns: tf.Tensor, order: tf.Tensor) -> None:
        """Tells the processes' columns."""
        self._context = tf.distribute.get_replica_context()
        arrived = self._context.all_gather(columns, axis=0)
        self._source = tf.gather(tf.math.invert_permutation(arrived), order)
        self._by_column = tf.math.invert_permutation(order)
        self._columns = columns

    def __call__(self, values: tf.Tensor) -> tf.Tensor:
        """[c, ...] -> [C, ...]; the gradient is the sum of the processes', of the own columns."""

        @tf.custom_gradient  # type: ignore[untyped-decorator]
        def gathered(values: tf.Tensor) -> tuple[tf.Tensor, object]:
            def gradient(upstream: tf.Tensor) -> tf.Tensor:
                by_column = tf.gather(tf.convert_to_tensor(upstream), self._by_column)
                total = self._context.all_reduce(tf.distribute.ReduceOp.SUM, by_column)
                return tf.gather(total, self._columns)

            return tf.gather(self._context.all_gather(values, axis=0), self._source), gradient

        return gathered(values)


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
