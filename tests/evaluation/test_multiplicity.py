"""Adjusted p-values equal their definitions, and keep what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.multiplicity import benjamini_hochberg, holm

P_VALUES = np.array([0.01, np.nan, 0.04, 0.03, 0.5])


def test_holm_by_hand() -> None:
    # Of four tested: 4 * .01, 3 * .03, then 2 * .04, which may not fall below .09, and .5.
    np.testing.assert_allclose(holm(P_VALUES), [0.04, np.nan, 0.09, 0.09, 0.5])
    np.testing.assert_allclose(holm(np.array([0.7, 0.9])), [1, 1])


def test_benjamini_hochberg_by_hand() -> None:
    # Of four tested, from the largest: .5, 4/3 * .04, and 4/2 * .03, which may not rise above it; 4 * .01.
    np.testing.assert_allclose(benjamini_hochberg(P_VALUES), [0.04, np.nan, 4 / 75, 4 / 75, 0.5])


def test_nothing_tested_gives_nothing() -> None:
    for adjust in (holm, benjamini_hochberg):
        np.testing.assert_array_equal(adjust(np.array([np.nan, np.nan])), [np.nan, np.nan])
        assert adjust(np.array([])).shape == (0,)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_adjusting_raises_keeps_the_order_and_holm_is_the_stricter(values: list[float], random: object) -> None:
    p_values = np.array(values)
    family, rate = holm(p_values), benjamini_hochberg(p_values)
    assert (p_values <= rate + 1e-12).all()
    assert (rate <= family + 1e-12).all()
    assert (family <= np.minimum(1, len(values) * p_values) + 1e-12).all()  # never stricter than Bonferroni
    order = np.argsort(p_values)
    assert (np.diff(family[order]) >= -1e-12).all()
    shuffled = np.random.default_rng(random.randint(0, 99)).permutation(len(values))  # type: ignore[attr-defined]
    np.testing.assert_array_equal(holm(p_values[shuffled]), family[shuffled])


def test_p_values_outside_0_to_1_are_refused() -> None:
    for adjust in (holm, benjamini_hochberg):
        with pytest.raises(ValueError, match=r"2 p-values are not between 0 and 1, the first 1\.5"):
            adjust(np.array([0.1, np.nan, 1.5, -0.1]))


def test_inputs_are_left_as_they_are() -> None:
    p_values = P_VALUES.copy()
    holm(p_values), benjamini_hochberg(p_values)
    np.testing.assert_array_equal(p_values, P_VALUES)
