"""How does each input of a tower become a vector? One [B, D] vector per feature, whatever its kind.

Summing them is the same as concatenating all features in front of one linear layer, but a feature can be read or left
out alone. Shape letters: B rows, T history length, L trigrams, D vector width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import tensorflow as tf
import tf_keras

from features.encoding import HISTORY, HISTORY_AGE, InputSpec

Tensors = dict[str, tf.Tensor]


class HistoryPooling(tf_keras.layers.Layer):  # type: ignore[misc]
    """Weighted mean of the vectors of the items that a user has met.

        pooled = sum_t w_t e_t / (sum_t w_t + eps)^power,   w_t = [item t is known] exp(-age_t / decay_days)

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

    def call(self, inputs: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> tf.Tensor:
        """Pools item vectors.

        Args:
            inputs: vectors [B, T, D] float32, rows [B, T] int32 (0 is padding), age_days [B, T] float32.

        Returns:
            [B, D] float32, zeros for an empty history.
        """
        vectors, rows, age_days = inputs
        weights = tf.cast(rows > 0, vectors.dtype)
        if self.decay_days is not None:
            weights *= tf.exp(-age_days / self.decay_days)
        total = tf.reduce_sum(weights, axis=1, keepdims=True)
        return tf.squeeze(tf.matmul(weights[:, None, :], vectors), axis=1) / tf.pow(total + 1e-3, self.power)

    def get_config(self) -> dict[str, object]:
        """Arguments that make the same layer again."""
        return {**super().get_config(), "decay_days": self.decay_days, "power": self.power}


def input_tensors(specs: Iterable[InputSpec]) -> Tensors:
    """A symbolic Keras input for each input of a tower."""
    return {
        spec.name: tf_keras.Input(
            shape=() if spec.length is None else (spec.length,), dtype=spec.dtype.__name__, name=spec.name
        )
        for spec in specs
    }


def feature_vectors(
    specs: Iterable[InputSpec],
    tensors: Tensors,
    *,
    width: int,
    id_table: tf_keras.layers.Embedding,
    history_table: tf_keras.layers.Embedding | None = None,
    pooling: HistoryPooling | None = None,
) -> list[tf.Tensor]:
    """One [B, D] vector for each feature.

    Args:
        specs: The tower's inputs.
        tensors: The symbolic inputs by name.
        width: D.
        id_table: Table of the tower's own id.
        history_table: Table of the items in the history; needed by a tower that has one.
        pooling: How a history becomes one vector; needed likewise.

    Returns:
        A list of [B, D] float32.
    """

    def of_id(spec: InputSpec) -> tf.Tensor:
        return id_table(tensors[spec.name])

    def of_category(spec: InputSpec) -> tf.Tensor:
        return _table(spec, width)(tensors[spec.name])

    def of_text(spec: InputSpec) -> tf.Tensor:
        buckets = tensors[spec.name]
        known = tf.cast(buckets > 0, tf.float32)
        total = tf.matmul(known[:, None, :], _table(spec, width)(buckets))
        return tf.squeeze(total, axis=1) / (tf.reduce_sum(known, axis=1, keepdims=True) + 1e-3)

    def of_numbers(spec: InputSpec) -> tf.Tensor:
        return tf_keras.layers.Dense(width, use_bias=False, name=f"{spec.name}_weights")(tensors[spec.name])

    def of_history(spec: InputSpec) -> tf.Tensor:
        if history_table is None or pooling is None:
            raise ValueError(f"input {spec.name!r} is a history; pass the table of its items and a pooling")
        pooled = pooling((history_table(tensors[HISTORY]), tensors[HISTORY], tensors[HISTORY_AGE]))
        return tf_keras.layers.Dense(width, use_bias=False, name=f"{spec.name}_weights")(pooled)

    of_kind: dict[str, Callable[[InputSpec], tf.Tensor]] = {
        "id": of_id,
        "categorical": of_category,
        "text": of_text,
        "numeric": of_numbers,
        "history": of_history,
    }
    return [of_kind[spec.kind](spec) for spec in specs if spec.kind in of_kind and spec.length != 0]


def _table(spec: InputSpec, width: int) -> tf_keras.layers.Embedding:
    initial = tf_keras.initializers.RandomNormal(stddev=0.05)
    return tf_keras.layers.Embedding(spec.num_rows, width, embeddings_initializer=initial, name=f"{spec.name}_table")
