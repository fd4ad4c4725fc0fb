"""Interests of a user: several vectors by attention over the history, each of which looks for another kind of item.

    score(user, item) = max_k <u_k, v>

Shape letters: B rows, T history length, D vector width, K interests.

Source: Cen et al. (ComiRec), KDD 2020, section 3.2 (self-attentive interests); the maximum over vectors of a query,
Luan et al. (ME-BERT), TACL 2021.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf
import tf_keras

INTERESTS = "interests"
"""Name of all vectors of a user, [B, K, D], among what the terms of the loss read."""
# The logit of a place that is not there.
NOT_THERE = -1e9
HOURS = 24.0


class InterestAttention(tf_keras.layers.Layer):  # type: ignore[misc]
    """Reads a history with learned queries, each of which looks for another interest.

        share_kt = softmax_t( <query_k + W_k u, key x_t> / sqrt(D) - fade_k log(1 + hours of age_t) )
        interest_k = sum_t share_kt value x_t

    The user's own vector is one more place to look at, so that a user without a history gets that back.

    Args:
        num_tokens: Queries (K).
        inside_tower: Whether places are vectors of any length, as inside a tower: keys are then of length one, as those
            of finished vectors are, and the user's own vector is looked at only where there is no history. So a history
            of one item has one interest.
    """

    def __init__(self, num_tokens: int, *, inside_tower: bool = False, **kwargs: object) -> None:
        """Takes the number of queries."""
        super().__init__(**kwargs)
        self.num_tokens, self.inside_tower = num_tokens, inside_tower

    def build(self, shapes: Sequence[tf.TensorShape]) -> None:
        """Makes queries, the maps to keys and values, and how fast each query forgets where ages are given."""
        width = shapes[0][-1]
        normal = tf_keras.initializers.RandomNormal(stddev=1.0)
        # Vectors of length one differ by less than one over sqrt(D) in a coordinate: keys that much longer.
        key = tf_keras.initializers.Identity(gain=4.0)
        self.queries = self.add_weight("queries", (self.num_tokens, width), initializer=normal)
        self.own = self.add_weight("own", (width, self.num_tokens * width), initializer="zeros")
        self.key = self.add_weight("key", (width, width), initializer=key)
        self.value = self.add_weight("value", (width, width), initializer=tf_keras.initializers.Identity())
        self.fades = None
        if len(shapes) > 3:
            self.fades = self.add_weight("fades", (self.num_tokens,), initializer="zeros")

    def call(self, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        """Reads.

        Args:
            inputs: user [B, D], vectors of the items in the history [B, T, D], their rows [B, T] int32, 0 where padded,
                and, where they fade, their ages in days [B, T] float32.

        Returns:
            [B, K, D] float32.
        """
        user, items, rows, *ages = inputs
        width = user.shape[-1]
        places = tf.concat([user[:, None, :], items], axis=1)
        absent = tf.cast(tf.equal(rows, 0), tf.float32)
        own = 1.0 - tf.reduce_min(absent, axis=1, keepdims=True) if self.inside_tower else tf.zeros_like(absent[:, :1])
        absent = tf.concat([own, absent], axis=1)
        keys = tf.math.l2_normalize(places, axis=-1) if self.inside_tower else places
        queries = self.queries + tf.reshape(tf.matmul(user, self.own), [-1, self.num_tokens, width])
        # Queries through the map instead of all places: K rows against T.
        logits = tf.matmul(tf.matmul(queries, self.key, transpose_b=True), keys, transpose_b=True) / width**0.5
        if self.fades is not None:
            faded = tf.math.log(1.0 + HOURS * tf.pad(ages[0], [[0, 0], [1, 0]]))
            logits -= self.fades[None, :, None] * faded[:, None, :]
        shares = tf.nn.softmax(logits + NOT_THERE * absent[:, None, :], axis=-1)
        return tf.matmul(tf.matmul(shares, places), self.value)

    def get_config(self) -> dict[str, object]:
        """Arguments that make the same layer again."""
        return {**super().get_config(), "num_tokens": self.num_tokens, "inside_tower": self.inside_tower}


class SideBySide(tf_keras.layers.Layer):  # type: ignore[misc]
    """Several vectors of a row one after the other: [B, K, D] -> [B, K D]."""

    def call(self, vectors: tf.Tensor) -> tf.Tensor:
        """Joins."""
        return tf.reshape(vectors, [-1, vectors.shape[1] * vectors.shape[2]])
