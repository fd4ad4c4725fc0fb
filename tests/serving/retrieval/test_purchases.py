"""Purchases in compressed rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from serving.retrieval.purchases import Purchases


def three_pairs() -> Purchases:
    # User 1 meets item 4 at 10 and 30 and item 0 at 20; user 3 meets item 2 at 5.
    # Left out: an event of the unknown user and one with an item outside the catalogue.
    users, items, seconds = np.array([[1, 1, 3, 1, 0, 3], [4, 0, 2, 4, 1, -1], [10, 20, 5, 30, 99, 99]])
    return Purchases.from_events(users, items, seconds=seconds, num_users=4, num_items=5)


def test_events_are_counted_with_their_latest_moment() -> None:
    found = three_pairs()
    assert found.indptr.tolist() == [0, 0, 2, 2, 3]
    assert found.indices.tolist() == [0, 4, 2]
    assert found.counts.tolist() == [1, 2, 1]
    assert found.last_seconds.tolist() == [20, 30, 5]


def test_the_unknown_user_has_bought_nothing() -> None:
    assert three_pairs().num_per_user[0] == 0


def test_rows_come_in_the_order_asked_and_as_often() -> None:
    found = three_pairs().of(np.array([3, 0, 1, 3]))
    assert found.num_per_user.tolist() == [1, 0, 2, 1]
    assert found.indices.tolist() == [2, 0, 4, 2]
    assert found.last_seconds.tolist() == [5, 20, 30, 5]
    assert found.csr().toarray().tolist() == [[0, 0, 1, 0, 0], [0] * 5, [1, 0, 0, 0, 2], [0, 0, 1, 0, 0]]


@pytest.mark.parametrize("row", [0, 1, 2, 3])
def test_one_row_alone_is_the_same_row_among_others(row: int) -> None:
    alone, both = three_pairs().of(np.array([row])), three_pairs().of(np.array([row, 0]))  # The unknown user has none.
    assert alone.indptr.tolist() == both.indptr[:2].tolist()
    assert [array.tolist() for array in (alone.indices, alone.counts, alone.last_seconds, alone.keys)] == [
        array.tolist() for array in (both.indices, both.counts, both.last_seconds, both.keys)
    ]


def test_no_events_make_empty_rows() -> None:
    nothing = np.empty(0, np.int64)
    found = Purchases.from_events(nothing, nothing, seconds=nothing, num_users=3, num_items=5)
    assert found.num_per_user.tolist() == [0, 0, 0]
    assert found.of(np.array([2, 1])).num_users == 2


def test_saved_and_loaded_is_equal(tmp_path: Path) -> None:
    saved = three_pairs()
    saved.save(tmp_path / "purchases")
    loaded = Purchases.load(tmp_path / "purchases", num_items=5)
    for name in ("indptr", "indices", "counts", "last_seconds"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(saved, name))
        assert getattr(loaded, name).dtype == getattr(saved, name).dtype


@pytest.mark.parametrize(
    ("indptr", "indices", "counts", "message"),
    [
        ([0, 1], [0, 1], [1, 1], "from 0 to 2"),
        ([0, 2], [0, 5], [1, 1], "from 0 to 5, expected 0 to 4"),
        ([0, 2], [1, 1], [1, 1], "without repeats"),
        ([0, 2], [0, 1], [1], "2, 1 and 2"),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    indptr: list[int], indices: list[int], counts: list[int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Purchases(
            np.array(indptr, np.int64),
            np.array(indices, np.int32),
            np.array(counts, np.int32),
            np.zeros(len(indices), np.int64),
            num_items=5,
        )
