"""How are the many rows of a history or a text looked up and summed, without one vector for each of them?

Shape letters: B rows of a batch, T places of a list (history or text), D vector width.
"""

from __future__ import annotations

import tensorflow as tf
import tf_keras


def pooled_lookup(table: tf.Variable, rows: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Weighted sum of table rows, for training: each distinct row of a batch is read once, and gets one gradient.

        pooled_b = sum_t w_bt table[row_bt]

    The plain way makes B x T vectors, B x T gradients, and lets the optimiser sort out which of them are of one row.
    Here the weights are a sparse matrix over the distinct rows, whose product needs neither.

    Args:
        table: [n, D] float32, gets a sparse gradient without repeated rows.
        rows: [B, T] int32.
        weights: [B, T] float32, 0 where padded.

    Returns:
        [B, D] float32, zeros where all weights are 0.
    """
    shape = tf.shape(rows, out_type=tf.int64)
    distinct, column = tf.unique(tf.reshape(rows, [-1]), out_idx=tf.int64)
    row = tf.repeat(tf.range(shape[0]), shape[1])
    by_row = tf.SparseTensor(
        tf.stack([row, column], axis=1),
        tf.reshape(weights, [-1]),
        tf.stack([shape[0], tf.size(distinct, out_type=tf.int64)]),
    )
    return tf.sparse.sparse_dense_matmul(by_row, tf.gather(table, distinct))


def build_table(table: tf_keras.layers.Embedding) -> None:
    """Makes a table's variable, unless it is there, under its own name and not under that of whoever reads it first."""
    if not table.built:
        # The slash at the end leaves the scope of the layer that is being called.
        with tf.name_scope(f"{table.name}/"):
            table.build(None)


class PooledLookup(tf_keras.layers.Layer):  # type: ignore[misc]
    """The weighted sum of the rows of an embedding table, which it shares: (rows, weights) [B, T] each -> [B, D].

    `pooled_lookup` while training, otherwise a gather and a product, which every export format knows.

    Args:
        table: The table; other layers may read it too.
    """

    def __init__(self, table: tf_keras.layers.Embedding, **kwargs: object) -> None:
        """Takes the table."""
        super().__init__(**kwargs)
        self.table = table

    def build(self, shapes: object) -> None:
        """Makes the table if nothing has read it yet."""
        build_table(self.table)
        super().build(shapes)

    def call(self, inputs: tuple[tf.Tensor, tf.Tensor], training: bool | None = None) -> tf.Tensor:
        """Sums.

        Args:
            inputs: rows [B, T] int32, weights [B, T] float32, 0 where padded.
            training: Whether gradients are wanted.

        Returns:
            [B, D] float32.
        """
        rows, weights = inputs
        if training:
            return pooled_lookup(self.table.embeddings, rows, weights)
        return tf.squeeze(tf.matmul(weights[:, None, :], self.table(rows)), axis=1)
