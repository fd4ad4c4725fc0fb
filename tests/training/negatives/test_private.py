"""Private negatives of a row."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.negatives.even_draws import per_row
from training.negatives.known_positives import KnownPositives, false_negatives
from training.negatives.private import (
    PrivateNegatives,
    UserNegatives,
    draw_private,
    hard_per_row,
    listed,
    log_q_of_hard,
    mask_private,
)
from training.negatives.source import Descriptions

Ints = npt.NDArray[np.int64]
NOTHING_KNOWN = KnownPositives.of(np.empty(0, np.int64), np.empty(0, np.int64), num_user_rows=6)


def negatives() -> UserNegatives:
    """User 1 has 10 to 14, user 3 has 20, the others nothing."""
    return UserNegatives.of(np.array([1, 1, 3, 1, 1, 1]), np.array([10, 11, 20, 12, 13, 14]), num_user_rows=5)


@pytest.mark.parametrize(
    ("num_easy", "easy_per_hard", "expected"),
    [(1535, 100, 15), (1549, 100, 15), (1551, 100, 16), (7, 100, 1), (0, 1, 1)],
)
def test_a_hard_one_for_so_many_easy_ones_but_at_least_one(num_easy: int, easy_per_hard: float, expected: int) -> None:
    assert hard_per_row(num_easy, easy_per_hard=easy_per_hard) == expected


def test_a_hard_one_in_a_hundred_has_a_hundredth_of_the_gradient_where_scores_are_equal() -> None:
    num_rows, num_easy = 4, 100
    rng = np.random.default_rng(0)
    log_q = np.log(rng.uniform(0.001, 0.9, num_rows + num_easy)).astype(np.float32)
    mask = np.zeros((num_rows, len(log_q)), bool)
    mask[:, :num_rows] = True
    hard = log_q_of_hard(log_q, mask, weight=1.0)
    easy = np.exp(-log_q[num_rows:]).sum()
    np.testing.assert_allclose(np.exp(-hard) / easy, 1 / num_easy, rtol=1e-5)
    nothing = log_q_of_hard(log_q, np.ones_like(mask), weight=1.0)
    assert not nothing.any()


def test_a_user_gets_items_of_the_own_list_each_once_as_far_as_it_goes() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        drawn = negatives().draw(np.array([3, 1, 0, 1, 4]), 3, rng=rng)
        assert drawn[0].tolist() == [20, 0, 0]
        assert not drawn[[2, 4]].any()
        for row in drawn[[1, 3]]:
            assert len(set(row)) == 3
            assert set(row) <= {10, 11, 12, 13, 14}
    assert sorted(negatives().draw(np.array([1]), 7, rng=rng)[0].tolist()) == [0, 0, 10, 11, 12, 13, 14]


def test_all_of_a_list_come_equally_often() -> None:
    rng = np.random.default_rng(1)
    counts = Counter(negatives().draw(np.ones(5000, np.int64), 2, rng=rng).ravel().tolist())
    np.testing.assert_allclose([counts[item] for item in range(10, 15)], 2000, rtol=0.1)


def test_users_without_lists_draw_no_hard_negatives() -> None:
    empty = UserNegatives.of(np.empty(0, np.int64), np.empty(0, np.int64), num_user_rows=3)
    assert empty.draw(np.array([0, 2]), 2, rng=np.random.default_rng(1)).tolist() == [[0, 0], [0, 0]]


def test_shuffling_moves_items_within_their_lists() -> None:
    found = {tuple(negatives().shuffled(np.random.default_rng(seed)).items.tolist()) for seed in range(9)}
    assert len(found) > 3
    for items in found:
        assert sorted(items[:5]) == [10, 11, 12, 13, 14]
        assert items[5] == 20


# Rows 0 to 3 describe items of examples, 4 and 5 even draws; nothing describes items 12 and 20.
DESCRIPTIONS = Descriptions(np.array([10, 11, 10, 13, 14, 10]), 4, num_item_rows=30, catalogue_size=29)


def draw(user_rows: Ints, *, rng: np.random.Generator, num_random: int = 0) -> PrivateNegatives:
    """Five of the users' lists and some drawn evenly."""
    sources = [listed(negatives(), num=5), per_row(num=num_random)]
    found = draw_private([begin(DESCRIPTIONS, rng) for begin in sources], user_rows, DESCRIPTIONS, rng=rng)
    assert found is not None
    return found


def test_an_item_is_described_by_any_row_that_has_it() -> None:
    rng, rows_of = np.random.default_rng(1), Counter[tuple[int, int]]()
    for _ in range(300):
        drawn = draw(np.array([1, 3]), rng=rng)
        assert sorted(drawn.items[0].tolist()) == [0, 10, 11, 13, 14]
        assert not drawn.items[1].any()
        rows_of.update(zip(drawn.items[0].tolist(), drawn.rows[0].tolist(), strict=True))
    assert {place for place in rows_of if place[0]} == {(10, 0), (10, 2), (10, 5), (11, 1), (13, 3), (14, 4)}
    np.testing.assert_allclose([rows_of[10, 0], rows_of[10, 2], rows_of[10, 5]], 100, atol=35)


def test_random_ones_come_from_the_even_draws_alone() -> None:
    drawn = draw(np.array([1, 0] * 20), rng=np.random.default_rng(1), num_random=3)
    assert drawn.num_certain == 5
    assert set(drawn.rows[:, 5:].ravel().tolist()) == {4, 5}
    assert np.array_equal(drawn.items[:, 5:], np.array([14, 10])[drawn.rows[:, 5:] - 4])


def test_a_hard_one_takes_the_place_of_a_shared_one_and_a_random_one_gives_way() -> None:
    users, candidates = np.array([1, 2]), np.array([4, 5, 6, 7])
    known = KnownPositives.of(np.array([2]), np.array([9]), num_user_rows=3)
    private = PrivateNegatives(
        items=np.array([[6, 8, 0, 7, 8, 3], [9, 5, 4, 3, 3, 6]]), rows=np.zeros((2, 6), np.int64), num_certain=3
    )
    shared = false_negatives(users, candidates, known, in_batch=True)
    expected = [
        # 6 is hard here; of the private ones 0 is nothing, 7 is shared, 8 a repeat.
        [0, 0, 1, 0, 0, 0, 1, 1, 1, 0],
        # 4 is hard here; 9 is known, 5 the own item, 3 comes twice, 6 is shared.
        [1, 0, 0, 0, 1, 1, 0, 0, 1, 1],
    ]
    found = mask_private(shared, private, users, candidates, known, in_batch=True)
    assert found.astype(int).tolist() == expected
    # Without in-batch negatives item 4 of row 0 is not shared, so that the hard one has nothing to replace.
    shared = false_negatives(users, candidates, known, in_batch=False)
    found = mask_private(shared, private, users, candidates, known, in_batch=False)
    assert found[1].astype(int).tolist() == [1, 0, 0, 0, 1, 1, 0, 0, 1, 1]


def test_the_users_own_item_of_another_row_is_no_private_negative() -> None:
    private = PrivateNegatives(np.array([[5], [4]]), np.zeros((2, 1), np.int64), num_certain=1)
    users, candidates = np.array([1, 1]), np.array([4, 5])
    shared = false_negatives(users, candidates, NOTHING_KNOWN, in_batch=True)
    found = mask_private(shared, private, users, candidates, NOTHING_KNOWN, in_batch=True)
    assert found.tolist() == [[False, True, True], [True, False, True]]


@settings(max_examples=80)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.booleans())
def test_each_item_counts_at_most_once_in_a_row_and_none_is_a_positive(
    seed: int, num_rows: int, in_batch: bool
) -> None:
    rng = np.random.default_rng(seed)
    users, candidates = rng.integers(0, 6, num_rows), rng.integers(0, 12, num_rows + 5)
    pairs = np.unique(np.stack([rng.integers(0, 6, 10), rng.integers(1, 12, 10)], axis=1), axis=0)
    known = KnownPositives.of(pairs[:, 0], pairs[:, 1], num_user_rows=6)
    private = PrivateNegatives(rng.integers(0, 12, (num_rows, 5)), np.zeros((num_rows, 5), np.int64), num_certain=2)
    shared = false_negatives(users, candidates, known, in_batch=in_batch)
    mask = mask_private(shared, private, users, candidates, known, in_batch=in_batch)
    assert (mask[:, :-5] >= shared).all()
    for row in range(num_rows):
        items = np.concatenate([candidates, private.items[row]])
        negative = [int(items[column]) for column in np.flatnonzero(~mask[row]) if column != row]
        before = [int(candidates[column]) for column in np.flatnonzero(~shared[row]) if column != row]
        own = set(candidates[:num_rows][users == users[row]].tolist())
        positive = own | set(known.items[known.owners == users[row]].tolist())
        assert not mask[row, row]
        assert len(set(negative)) == len(negative)
        assert set(negative) == (set(before) | set(private.items[row].tolist())) - positive - {0}
        hard = {int(item) for item in private.items[row, :2]} - positive - {0}
        assert hard <= {int(items[column]) for column in np.flatnonzero(~mask[row]) if column >= len(candidates)}
