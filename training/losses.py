"""What is minimised? Pure functions from scores to losses.

Shape letters: B rows of a batch, C candidates in it (C >= B; column i is row i's own item).
"""

from __future__ import annotations

import tensorflow as tf

# The logit of a masked column: exp of it is 0 in float32, and it stays finite when subtracted from.
MASKED = -1e9


def in_batch_softmax(scores: tf.Tensor, log_q: tf.Tensor | None = None, *, mask: tf.Tensor | None = None) -> tf.Tensor:
    """Softmax loss of each row's own item against the other candidates of the batch, corrected for how they were drawn.

        loss_i = -log( exp(s_ii - log q_i) / sum_j [not masked] exp(s_ij - log q_j) )

    Args:
        scores: [B, C] float32, already divided by the temperature.
        log_q: [C] float32, natural log of the expected number of times that each candidate is drawn into a batch; a
            constant added to all of it changes nothing. None leaves the scores as they are.
        mask: [B, C] bool, True where a column must not count as a negative of a row; the row's own column is never
            masked.

    Returns:
        [B] float32, nats, not reduced.

    Raises:
        ValueError: C < B, or log_q or mask does not fit the scores.

    Source: Yi et al., RecSys 2019, section 3. Departs from it: masks accidental hits and known positives. As draws grow
        the unmasked loss has the gradient of the softmax over the catalogue; with accidental hits masked, that of one
        without the own item in its denominator, which differs by the own item's probability.
    """
    scores = tf.convert_to_tensor(scores)
    if scores.shape.rank != 2 or _known_and(scores.shape, lambda rows, columns: columns < rows):
        raise ValueError(f"scores have shape {scores.shape}, expected [B, C] with C >= B")
    logits = scores
    if log_q is not None:
        log_q = tf.convert_to_tensor(log_q)
        if not log_q.shape.is_compatible_with(scores.shape[1:]):
            raise ValueError(f"log_q has shape {log_q.shape}, expected [C] = {scores.shape[1:]}")
        logits -= log_q[None, :]
    own = tf.linalg.diag_part(logits)
    if mask is not None:
        mask = tf.convert_to_tensor(mask)
        if not mask.shape.is_compatible_with(scores.shape):
            raise ValueError(f"mask has shape {mask.shape}, expected that of the scores, {scores.shape}")
        logits = tf.where(mask, tf.constant(MASKED, logits.dtype), logits)
        logits = tf.linalg.set_diag(logits, own)
    return tf.reduce_logsumexp(logits, axis=1) - own


def weighted_mean(losses: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Mean of losses weighted by the rewards of their examples: both [B] float32 -> []; 0 if all weights are 0."""
    return tf.math.divide_no_nan(tf.reduce_sum(losses * weights), tf.reduce_sum(weights))


def _known_and(shape: tf.TensorShape, claim: object) -> bool:
    return shape.is_fully_defined() and bool(claim(*shape))  # type: ignore[operator]
