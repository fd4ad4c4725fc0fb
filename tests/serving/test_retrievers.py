"""Which candidates, in which order? The promises that all share are in the contract."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from serving.purchases import Purchases
from serving.retrievers import Popularity, Repeat, UserQueries

AS_OF_SECONDS = 1512086400
DAY = 86_400


def test_repeat_orders_by_count_then_recency_then_row() -> None:
    # Days ago of each event of one user's items 0 to 4.
    events = {0: [9], 1: [6, 30], 2: [4, 50], 3: [9], 4: [8, 40, 50]}
    pairs = np.array([(1, item, days) for item, all_days in events.items() for days in all_days])
    purchases = Purchases.from_events(
        pairs[:, 0], pairs[:, 1], seconds=AS_OF_SECONDS - DAY * pairs[:, 2], num_users=2, num_items=5
    )
    users = UserQueries(purchases.of(np.array([1])), np.array([AS_OF_SECONDS]))
    rows, scores = Repeat().retrieve(users, 6)
    assert rows.tolist() == [[4, 2, 1, 0, 3, -1]]
    # Count + 1 / (2 + days): 3 + 1/10, 2 + 1/6, 2 + 1/8, 1 + 1/11 twice.
    expected = [3 + Fraction(1, 10), 2 + Fraction(1, 6), 2 + Fraction(1, 8), 1 + Fraction(1, 11), 1 + Fraction(1, 11)]
    np.testing.assert_allclose(scores[0, :5], [float(score) for score in expected], rtol=1e-6)


def test_repeat_tells_moments_of_one_day_apart() -> None:
    seconds = AS_OF_SECONDS - 200 * DAY + np.array([0, 1])
    ones = np.ones(2, np.int64)
    purchases = Purchases.from_events(ones, np.array([0, 1]), seconds=seconds, num_users=2, num_items=2)
    users = UserQueries(purchases.of(np.array([1])), np.array([AS_OF_SECONDS]))
    assert Repeat().retrieve(users, 2)[0].tolist() == [[1, 0]]


def test_popularity_orders_equal_items_by_row() -> None:
    nothing = np.empty(0, np.int64)
    nobody = Purchases.from_events(nothing, nothing, seconds=nothing, num_users=1, num_items=4)
    users = UserQueries(nobody, np.array([AS_OF_SECONDS]))
    rows, scores = Popularity(np.array([1, 5, 0, 5], np.float32)).retrieve(users, 4)
    assert rows.tolist() == [[1, 3, 0, 2]]
    assert scores.tolist() == [[5, 5, 1, 0]]
