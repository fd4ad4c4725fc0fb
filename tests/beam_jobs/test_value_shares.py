"""Shares of values before a midnight equal a slow twin that counts the whole past each time."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_jobs.snapshot_state import MAX_SHARES, Meetings, shares_before

NUM_OWNERS, START = 4, 17_000
Meeting = tuple[int, int, int]
# Owner, value (-1 is not known) and day; the last owner never meets anybody.
MEETINGS = st.lists(
    st.tuples(st.integers(0, NUM_OWNERS - 2), st.integers(-1, 3), st.integers(START, START + 5)), max_size=30
)


def meetings_of(drawn: list[Meeting]) -> Meetings:
    owner, value, day = np.array(drawn, np.int64).reshape(-1, 3).T
    return Meetings.of(owner, value, day)


def lists_of(drawn: list[Meeting], day: int, owners: list[int]) -> list[list[tuple[int, float]]]:
    rows = shares_before(meetings_of(drawn), day, owners=np.array(owners, np.int64))
    pairs = list(zip(rows.value.tolist(), rows.share.tolist(), strict=True))
    return [pairs[begin:end] for begin, end in zip(rows.offsets[:-1], rows.offsets[1:], strict=True)]


def known(drawn: list[Meeting], day: int, owner: int) -> list[tuple[int, float]]:
    """Slow twin: counts what was met before, largest first, then by value."""
    counts = Counter(value for who, value, when in drawn if who == owner and value >= 0 and when < day)
    total = sum(counts.values())
    return [(value, count / total) for value, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))]


@given(MEETINGS, st.integers(START - 1, START + 7), st.lists(st.integers(0, NUM_OWNERS - 1), max_size=6))
def test_shares_are_those_of_the_meetings_before_the_day(drawn: list[Meeting], day: int, owners: list[int]) -> None:
    assert lists_of(drawn, day, owners) == [known(drawn, day, owner) for owner in owners]


@given(MEETINGS, MEETINGS, st.integers(START, START + 6))
def test_later_meetings_change_no_earlier_share(drawn: list[Meeting], planted: list[Meeting], day: int) -> None:
    future = [(owner, value, max(when, day)) for owner, value, when in planted]
    everybody = list(range(NUM_OWNERS))
    assert lists_of(drawn + future, day, everybody) == lists_of(drawn, day, everybody)


@given(MEETINGS, st.randoms(use_true_random=False))
def test_the_order_of_the_meetings_leaves_no_trace(drawn: list[Meeting], random: object) -> None:
    shuffled = list(drawn)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    everybody = list(range(NUM_OWNERS))
    assert lists_of(shuffled, START + 3, everybody) == lists_of(drawn, START + 3, everybody)


@given(MEETINGS, st.integers(START - 1, START + 7))
def test_a_meeting_with_a_count_counts_that_often(drawn: list[Meeting], day: int) -> None:
    counted = Counter(drawn)
    owner, value, when = np.array(list(counted), np.int64).reshape(-1, 3).T
    some = Meetings.of(owner, value, when, np.array(list(counted.values()), np.int64))
    everybody = np.arange(NUM_OWNERS)
    found, expected = (shares_before(met, day, owners=everybody) for met in (some, meetings_of(drawn)))
    for name, values in vars(expected).items():
        np.testing.assert_array_equal(getattr(found, name), values)


def test_shares_by_hand() -> None:
    """Owner 0 meets 2, 2, 1 on the first day and 0 with somebody unknown on the second."""
    drawn = [(0, 2, START), (0, 1, START), (0, 2, START), (0, 0, START + 1), (0, -1, START + 1), (1, -1, START)]
    assert lists_of(drawn, START, [0, 1]) == [[], []]
    assert lists_of(drawn, START + 1, [0, 1]) == [[(2, 2 / 3), (1, 1 / 3)], []]
    assert lists_of(drawn, START + 2, [1, 0]) == [[], [(2, 2 / 4), (0, 1 / 4), (1, 1 / 4)]]


def test_only_the_largest_shares_are_kept_and_they_are_shares_of_all() -> None:
    """Value v is met v + 1 times: of 40 values, 1 + ... + 40 = 820 meetings, the 32 most frequent stay."""
    drawn = [(0, value, START) for value in range(40) for _ in range(value + 1)]
    [kept] = lists_of(drawn, START + 1, [0])
    assert len(kept) == MAX_SHARES == 32
    assert kept == [(value, (value + 1) / 820) for value in range(39, 7, -1)]


@pytest.mark.parametrize("drawn", [[], [(1, -1, START)]])
def test_without_meetings_every_row_is_empty(drawn: list[Meeting]) -> None:
    assert lists_of(drawn, START, [0, 1]) == [[], []]
    assert lists_of(drawn, START, []) == []
