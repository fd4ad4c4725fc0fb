"""What is the softmax loss of all of a user's items at once? The same as item by item, for one row of scores.

Shape letters: B users of a batch, C distinct candidates, P positive pairs of those users, D vector width.
"""

from __future__ import annotations

import tensorflow as tf


def grouped_softmax(
    users: tf.Tensor,
    candidates: tf.Tensor,
    positive_row: tf.Tensor,
    positive_column: tf.Tensor,
    *,
    log_q: tf.Tensor,
    temperature: float,
) -> tf.Tensor:
    """Sum over pairs of the sampled-softmax loss; users and candidates have length one.

        loss = sum_p ( log sum_c exp(s_{u(p),c} - log q_c) - (s_p - log q_p) ),   s = <u, v> / temperature

    With candidates that are distinct and q_c the probability that c is among them, the sum tends to that over the
    catalogue. A user's other positives stay in the sum, as in a softmax over the catalogue.

    Args:
        users: [B, D] float32.
        candidates: [C, D] float32, distinct items, every positive among them.
        positive_row: [P] int64, row of `users`.
        positive_column: [P] int64, row of `candidates`.
        log_q: [C] float32, natural log of the probability that an item is among the candidates, at most 0.
        temperature: Scores are divided by it before the correction.

    Returns:
        [] float32, nats, summed over pairs.

    Source: Yi et al., RecSys 2019, section 3, with one row of scores for all examples of a user.
    """
    users = users / temperature
    bound = 1.0 / temperature
    # Cosines are at most 1: this bound replaces a pass for each row's largest score. It and log q ride in the product.
    ones = tf.ones_like(users[:, :1])
    correction = (-log_q - bound)[:, None]
    log_sums = bound + _log_sum_exp(tf.concat([users, ones], 1), tf.concat([candidates, correction], 1))
    positives = tf.reduce_sum(tf.gather(users, positive_row) * tf.gather(candidates, positive_column), axis=1)
    own = positives - tf.gather(log_q, positive_column)
    return tf.reduce_sum(tf.gather(log_sums, positive_row) - own)


@tf.custom_gradient  # type: ignore[untyped-decorator]
def _log_sum_exp(left: tf.Tensor, right: tf.Tensor) -> object:
    """Log of sum_c exp(<l_b, r_c>): [B]; its gradient reuses the exponentials instead of making a softmax of them."""
    exponentials = tf.exp(tf.matmul(left, right, transpose_b=True))
    totals = tf.reduce_sum(exponentials, axis=1)

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        share = (upstream / totals)[:, None]
        return share * tf.matmul(exponentials, right), tf.matmul(exponentials, share * left, transpose_a=True)

    return tf.math.log(totals), gradient
