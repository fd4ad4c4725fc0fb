"""What are the two towers? A user model and an item model whose outputs meet only in an inner product.

Shape letters: B rows, D vector width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tensorflow as tf
import tf_keras

from features.encoding import InputSpec
from towers.inputs import HistoryPooling, feature_vectors, input_tensors


@dataclass(frozen=True)
class TwoTower:
    """A pair of towers; both map a dict of inputs to [B, D] float32 vectors of length one."""

    user: tf_keras.Model
    item: tf_keras.Model


class UnitLength(tf_keras.layers.Layer):  # type: ignore[misc]
    """Scales vectors to length one: [B, D] -> [B, D]."""

    def call(self, vectors: tf.Tensor) -> tf.Tensor:
        """Normalises; a zero vector stays zero."""
        return tf.math.l2_normalize(vectors, axis=-1)


class Bias(tf_keras.layers.Layer):  # type: ignore[misc]
    """Adds a learned vector: where a row without any known feature ends up. [B, D] -> [B, D]."""

    def build(self, shape: tf.TensorShape) -> None:
        """Makes the vector."""
        self.bias = self.add_weight("bias", (shape[-1],), initializer=tf_keras.initializers.RandomNormal(stddev=0.05))

    def call(self, vectors: tf.Tensor) -> tf.Tensor:
        """Adds it."""
        return vectors + self.bias


def build_two_tower(
    user_specs: Sequence[InputSpec],
    item_specs: Sequence[InputSpec],
    *,
    embedding_dim: int,
    hidden_units: Sequence[int] = (),
    history_decay_days: float | None = None,
    history_power: float = 1.0,
) -> TwoTower:
    """Builds both towers.

    The item id table starts at zero, so that an item nobody has bought yet is described by its other features alone; it
    is shared with the user's history. With `hidden_units` a tower adds an MLP's output to the sum of its features.

    Args:
        user_specs: Inputs of the user tower.
        item_specs: Inputs of the item tower.
        embedding_dim: Width of all tables and of the learned vectors (D).
        hidden_units: Width of each hidden layer.
        history_decay_days: Time after which an item in the history counts 1/e; None counts all alike.
        history_power: See `HistoryPooling`.

    Source: Yi et al., RecSys 2019, section 4 (features of the history through the shared id table, L2-normalised).
    """
    item_id = next(spec for spec in item_specs if spec.kind == "id")
    user_id = next(spec for spec in user_specs if spec.kind == "id")
    item_id_table = _id_table(item_id, embedding_dim)
    pooling = HistoryPooling(decay_days=history_decay_days, power=history_power, name="history_pooling")
    user_tensors, item_tensors = input_tensors(user_specs), input_tensors(item_specs)
    user_features = feature_vectors(
        user_specs,
        user_tensors,
        width=embedding_dim,
        id_table=_id_table(user_id, embedding_dim),
        history_table=item_id_table,
        pooling=pooling,
    )
    item_features = feature_vectors(item_specs, item_tensors, width=embedding_dim, id_table=item_id_table)
    user_vectors = _head(user_features, hidden_units, "user")
    item_vectors = _head(item_features, hidden_units, "item")
    return TwoTower(
        user=tf_keras.Model(user_tensors, user_vectors, name="user_tower"),
        item=tf_keras.Model(item_tensors, item_vectors, name="item_tower"),
    )


def _id_table(spec: InputSpec, width: int) -> tf_keras.layers.Embedding:
    return tf_keras.layers.Embedding(spec.num_rows, width, embeddings_initializer="zeros", name=f"{spec.name}_table")


def _head(features: Sequence[tf.Tensor], hidden_units: Sequence[int], tower: str) -> tf.Tensor:
    vectors = Bias(name=f"{tower}_bias")(tf_keras.layers.Add(name=f"{tower}_sum")(list(features)))
    if hidden_units:
        hidden = vectors
        for number, units in enumerate(hidden_units):
            hidden = tf_keras.layers.Dense(units, activation="relu", name=f"{tower}_hidden_{number}")(hidden)
        correction = tf_keras.layers.Dense(vectors.shape[-1], name=f"{tower}_correction")(hidden)
        vectors = tf_keras.layers.Add(name=f"{tower}_corrected")([vectors, correction])
    return UnitLength(name=f"{tower}_vector")(vectors)
