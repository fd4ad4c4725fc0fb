"""Factors of items that no user has met are what a ridge regression on content makes of the others'."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from towers.lookups import Fact
from training.content_factors import content_matrix, ridge_regression, suggested_by_content

KINDS = Fact("kind", np.array([0, 1, 1, 2, 2, 1, 0], np.int32))
VECTORS = Fact("look", np.array([[0, 1], [2, 0], [2, 0], [0, 3], [0, 3], [2, 0], [0, 0]], np.float32))


@pytest.mark.parametrize("num_columns", [1, 4])
def test_conjugate_gradients_solve_the_normal_equations(num_columns: int) -> None:
    rng = np.random.default_rng(1)
    dense = np.where(rng.random((60, 12)) < 0.3, rng.normal(size=(60, 12)), 0.0).astype(np.float32)
    targets = rng.normal(size=(60, num_columns)).astype(np.float32)
    expected = np.linalg.solve(dense.T @ dense + 0.7 * np.eye(12), dense.T @ targets)
    found = ridge_regression(sparse.csr_array(dense), targets, ridge=0.7)
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_targets_of_zero_give_weights_of_zero() -> None:
    content = sparse.csr_array(np.eye(3, dtype=np.float32))
    assert not ridge_regression(content, np.zeros((3, 2), np.float32)).any()


def test_items_that_are_met_keep_their_factors_and_the_others_get_those_of_their_kind() -> None:
    own = np.zeros((7, 2), np.float32)
    own[1:5] = [[0.8, 0.0], [0.4, 0.0], [0.0, 0.5], [0.0, 0.5]]
    found = suggested_by_content(own, np.array([1, 1, 2, 3, 4]), [KINDS])
    np.testing.assert_array_equal(found[:5], own[:5])
    # Item 5 is of kind 1, that of two items: sum / (2 + ridge) = 1.2 / 32.
    np.testing.assert_allclose(found[5], [1.2 / 32, 0], atol=1e-4)
    # Of row 0 and item 6 nothing is known.
    assert found[[0, 6]].tolist() == [[0, 0], [0, 0]]


def test_suggested_factors_are_no_longer_than_one() -> None:
    own = np.zeros((7, 2), np.float32)
    own[1:5] = [[1, 0], [1, 0], [0, 1], [0, 1]]
    look = Fact("look", 50 * VECTORS.values)
    look.values[5] = [400, 0]
    found = suggested_by_content(own, np.array([1, 2, 3, 4]), [look])
    np.testing.assert_allclose(found[5], [1, 0], atol=1e-4)


def test_content_has_a_column_for_each_value_and_each_number() -> None:
    lists = Fact("tags", np.array([[0, 0], [1, 2], [2, 0]], np.int32), np.array([[0, 0], [3, 4], [5, 0]], np.float32))
    found = content_matrix([lists, Fact("look", np.array([[0.0], [0.5], [2.0]], np.float32))]).toarray()
    # Weights 3 and 4 have length 5; a value alone counts one.
    np.testing.assert_allclose(found, [[0, 0, 0, 0], [0, 0.6, 0.8, 0.5], [0, 0, 1, 2]], atol=1e-6)
