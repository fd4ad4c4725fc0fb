"""Co-purchase factors next to the learned vectors: a second model, concatenated into the same index.

    <u, v> ~ cos(learned user, learned item) + g <direction of the weighted factors of the history, factors of the item>

The learned towers are fitted alone: fitted together, they lean on factors that know the examples already.

Both sides end up with vectors of length one: an item's missing length sqrt(1 - |f|^2) goes into one more coordinate,
where every user has 0, so that lengths keep their meaning in a plain inner-product index.

Shape letters: B rows, T history length, F factors, D width of the learned vectors.

Source: weighted concatenation into one index, Huang et al. (EBR), KDD 2020, section 6.2.1; the extra coordinate,
Bachrach et al., RecSys 2014.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tf_keras

from features.columns import ITEM_ID
from features.encoding import HISTORY
from towers.two_tower import TwoTower


@dataclass(frozen=True)
class ItemFactors:
    """Factors of every item row.

    Attributes:
        own: [num item rows, F] float32, rows of length at most one; zeros for an item without factors.
        weights: [num item rows] float32, how much an item counts in the sum of a history.
    """

    own: npt.NDArray[np.float32]
    weights: npt.NDArray[np.float32]


def fixed_table(values: npt.NDArray[np.float32], *, name: str) -> tf_keras.layers.Embedding:
    """A table that training leaves alone: rows -> [..., F]."""
    initial = tf_keras.initializers.Constant(values)
    return tf_keras.layers.Embedding(*values.shape, embeddings_initializer=initial, trainable=False, name=name)


class WithHistoryFactors(tf_keras.layers.Layer):  # type: ignore[misc]
    """Appends the factors of a user's history to the learned vector, or to each of several side by side.

    Args:
        weight: g, what the factors count compared with the learned vector.
        num_interests: Learned vectors of a user (K).
    """

    def __init__(self, *, weight: float, num_interests: int = 1, **kwargs: object) -> None:
        """Takes the weight."""
        super().__init__(**kwargs)
        self.weight, self.num_interests = weight, num_interests

    def call(self, inputs: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        """Joins the two.

        Args:
            inputs: learned [B, K D], weighted factors of the items in the history [B, T, F], zeros where padded.

        Returns:
            [B, K (D + F + 1)], vectors of length one.
        """
        learned, factors = inputs
        taste = tf.math.l2_normalize(tf.reduce_sum(factors, axis=1), axis=-1)
        num = self.num_interests
        if num > 1:
            learned = tf.reshape(learned, [-1, num, learned.shape[1] // num])
            joined = self._joined(learned, tf.tile(taste[:, None], [1, num, 1]))
            return tf.reshape(joined, [-1, num * joined.shape[2]])
        return self._joined(learned, taste)

    def _joined(self, learned: tf.Tensor, taste: tf.Tensor) -> tf.Tensor:
        parts = [tf.math.l2_normalize(learned, axis=-1), self.weight * taste, 0.0 * learned[..., :1]]
        joined = tf.concat(parts, axis=-1)
        return tf.math.l2_normalize(joined, axis=-1)

    def get_config(self) -> dict[str, object]:
        """Arguments that make the same layer again."""
        return {**super().get_config(), "weight": self.weight, "num_interests": self.num_interests}


class WithOwnFactors(tf_keras.layers.Layer):  # type: ignore[misc]
    """Appends an item's own factors and their missing length to the learned vector."""

    def call(self, inputs: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        """Joins the two.

        Args:
            inputs: learned [B, D], factors [B, F] of length at most one.

        Returns:
            [B, D + F + 1] of length one.
        """
        learned, factors = inputs
        missing = tf.sqrt(tf.nn.relu(1.0 - tf.reduce_sum(tf.square(factors), axis=-1, keepdims=True)))
        joined = tf.concat([tf.math.l2_normalize(learned, axis=-1), factors, missing], axis=-1)
        return tf.math.l2_normalize(joined, axis=-1)


def with_factors(towers: TwoTower, factors: ItemFactors, *, weight: float) -> TwoTower:
    """Both towers with the factors appended.

    Args:
        towers: The learned pair, width D; its users may have several vectors side by side.
        factors: Of every item row; row 0, the unknown item, is zero.
        weight: g, what the factors count compared with the learned vectors.

    Returns:
        A pair of width D + F + 1, of each of a user's vectors, with the same inputs.
    """
    own = fixed_table(factors.own, name="factors")
    weights = fixed_table(factors.weights[:, None], name="factor_weights")
    user_inputs = {tensor.name: tensor for tensor in towers.user.inputs}
    item_inputs = {tensor.name: tensor for tensor in towers.item.inputs}
    num_interests = towers.user.output.shape[-1] // towers.item.output.shape[-1]
    join = WithHistoryFactors(weight=weight, num_interests=num_interests, name="user_ensemble")
    history = user_inputs[HISTORY]
    weighted = tf_keras.layers.Multiply(name="weighted_factors")([own(history), weights(history)])
    user = join((towers.user.output, weighted))
    item = WithOwnFactors(name="item_ensemble")((towers.item.output, own(item_inputs[ITEM_ID])))
    return TwoTower(
        user=tf_keras.Model(user_inputs, user, name="user_tower"),
        item=tf_keras.Model(item_inputs, item, name="item_tower"),
    )
