"""Softmax loss of earlier positions of histories: each is one more example, whose target is the item that came next.

Shape letters: B rows of a batch, P positions of each, C shared candidates, Q columns of the queue, D vector width, R
positions of the batch that have a target.
"""

from __future__ import annotations

import tensorflow as tf

from towers.two_tower import POSITIONS
from training.data.batches import LOG_Q
from training.data.positions import TARGET, TARGET_LOG_Q
from training.losses.objective import Outputs, Term, products, weighted_mean
from training.losses.softmax import SOFTMAX, Kernel, LogQ, two_tower_softmax, weighed_by_negatives


def positions_term(log_q: LogQ, *, kernel: Kernel = two_tower_softmax) -> Term:
    """Mean over positions of a sampled softmax against the candidates that all rows share, weighted by rows' rewards.

        loss_r = -log( exp(s_r - log q_r) / (exp(s_r - log q_r) + sum_j [not masked] exp(s_rj - log q_j)) )

    s_r is the score of the position's vector and its target's, s_rj that with candidate j. What is masked for a row is
    masked for its positions, as are the row's own item, which the user met later, and private negatives.

    Args:
        log_q: As in `training.losses.softmax.softmax_term`.
        kernel: Likewise, with `own=` for the targets; used with `none` and `yi2019`. Its memory grows with R (C + Q).

    Raises:
        ValueError: There is no such correction.

    Source: every position of a sequence as an example, Kang and McAuley (SASRec), ICDM 2018, section 3.5. Departs from
        it: a corrected softmax in place of one negative for each (Klenitskiy and Vasilev, RecSys 2023).
    """
    if log_q not in SOFTMAX:
        raise ValueError(f"log_q is {log_q!r}, expected one of: {', '.join(SOFTMAX)}")

    def term(outputs: Outputs) -> tf.Tensor:
        vectors = outputs.users[POSITIONS]
        if vectors.shape[1] == 0 or outputs.targets is None:
            return tf.zeros([])  # what is not being trained has no vectors of earlier positions
        target = tf.convert_to_tensor(outputs.batch[TARGET])
        # One more, which counts nothing: there may be no other.
        places = tf.concat([tf.where(target >= 0), [[0, 0]]], axis=0)
        counts = tf.concat([tf.ones([tf.shape(places)[0] - 1]), [0.0]], axis=0)
        rows, which = places[:, 0], tf.maximum(tf.gather_nd(target, places), 0)
        users, own = tf.gather_nd(vectors, places), tf.gather(outputs.targets, which)
        num_columns = tf.shape(outputs.batch[LOG_Q])[0]
        mask = outputs.mask[:, :num_columns] | tf.eye(outputs.num_rows, num_columns, dtype=tf.bool)
        losses = _losses(outputs, users, own, tf.gather(outputs.batch[TARGET_LOG_Q], which), tf.gather(mask, rows))
        return weighted_mean(losses, counts * tf.gather(outputs.weight, rows))

    def _losses(outputs: Outputs, users: tf.Tensor, own: tf.Tensor, own_log_q: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        if log_q == "khrylchenko2025":
            scores = products(users, outputs.common, item_gradient=None) / outputs.temperature
            own_scores = tf.reduce_sum(users * own, axis=1) / outputs.temperature
            return weighed_by_negatives(own_scores, scores - outputs.batch[LOG_Q], ~mask)
        is_corrected = log_q == "yi2019"
        return kernel(
            users,
            outputs.common,
            temperature=outputs.temperature,
            log_q=outputs.batch[LOG_Q] if is_corrected else None,
            mask=mask,
            item_gradient=outputs.item_gradient,
            own=(own, own_log_q if is_corrected else tf.zeros_like(own_log_q)),
        )

    return term
