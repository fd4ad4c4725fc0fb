"""Sampled softmax losses: pure functions from scores to losses, and the term made of them.

Shape letters: B rows of a batch, C candidates in it (C >= B; column i is row i's own item), D vector width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import tensorflow as tf

from towers.interests import INTERESTS
from towers.two_tower import VECTOR
from training.losses.objective import Outputs, Term, products, weighted_mean

# The logit of a masked column: exp of it is 0 in float32, and it stays finite when subtracted from.
MASKED = -1e9

LogQ = Literal["none", "yi2019", "khrylchenko2025"]
Kernel = Callable[..., tf.Tensor]


def in_batch_softmax(scores: tf.Tensor, log_q: tf.Tensor | None = None, *, mask: tf.Tensor | None = None) -> tf.Tensor:
    """Softmax loss of each row's own item against the other candidates of the batch, corrected for how they were drawn.

        loss_i = -log( exp(s_ii - log q_i) / sum_j [not masked] exp(s_ij - log q_j) )

    Args:
        scores: [B, C] float32, already divided by the temperature.
        log_q: [C] or, where rows have candidates of their own, [B, C] float32, natural log of the expected number of
            times that each candidate is drawn into a batch, or of the chance that it is there where the mask lets an
            item count once; a constant added to all of it changes nothing. None leaves the scores as they are.
        mask: [B, C] bool, True where a column must not count as a negative of a row; the row's own column is never
            masked.

    Returns:
        [B] float32, nats, not reduced.

    Raises:
        ValueError: C < B, or log_q or mask does not fit the scores.

    Source: Yi et al., RecSys 2019, section 3. Departs from it: masks accidental hits and known positives. Where each
        item counts once in a row and log_q is that of its presence (`training.negatives.sampling_bias`), the gradient
        tends to that of the softmax over the catalogue, less what is masked.
    """
    scores, mask = _checked(scores, log_q, mask)
    logits = _corrected(scores, log_q)
    own = tf.linalg.diag_part(logits)
    if mask is not None:
        logits = tf.where(mask, tf.constant(MASKED, logits.dtype), logits)
        logits = tf.linalg.set_diag(logits, own)
    return tf.reduce_logsumexp(logits, axis=1) - own


def uncorrected_softmax(
    scores: tf.Tensor, log_q: tf.Tensor | None = None, *, mask: tf.Tensor | None = None
) -> tf.Tensor:
    """`in_batch_softmax` without its correction: `log_q` is not read, popular items are pushed down as they come."""
    _checked(scores, log_q, mask)
    return in_batch_softmax(scores, mask=mask)


def khrylchenko2025(scores: tf.Tensor, log_q: tf.Tensor | None = None, *, mask: tf.Tensor | None = None) -> tf.Tensor:
    """Softmax loss whose own item is not corrected, because it is in the batch with certainty.

        loss_i = w_i ( -s_ii + log sum_{j != i, not masked} exp(s_ij - log Q_ij) )
        Q_ij = q_j / n_i,   w_i = stop( sum_j exp(s_ij - log q_j) / (exp(s_ii) + sum_j exp(s_ij - log q_j)) )

    n_i is the number of columns that count as negatives of row i. Q is the chance that a draw among them is j: the
    paper's c_j / (c - c_i), in counts of examples, whose denominator is here what the columns of the batch estimate, so
    that it holds for any mix of samplers and any mask.

    Args:
        scores: [B, C] float32, already divided by the temperature.
        log_q: [C] or [B, C] float32, natural log of the expected number of times that each candidate is drawn into a
            batch, or of its chance of being there where it counts once. Its scale matters, unlike in
            `in_batch_softmax`. None takes all for 1.
        mask: [B, C] bool, True where a column must not count as a negative of a row.

    Returns:
        [B] float32, nats, not reduced; may be negative. 0 where a row has no negative.

    Raises:
        ValueError: C < B, or log_q or mask does not fit the scores.

    Source: Khrylchenko et al., arXiv 2507.09331, section 3.
    """
    scores, mask = _checked(scores, log_q, mask)
    others = ~tf.eye(tf.shape(scores)[0], tf.shape(scores)[1], dtype=tf.bool)
    if mask is not None:
        others &= ~mask
    return weighed_by_negatives(tf.linalg.diag_part(scores), _corrected(scores, log_q), others)


def weighed_by_negatives(own: tf.Tensor, corrected: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    """`khrylchenko2025` of own items wherever they are: [B] scores, [B, C] corrected scores, [B, C] bool -> [B].

    Args:
        own: Scores of the own items, not corrected.
        corrected: Scores less log q.
        others: Which of them are of a negative.
    """
    negatives = tf.where(others, corrected, tf.constant(MASKED, corrected.dtype))
    total = tf.reduce_logsumexp(negatives, axis=1)
    num_negatives = tf.reduce_sum(tf.cast(others, corrected.dtype), axis=1)
    # The share of the negatives in the softmax: 0 where there is none, although their empty sum is no number.
    weight = tf.stop_gradient(tf.sigmoid(total - own))
    return weight * (total - own + tf.math.log(tf.maximum(num_negatives, 1.0)))


SOFTMAX: Mapping[LogQ, Callable[..., tf.Tensor]] = {
    "none": uncorrected_softmax,
    "yi2019": in_batch_softmax,
    "khrylchenko2025": khrylchenko2025,
}


def two_tower_softmax(
    users: tf.Tensor,
    items: tf.Tensor,
    *,
    temperature: tf.Tensor | float,
    log_q: tf.Tensor | None = None,
    mask: tf.Tensor | None = None,
    item_gradient: tf.Tensor | None = None,
    own: tuple[tf.Tensor, tf.Tensor] | None = None,
) -> tf.Tensor:
    """`in_batch_softmax` from vectors, all scores at once: the reference of faster kernels.

    Args:
        users: [B, D] float32.
        items: [C, D] float32, the own items of rows 0 to B - 1 first.
        temperature: What inner products are divided by.
        log_q: As in `in_batch_softmax`.
        mask: Likewise.
        item_gradient: As in `products`.
        own: Vectors [B, D] and log q [B] of the rows' own items where these are in none of the columns; None takes the
            first columns.

    Returns:
        [B] float32, nats, not reduced.
    """
    if own is not None:
        vectors, own_log_q = own
        if item_gradient is not None:
            scale = item_gradient[:, None]
            items = scale * items + tf.stop_gradient((1.0 - scale) * items)
        logits = _corrected(tf.matmul(users, items, transpose_b=True) / temperature, log_q)
        if mask is not None:
            logits = tf.where(mask, tf.constant(MASKED, logits.dtype), logits)
        own_logits = tf.reduce_sum(users * vectors, axis=1, keepdims=True) / temperature - own_log_q[:, None]
        return tf.reduce_logsumexp(tf.concat([own_logits, logits], axis=1), axis=1) - own_logits[:, 0]
    return in_batch_softmax(products(users, items, item_gradient=item_gradient) / temperature, log_q, mask=mask)


def softmax_term(log_q: LogQ, *, kernel: Kernel = two_tower_softmax) -> Term:
    """The main loss: mean over rows of a sampled softmax, weighted by reward.

    Args:
        log_q: Correction of the sampling bias, one of `training.losses.softmax.SOFTMAX`.
        kernel: (users [B, D], items [C + Q, D], temperature=, log_q=, mask=, item_gradient=) -> [B], the same as
            `two_tower_softmax`; used where its inputs suffice: users have one vector, candidates are shared, and the
            own one is corrected like the others.

    Raises:
        ValueError: There is no such correction.
    """
    if log_q not in SOFTMAX:
        raise ValueError(f"log_q is {log_q!r}, expected one of: {', '.join(SOFTMAX)}")
    in_kernel = log_q in ("none", "yi2019")

    def term(outputs: Outputs) -> tf.Tensor:
        if in_kernel and outputs.private is None and INTERESTS not in outputs.users:
            losses = kernel(
                outputs.users[VECTOR],
                outputs.common,
                temperature=outputs.temperature,
                log_q=outputs.log_q if log_q == "yi2019" else None,
                mask=outputs.mask,
                item_gradient=outputs.item_gradient,
            )
        else:
            losses = SOFTMAX[log_q](outputs.scores, outputs.log_q, mask=outputs.mask)
        return weighted_mean(losses, outputs.weight)

    return term


def _checked(scores: tf.Tensor, log_q: tf.Tensor | None, mask: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor | None]:
    scores = tf.convert_to_tensor(scores)
    if scores.shape.rank != 2 or _known_and(scores.shape, lambda rows, columns: columns < rows):
        raise ValueError(f"scores have shape {scores.shape}, expected [B, C] with C >= B")
    if log_q is not None:
        shape = tf.convert_to_tensor(log_q).shape
        if not (shape.is_compatible_with(scores.shape[1:]) or shape.is_compatible_with(scores.shape)):
            raise ValueError(f"log_q has shape {shape}, expected [C] = {scores.shape[1:]} or [B, C] = {scores.shape}")
    if mask is not None:
        mask = tf.convert_to_tensor(mask)
        if not mask.shape.is_compatible_with(scores.shape):
            raise ValueError(f"mask has shape {mask.shape}, expected that of the scores, {scores.shape}")
    return scores, mask


def _corrected(scores: tf.Tensor, log_q: tf.Tensor | None) -> tf.Tensor:
    return scores if log_q is None else scores - tf.cast(log_q, scores.dtype)


def _known_and(shape: tf.TensorShape, claim: Callable[[int, int], bool]) -> bool:
    return shape.is_fully_defined() and bool(claim(*shape))
