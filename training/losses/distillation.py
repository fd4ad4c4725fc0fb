"""Distillation losses: the towers imitate a teacher's scores of the candidates of a batch.

A teacher's scores are known of the items on its list for the row's user; all others get the lowest score of the list.

Shape letters: B rows of a batch, C shared candidates in it, Q columns of the queue, H private negatives of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import tensorflow as tf

from training.data.batches import TEACHER
from training.losses.objective import Outputs, Term, weighted_mean
from training.losses.softmax import MASKED

Loss = Callable[[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]
"""(scores, teacher, log_q, counted) -> [B]: see `forward_kl`."""


def forward_kl(scores: tf.Tensor, teacher: tf.Tensor, log_q: tf.Tensor, counted: tf.Tensor) -> tf.Tensor:
    """Listwise KL divergence of the towers from the teacher.

        loss_i = sum_j p_ij (log p_ij - log r_ij)
        p_i = softmax_j(T_ij - log q_ij),   r_i = softmax_j(s_ij - log q_ij)

    A column stands for 1 / q of the catalogue's items on both sides, so that the sums tend to those over the catalogue,
    and the towers learn the teacher's scores and not how often items are drawn.

    Args:
        scores: [B, C + Q + H] float32, the towers', already divided by their temperature.
        teacher: [B, C + Q + H] float32, the teacher's, likewise.
        log_q: [C + Q] or [B, C + Q + H] float32, as in `training.losses.softmax.in_batch_softmax`.
        counted: [B, C + Q + H] bool, which columns belong to the list of a row; its own one always does.

    Returns:
        [B] float32, nats, not reduced; no gradient reaches the teacher.

    Source: Hinton et al., arXiv 1503.02531, section 2; listwise as Chen et al. (BGE-M3), arXiv 2402.03216. Departs from
        them: sampled, and corrected for it.
    """
    of_teacher, of_towers = _log_shares(teacher, log_q, counted), _log_shares(scores, log_q, counted)
    return tf.reduce_sum(tf.exp(of_teacher) * (of_teacher - of_towers), axis=1)


def reverse_kl(scores: tf.Tensor, teacher: tf.Tensor, log_q: tf.Tensor, counted: tf.Tensor) -> tf.Tensor:
    """As `forward_kl` with the sides exchanged: the towers may leave out what the teacher likes, and add nothing."""
    of_teacher, of_towers = _log_shares(teacher, log_q, counted), _log_shares(scores, log_q, counted)
    return tf.reduce_sum(tf.exp(of_towers) * (of_towers - of_teacher), axis=1)


def margin_mse(scores: tf.Tensor, teacher: tf.Tensor, log_q: tf.Tensor, counted: tf.Tensor) -> tf.Tensor:
    """Squared error of the margins between the own item and the negatives that are on the teacher's list.

        loss_i = mean_{j on the list} ((s_ii - s_ij) - (T_ii - T_ij))^2

    Of what is not on the list only a bound is known, which is no margin. Arguments and result as in `forward_kl`; log q
    is not read, and the result is 0 for a row without such a negative.

    Source: Hofstätter et al., arXiv 2010.02666, section 3. Departs from it: many negatives a row.
    """
    del log_q
    others = tf.linalg.set_diag(counted, tf.zeros(tf.shape(counted)[:1], tf.bool))
    lowest = tf.reduce_min(tf.where(counted, teacher, teacher.dtype.max), axis=1, keepdims=True)
    listed = tf.cast(others & (teacher > lowest), scores.dtype)
    difference = scores - teacher
    errors = tf.math.squared_difference(tf.linalg.diag_part(difference)[:, None], difference)
    return tf.math.divide_no_nan(tf.reduce_sum(listed * errors, axis=1), tf.reduce_sum(listed, axis=1))


def rank_imitation(scores: tf.Tensor, teacher: tf.Tensor, log_q: tf.Tensor, counted: tf.Tensor) -> tf.Tensor:
    """One minus Pearson's correlation of the towers' scores and the teacher's over a row's columns: [B], from 0 to 2.

    Neither side's scale matters. Arguments as in `forward_kl`; log q is not read.

    Source: Liao et al. (D2LLM), ACL 2024, section 3.3.2 (rank imitation).
    """
    del log_q
    weights = tf.cast(counted, scores.dtype)
    weights /= tf.reduce_sum(weights, axis=1, keepdims=True)

    def centred(values: tf.Tensor) -> tf.Tensor:
        values = tf.where(counted, values, 0.0)
        return values - tf.reduce_sum(weights * values, axis=1, keepdims=True)

    one, other = centred(scores), centred(teacher)
    variances = tf.reduce_sum(weights * one**2, axis=1) * tf.reduce_sum(weights * other**2, axis=1)
    # Where either side is constant there is no correlation, and the root has no gradient.
    return 1.0 - tf.reduce_sum(weights * one * other, axis=1) * tf.math.rsqrt(tf.maximum(variances, 1e-12))


DISTILLATION: Mapping[str, Loss] = {
    "kl": forward_kl,
    "reverse_kl": reverse_kl,
    "margin_mse": margin_mse,
    "rank": rank_imitation,
}
"""Losses by the name in the configuration (`training.distillation.loss`)."""


def distillation_term(*, loss: str) -> Term:
    """Mean over rows of a distillation loss, weighted by reward; 0 for a row none of whose candidates is on its list.

    The list of a row is what its softmax is over: the row's own item and what is not masked. Of several interests, the
    best one's scores learn.

    Args:
        loss: One of `DISTILLATION`.

    Raises:
        ValueError: There is no such loss.
    """
    if loss not in DISTILLATION:
        raise ValueError(f"loss is {loss!r}, expected one of: {', '.join(DISTILLATION)}")

    def term(outputs: Outputs) -> tf.Tensor:
        teacher = tf.stop_gradient(outputs.batch[TEACHER])
        counted = tf.linalg.set_diag(~outputs.mask, tf.ones([outputs.num_rows], tf.bool))
        highest = tf.reduce_max(tf.where(counted, teacher, teacher.dtype.min), axis=1)
        lowest = tf.reduce_min(tf.where(counted, teacher, teacher.dtype.max), axis=1)
        losses = DISTILLATION[loss](outputs.scores, teacher, outputs.log_q, counted)
        # Divided by all rows: of few that are taught, none counts for the others.
        return weighted_mean(tf.where(highest > lowest, losses, 0.0), outputs.weight)

    return term


def _log_shares(scores: tf.Tensor, log_q: tf.Tensor, counted: tf.Tensor) -> tf.Tensor:
    return tf.nn.log_softmax(tf.where(counted, scores - log_q, tf.constant(MASKED, scores.dtype)), axis=1)
