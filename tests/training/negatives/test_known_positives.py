"""Which columns of a batch are not negatives of a row."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from training.negatives.known_positives import KnownPositives, false_negatives

Ints = npt.NDArray[np.int64]


def test_repeats_known_items_and_the_users_other_rows_are_masked() -> None:
    # User 1 knows items 5 and 9, user 2 nothing, user 3 item 7.
    known = KnownPositives.of(np.array([3, 1, 1]), np.array([7, 9, 5]), num_user_rows=4)
    users, candidates = np.array([1, 2, 1, 3]), np.array([4, 6, 8, 4, 9, 6, 7, 0])
    # Columns 3 and 5 repeat items 4 and 6, column 7 holds nothing.
    expected = [
        [0, 0, 1, 1, 1, 1, 0, 1],  # user 1, item 4: row 2 is hers too, she knows 9
        [0, 0, 0, 1, 0, 1, 0, 1],  # user 2, item 6
        [1, 0, 0, 1, 1, 1, 0, 1],  # user 1, item 8: row 0 is hers
        [1, 0, 0, 0, 0, 1, 1, 1],  # user 3, item 4: column 0 is item 4 too, he knows 7
    ]
    found = false_negatives(users, candidates, known, in_batch=True)
    assert found.dtype == bool
    assert found.astype(int).tolist() == expected


def test_without_in_batch_negatives_an_item_counts_behind_the_own_ones() -> None:
    known = KnownPositives.of(np.array([2]), np.array([7]), num_user_rows=3)
    users, candidates = np.array([1, 2]), np.array([4, 6, 6, 7, 4, 7])
    expected = [
        [0, 1, 0, 0, 1, 1],  # user 1, item 4: column 4 is item 4 again
        [1, 0, 1, 1, 0, 1],  # user 2, item 6, knows 7
    ]
    assert false_negatives(users, candidates, known, in_batch=False).astype(int).tolist() == expected


def test_the_own_column_counts_although_the_user_knows_the_item() -> None:
    known = KnownPositives.of(np.array([1, 1]), np.array([1, 2]), num_user_rows=2)
    found = false_negatives(np.array([1]), np.array([1, 2, 3]), known, in_batch=True)
    assert found.tolist() == [[False, True, False]]


def test_without_known_positives_distinct_items_are_not_masked() -> None:
    known = KnownPositives.of(np.empty(0, np.int64), np.empty(0, np.int64), num_user_rows=3)
    assert not false_negatives(np.array([0, 1, 2]), np.array([1, 2, 3, 4]), known, in_batch=True).any()
    assert not known.contain(np.array([0, 1]), np.array([1, 1])).any()


def test_rows_that_all_hold_the_same_item_have_no_negatives() -> None:
    known = KnownPositives.of(np.array([2]), np.array([9]), num_user_rows=6)
    for in_batch in (True, False):
        mask = false_negatives(np.arange(6), np.full(6, 3), known, in_batch=in_batch)
        assert np.array_equal(mask, ~np.eye(6, dtype=bool))


def test_pairs_are_compressed_by_user_in_any_order() -> None:
    known = KnownPositives.of(np.array([2, 0, 2, 4]), np.array([7, 1, 3, 9]), num_user_rows=6)
    assert known.starts.tolist() == [0, 1, 1, 3, 3, 4, 4]
    assert (known.owners.tolist(), known.items.tolist()) == ([0, 2, 2, 4], [1, 7, 3, 9])
    position, item = known.pairs_of(np.array([5, 2, 1, 4]))
    assert (position.tolist(), item.tolist()) == ([1, 1, 3], [7, 3, 9])


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(0, 40))
def test_known_pairs_are_found_from_either_side(seed: int, num_pairs: int) -> None:
    rng = np.random.default_rng(seed)
    # Few items with long lists, or few users with long ones: the shorter side is walked.
    for num_users, num_items in ((3, 30), (30, 3)):
        drawn = np.stack([rng.integers(0, num_users, num_pairs), rng.integers(0, num_items, num_pairs)])
        pairs = set(zip(*drawn.tolist(), strict=True))
        known = KnownPositives.of(*np.array(sorted(pairs), np.int64).reshape(-1, 2).T, num_user_rows=num_users)
        users = np.flatnonzero(rng.random(num_users) < 0.5)
        items = np.flatnonzero(rng.random(num_items + 4) < 0.5)
        found = known.among(users, items)
        expected = {pair for pair in pairs if pair[0] in users and pair[1] in items}
        assert sorted(zip(users[found[0]].tolist(), items[found[1]].tolist(), strict=True)) == sorted(expected)
        contained = known.contain(users[:, None], items)
        assert {(int(users[row]), int(items[place])) for row, place in np.argwhere(contained)} == expected


def slow_twin(users: Ints, candidates: Ints, pairs: set[tuple[int, int]], in_batch: bool) -> npt.NDArray[np.bool_]:
    num_rows = len(users)
    mask = np.zeros((num_rows, len(candidates)), bool)
    for row, user in enumerate(users):
        counted = {0}
        for column, item in enumerate(candidates):
            is_repeat = int(item) in counted
            is_left_out = not in_batch and column < num_rows
            if not is_left_out:
                counted.add(int(item))
            is_own_of_the_user = any(users[other] == user and candidates[other] == item for other in range(num_rows))
            is_negative = not (is_repeat or is_left_out or is_own_of_the_user or (user, item) in pairs)
            mask[row, column] = column != row and not is_negative
    return mask


@st.composite
def cases(draw: st.DrawFn) -> tuple[Ints, Ints, Ints, bool]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    num_rows = draw(st.integers(1, 8))
    users = rng.integers(0, draw(st.integers(1, 6)), num_rows)
    candidates = rng.integers(0, draw(st.integers(1, 12)), num_rows + draw(st.integers(0, 6)))
    pairs = np.unique(np.stack([rng.integers(0, 6, 20), rng.integers(0, 14, 20)], axis=1), axis=0)
    return users, candidates, rng.permutation(pairs)[: draw(st.integers(0, 20))], draw(st.booleans())


@settings(max_examples=80)
@given(cases())
def test_the_mask_equals_the_slow_twin(case: tuple[Ints, Ints, Ints, bool]) -> None:
    users, candidates, pairs, in_batch = case
    known = KnownPositives.of(pairs[:, 0], pairs[:, 1], num_user_rows=6)
    expected = slow_twin(users, candidates, {(int(user), int(item)) for user, item in pairs}, in_batch)
    np.testing.assert_array_equal(false_negatives(users, candidates, known, in_batch=in_batch), expected)


@settings(max_examples=60)
@given(cases())
def test_each_item_counts_at_most_once_in_a_row(case: tuple[Ints, Ints, Ints, bool]) -> None:
    users, candidates, pairs, in_batch = case
    known = KnownPositives.of(pairs[:, 0], pairs[:, 1], num_user_rows=6)
    mask = false_negatives(users, candidates, known, in_batch=in_batch)
    for row in mask:
        counted = candidates[~row].tolist()
        assert len(counted) == len(set(counted))
