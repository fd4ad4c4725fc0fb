"""Which columns of a batch are not negatives of a row?"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from training.negatives import KnownPositives, false_negatives

Ints = npt.NDArray[np.int64]


def test_repeats_known_items_and_the_users_other_rows_are_masked() -> None:
    # User 1 knows items 5 and 9, user 2 nothing, user 3 item 7.
    known = KnownPositives.of(np.array([3, 1, 1]), np.array([7, 9, 5]), num_user_rows=4)
    users, candidates = np.array([1, 2, 1, 3]), np.array([4, 6, 8, 4, 9, 6, 7])
    expected = [
        [0, 0, 1, 1, 1, 0, 0],  # user 1, item 4: row 2 is hers too, column 3 is item 4 again, she knows 9
        [0, 0, 0, 0, 0, 1, 0],  # user 2, item 6: column 5 is item 6 again
        [1, 0, 0, 1, 1, 0, 0],  # user 1, item 8: row 0 is hers, its item comes again in column 3
        [1, 0, 0, 0, 0, 0, 1],  # user 3, item 4: column 0 is item 4 too, he knows 7
    ]
    found = false_negatives(users, candidates, known)
    assert found.dtype == bool
    assert found.astype(int).tolist() == expected


def test_the_own_column_counts_although_the_user_knows_the_item() -> None:
    known = KnownPositives.of(np.array([1, 1]), np.array([1, 2]), num_user_rows=2)
    assert false_negatives(np.array([1]), np.array([1, 2, 3]), known).tolist() == [[False, True, False]]


def test_nobody_knows_anything() -> None:
    known = KnownPositives.of(np.empty(0, np.int64), np.empty(0, np.int64), num_user_rows=3)
    assert not false_negatives(np.array([0, 1, 2]), np.array([1, 2, 3, 4]), known).any()


def test_pairs_are_compressed_by_user_in_any_order() -> None:
    known = KnownPositives.of(np.array([2, 0, 2, 4]), np.array([7, 1, 3, 9]), num_user_rows=6)
    assert known.starts.tolist() == [0, 1, 1, 3, 3, 4, 4]
    assert (known.owners.tolist(), known.items.tolist()) == ([0, 2, 2, 4], [1, 7, 3, 9])
    position, item = known.pairs_of(np.array([5, 2, 1, 4]))
    assert (position.tolist(), item.tolist()) == ([1, 1, 3], [7, 3, 9])


def slow_twin(users: Ints, candidates: Ints, pairs: set[tuple[int, int]]) -> npt.NDArray[np.bool_]:
    mask = np.zeros((len(users), len(candidates)), bool)
    for row, user in enumerate(users):
        for column, item in enumerate(candidates):
            is_own_of_the_user = any(users[other] == user and candidates[other] == item for other in range(len(users)))
            mask[row, column] = column != row and (is_own_of_the_user or (user, item) in pairs)
    return mask


@st.composite
def cases(draw: st.DrawFn) -> tuple[Ints, Ints, Ints]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    num_rows = draw(st.integers(1, 8))
    users = rng.integers(0, draw(st.integers(1, 6)), num_rows)
    candidates = rng.integers(0, draw(st.integers(1, 12)), num_rows + draw(st.integers(0, 6)))
    pairs = np.unique(np.stack([rng.integers(0, 6, 20), rng.integers(0, 14, 20)], axis=1), axis=0)
    return users, candidates, rng.permutation(pairs)[: draw(st.integers(0, 20))]


@settings(max_examples=80)
@given(cases())
def test_the_mask_equals_the_slow_twin(case: tuple[Ints, Ints, Ints]) -> None:
    users, candidates, pairs = case
    known = KnownPositives.of(pairs[:, 0], pairs[:, 1], num_user_rows=6)
    expected = slow_twin(users, candidates, {(int(user), int(item)) for user, item in pairs})
    np.testing.assert_array_equal(false_negatives(users, candidates, known), expected)
