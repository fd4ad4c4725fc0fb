"""What do processes that fit together tell each other within a step? Vectors of candidates, and what sums divide by.

Outside of such a step, and where one process fits alone, nothing is told and everything stays as it is.

Shape letters: W processes, b rows of a share, C shared candidates in the batch, c of them computed for a share, H
private negatives of a row.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

import tensorflow as tf
import tf_keras

from training.batch_share import COLUMNS, ORDER

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
