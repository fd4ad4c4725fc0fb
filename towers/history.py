"""History encoders: how the items that a user has met become one vector of the user tower.

An encoder is made of plain values, and turns a history into a vector when the user tower is built. Another one is a
file of its own and an entry of `HISTORY_ENCODERS`; `towers.history_encoder` in the configuration names it.

Shape letters: B rows, T history length, D vector width, K means.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf
import tf_keras

from features.encoding import HISTORY
from towers.inputs import History, HistoryEncoder, seeded_generator


def weighted_means(*, decay_days: Sequence[float | None], power: float, dropout: float = 0.0) -> HistoryEncoder:
    """Weighted means of the items' vectors, side by side: one for each speed at which the past fades.

    Args:
        decay_days: K speeds, see `HistoryWeights`.
        power: See `HistoryWeights`.
        dropout: See `HistoryWeights`.
    """

    def encode(history: History) -> tf.Tensor:
        layer = HistoryWeights(decay_days=decay_days, power=power, dropout=dropout, name="history_pooling")
        sums = history.weighted_sums(layer((history.items, history.age_days)))
        return tf_keras.layers.Flatten(name=f"{HISTORY}_means")(sums)

    return encode


HISTORY_ENCODERS: dict[str, Callable[..., HistoryEncoder]] = {"mean": weighted_means}
"""What `towers.history_encoder` names; an encoder's arguments are values of the configuration."""


class HistoryWeights(tf_keras.layers.Layer):  # type: ignore[misc]
    """What each item that a user has met counts in each of K weighted means of their vectors.

        share_kt = w_kt / (sum_t w_kt + eps)^power,   w_kt = [item t is known] exp(-age_t / decay_days_k)

    A power of 1 is the mean; below 1 a longer history gives a longer vector, which weighs more than other features.

    Args:
        decay_days: K times after which an item counts 1/e; None counts all alike.
        power: Exponent of the total weight.
        dropout: Share of the items that are left out at random, only while training, so that a user is not recognised
            by a single item.

    Source: Covington et al., RecSys 2016, section 3.2 (mean of watched items); dropout of the history, Liang et al.
        (Mult-VAE), WWW 2018, section 2.2. Several speeds are ours.
    """

    def __init__(
        self, *, decay_days: Sequence[float | None], power: float, dropout: float = 0.0, **kwargs: object
    ) -> None:
        """Takes the shape of the weights."""
        super().__init__(**kwargs)
        self.decay_days = tuple(decay_days)
        self.power, self.dropout = power, dropout
        self._random = seeded_generator() if dropout > 0 else None

    def call(self, inputs: tuple[tf.Tensor, tf.Tensor], training: bool | None = None) -> tf.Tensor:
        """Weighs items.

        Args:
            inputs: rows [B, T] int32 (0 is padding), age_days [B, T] float32.
            training: Whether items are left out.

        Returns:
            [B, K, T] float32, zeros where padded.
        """
        rows, age_days = inputs
        known = tf.cast(rows > 0, age_days.dtype)
        if training and self._random is not None:
            known *= tf.cast(self._random.uniform(tf.shape(known)) >= self.dropout, age_days.dtype)
        weights = tf.stack(
            [known if days is None else known * tf.exp(-age_days / days) for days in self.decay_days], axis=1
        )
        return weights / tf.pow(tf.reduce_sum(weights, axis=2, keepdims=True) + 1e-3, self.power)

    def get_config(self) -> dict[str, object]:
        """Arguments that make the same layer again."""
        own = {"decay_days": self.decay_days, "power": self.power, "dropout": self.dropout}
        return {**super().get_config(), **own}
