"""Published splits are scored by the rules of their tables."""

import numpy as np
import pytest

from evaluation.published_split import score
from features.sources.lightgcn import Pairs


def pairs(*found: tuple[int, int]) -> Pairs:
    users, items = np.array(found).T
    return Pairs(users, items)


def test_recall_and_ndcg_by_hand():
    # The user's list is 4, 3, 2 once item 5 is masked; items 3 and 0 are to be found.
    users, items = np.ones((1, 1), np.float32), np.arange(6, dtype=np.float32)[:, None]
    found = score(users, items, fitted=pairs((0, 5)), test=pairs((0, 0), (0, 3)), k=3)
    assert found.lists.tolist() == [[4, 3, 2]]
    assert found.recall == pytest.approx(1 / 2)
    assert found.ndcg == pytest.approx((1 / np.log2(3)) / (1 / np.log2(2) + 1 / np.log2(3)))
    assert found.users.tolist() == [0]


def test_users_without_test_pairs_do_not_count():
    users, items = np.ones((3, 1), np.float32), np.arange(4, dtype=np.float32)[:, None]
    found = score(users, items, fitted=pairs((0, 0), (2, 0)), test=pairs((1, 3)), k=1)
    assert (found.users.tolist(), found.recall) == ([1], 1.0)


def test_a_test_pair_that_was_fitted_counts_as_missed():
    users, items = np.ones((1, 1), np.float32), np.arange(4, dtype=np.float32)[:, None]
    found = score(users, items, fitted=pairs((0, 3)), test=pairs((0, 3), (0, 2)), k=2)
    assert (found.lists.tolist(), found.recall) == ([[2, 1]], 1 / 2)
