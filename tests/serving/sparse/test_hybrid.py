"""Dense and sparse lists are merged by minimum fill, and kept places go to items with few events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from serving.retrieval.eligible import everything_but
from serving.retrieval.purchases import Purchases
from serving.retrieval.ranking import Rows, Scores, padding
from serving.retrieval.retrievers import UserQueries
from serving.retrieval.spread import Limit
from serving.served import SEGMENTS
from serving.sparse.hybrid import ColdLane, Hybrid

NUM_ITEMS = 10


@dataclass(frozen=True)
class Fixed:
    """The same scored items for all users, as far as they are offered."""

    scored: tuple[tuple[int, float], ...]
    needs_embeddings: ClassVar[bool] = False
    needs_tokens: ClassVar[bool] = False
    finds_all: ClassVar[bool] = False
    fills_up: ClassVar[bool] = True

    def retrieve(self, users: UserQueries, k: int) -> tuple[Rows, Scores]:
        rows, scores = padding(len(users), k)
        for user in range(len(users)):
            known = users.purchases.of(np.array([user])).indices if users.exclude_known else []
            may = [
                one for one in self.scored if one[0] not in known and (users.offered is None or users.offered[one[0]])
            ]
            for place, (row, score) in enumerate(may[:k]):
                rows[user, place], scores[user, place] = row, score
        return rows, scores


def asked(met: list[list[int]], **more: object) -> UserQueries:
    pairs = np.array(
        [(user, item) for user, items in enumerate(met, start=1) for item in items] or np.zeros((0, 2), int)
    )
    purchases = Purchases.from_events(
        pairs[:, 0], pairs[:, 1], seconds=np.zeros(len(pairs), int), num_users=len(met) + 1, num_items=NUM_ITEMS
    )
    return UserQueries(purchases.of(np.arange(1, len(met) + 1)), np.zeros(len(met), np.int64), **more)  # type: ignore[arg-type]


DENSE = Fixed(((0, 0.9), (1, 0.5), (2, 0.1)))
SPARSE = Fixed(((1, 40.0), (3, 30.0), (4, 20.0)))
COLD = np.isin(np.arange(NUM_ITEMS), [3, 4, 8, 9])


def hybrid(weights: dict[str, float], *, depth: int = 3) -> Hybrid:
    return Hybrid(DENSE, SPARSE, weights, cold=COLD, short_past=2, depth=depth)


def test_an_item_that_a_list_lacks_has_its_minimum() -> None:
    rows, scores = hybrid(dict.fromkeys(SEGMENTS, 0.4)).retrieve(asked([[5]]), 3)
    # Scaled: 0, 1, 2 have 1, 1/2, 0 and 1, 3, 4 have 1, 1/2, 0, which count .4.
    assert rows[0].tolist() == [0, 1, 3]
    np.testing.assert_allclose(scores[0], [1, 0.5 + 0.4, 0.4 / 2], rtol=1e-6)


def test_where_the_sparse_list_has_all_that_match_its_minimum_is_no_match() -> None:
    rows, scores = hybrid(dict.fromkeys(SEGMENTS, 0.4), depth=6).retrieve(asked([[5]]), 5)
    assert rows[0].tolist() == [0, 1, 3, 4, 2]
    np.testing.assert_allclose(scores[0], [1, 0.5 + 0.4, 0.4 * 30 / 40, 0.4 * 20 / 40, 0], rtol=1e-6)


def test_users_with_a_short_and_with_a_long_past_have_their_own_weights() -> None:
    weights = {"short_past_warm": 0.0, "short_past_cold": 0.0, "long_past_warm": 2.0, "long_past_cold": 2.0}
    rows, scores = hybrid(weights).retrieve(asked([[5], [5, 6]]), 3)
    # Item 2 has 0 as 3 and 4 do; lower rows come first.
    assert rows.tolist() == [[0, 1, 2], [1, 0, 3]]
    np.testing.assert_allclose(scores, [[1, 0.5, 0], [2.5, 1, 1]], rtol=1e-6)


@pytest.mark.parametrize(("own", "order"), [(0.0, [3, 4]), (0.7, [3, 4]), (0.9, [4, 3])])
def test_the_weight_for_items_with_few_events_orders_them_in_the_places_that_they_have(
    own: float, order: list[int]
) -> None:
    dense = Fixed(((0, 1.0), (3, 0.8), (1, 0.5), (4, 0.4), (2, 0.0)))
    sparse = Fixed(((4, 10.0), (1, 10.0), (3, 5.0)))
    weights = {"short_past_warm": 0.1, "short_past_cold": own, "long_past_warm": 0.0, "long_past_cold": 0.0}
    found = Hybrid(dense, sparse, weights, cold=COLD, short_past=2, depth=5)
    rows, scores = found.retrieve(asked([[5]]), 5)
    # By the other weight: 0 has 1, 3 has .8 + .05, 1 has .5 + .1, 4 has .4 + .1. By their own, 3 has .8 + own / 2 and 4
    # has .4 + own: equal at .8.
    assert rows[0].tolist() == [0, order[0], 1, order[1], 2]
    np.testing.assert_allclose(scores[0], [1, 0.85, 0.6, 0.5, 0], rtol=1e-6)


def test_among_items_with_few_events_alone_their_own_weight_decides() -> None:
    dense, sparse = Fixed(((3, 1.0), (4, 0.5), (8, 0.0))), Fixed(((9, 4.0), (8, 2.0)))
    weights = {"short_past_warm": 0.0, "short_past_cold": 4.0, "long_past_warm": 0.0, "long_past_cold": 0.0}
    rows, _ = Hybrid(dense, sparse, weights, cold=COLD, short_past=2, depth=5).retrieve(asked([[5]]), 5)
    # 9 has 4, 8 has 2, 3 has 1 and 4 has .5.
    assert rows[0].tolist() == [9, 8, 3, 4, -1]


def test_without_a_sparse_list_the_dense_one_stays() -> None:
    found = Hybrid(DENSE, Fixed(()), dict.fromkeys(SEGMENTS, 1.0), cold=COLD, short_past=2, depth=3)
    rows, scores = found.retrieve(asked([[]]), 4)
    assert rows[0].tolist() == [0, 1, 2, -1]
    np.testing.assert_allclose(scores[0], [1, 0.5, 0, -np.inf], rtol=1e-6)


def test_a_dense_list_of_equal_scores_counts_nothing() -> None:
    found = Hybrid(Fixed(((0, 0.5), (1, 0.5))), SPARSE, dict.fromkeys(SEGMENTS, 1.0), cold=COLD, short_past=2, depth=3)
    assert found.retrieve(asked([[]]), 5)[0].tolist() == [[1, 3, 4, 0, -1]]


LONG = Fixed(tuple((row, 1 - row / 10) for row in (0, 1, 2, 5, 6, 7)))
CONTENT = Fixed(((9, 5.0), (8, 4.0), (1, 3.0), (3, 2.0)))


def filled(lane: ColdLane, users: UserQueries, k: int) -> tuple[Rows, Scores]:
    return lane.fill(users, *LONG.retrieve(users, k))


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (0.1, [0, 1, 2, 5, 6, 7]),  # No whole place of six.
        (0.2, [0, 1, 2, 5, 6, 9]),
        (0.34, [0, 1, 9, 2, 5, 8]),
        (0.5, [0, 9, 1, 8, 2, 3]),
        (0.9, [0, 1, 9, 8, 2, 3]),  # Of five places, three have something to be filled with.
    ],
)
def test_kept_places_are_filled_with_items_of_few_events(share: float, expected: list[int]) -> None:
    users = asked([[4]])
    rows, scores = filled(ColdLane(CONTENT, COLD, share), users, 6)
    assert rows[0].tolist() == expected
    assert len(set(rows[0].tolist())) == 6
    assert COLD[rows[0]].sum() == min(int(6 * share), 3)
    np.testing.assert_array_equal(scores[0], LONG.retrieve(users, 6)[1][0])


def test_a_short_list_gets_longer_and_keeps_what_it_has() -> None:
    rows, scores = filled(ColdLane(CONTENT, COLD, 0.3), asked([[]]), 10)
    # Places 3, 6 and 10 are kept; the last is behind the end.
    assert rows[0].tolist() == [0, 1, 9, 2, 5, 8, 6, 7, 3, -1]
    assert (np.diff(scores[0][:9]) <= 0).all()


def test_items_of_few_events_that_are_there_count() -> None:
    own = Fixed(((8, 3.0), (0, 2.0), (1, 1.0)))
    users = asked([[]])
    rows, _ = ColdLane(CONTENT, COLD, 0.34).fill(users, *own.retrieve(users, 3))
    assert rows[0].tolist() == [8, 0, 1]


def test_what_is_filtered_or_known_is_put_in_no_place() -> None:
    users = asked([[9]], exclude_known=True, eligible=everything_but(np.array([8], np.int32), num_items=NUM_ITEMS))
    rows, _ = filled(ColdLane(CONTENT, COLD, 0.5), users, 6)
    assert set(np.flatnonzero(COLD)) & set(rows[0].tolist()) == {3}
    assert (rows[0] >= 0).all()


def test_no_more_of_a_group_comes_than_a_list_may_have() -> None:
    # Items 9 and 0 are of one family, and 8 and 3 of another.
    codes = np.full(NUM_ITEMS, -1, np.int32)
    codes[[9, 0]], codes[[8, 3]] = 0, 1
    rows, _ = filled(ColdLane(CONTENT, COLD, 0.5, (Limit(codes, 1),)), asked([[]]), 6)
    assert set(np.flatnonzero(COLD)) & set(rows[0].tolist()) == {8}
    assert 0 in rows[0]


def test_where_content_finds_nothing_a_list_stays_as_it_is() -> None:
    users = asked([[]])
    rows, scores = LONG.retrieve(users, 6)
    found = ColdLane(Fixed(()), COLD, 0.5).fill(users, rows, scores)
    np.testing.assert_array_equal(found[0], rows)
    np.testing.assert_array_equal(found[1], scores)
