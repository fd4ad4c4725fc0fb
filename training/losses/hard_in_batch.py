"""Margin loss against the most similar other items of the batch.

Shape letters: B rows of a batch, D vector width.
"""

from __future__ import annotations

import tensorflow as tf

from towers.two_tower import VECTOR
from training.losses.objective import Outputs, Term, weighted_mean
from training.losses.softmax import MASKED


def margin_of_hardest(cosines: tf.Tensor, *, mask: tf.Tensor, num_hard: int, margin: float) -> tf.Tensor:
    """Margin loss of each row's own item against the most similar items of other rows.

        loss_i = 1/K sum_{j in the K most similar} max(0, margin - cos_ii + cos_ij)

    Args:
        cosines: [B, B] float32; column i is row i's own item.
        mask: [B, B] bool, True where a column must not count as a negative of a row; the own one never does.
        num_hard: K; a row with fewer negatives has what there is, the others are worth 0.
        margin: By how much the own cosine is to exceed the others.

    Returns:
        [B] float32, not reduced.

    Source: Huang et al. (EBR), KDD 2020, sections 2.3 and 6.1: triplet loss, at most two online hard negatives.
    """
    own = tf.linalg.diag_part(cosines)
    others = tf.where(mask, tf.constant(MASKED, cosines.dtype), cosines)
    others = tf.linalg.set_diag(others, tf.fill(tf.shape(own), tf.constant(MASKED, cosines.dtype)))
    hardest, _ = tf.math.top_k(others, tf.minimum(num_hard, tf.shape(cosines)[1]))
    return tf.reduce_sum(tf.nn.relu(margin - own[:, None] + hardest), axis=1) / num_hard


def hard_in_batch_term(*, num_hard: int, margin: float) -> Term:
    """Mean over rows of `margin_of_hardest` among the rows' own items, weighted by reward; vectors have length one."""

    def term(outputs: Outputs) -> tf.Tensor:
        num_rows = outputs.num_rows
        cosines = tf.matmul(outputs.users[VECTOR], outputs.items[VECTOR][:num_rows], transpose_b=True)
        mask = outputs.mask[:, :num_rows]
        return weighted_mean(margin_of_hardest(cosines, mask=mask, num_hard=num_hard, margin=margin), outputs.weight)

    return term
