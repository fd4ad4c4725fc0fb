"""Augmented vectors mimic the other tower, and categories share a space."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from training.losses.dual_augmented import category_alignment, category_alignment_term, mimic_loss, mimic_term

outputs_of = runpy.run_path(str(Path(__file__).parents[1] / "outputs_for_tests.py"))["outputs_of"]
RNG = np.random.default_rng(9)
B, C, D = 3, 5, 4


def drawn(**batch: npt.ArrayLike):
    users = {"vector": RNG.normal(size=(B, D)), "augmented": RNG.normal(size=(B, D))}
    items = {"vector": RNG.normal(size=(C, D)), "augmented": RNG.normal(size=(C, D))}
    return outputs_of(users, items, batch=batch)


def test_augmented_vectors_follow_the_other_tower_by_hand() -> None:
    outputs = drawn(weight=np.float32([1, 0, 3]))
    users, items = ({name: part.numpy() for name, part in side.items()} for side in (outputs.users, outputs.items))
    of_user = [np.sum((users["augmented"][row] - items["vector"][row]) ** 2) for row in range(B)]
    of_item = [np.sum((items["augmented"][row] - users["vector"][row]) ** 2) for row in range(B)]
    assert float(mimic_term("user")(outputs)) == pytest.approx((of_user[0] + 3 * of_user[2]) / 4, rel=1e-5)
    assert float(mimic_term("item")(outputs)) == pytest.approx((of_item[0] + 3 * of_item[2]) / 4, rel=1e-5)


@pytest.mark.parametrize("side", ["user", "item"])
def test_the_gradient_reaches_the_augmented_vectors_of_positives_alone(side: str) -> None:
    outputs = drawn(weight=np.float32([1, 0, 3]))
    parts = {f"{name} {part}": variable for name, tower in (("user", outputs.users), ("item", outputs.items))
             for part, variable in tower.items()}  # fmt: skip
    with tf.GradientTape() as tape:
        loss = mimic_term(side)(outputs)  # type: ignore[arg-type]
    gradients = dict(zip(parts, tape.gradient(loss, list(parts.values())), strict=True))
    moved = tf.convert_to_tensor(gradients.pop(f"{side} augmented")).numpy()
    assert set(gradients.values()) == {None}
    # Row 1 has no weight; items 3 and 4 are no row's own.
    assert np.flatnonzero(np.abs(moved).max(axis=1)).tolist() == [0, 2]
    own, other = (outputs.users, outputs.items) if side == "user" else (outputs.items, outputs.users)
    expected = 2 * (own["augmented"].numpy()[2] - other["vector"].numpy()[2]) * 3 / 4
    np.testing.assert_allclose(moved[2], expected, rtol=1e-5)


def test_a_larger_batch_of_the_same_pairs_has_the_same_loss() -> None:
    augmented, counterpart = RNG.normal(size=(2, B, D))
    once, thrice = (
        float(
            mimic_term("user")(
                outputs_of(
                    {"augmented": np.tile(augmented, (times, 1)), "vector": np.zeros((B * times, D))},
                    {"vector": np.tile(counterpart, (times, 1))},
                )
            )
        )
        for times in (1, 3)
    )
    assert thrice == pytest.approx(once, rel=1e-5)


def test_vectors_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match=r"augmented vectors have shape \(3, 4\), expected .* output, \(3, 5\)"):
        mimic_loss(tf.zeros((3, 4)), tf.zeros((3, 5)))


def slow_alignment(vectors: npt.NDArray[np.float64], categories: npt.NDArray[np.int64]) -> float:
    covariances = {}
    counts = {int(group): int((categories == group).sum()) for group in np.unique(categories) if group > 0}
    for group, count in counts.items():
        if count >= 2:
            covariances[group] = np.cov(vectors[categories == group], rowvar=False, ddof=1).reshape(D, D)
    if not covariances:
        return 0.0
    first = [int(group) for group in dict.fromkeys(categories.tolist()) if group in covariances]
    major = max(first, key=lambda group: counts[group])
    return sum(float(np.sum((covariances[major] - other) ** 2)) for other in covariances.values()) / (4 * D**2)


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.integers(1, 5))
def test_category_alignment_equals_its_slow_twin(seed: int, num_items: int, num_categories: int) -> None:
    rng = np.random.default_rng(seed)
    vectors, categories = rng.normal(size=(num_items, D)), rng.integers(0, num_categories + 1, num_items)
    np.testing.assert_allclose(
        category_alignment(tf.constant(vectors), tf.constant(categories)),
        slow_alignment(vectors, categories),
        rtol=1e-9,
        atol=1e-12,
    )


def test_category_alignment_by_hand() -> None:
    # Category 1: variance 1 in the first place (-1, 0, 1); category 2: variance 2 in the second (-1, 1).
    vectors = tf.constant([[-1.0, 5], [0, 5], [1, 5], [3, -1], [3, 1], [100, 100], [7, 7]])
    categories = tf.constant([1, 1, 1, 2, 2, 3, 0])
    # Differences 1 and -2 on the diagonal; category 3 has one item, the last item has no category.
    assert float(category_alignment(vectors, categories)) == pytest.approx((1 + 4) / (4 * 2**2))


@pytest.mark.parametrize("categories", [[1, 1, 1, 1], [0, 0, 0, 0], [1, 2, 3, 4], [1, 1, 2, 3]])
def test_fewer_than_two_categories_of_two_items_have_nothing_to_align(categories: list[int]) -> None:
    variable = tf.Variable(RNG.normal(size=(4, D)).astype(np.float32))
    with tf.GradientTape() as tape:
        loss = category_alignment(variable, tf.constant(categories))
    assert float(loss) == 0
    assert not np.any(tape.gradient(loss, variable))


def test_both_categories_get_a_gradient_and_items_without_one_none() -> None:
    variable = tf.Variable(RNG.normal(size=(7, D)).astype(np.float32))
    with tf.GradientTape() as tape:
        loss = category_alignment(variable, tf.constant([1, 1, 1, 2, 2, 0, 3]))
    moved = np.abs(tape.gradient(loss, variable)).max(axis=1) > 0
    assert moved.tolist() == [True] * 5 + [False] * 2


def test_the_categories_of_shared_candidates_are_aligned() -> None:
    categories = np.array([1, 1, 2, 2, 1], np.int32)
    outputs = drawn(**{"item/aisle": categories})
    expected = category_alignment(outputs.items["vector"], tf.constant(categories))
    assert float(category_alignment_term("aisle")(outputs)) == pytest.approx(float(expected))
