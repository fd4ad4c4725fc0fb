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
from towers.lookups import SMALLEST_WEIGHT, PooledFacts, PooledLookup, PooledVectors, seeded_generator

Tensors = dict[str, tf.Tensor]
Tables = dict[str, tf_keras.layers.Embedding]


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
    id_dropout: Mapping[str, Callable[[tf.Tensor], tf.Tensor]] | None = None,
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
