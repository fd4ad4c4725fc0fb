"""Are published splits judged by the rules of their tables?"""

import numpy as np
import pytest

from evaluation.published import hold_out, score
from features.sources.lightgcn import Pairs


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


def test_users_without_judged_pairs_do_not_count():
    users, items = np.ones((3, 1), np.float32), np.arange(4, dtype=np.float32)[:, None]
    found = score(users, items, fitted=pairs((0, 0), (2, 0)), judged=pairs((1, 3)), k=1)
    assert (found.num_users, found.recall) == (1, 1.0)


def test_what_is_held_out_and_what_is_kept_are_all_pairs_once():
    users = np.repeat(np.arange(50), 20)
    whole = Pairs(users, np.tile(np.arange(20), 50))
    kept, held = hold_out(whole, 0.1, seed=1)
    together = np.concatenate([kept.users * 20 + kept.items, held.users * 20 + held.items])
    np.testing.assert_array_equal(np.sort(together), np.arange(1000))
    np.testing.assert_array_equal(np.bincount(held.users), np.full(50, 2))


def test_a_user_keeps_at_least_one_pair_and_rounding_is_at_random():
    whole = Pairs(np.concatenate([[0], np.repeat(np.arange(1, 201), 5)]), np.zeros(1001, np.int64))
    kept, held = hold_out(whole, 0.5, seed=1)
    assert 0 in kept.users
    counts = np.bincount(held.users, minlength=201)[1:]
    assert set(counts) == {2, 3}
    assert np.mean(counts) == pytest.approx(2.5, abs=0.15)


def test_the_same_seed_holds_out_the_same():
    whole = Pairs(np.repeat(np.arange(5), 10), np.tile(np.arange(10), 5))
    np.testing.assert_array_equal(hold_out(whole, 0.3, seed=4)[1].items, hold_out(whole, 0.3, seed=4)[1].items)
    assert (hold_out(whole, 0.3, seed=4)[1].items != hold_out(whole, 0.3, seed=5)[1].items).any()
