"""Losses of DAT: augmented vectors mimic the other tower, and categories share a space.

Shape letters: B rows of a batch, C items in it, D vector width, G categories.

Source: Yu et al. (DAT), DLP-KDD 2021, sections 3.1 and 3.2.
"""

from __future__ import annotations

from typing import Literal

import tensorflow as tf

from towers.dual_augmented import AUGMENTED
from towers.two_tower import VECTOR
from training.losses.objective import Outputs, Term, weighted_mean


def mimic_loss(augmented: tf.Tensor, counterpart: tf.Tensor) -> tf.Tensor:
    """How far augmented vectors are from what the other tower made of their positives.

        loss_i = ||a_i - stop(other_i)||^2

    Args:
        augmented: [B, D] float32, learns.
        counterpart: [B, D] float32, the other tower's output for the same pair, does not.

    Returns:
        [B] float32, not reduced.

    Raises:
        ValueError: The widths differ.
    """
    if not augmented.shape.is_compatible_with(counterpart.shape):
        raise ValueError(
            f"augmented vectors have shape {augmented.shape}, expected that of the other tower's output, "
            f"{counterpart.shape}; build the augmented table with the width of the towers"
        )
    return tf.reduce_sum(tf.math.squared_difference(augmented, tf.stop_gradient(counterpart)), axis=1)


def mimic_term(side: Literal["user", "item"]) -> Term:
    """Mean over the positives of `mimic_loss`, weighted by reward.

    Crossed: a user's augmented vector follows the vectors of the items that it bought, an item's those of its buyers.
    Negatives have none.
    """

    def term(outputs: Outputs) -> tf.Tensor:
        num_rows = outputs.num_rows
        if side == "user":
            losses = mimic_loss(outputs.users[AUGMENTED], outputs.items[VECTOR][:num_rows])
        else:
            losses = mimic_loss(outputs.items[AUGMENTED][:num_rows], outputs.users[VECTOR])
        return weighted_mean(losses, outputs.weight)

    return term


def category_alignment(vectors: tf.Tensor, categories: tf.Tensor) -> tf.Tensor:
    """How differently the vectors of the largest category and of the others are spread.

        loss = sum over other categories g of ||C(largest) - C(g)||_F^2 / (4 D^2),   C the covariance, over n - 1

    Args:
        vectors: [C, D] float32.
        categories: [C] int, 0 where unknown; those items count in no category.

    Returns:
        [] float32; categories with fewer than two items are skipped, 0 if fewer than two are left.

    Source: Yu et al. (DAT), DLP-KDD 2021, section 3.2; the scale is that of Sun et al. (CORAL), AAAI 2016.
    """
    width = tf.shape(vectors)[1]
    known = tf.cast(categories > 0, vectors.dtype)
    distinct, group = tf.unique(categories)
    num_groups = tf.size(distinct)

    def sums(values: tf.Tensor) -> tf.Tensor:
        return tf.math.unsorted_segment_sum(values, group, num_groups)

    counts = sums(known)
    means = tf.math.divide_no_nan(sums(vectors * known[:, None]), counts[:, None])
    # Centred before the products: the difference of two large sums would lose digits.
    centred = (vectors - tf.gather(means, group)) * known[:, None]
    products = tf.reshape(centred[:, :, None] * centred[:, None, :], [-1, width * width])
    covariances = sums(products) / tf.maximum(counts - 1, 1)[:, None]
    counted = tf.cast(counts >= 2, vectors.dtype)
    gaps = tf.reduce_sum(tf.math.squared_difference(covariances, covariances[tf.argmax(counts)]), axis=1)
    alignment = tf.reduce_sum(gaps * counted) / (4.0 * tf.cast(width, vectors.dtype) ** 2)
    # Where even the largest category has one item, all have.
    return tf.where(tf.reduce_max(counts) >= 2, alignment, 0.0)


def category_alignment_term(category: str) -> Term:
    """`category_alignment` of a batch's shared candidates.

    Args:
        category: The categorical input of the item tower.
    """

    def term(outputs: Outputs) -> tf.Tensor:
        shared = outputs.num_shared
        return category_alignment(outputs.items[VECTOR][:shared], outputs.item_inputs[category][:shared])

    return term
