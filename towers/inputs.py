"""How does each input of a tower become a vector? One [B, D] vector per feature, whatever its kind.

Summing them is the same as concatenating all features in front of one linear layer, but a feature can be read or left
out alone. Shape letters: B rows, T history length, L trigrams, D vector width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tf_keras

from features.encoding import HISTORY, HISTORY_AGE
from features.kinds import InputSpec
from towers.pooled_lookup import PooledLookup

Tensors = dict[str, tf.Tensor]
Tables = dict[str, tf_keras.layers.Embedding]


class HistoryWeights(tf_keras.layers.Layer):  # type: ignore[misc]
    """What each item that a user has met counts in the weighted mean of their vectors.

        share_t = w_t / (sum_t w_t + eps)^power,   w_t = [item t is known] exp(-age_t / decay_days)

    A power of 1 is the mean; below 1 a longer history gives a longer vector, which weighs more beside other features.

    Args:
        decay_days: Time after which an item counts 1/e; None counts all alike.
        power: Exponent of the total weight.

    Source: Covington et al., RecSys 2016, section 3.2 (mean of watched items).
    """

    def __init__(self, *, decay_days: float | None, power: float, **kwargs: object) -> None:
        """Takes the shape of the weights."""
        super().__init__(**kwargs)
        self.decay_days = decay_days
        self.power = power

    def call(self, inputs: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        """Weighs items.

        Args:
            inputs: rows [B, T] int32 (0 is padding), age_days [B, T] float32.

        Returns:
            [B, T] float32, zeros where padded.
        """
        rows, age_days = inputs
        weights = tf.cast(rows > 0, age_days.dtype)
        if self.decay_days is not None:
            weights *= tf.exp(-age_days / self.decay_days)
        return weights / tf.pow(tf.reduce_sum(weights, axis=1, keepdims=True) + 1e-3, self.power)

    def get_config(self) -> dict[str, object]:
        """Arguments that make the same layer again."""
        return {**super().get_config(), "decay_days": self.decay_days, "power": self.power}


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

    def call(self, rows: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Replaces some rows.

        Args:
            rows: [B] or [B, T] int32.
            training: Whether any are replaced.

        Returns:
            The same shape.
        """
        if not training:
            return rows
        last = len(self.bucket_of_row) - 1
        bucket = tf.gather(tf.constant(self.bucket_of_row), tf.minimum(rows, last))
        replaced = (tf.random.uniform(tf.shape(rows)) < self.rate) & (rows <= last)
        return tf.where(replaced, bucket, rows)

    def get_config(self) -> dict[str, object]:
        """Arguments that make the same layer again."""
        return {**super().get_config(), "rate": self.rate, "bucket_of_row": self.bucket_of_row.tolist()}


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
        if spec.kind in ("id", "categorical", "text")
    }


def feature_vectors(
    specs: Iterable[InputSpec],
    tensors: Tensors,
    *,
    width: int,
    tables: Mapping[str, tf_keras.layers.Embedding],
    history_table: tf_keras.layers.Embedding | None = None,
    pooling: HistoryWeights | None = None,
    id_dropout: Mapping[str, BucketDropout] | None = None,
) -> list[tf.Tensor]:
    """One [B, D] vector for each feature.

    Args:
        specs: The tower's inputs.
        tensors: The symbolic inputs by name.
        width: D.
        tables: What `embedding_tables` made of the tower's inputs.
        history_table: Table of the items in the history; needed by a tower that has one.
        pooling: How a history becomes one vector; needed likewise.
        id_dropout: By input, what ids pass before they are looked up; None passes them as they are.

    Returns:
        A list of [B, D] float32; nothing for shares, which only a counterpart feature reads.

    Raises:
        ValueError: There is a history, but no table or pooling for it.
    """

    def ids_of(name: str) -> tf.Tensor:
        dropout = (id_dropout or {}).get(name)
        return tensors[name] if dropout is None else dropout(tensors[name])

    def of_id(spec: InputSpec) -> tf.Tensor:
        return tables[spec.name](ids_of(spec.name))

    def of_category(spec: InputSpec) -> tf.Tensor:
        return tables[spec.name](tensors[spec.name])

    def of_text(spec: InputSpec) -> tf.Tensor:
        buckets = tensors[spec.name]
        known = tf.cast(buckets > 0, tf.float32)
        total = PooledLookup(tables[spec.name], name=f"{spec.name}_sum")((buckets, known))
        return total / (tf.reduce_sum(known, axis=1, keepdims=True) + 1e-3)

    def of_numbers(spec: InputSpec) -> tf.Tensor:
        return tf_keras.layers.Dense(width, use_bias=False, name=f"{spec.name}_weights")(tensors[spec.name])

    def of_history(spec: InputSpec) -> tf.Tensor:
        if history_table is None or pooling is None:
            raise ValueError(f"input {spec.name!r} is a history; pass the table of its items and a pooling")
        weights = pooling((tensors[HISTORY], tensors[HISTORY_AGE]))
        pooled = PooledLookup(history_table, name=f"{spec.name}_sum")((ids_of(HISTORY), weights))
        return tf_keras.layers.Dense(width, use_bias=False, name=f"{spec.name}_weights")(pooled)

    of_kind: dict[str, Callable[[InputSpec], tf.Tensor]] = {
        "id": of_id,
        "categorical": of_category,
        "text": of_text,
        "numeric": of_numbers,
        "history": of_history,
    }
    return [of_kind[spec.kind](spec) for spec in specs if spec.kind in of_kind and spec.length != 0]
