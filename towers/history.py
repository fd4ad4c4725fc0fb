"""History encoders: how the items that a user has met become one vector of the user tower.

An encoder is made of plain values, and turns a history into a vector when the user tower is built. Another one is a
file of its own and an entry of `HISTORY_ENCODERS`; `towers.history_encoder` in the configuration names it.

Shape letters: B rows, T history length, P positions, D vector width, K means.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeGuard

import tensorflow as tf
import tf_keras

from features.encoding import HISTORY
from towers.history_attention import SeedAttention, SelfAttention
from towers.history_gru import GatedRecurrentUnit
from towers.history_positions import ages_at, place_vectors, visible
from towers.inputs import History, HistoryEncoder


def weighted_means(*, decay_days: Sequence[float | None], power: float) -> HistoryEncoder:
    """Weighted means of the items' vectors, side by side: one for each speed at which the past fades.

    Where states are wanted, they are the items' vectors themselves.

    Args:
        decay_days: K speeds, see `HistoryWeights`.
        power: See `HistoryWeights`.
    """

    def encode(history: History) -> tf.Tensor:
        if history.wants_states:
            return history.vectors(int(history.items.shape[1]))
        layer = HistoryWeights(
            decay_days=decay_days, power=power, num_positions=history.num_positions, name="history_pooling"
        )
        sums = history.weighted_sums(layer((history.items, history.age_days)))
        if history.num_positions == 1:
            return tf_keras.layers.Flatten(name=f"{HISTORY}_means")(sums)
        return tf_keras.layers.Reshape((-1, len(decay_days) * sums.shape[-1]), name=f"{HISTORY}_means")(sums)

    return encode


def attention(
    *, heads: int = 1, length: int | None = None, means: Sequence[float | None] = (), power: float = 0.5
) -> HistoryEncoder:
    """The latest item's vector and what it attends to, see `towers.history_attention.SeedAttention`.

    Args:
        heads: From 1 to 4.
        length: Latest items that are read; None reads all.
        means: Weighted means of the whole history that are put next to it, as `decay_days` of `weighted_means`.
        power: Of these means.

    Raises:
        ValueError: A value is not one of these.
    """
    _check_whole("heads", heads, most=4)
    _check_means(means, power)

    def layer(num_positions: int, always: bool) -> tf_keras.layers.Layer:
        return SeedAttention(heads=heads, num_positions=num_positions, always=always, name="history_attention")

    return _with_means(layer, length, means, power)


def gru(*, length: int | None = None, means: Sequence[float | None] = (), power: float = 0.5) -> HistoryEncoder:
    """The state of a gated recurrent unit, see `towers.history_gru.GatedRecurrentUnit`; arguments as in `attention`."""
    _check_means(means, power)

    def layer(num_positions: int, always: bool) -> tf_keras.layers.Layer:
        return GatedRecurrentUnit(num_positions=num_positions, always=always, name="history_gru")

    return _with_means(layer, length, means, power)


def self_attention(
    *,
    blocks: int = 2,
    heads: int = 1,
    dropout: float = 0.0,
    length: int | None = None,
    means: Sequence[float | None] = (),
    power: float = 0.5,
) -> HistoryEncoder:
    """Causal blocks of self-attention, see `towers.history_attention.SelfAttention`; other arguments as in `attention`.

    Args:
        blocks: From 1 to 4.
        heads: From 1 to 4.
        dropout: From 0 to below 1.
        length: Latest items that are read; None reads all.
        means: Weighted means of the whole history that are put next to it.
        power: Of these means.

    Raises:
        ValueError: A value is not one of these.
    """
    _check_whole("blocks", blocks, most=4)
    _check_whole("heads", heads, most=4)
    if not _is_number(dropout) or not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout!r}, expected a number from 0 to below 1")
    _check_means(means, power)

    def layer(num_positions: int, always: bool) -> tf_keras.layers.Layer:
        return SelfAttention(
            blocks=blocks, heads=heads, dropout=dropout, num_positions=num_positions, always=always,
            name="history_self_attention",
        )  # fmt: skip

    return _with_means(layer, length, means, power)


HISTORY_ENCODERS: dict[str, Callable[..., HistoryEncoder]] = {
    "mean": weighted_means,
    "attention": attention,
    "gru": gru,
    "self_attention": self_attention,
}
"""What `towers.history_encoder` names; an encoder's arguments are values of the configuration."""


def _with_means(
    layer_of: Callable[[int, bool], tf_keras.layers.Layer],
    length: int | None,
    means: Sequence[float | None],
    power: float,
) -> HistoryEncoder:
    """An encoder of a sequence, with means next to it: short visits and long tastes. States come without means.

    Args:
        layer_of: From a number of positions, and whether all are wanted when serving, to the layer that encodes them.
        length: Latest items that it reads; None reads all.
        means: See `attention`.
        power: See `attention`.
    """
    if length is not None:
        _check_whole("length", length)

    def encode(history: History) -> tf.Tensor:
        vectors, items, ages = place_vectors(history, length)
        if history.wants_states:
            return layer_of(int(items.shape[1]), True)((vectors, items, ages))
        found = layer_of(history.num_positions, False)((vectors, items, ages))
        if history.num_positions == 1:
            found = found[:, 0]
        if not means:
            return found
        pooled = weighted_means(decay_days=means, power=power)(history)
        return tf_keras.layers.Concatenate(name=f"{HISTORY}_encoded")([found, pooled])

    return encode


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_whole(name: str, value: object, *, most: int | None = None) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1 or (most is not None and value > most):
        expected = "of at least 1" if most is None else f"from 1 to {most}"
        raise ValueError(f"{name} is {value!r}, expected a whole number {expected}")


def _check_means(means: object, power: object) -> None:
    listed = means if isinstance(means, tuple | list) else (0,)
    if any(days is not None and not (_is_number(days) and days > 0) for days in listed):
        raise ValueError(f"means is {means!r}, expected a list of days above 0, or null, such as [null, 60, 7]")
    if not _is_number(power) or not 0 <= power <= 1:
        raise ValueError(f"power is {power!r}, expected a number from 0 to 1")


class HistoryWeights(tf_keras.layers.Layer):  # type: ignore[misc]
    """What each item that a user has met counts in each of K weighted means of their vectors.

        share_kt = w_kt / (sum_t w_kt + eps)^power,   w_kt = [item t is known] exp(-age_t / decay_days_k)

    A power of 1 is the mean; below 1 a longer history gives a longer vector, which weighs more than other features.

    Args:
        decay_days: K times after which an item counts 1/e; None counts all alike.
        power: Exponent of the total weight.
        num_positions: P while training, see `towers.history_positions`; otherwise 1.

    Source: Covington et al., RecSys 2016, section 3.2 (mean of watched items). Several speeds are ours.
    """

    def __init__(
        self, *, decay_days: Sequence[float | None], power: float, num_positions: int = 1, **kwargs: object
    ) -> None:
        """Takes the shape of the weights."""
        super().__init__(**kwargs)
        self.decay_days = tuple(decay_days)
        self.power = power
        self.num_positions = num_positions

    def call(self, inputs: tuple[tf.Tensor, tf.Tensor], training: bool | None = None) -> tf.Tensor:
        """Weighs items.

        Args:
            inputs: rows [B, T] int32 (0 is padding), age_days [B, T] float32.
            training: Whether more than position 0 is wanted.

        Returns:
            [B, P K, T] float32, K of each position, zeros where padded or not seen.
        """
        rows, age_days = inputs
        num = self.num_positions if training else 1
        if num == 1:
            known, ages = tf.cast(rows > 0, age_days.dtype), age_days
        else:
            known, ages = visible(rows, num), ages_at(age_days, num)
        weights = tf.stack([known if days is None else known * tf.exp(-ages / days) for days in self.decay_days], -2)
        weights /= tf.pow(tf.reduce_sum(weights, axis=-1, keepdims=True) + 1e-3, self.power)
        return weights if num == 1 else tf.reshape(weights, [-1, num * len(self.decay_days), rows.shape[1]])

    def get_config(self) -> dict[str, object]:
        """Arguments that make the same layer again."""
        shape = {"decay_days": self.decay_days, "power": self.power}
        return {**super().get_config(), **shape, "num_positions": self.num_positions}
