"""Lookups in embedding tables, alone or as weighted sums, each distinct row of a batch once; facts of items by row.

Shape letters: B rows, T history length, K sums, L facts of an item, n distinct rows, D vector width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tf_keras

SMALLEST_WEIGHT = 1e-3
"""Added to a total weight, so that a mean of nothing is zero."""
# From there on, a dense product costs less than what is sparse saves.
MOST_SPARSE_SUMS = 8


def seeded_generator() -> tf.random.Generator:
    """A generator, seeded by the global seed, whose state is saved with a model, unlike that of `tf.random`."""
    return tf.random.Generator.from_seed(int(tf.random.uniform([], maxval=2**31 - 1, dtype=tf.int32)), alg="philox")


def pooled_lookup(vectors_of: Callable[[tf.Tensor], tf.Tensor], rows: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Weighted sums of vectors by row, for training: each distinct row of a batch is looked up once.

        pooled_bk = sum_t w_bkt vector(row_bt)

    The plain way makes B x T vectors, B x T gradients, and lets the optimiser sort out which of them are of one row.
    Here the weights are a sparse matrix over the distinct rows, whose product needs neither. Of many sums of the same
    rows, a dense product is faster.

    Args:
        vectors_of: Distinct rows [n] -> vectors [n, D] float32; gets a sparse gradient without repeated rows.
        rows: [B, T] int32.
        weights: [B, K, T] float32, K sums of the same rows, 0 where padded.

    Returns:
        [B, K, D] float32, zeros where all weights are 0.
    """
    shape, num_sums = tf.shape(weights, out_type=tf.int64), weights.shape[1]
    if num_sums > MOST_SPARSE_SUMS:
        return tf.matmul(weights, distinct_lookup(vectors_of, rows))
    distinct, column = tf.unique(tf.reshape(rows, [-1]), out_idx=tf.int64)
    columns = tf.broadcast_to(tf.reshape(column, [shape[0], 1, shape[2]]), shape)
    row = tf.repeat(tf.range(shape[0] * shape[1]), shape[2])
    by_row = tf.SparseTensor(
        tf.stack([row, tf.reshape(columns, [-1])], axis=1),
        tf.reshape(weights, [-1]),
        tf.stack([shape[0] * shape[1], tf.size(distinct, out_type=tf.int64)]),
    )
    vectors = vectors_of(distinct)
    return tf.reshape(tf.sparse.sparse_dense_matmul(by_row, vectors), [-1, num_sums, vectors.shape[-1]])


def distinct_lookup(vectors_of: Callable[[tf.Tensor], tf.Tensor], rows: tf.Tensor) -> tf.Tensor:
    """Vectors by row, for training: rows [B, T] int32 -> [B, T, D] float32, each distinct row looked up once.

    Args:
        vectors_of: Distinct rows [n] -> vectors [n, D] float32; gets a sparse gradient without repeated rows.
        rows: [B, T] int32.
    """
    distinct, column = tf.unique(tf.reshape(rows, [-1]))
    return tf.gather(vectors_of(distinct), tf.reshape(column, tf.shape(rows)))


def build_table(table: tf_keras.layers.Embedding) -> None:
    """Makes a table's variable, unless it exists, under its own name and not that of its first reader."""
    if not table.built:
        # The slash at the end leaves the scope of the layer that is being called.
        with tf.name_scope(f"{table.name}/"):
            table.build(None)


class PooledLookup(tf_keras.layers.Layer):  # type: ignore[misc]
    """Weighted sums of the rows of an embedding table, which it shares: (rows [B, T], weights [B, K, T]) -> [B, K, D].

    `pooled_lookup` while training, otherwise a gather and a product, which every export format knows. Rows alone give
    their vectors, one by one: rows [B, T] -> [B, T, D].

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

    def vectors_of(self, rows: tf.Tensor) -> tf.Tensor:
        """Rows [...] -> vectors [..., D]."""
        return tf.gather(self.table.embeddings, rows)

    def call(self, inputs: tf.Tensor | tuple[tf.Tensor, tf.Tensor], training: bool | None = None) -> tf.Tensor:
        """Sums, or looks up.

        Args:
            inputs: rows [B, T] int32, weights [B, K, T] float32, 0 where padded; or rows alone.
            training: Whether gradients are wanted.

        Returns:
            [B, K, D] float32; of rows alone, [B, T, D].
        """
        if not isinstance(inputs, tuple | list):
            return distinct_lookup(self.vectors_of, inputs) if training else self.vectors_of(inputs)
        rows, weights = inputs
        if training:
            return pooled_lookup(self.vectors_of, rows, weights)
        return tf.matmul(weights, self.vectors_of(rows))


@dataclass(frozen=True)
class Fact:
    """What is known of each item whenever it is met: values of a column, cells of its place, or a vector.

    Attributes:
        name: Of the item tower's input.
        values: [rows of the items' table] or [rows, L] int32, rows of that input's table, of which a value that is not
            known is in row 0; or [rows, W] float32, vectors as that input has them.
        weights: [rows, L] float32, what each value counts.
        is_mean: Whether an item is described by the weighted mean of the values that are known, or by the sum of all.
        is_place: Whether it is where an item is, and the place of the latest one a feature of its own.
    """

    name: str
    values: npt.NDArray[np.int32] | npt.NDArray[np.float32]
    weights: npt.NDArray[np.float32] | None = None
    is_mean: bool = False
    is_place: bool = False

    @property
    def shares(self) -> npt.NDArray[np.float32] | None:
        """[rows, L] what each value counts in the mean of its row; None where values are added up."""
        if not self.is_mean:
            return None
        known = (self.values > 0).astype(np.float32)
        weights = known if self.weights is None else known * self.weights
        return np.asarray(weights / (weights.sum(axis=1, keepdims=True) + SMALLEST_WEIGHT), np.float32)


class PooledFacts(PooledLookup):
    """Weighted sums of what a table says of the facts of items: (item rows [B, T], weights [B, K, T]) -> [B, K, D].

    Args:
        table: Of the facts.
        rows: See `Fact`.
        shares: See `Fact`.
    """

    def __init__(
        self,
        table: tf_keras.layers.Embedding,
        *,
        rows: npt.NDArray[np.int32],
        shares: npt.NDArray[np.float32] | None = None,
        **kwargs: object,
    ) -> None:
        """Takes table and facts."""
        super().__init__(table, **kwargs)
        self.rows, self.shares = rows, shares

    def vectors_of(self, rows: tf.Tensor) -> tf.Tensor:
        """Item rows [...] -> vectors [..., D], the sum or the mean over the L facts of each."""
        known = tf.minimum(tf.cast(rows, tf.int32), len(self.rows) - 1)
        vectors = tf.gather(self.table.embeddings, tf.gather(tf.constant(self.rows), known))
        if self.shares is not None:
            vectors *= tf.gather(tf.constant(self.shares), known)[..., None]
        return vectors if self.rows.ndim == 1 else tf.reduce_sum(vectors, axis=-2)


class PooledVectors(PooledLookup):
    """Weighted sums of the vectors of items: (item rows [B, T], weights [B, K, T]) -> [B, K, D].

    Args:
        projection: The linear layer that brings vectors to width D; the item tower may share it.
        vectors: [rows of the items' table, W] float32.
    """

    def __init__(
        self, projection: tf_keras.layers.Dense, *, vectors: npt.NDArray[np.float32], **kwargs: object
    ) -> None:
        """Takes projection and vectors."""
        super().__init__(projection, **kwargs)
        self.vectors = vectors

    def build(self, shapes: object) -> None:
        """Makes the projection's variable if nothing has read it yet, under its own name."""
        if not self.table.built:
            with tf.name_scope(f"{self.table.name}/"):
                self.table.build((None, self.vectors.shape[1]))
        super().build(shapes)

    def vectors_of(self, rows: tf.Tensor) -> tf.Tensor:
        """Item rows [...] -> vectors [..., D]."""
        known = tf.minimum(tf.cast(rows, tf.int32), len(self.vectors) - 1)
        return tf.matmul(tf.gather(tf.constant(self.vectors), known), self.table.kernel)


def pooled_fact(fact: Fact, table: tf_keras.layers.Layer, *, name: str) -> PooledFacts | PooledVectors:
    """The layer that reads a fact.

    Args:
        fact: What.
        table: The item tower's embedding table of it, or its projection of vectors.
        name: Of the layer.
    """
    if fact.values.dtype == np.int32:
        return PooledFacts(table, rows=fact.values.astype(np.int32), shares=fact.shares, name=name)
    return PooledVectors(table, vectors=fact.values.astype(np.float32), name=name)
