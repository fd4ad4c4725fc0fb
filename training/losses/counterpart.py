"""How good are the towers' guesses of the other side's fields? A cross-entropy to learn them, figures to report.

Shape letters: B rows of a batch, E examples, V values of a field (row 0, the unknown one, included).

Source: after Dong et al. (I3), CIKM 2023, whose reconstruction loss is on positives only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
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


@dataclass(frozen=True)
class GuessQuality:
    """How good guesses of a field are on held-out positives.

    Attributes:
        top1: Share of the positives whose value is the likeliest one.
        kl: Mean over positives of log(share of the value among the positives of the same entity) - log(its guessed
            probability), nats: the divergence of the guess from what is observed, 0 if they are the same.
        num_positives: With a known value.
    """

    top1: float
    kl: float
    num_positives: int


def judge_guesses(
    logits: npt.NDArray[np.float32], values: npt.NDArray[np.integer], *, entities: npt.NDArray[np.integer]
) -> GuessQuality:
    """Compares guesses with the values of held-out positives.

    Args:
        logits: [E, V] float32.
        values: [E] int, the field of the other side; 0 is unknown and left out.
        entities: [E] int, who guessed: the item's row for a field of users, and the other way round.

    Returns:
        The figures; nan where nothing is known.
    """
    known = values > 0
    logits, values, entities = logits[known].astype(np.float64), values[known], entities[known]
    if not len(values):
        return GuessQuality(float("nan"), float("nan"), 0)
    peak = logits.max(axis=1, keepdims=True)
    log_guessed = logits - peak - np.log(np.exp(logits - peak).sum(axis=1, keepdims=True))
    _, entity = np.unique(entities, return_inverse=True)
    _, pair, pair_counts = np.unique(np.stack([entity, values]), axis=1, return_inverse=True, return_counts=True)
    observed = pair_counts[pair.ravel()] / np.bincount(entity)[entity]
    kl = np.log(observed) - log_guessed[np.arange(len(values)), values]
    return GuessQuality(float((logits.argmax(axis=1) == values).mean()), float(kl.mean()), len(values))
