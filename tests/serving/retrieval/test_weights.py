"""Business weights and the order of items."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.retrieval.weights import (
    AUGMENTED_UP_TO,
    augmented,
    augmented_queries,
    choose_form,
    item_weights,
    load_weights,
    log_weight_spread,
    positive,
    weighted,
)


def unit_vectors(count: int, dimension: int, seed: int) -> npt.NDArray[np.float32]:
    vectors = np.random.default_rng(seed).normal(size=(count, dimension))
    unit: npt.NDArray[np.float32] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


def test_missing_values_count_as_the_median_and_losses_are_raised_to_the_floor() -> None:
    values = np.concatenate([np.arange(1.0, 101.0), [np.nan, 0.0, -7.0]])
    found = positive(values)
    # 1% of the way from 1 to 100 is 1.99: the value 1 is below it too.
    np.testing.assert_allclose(found.values[[0, 1, 99, 100, 101, 102]], [1.99, 2, 100, 50.5, 1.99, 1.99])
    assert (found.num_missing, found.num_raised) == (1, 3)


def test_values_that_are_all_alike_stay_as_they_are() -> None:
    found = positive(np.full(5, 0.25, np.float32))
    assert found.values.tolist() == [0.25] * 5
    assert (found.num_missing, found.num_raised) == (0, 0)
    assert len(positive(np.empty(0)).values) == 0


@pytest.mark.parametrize("values", [[0.0, -1.0, np.nan], [np.nan]])
def test_without_a_positive_value_there_are_no_weights(values: list[float]) -> None:
    with pytest.raises(ValueError, match=f"0 of {len(values)} business values are positive"):
        positive(np.array(values))


def test_an_infinite_value_is_refused() -> None:
    with pytest.raises(ValueError, match="1 of 3 business values are infinite"):
        positive(np.array([1.0, np.inf, np.nan]))


def test_weights_by_hand() -> None:
    weights = item_weights(np.array([4.0, 1.0, 9.0]), power=0.5)
    np.testing.assert_allclose(weights, [2 / 3, 1 / 3, 1], rtol=1e-6)
    assert weights.dtype == np.float32
    assert item_weights(np.array([4.0, 1.0]), power=0.0).tolist() == [1, 1]
    assert item_weights(np.array([1e300, 1e299]), power=1.0)[0] == 1


def test_the_spread_is_the_deviation_of_the_logarithms_and_scales_with_the_power() -> None:
    # log2 of the values is -1 and 1: their deviation is 1, in nats log 2.
    assert log_weight_spread(np.array([0.5, 2.0])) == pytest.approx(np.log(2))
    assert log_weight_spread(item_weights(np.array([0.5, 2.0]), power=0.25)) == pytest.approx(np.log(2) / 4)
    assert log_weight_spread(np.full(3, 0.7)) == 0
    with pytest.raises(ValueError, match="2 of 3 weights are positive"):
        log_weight_spread(np.array([1.0, 0.0, 2.0]))
    with pytest.raises(ValueError, match="0 of 0 weights are positive"):
        log_weight_spread(np.empty(0))


def test_weighted_vectors_score_the_weighted_cosine() -> None:
    vectors, queries = unit_vectors(7, 5, 1), unit_vectors(3, 5, 2)
    weights = np.linspace(0.1, 1, 7).astype(np.float32)
    slow = [[sum(q * x for q, x in zip(query, item, strict=True)) for item in vectors] for query in queries]
    np.testing.assert_allclose(queries @ weighted(vectors, weights).T, np.array(slow) * weights, atol=1e-6)


def test_a_vector_of_another_length_is_refused() -> None:
    vectors = unit_vectors(4, 5, 1)
    vectors[2] *= 1.5
    with pytest.raises(ValueError, match=r"vector 2 has length 1\.5000, expected 1"):
        weighted(vectors, np.ones(4, np.float32))
    with pytest.raises(ValueError, match="4 vectors and 3 weights"):
        weighted(vectors, np.ones(3, np.float32))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.1, 10))
def test_the_order_by_augmented_distance_is_that_of_the_inner_products(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    items = (scale * rng.normal(size=(30, 4))).astype(np.float32)
    queries = rng.normal(size=(5, 4)).astype(np.float32)
    stored, asked = augmented(items).astype(np.float64), augmented_queries(queries).astype(np.float64)
    lengths = np.linalg.norm(stored, axis=1)
    np.testing.assert_allclose(lengths, np.linalg.norm(items, axis=1).max(), rtol=1e-5)
    squares = np.square(asked[:, None] - stored[None]).sum(axis=2)
    products = queries.astype(np.float64) @ items.T.astype(np.float64)
    expected = np.square(queries, dtype=np.float64).sum(axis=1, keepdims=True) + lengths.max() ** 2 - 2 * products
    np.testing.assert_allclose(squares, expected, rtol=1e-4, atol=1e-4 * scale)


def test_without_weights_the_form_is_the_plain_one_and_small_spreads_are_augmented() -> None:
    assert [choose_form(spread) for spread in (0.0, 0.1, AUGMENTED_UP_TO, AUGMENTED_UP_TO + 0.1)] == [
        "ip", "augmented", "augmented", "ip",
    ]  # fmt: skip


def test_weights_come_back_as_they_were_saved(tmp_path: Path) -> None:
    weights = item_weights(np.array([4.0, 1.0, 9.0]), power=0.3)
    np.save(tmp_path / "w.npy", weights)
    np.testing.assert_array_equal(load_weights(tmp_path / "w.npy", num_items=3), weights)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(4, np.float32), r"float32 of shape \[4\], expected float32 of shape \[3\]"),
        (np.ones(3), r"holds float64 of shape \[3\]"),
        (np.array([1, 0, 2], np.float32), "weight of item 1 is 0.0, expected a positive number"),
        (np.array([1, 2, np.nan], np.float32), "weight of item 2 is nan"),
    ],
)
def test_weights_of_another_catalogue_are_refused(
    weights: npt.NDArray[np.floating], message: str, tmp_path: Path
) -> None:
    np.save(tmp_path / "w.npy", weights)
    with pytest.raises(ValueError, match=message):
        load_weights(tmp_path / "w.npy", num_items=3)
