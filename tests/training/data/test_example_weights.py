"""What an example counts, by the business value of its event."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.data.example_weights import tempered


def test_worked_by_hand() -> None:
    found = tempered(np.array([1.0, 4.0, 16.0]), 0.5)
    # Square roots 1, 2, 4, of mean 7/3; the floor, 1% of the way from 1 to 4 to 16, is 1 + .02 * 3 = 1.06.
    roots = np.array([1.06**0.5, 2, 4])
    np.testing.assert_allclose(found.weights, roots / roots.mean(), rtol=1e-6)
    assert (found.num_missing, found.num_raised) == (0, 1)
    assert found.weights.dtype == np.float32


def test_missing_values_count_as_the_median_and_returned_goods_as_the_floor() -> None:
    values = np.array([2.0, 2.0, 8.0, np.nan, 0.0, -3.0])
    found = tempered(values, 1.0)
    np.testing.assert_allclose(found.weights, np.array([2, 2, 8, 2, 2, 2]) / 3, rtol=1e-6)
    assert (found.num_missing, found.num_raised) == (1, 2)


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(st.floats(0.01, 1e6), min_size=1, max_size=50),
    power=st.floats(0.05, 1.0),
    unit=st.sampled_from([1e-3, 100.0]),
)
def test_weights_have_mean_one_keep_the_order_and_forget_the_unit(
    values: list[float], power: float, unit: float
) -> None:
    found = tempered(np.array(values), power)
    assert found.weights.mean() == pytest.approx(1, rel=1e-4)
    assert (np.diff(found.weights[np.argsort(values)]) >= 0).all()
    np.testing.assert_allclose(tempered(unit * np.array(values), power).weights, found.weights, rtol=1e-4)


def test_the_spread_shrinks_with_the_power() -> None:
    values = np.exp(np.random.default_rng(1).normal(0, 0.8, 5000))
    spreads = [tempered(values, power).spread for power in (1.0, 0.5, 0.25)]
    assert spreads[0] == pytest.approx(0.8, rel=0.05)
    np.testing.assert_allclose(spreads, spreads[0] * np.array([1, 0.5, 0.25]), rtol=1e-4)
    assert tempered(np.full(4, 3.0), 1.0).spread == pytest.approx(0, abs=1e-7)


def test_no_examples_have_no_weights() -> None:
    found = tempered(np.empty(0), 1.0)
    assert (len(found.weights), found.spread) == (0, 0.0)


def test_values_that_cannot_be_tempered_are_refused() -> None:
    with pytest.raises(ValueError, match="0 of 2 business values are positive"):
        tempered(np.array([0.0, np.nan]), 1.0)
    with pytest.raises(ValueError, match=r"power is 0\.0, expected above 0"):
        tempered(np.ones(2), 0.0)
