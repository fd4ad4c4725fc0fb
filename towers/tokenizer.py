"""Tokenizers: several vectors of a user by heads and attention over the history, and of an item by heads.

    user:  token_k = unit( u + head_k(u) ),   token_k = unit( u + attention_k(u, vectors of the history) )
    item:  token_k = unit( v + head_k(v) )

u and v are the vectors of a fitted two-tower model, which stays as it is. All first heads begin at zero, so that the
first tokens begin as u and v. A user of several interests has a first token for each, and u is their mean elsewhere.

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
from towers.interests import InterestAttention
from towers.two_tower import TwoTower, UnitLength, inputs_of

Floats = npt.NDArray[np.float32]


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
        num_head_tokens: Tokens of a user made by heads over u, at least 1; one for each interest where these are more.
        num_interest_tokens: Tokens of a user made by attention over the history.
        num_item_tokens: K_c, at least 1.
        width: D, at least D'; what is missing is filled with zeros.

    Returns:
        Models with the inputs of the towers: [B, K_u D] and [B, K_c D] float32, tokens side by side.
    """
    user_inputs, item_inputs = inputs_of(backbone.user), inputs_of(backbone.item)
    backbone.user.trainable = backbone.item.trainable = False
    item = _padded(backbone.item.output, width, "v")
    num_interests = backbone.user.output.shape[-1] // backbone.item.output.shape[-1]
    of_user = _apart(backbone.user.output, num_interests, width)
    user = of_user[0] if num_interests == 1 else tf_keras.layers.Average(name="u_mean")(of_user)
    tokens = [
        _head(of_user[number % num_interests], f"user_token_{number}", is_first=True)
        for number in range(max(num_head_tokens, num_interests))
    ]
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


def _apart(flat: tf.Tensor, num: int, width: int) -> list[tf.Tensor]:
    """Vectors that are side by side: [B, K D'] -> K of [B, D]."""
    if num == 1:
        return [_padded(flat, width, "u")]
    rows = tf_keras.layers.Reshape((num, flat.shape[-1] // num), name="u_rows")(flat)
    return [_padded(rows[:, number], width, f"u_{number}") for number in range(num)]


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
