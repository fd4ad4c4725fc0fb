"""Local loss of several interests: each item picks one of its user's vectors clearly, so that they do not collapse.

Shape letters: B rows of a batch, K interests, D vector width.
"""

from __future__ import annotations

import tensorflow as tf

from towers.interests import INTERESTS
from towers.two_tower import VECTOR
from training.losses.objective import Outputs, Term, weighted_mean


def local_loss(interests: tf.Tensor, items: tf.Tensor, *, temperature: float) -> tf.Tensor:
    """Softmax loss of the best of a user's vectors for an item against the user's other vectors.

        loss_i = -log( max_k exp(<u_ik, v_i> / t) / sum_k exp(<u_ik, v_i> / t) )

    Args:
        interests: [B, K, D] float32.
        items: [B, D] float32, the rows' own.
        temperature: t, above 0.

    Returns:
        [B] float32, nats, not reduced; from 0, where one vector alone is meant, to log K, where all are the same.

    Source: Zhang et al. (MVR), ACL 2022, section 3.3, where t falls to .3 while training; here it is fixed.
    """
    scores = tf.einsum("bkd,bd->bk", interests, items) / temperature
    return tf.reduce_logsumexp(scores, axis=1) - tf.reduce_max(scores, axis=1)


def interests_term(*, temperature: float) -> Term:
    """Mean over rows of `local_loss`, weighted by reward."""

    def term(outputs: Outputs) -> tf.Tensor:
        own = outputs.items[VECTOR][: outputs.num_rows]
        return weighted_mean(local_loss(outputs.users[INTERESTS], own, temperature=temperature), outputs.weight)

    return term
