"""Counterpart loss: cross-entropy of the towers' guesses of the other side's fields.

Shape letters: B rows of a batch, V values of a field (row 0, the unknown one, included).

Source: after Dong et al. (I3), CIKM 2023, whose reconstruction loss is on positives only.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from towers.counterpart import GENERATED
from training.losses.objective import Outputs, Term, weighted_mean


def guess_loss(logits: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """Cross-entropy of guesses: logits [B, V], values [B] int -> [B] nats, not reduced; 0 where a value is unknown."""
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=values, logits=logits)
    return tf.where(values > 0, losses, 0.0)


def counterpart_term(*, user_fields: Sequence[str], item_fields: Sequence[str]) -> Term:
    """Sum over fields of the mean of `guess_loss` on the batch's positives, weighted by reward.

    Args:
        user_fields: Fields of the user that the item tower guesses.
        item_fields: Fields of the item that the user tower guesses.
    """

    def term(outputs: Outputs) -> tf.Tensor:
        rows = outputs.num_rows
        users, items = outputs.user_inputs, outputs.item_inputs
        guesses = [(outputs.items[GENERATED + name][:rows], users[name]) for name in user_fields]
        guesses += [(outputs.users[GENERATED + name], items[name][:rows]) for name in item_fields]
        losses = [
            # Means over the positives whose value is known: an unknown one is no guess that succeeded.
            weighted_mean(guess_loss(logits, values), outputs.weight * tf.cast(values > 0, tf.float32))
            for logits, values in guesses
        ]
        return tf.add_n(losses) if losses else tf.constant(0.0)

    return term
