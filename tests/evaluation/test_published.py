"""Published splits are scored by the rules of their tables."""

import numpy as np
import pytest

from features.sources.lightgcn import Pairs
from training.published.lightgcn import hold_out, score


def pairs(*found: tuple[int, int]) -> Pairs:
    users, items = np.array(found).T
    return Pairs(users, items)


def test_recall_and_ndcg_by_hand():
    # The user's list is 4, 3, 2 once item 5 is masked; items 3 and 0 are to be found.
    users, items = np.ones((1, 1), np.float32), np.arange(6, dtype=np.float32)[:, None]
    found = score(users, items, fitted=pairs((0, 5)), judged=pairs((0, 0), (0, 3)), k=3)
    assert found.recall == pytest.approx(1 / 2)
    assert found.ndcg == pytest.approx((1 / np.log2(3)) / (1 / np.log2(2) + 1 / np.log2(3)))
    assert found.num_users == 1


def test_users_without_held_out_pairs_do_not_count():
    users, items = np.ones((3, 1), np.float32), np.arange(4, dtype=np.float32)[:, None]
    found = score(users, items, fitted=pairs((0, 0), (2, 0)), judged=pairs((1, 3)), k=1)
    assert (found.num_users, found.recall) == (1, 1.0)


def test_the_last_pairs_of_each_line_are_held_out():
    whole = Pairs(np.array([0, 0, 0, 0, 1, 1, 1, 1]), np.array([5, 9, 1, 3, 7, 2, 8, 0]))
    kept, held = hold_out(whole, 0.5, seed=None)
    np.testing.assert_array_equal(kept.items, [5, 9, 7, 2])
    np.testing.assert_array_equal(held.items, [1, 3, 8, 0])
    np.testing.assert_array_equal(held.users, [0, 0, 1, 1])


@pytest.mark.parametrize("seed", [None, 1])
def test_held_out_and_kept_pairs_are_all_pairs_once(seed):
    whole = Pairs(np.repeat(np.arange(50), 20), np.tile(np.arange(20), 50))
    kept, held = hold_out(whole, 0.1, seed=seed)
    together = np.concatenate([kept.users * 20 + kept.items, held.users * 20 + held.items])
    np.testing.assert_array_equal(np.sort(together), np.arange(1000))
    np.testing.assert_array_equal(np.bincount(held.users), np.full(50, 2))


def test_a_user_keeps_at_least_one_pair():
    whole = Pairs(np.array([0, 1, 1, 1]), np.array([4, 1, 2, 3]))
    kept, held = hold_out(whole, 0.9, seed=None)
    np.testing.assert_array_equal(kept.users, [0, 1])
    np.testing.assert_array_equal(held.items, [2, 3])


def test_the_same_seed_holds_out_the_same_and_another_one_something_else():
    whole = Pairs(np.repeat(np.arange(5), 10), np.tile(np.arange(10), 5))
    first, again, other = (hold_out(whole, 0.3, seed=seed)[1].items for seed in (4, 4, 5))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
