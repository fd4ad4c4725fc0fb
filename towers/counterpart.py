"""Counterpart features (I3): a tower's own guess of the other side's fields, read at its bottom.

The item tower guesses who buys it (age band, segment), the user tower what it buys (category, brand), each from its own
features alone; so both vectors stay precomputable, and the layers above can cross the guess with the features.

Shape letters: B rows, D vector width, V values of a field (row 0, the unknown one, included).

Source: after Dong et al. (I3), CIKM 2023: a side generates its counterpart and interacts with it before pooling.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf
import tf_keras

from towers.lookups import build_table
from towers.two_tower import Addition, Bottom, Part

GENERATED = "generated/"


class SoftEmbedding(tf_keras.layers.Layer):  # type: ignore[misc]
    """Mean of the vectors of a field's values, weighted by how likely each is.

        e = sum_v p_v stop(Emb_v)

    Args:
        table: Emb, the table of the field in the other tower; it learns nothing here.
    """

    def __init__(self, table: tf_keras.layers.Embedding, **kwargs: object) -> None:
        """Takes the table."""
        super().__init__(**kwargs)
        build_table(table)
        self._table = table

    def call(self, shares: tf.Tensor) -> tf.Tensor:
        """Mixes: shares [B, V] float32, of sum one or all zero -> [B, D]."""
        return tf.matmul(shares, tf.stop_gradient(self._table.embeddings))


def generated_fields(fields: Sequence[str]) -> Part:
    """The part of a tower that guesses fields of the other side from its own features.

        logits_f = W_f h + b_f,   e_f = softmax(logits_f) stop(Emb_f)

    Args:
        fields: Categorical inputs of the other tower.

    Returns:
        A part that adds each e_f through a linear layer, and gives `generated/<field>` [B, V], the logits, to the loss.
    """

    def add(bottom: Bottom) -> Addition:
        own = bottom.features[0] if len(bottom.features) == 1 else tf.concat(bottom.features, axis=-1)
        addition = Addition()
        for name in fields:
            table = _table_of(bottom, name)
            logits = tf_keras.layers.Dense(table.input_dim, name=f"{name}_guess")(own)
            addition.features.append(_embedded(tf.nn.softmax(logits), table, bottom.width, name))
            addition.parts[GENERATED + name] = logits
        return addition

    return add


def observed_fields(inputs: dict[str, str]) -> Part:
    """The part of a tower that reads, in the place of a guess, the shares observed among the other side's positives.

    Args:
        inputs: Field of the other tower -> this tower's input [B, V] with the shares of its values.

    Returns:
        A part that adds sum_v share_v stop(Emb_v) through a linear layer for each field; zero where nothing is known.
    """

    def add(bottom: Bottom) -> Addition:
        addition = Addition()
        for name, source in inputs.items():
            table, shares = _table_of(bottom, name), bottom.tensors.get(source)
            if shares is None or shares.shape[-1] != table.input_dim:
                found = "no such input" if shares is None else f"{shares.shape[-1]} values"
                raise ValueError(
                    f"input {source!r}: found {found}, expected the shares of the {table.input_dim} values of "
                    f"{name!r}; list the field under the dataset's statistics"
                )
            addition.features.append(_embedded(shares, table, bottom.width, name))
        return addition

    return add


def _table_of(bottom: Bottom, name: str) -> tf_keras.layers.Embedding:
    if name not in bottom.other_tables:
        raise ValueError(
            f"counterpart field {name!r} is not looked up by the other tower; expected one of its categorical columns, "
            f"one of: {', '.join(bottom.other_tables)}"
        )
    return bottom.other_tables[name]


def _embedded(shares: tf.Tensor, table: tf_keras.layers.Embedding, width: int, name: str) -> tf.Tensor:
    vectors = SoftEmbedding(table, name=f"{name}_soft")(shares)
    return tf_keras.layers.Dense(width, use_bias=False, name=f"{name}_soft_weights")(vectors)
