"""Tokens become the nearest codes, and codebooks follow the tokens."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from towers.quantizer import SMOOTHING, ProductQuantizer, straight_through

M, N, P = 2, 3, 2
D = M * P
BOOKS = np.float32([[[0, 0], [4, 0], [0, 4]], [[1, 1], [-1, -1], [9, 9]]])


def quantizer(**changes: object) -> ProductQuantizer:
    settings = {"num_parts": M, "num_codes": N, "width": D, "decay": 0.5, "restart_below": 0.0, "seed": 1, **changes}
    made = ProductQuantizer(**settings)
    made.codebooks.assign(BOOKS)
    made.sums.assign(BOOKS)
    return made


def test_each_part_becomes_the_nearest_row_of_its_own_codebook() -> None:
    tokens = np.float32([[[3, 1, -2, 0], [0, 3, 6, 5]], [[0, 0, 0, 0.5], [1, 3.9, 0, -0.6]]])
    codes = quantizer().codes(tokens).numpy()
    distances = np.linalg.norm(tokens.reshape(2, 2, M, 1, P) - BOOKS, axis=-1)
    np.testing.assert_array_equal(codes, distances.argmin(axis=-1))
    # (3, 1) is nearest to (4, 0), (-2, 0) to (-1, -1).
    assert codes[0, 0].tolist() == [1, 1]
    np.testing.assert_array_equal(quantizer().decode(codes)[0, 0], [4, 0, -1, -1])


def test_averages_move_by_what_fell_into_each_row() -> None:
    made = quantizer()
    tokens = np.float32([[3, 1, 1, 1], [5, 1, 1, 1]])
    made.update(tokens, made.codes(tokens))
    # Part 0: both fall into row 1. n = .5 * 1 + .5 * 2, v = .5 (4, 0) + .5 (8, 2); the other rows shrink alike.
    np.testing.assert_allclose(made.sizes[0], [0.5, 1.5, 0.5])
    np.testing.assert_allclose(made.sums[0], [[0, 0], [6, 1], [0, 2]])
    total = 2.5
    smoothed = (np.array([0.5, 1.5, 0.5]) + SMOOTHING) / (total + N * SMOOTHING) * total
    np.testing.assert_allclose(made.codebooks[0], np.array([[0, 0], [6, 1], [0, 2]]) / smoothed[:, None], rtol=1e-5)


def test_a_row_that_nothing_falls_into_stays_where_it_is() -> None:
    made = quantizer()
    tokens = np.float32([[4, 0, 1, 1]])
    for _ in range(20):
        made.update(tokens, made.codes(tokens))
    np.testing.assert_allclose(made.codebooks[0], BOOKS[0], atol=0.05)


def test_dead_rows_are_put_on_tokens_of_the_batch() -> None:
    made = quantizer(restart_below=0.9)
    tokens = np.float32([[4, 0, 1, 1], [4, 0, 1, 1]])
    made.update(tokens, made.codes(tokens))
    # Two rows of each part got nothing: their average of .5 is below.
    assert int(made.restarts) == 4
    np.testing.assert_allclose(made.codebooks[0], np.tile([4, 0], (N, 1)), rtol=1e-4)


def test_k_means_finds_clusters_and_is_the_same_for_the_same_seed() -> None:
    rng = np.random.default_rng(3)
    centers = rng.normal(scale=10, size=(N, D))
    tokens = (centers[rng.integers(N, size=300)] + rng.normal(scale=0.01, size=(300, D))).astype(np.float32)
    first, second = (
        ProductQuantizer(num_parts=M, num_codes=N, width=D, decay=0.9, restart_below=0, seed=1) for _ in "ab"
    )
    first.start(tokens)
    second.start(tokens)
    np.testing.assert_array_equal(first.codebooks, second.codebooks)
    lost = tokens - first.decode(first.codes(tokens)).numpy()
    assert np.square(lost).sum(axis=1).mean() < 0.35 * np.square(tokens - tokens.mean(axis=0)).sum(axis=1).mean()


def test_fewer_tokens_than_codes_start_a_codebook_all_the_same() -> None:
    made = ProductQuantizer(num_parts=1, num_codes=8, width=2, decay=0.9, restart_below=0, seed=1)
    tokens = np.float32([[1, 2], [3, 4]])
    made.start(tokens)
    assert np.isfinite(made.codebooks.numpy()).all()
    np.testing.assert_allclose(made.decode(made.codes(tokens)), tokens, atol=1e-2)


def test_the_gradient_passes_straight_through() -> None:
    tokens = tf.constant([[1.0, 2.0]])
    with tf.GradientTape() as tape:
        tape.watch(tokens)
        passed = straight_through(tokens, tf.constant([[5.0, 7.0]]) * tokens)
        loss = tf.reduce_sum(passed * [[2.0, 3.0]])
    np.testing.assert_array_equal(passed, [[5.0, 14.0]])
    np.testing.assert_array_equal(tape.gradient(loss, tokens), [[2.0, 3.0]])


def test_a_width_that_cannot_be_cut_is_refused() -> None:
    with pytest.raises(ValueError, match="width 5, expected a multiple of the 2 parts"):
        ProductQuantizer(num_parts=2, num_codes=2, width=5, decay=0.9, restart_below=0, seed=1)
