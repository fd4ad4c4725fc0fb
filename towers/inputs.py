"""Inputs of a tower: one [B, D] vector for each feature of any kind.

Summing them is the same as concatenating all features in front of one linear layer, but a feature can be read or left
out alone. Shape letters: B rows, T history length, L trigrams, D vector width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tf_keras

from features.encoding import HISTORY
from features.kinds import InputSpec

Tensors = dict[str, tf.Tensor]
Tables = dict[str, tf_keras.layers.Embedding]
SMALLEST_WEIGHT = 1e-3
"""Added to a total weight, so that a mean of nothing is zero."""
# From there on, a dense product costs less than what is sparse saves.
MOST_SPARSE_SUMS = 8


class BucketDropout(tf_keras.layers.Layer):  # type: ignore[misc]
    """Replaces ids by the hash buckets they would fall into were they unknown, at random and only while training.

    Without it the buckets' rows would never be trained: all ids of the examples are known.

    Args:
        rate: Share of the ids that are replaced, each drawn alone.
        bucket_of_row: The table row of each known id's bucket, by the id's own row; rows beyond it stay as they are.

    Source: Yi et al., RecSys 2019, section 5.1 (hash buckets for ids out of the vocabulary). The dropout is ours.
    """

    def __init__(self, *, rate: float, bucket_of_row: Sequence[int] | npt.NDArray[np.int32], **kwargs: object) -> None:
        """Takes the buckets."""
        super().__init__(**kwargs)
        self.rate = rate
        self.bucket_of_row = np.asarray(bucket_of_row, np.int32)
        self._random = seeded_generator() if rate > 0 else None

    def call(self, rows: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Replaces some rows.

        Args:
            rows: [B] or [B, T] int32.
            training: Whether any are replaced.

        Returns:
            The same shape.
        """
        if not training or self._random is None:
            return rows
        last = len(self.bucket_of_row) - 1
        bucket = tf.gather(tf.constant(self.bucket_of_row), tf.minimum(rows, last))
        replaced = (self._random.uniform(tf.shape(rows)) < self.rate) & (rows <= last)
        return tf.where(replaced, bucket, rows)

    def get_config(self) -> dict[str, object]:
        """Arguments that make the same layer again."""
        return {**super().get_config(), "rate": self.rate, "bucket_of_row": self.bucket_of_row.tolist()}


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


@dataclass(frozen=True)
class Code:
    """A small whole number that each item of a history has, such as the kind of the event with which it was met.

    Attributes:
        values: [B, T] int32, from 0 on.
        num_values: How many there are.
    """

    values: tf.Tensor
    num_values: int


@dataclass(frozen=True)
class History:
    """The items that a user has met, the latest first, each with a vector of its own: that of its id and its facts.

    Place t is the t-th item from the end, from 0 on. Position t is the state of the user before the items at places 0
    to t - 1 were met; position 0 is the row's own.

    Attributes:
        items: [B, T] int32 item rows, 0 where padded.
        table_rows: [B, T] int32 rows of the id table: those of the items, unless ids are dropped while training.
        age_days: [B, T] float32 days since each was met.
        ids: Sums of the rows of the items' id table, which is shared with the item tower.
        facts: Likewise of each fact.
        codes: Of each item besides its age and its place, by name; encoders of sequences embed them.
        num_positions: Positions that are wanted while training, from 0 on; otherwise it is the row's own alone.
        wants_states: Whether the state at each place that is read is wanted, always, in place of positions.
    """

    items: tf.Tensor
    table_rows: tf.Tensor
    age_days: tf.Tensor
    ids: PooledLookup
    facts: Sequence[PooledFacts | PooledVectors] = ()
    codes: Mapping[str, Code] = field(default_factory=dict)
    num_positions: int = 1
    wants_states: bool = False

    def weighted_sums(self, weights: tf.Tensor) -> tf.Tensor:
        """K weighted sums of the items' vectors: weights [B, K, T] float32, 0 where padded -> [B, K, D]."""
        sums = [self.ids((self.table_rows, weights)), *(facts((self.items, weights)) for facts in self.facts)]
        return sums[0] if len(sums) == 1 else tf_keras.layers.Add(name=f"{HISTORY}_vectors")(sums)

    def vectors(self, length: int) -> tf.Tensor:
        """Vectors of the latest items: [B, length, D]; those of padding mean nothing."""
        items = self.items[:, :length]
        found = [self.ids(self.table_rows[:, :length]), *(facts(items) for facts in self.facts)]
        return found[0] if len(found) == 1 else tf_keras.layers.Add(name=f"{HISTORY}_items")(found)


class SideBySideIdentities(tf_keras.initializers.Initializer):  # type: ignore[misc]
    """A linear layer that begins as the mean of the K vectors that its input has side by side: [K D, D].

    So a user begins near the items of the history, and what is learned is how to depart from that. An input of another
    width begins at random, as Keras has it.
    """

    def __call__(self, shape: Sequence[int], dtype: tf.DType | None = None, **kwargs: object) -> tf.Tensor:
        """Makes the kernel."""
        inputs, width = shape
        if inputs % width:
            return tf_keras.initializers.GlorotUniform()(shape, dtype)
        return tf.tile(tf.eye(width, dtype=dtype or tf.float32), [inputs // width, 1]) * (width / inputs)


HistoryEncoder = Callable[[History], tf.Tensor]
"""From a history to [B, any width] float32, which a linear layer brings to the tower's width.

Where more than one position is wanted, to [B, positions, any width], and to [B, 1, any width] unless it is trained.
Where states are wanted, to [B, places, any width]: that of place t is of the item there and of what came before it.
"""


def input_tensors(specs: Iterable[InputSpec]) -> Tensors:
    """A symbolic Keras input for each input of a tower."""
    return {
        spec.name: tf_keras.Input(
            shape=() if spec.length is None else (spec.length,), dtype=spec.dtype.__name__, name=spec.name
        )
        for spec in specs
    }


def embedding_tables(specs: Iterable[InputSpec], *, width: int) -> Tables:
    """The table of each input that is looked up, by the input's name: ids start at zero, the rest at random.

    A history has none: it shares that of the items' ids.
    """

    def initial(spec: InputSpec) -> tf_keras.initializers.Initializer:
        return tf_keras.initializers.Zeros() if spec.kind == "id" else tf_keras.initializers.RandomNormal(stddev=0.05)

    return {
        spec.name: tf_keras.layers.Embedding(
            spec.num_rows, width, embeddings_initializer=initial(spec), name=f"{spec.name}_table"
        )
        for spec in specs
        if spec.kind in ("id", "categorical", "categories", "text", "cells")
    }


def projections(specs: Iterable[InputSpec], *, width: int) -> dict[str, tf_keras.layers.Dense]:
    """The linear layer of each input that is a vector, by the input's name.

    A row without a vector has zeros and a last 1, so that the layer's last row is the vector of what is missing.
    """
    return {
        spec.name: tf_keras.layers.Dense(width, use_bias=False, name=f"{spec.name}_projection")
        for spec in specs
        if spec.kind == "vector"
    }


def feature_vectors(
    specs: Iterable[InputSpec],
    tensors: Tensors,
    *,
    width: int,
    tables: Mapping[str, tf_keras.layers.Layer],
    encode_history: Callable[[tf.Tensor], tf.Tensor] | None = None,
    id_dropout: Mapping[str, BucketDropout] | None = None,
) -> list[tf.Tensor]:
    """One [B, D] vector for each feature.

    Args:
        specs: The tower's inputs.
        tensors: The symbolic inputs by name.
        width: D.
        tables: What `embedding_tables` and `projections` made of the tower's inputs.
        encode_history: From the rows of the items' table that a history is looked up at, [B, T], to its vector [B, any
            width], or to those of several positions, [B, positions, any width]; needed by a tower that has one.
        id_dropout: By input, what ids pass before they are looked up; None passes them as they are.

    Returns:
        A list of [B, D] float32; nothing for shares, which only a counterpart feature reads. Of a history, [B,
        positions, D] where it is encoded at several.

    Raises:
        ValueError: There is a history, but no encoder of it.
    """

    def ids_of(name: str) -> tf.Tensor:
        dropout = (id_dropout or {}).get(name)
        return tensors[name] if dropout is None else dropout(tensors[name])

    def of_id(spec: InputSpec) -> tf.Tensor:
        return tables[spec.name](ids_of(spec.name))

    def of_one(spec: InputSpec) -> tf.Tensor:
        return tables[spec.name](tensors[spec.name])

    def of_several(spec: InputSpec) -> tf.Tensor:
        rows = tensors[spec.name]
        weights = tf.cast(rows > 0, tf.float32)
        if spec.weights is not None:
            weights *= tensors[spec.weights]
        total = PooledLookup(tables[spec.name], name=f"{spec.name}_sum")((rows, weights[:, None, :]))[:, 0, :]
        return total / (tf.reduce_sum(weights, axis=1, keepdims=True) + SMALLEST_WEIGHT)

    def of_cells(spec: InputSpec) -> tf.Tensor:
        return tf.reduce_sum(tables[spec.name](tensors[spec.name]), axis=1)

    def of_numbers(spec: InputSpec) -> tf.Tensor:
        return tf_keras.layers.Dense(width, use_bias=False, name=f"{spec.name}_weights")(tensors[spec.name])

    def of_history(spec: InputSpec) -> tf.Tensor:
        if encode_history is None:
            raise ValueError(f"input {spec.name!r} is a history; pass encode_history")
        encoded = encode_history(ids_of(HISTORY))
        kernel = SideBySideIdentities()
        name = f"{spec.name}_weights"
        return tf_keras.layers.Dense(width, use_bias=False, kernel_initializer=kernel, name=name)(encoded)

    of_kind: dict[str, Callable[[InputSpec], tf.Tensor]] = {
        "id": of_id,
        "categorical": of_one,
        "categories": of_several,
        "text": of_several,
        "vector": of_one,
        "cells": of_cells,
        "numeric": of_numbers,
        "history": of_history,
    }
    return [of_kind[spec.kind](spec) for spec in specs if spec.kind in of_kind and spec.length != 0]
