"""Tokenizers: several vectors of a user by heads and attention over the history, and of an item by heads.

    user:  token_k = unit( u + head_k(u) ),   token_k = unit( u + attention_k(u, vectors of the history) )
    item:  token_k = unit( v + head_k(v) )

u and v are the vectors of a fitted two-tower model, which stays as it is. All first heads begin at zero, so that the
first tokens begin as u and v.

Shape letters: B rows, T history length, D vector width, K_u tokens of a user, K_c tokens of an item.

Source: Su et al. (SparCode), SIGIR 2023, section 3.2; attention for several interests, Cen et al. (ComiRec), KDD 2020.
Departs from them: tokens start at a fitted two-tower model, the backbone that SparCode is compared with.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tf_keras

from features.encoding import HISTORY
from towers.two_tower import TwoTower, UnitLength, inputs_of

Floats = npt.NDArray[np.float32]
# The logit of a place that is not there.
NOT_THERE = -1e9


class InterestAttention(tf_keras.layers.Layer):  # type: ignore[misc]
    """Reads a history with learned queries, each of which looks for another interest.

        share_kt = softmax_t( <query_k + W_k u, key x_t> / sqrt(D) ),   interest_k = sum_t share_kt value x_t

    The user's own vector is one more place to look at, so that a user without a history gets that back.

    Args:
        num_tokens: Queries (K).
    """

    def __init__(self, num_tokens: int, **kwargs: object) -> None:
        """Takes the number of queries."""
        super().__init__(**kwargs)
        self.num_tokens = num_tokens

    def build(self, shapes: tuple[tf.TensorShape, ...]) -> None:
        """Makes queries, and the maps to keys and values."""
        width = shapes[0][-1]
        normal = tf_keras.initializers.RandomNormal(stddev=1.0)
        # Vectors of length one differ by less than one over sqrt(D) in a coordinate: keys that much longer.
        key = tf_keras.initializers.Identity(gain=4.0)
        self.queries = self.add_weight("queries", (self.num_tokens, width), initializer=normal)
        self.own = self.add_weight("own", (width, self.num_tokens * width), initializer="zeros")
        self.key = self.add_weight("key", (width, width), initializer=key)
        self.value = self.add_weight("value", (width, width), initializer=tf_keras.initializers.Identity())

    def call(self, inputs: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> tf.Tensor:
        """Reads.

        Args:
            inputs: user [B, D], vectors of the items in the history [B, T, D], their rows [B, T] int32, 0 where padded.

        Returns:
            [B, K, D] float32.
        """
        user, items, rows = inputs
        width = user.shape[-1]
        places = tf.concat([user[:, None, :], items], axis=1)
        absent = tf.concat([tf.zeros_like(rows[:, :1], tf.float32), tf.cast(tf.equal(rows, 0), tf.float32)], axis=1)
        queries = self.queries + tf.reshape(tf.matmul(user, self.own), [-1, self.num_tokens, width])
        # Queries through the map instead of all places: K rows against T.
        logits = tf.matmul(tf.matmul(queries, self.key, transpose_b=True), places, transpose_b=True) / width**0.5
        shares = tf.nn.softmax(logits + NOT_THERE * absent[:, None, :], axis=-1)
        return tf.matmul(tf.matmul(shares, places), self.value)

    def get_config(self) -> dict[str, object]:
        """Arguments that make the same layer again."""
        return {**super().get_config(), "num_tokens": self.num_tokens}


def tokenizers(
    backbone: TwoTower,
    item_vectors: Floats,
    *,
    num_head_tokens: int,
    num_interest_tokens: int,
    num_item_tokens: int,
    width: int,
) -> tuple[tf_keras.Model, tf_keras.Model]:
    """The tokenizers of users and of items, over a two-tower model that is not trained on.

    Args:
        backbone: Gives u and v; its weights are frozen, in place.
        item_vectors: [rows of the item table, D'] float32, v of the items that a history may hold; zeros where unknown.
        num_head_tokens: Tokens of a user made by heads over u, at least 1.
        num_interest_tokens: Tokens of a user made by attention over the history.
        num_item_tokens: K_c, at least 1.
        width: D, at least D'; what is missing is filled with zeros.

    Returns:
        Models with the inputs of the towers: [B, K_u D] and [B, K_c D] float32, tokens side by side.
    """
    user_inputs, item_inputs = inputs_of(backbone.user), inputs_of(backbone.item)
    backbone.user.trainable = backbone.item.trainable = False
    user, item = (_padded(tower.output, width, name) for tower, name in ((backbone.user, "u"), (backbone.item, "v")))
    tokens = [_head(user, f"user_token_{number}", is_first=True) for number in range(num_head_tokens)]
    if num_interest_tokens:
        filled = np.pad(item_vectors, ((0, 0), (0, width - item_vectors.shape[1])))
        table = tf_keras.layers.Embedding(
            *filled.shape,
            embeddings_initializer=tf_keras.initializers.Constant(filled),
            trainable=False,
            name="history_vectors",
        )
        rows = user_inputs[HISTORY]
        attention = InterestAttention(num_interest_tokens, name="interests")
        interests = attention((user, table(rows), rows))
        near = tf_keras.layers.Add(name="near_user")(
            [tf_keras.layers.Reshape((1, width), name="u_row")(user), interests]
        )
        near = UnitLength(name="interest_tokens")(near)
        tokens.append(tf_keras.layers.Reshape((num_interest_tokens * width,), name="interests_flat")(near))
    of_item = [_head(item, f"item_token_{number}", is_first=number == 0) for number in range(num_item_tokens)]
    return (
        tf_keras.Model(user_inputs, _joined(tokens, "user_tokens"), name="user_tokenizer"),
        tf_keras.Model(item_inputs, _joined(of_item, "item_tokens"), name="item_tokenizer"),
    )


def _padded(vectors: tf.Tensor, width: int, name: str) -> tf.Tensor:
    missing = width - vectors.shape[-1]
    if not missing:
        return vectors
    return tf_keras.layers.Lambda(lambda x: tf.pad(x, [[0, 0], [0, missing]]), name=f"{name}_padded")(vectors)


def _head(vectors: tf.Tensor, name: str, *, is_first: bool) -> tf.Tensor:
    width = vectors.shape[-1]
    hidden = tf_keras.layers.Dense(width, activation="relu", name=f"{name}_hidden")(vectors)
    last = tf_keras.layers.Dense(
        width, kernel_initializer="zeros" if is_first else "glorot_uniform", name=f"{name}_correction"
    )
    moved = tf_keras.layers.Add(name=f"{name}_sum")([vectors, last(hidden)])
    return UnitLength(name=name)(moved)


def _joined(tokens: list[tf.Tensor], name: str) -> tf.Tensor:
    return tokens[0] if len(tokens) == 1 else tf_keras.layers.Concatenate(name=name)(tokens)
