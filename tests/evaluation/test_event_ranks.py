"""Items are ranked by how many events they have."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.event_ranks import EventGroup, ranks_by_events

ITEMS = np.array([[1, 0], [0.5, 0], [0, 1], [0, 0.25], [-1, 0]], np.float32)
COUNTS = np.array([0, 100, 0, 9, 1000])


def test_scores_and_ranks_are_those_among_all_items() -> None:
    users = np.array([[1, 0], [0, 2]], np.float32)
    # Scores 1, .5, 0, 0, -1 and 0, 0, 2, .5, 0: ranks 1 2 3 4 5 and 3 4 1 2 5, equal ones by row.
    assert ranks_by_events(users, ITEMS, COUNTS, seed=1) == [
        EventGroup("0", 2, (1 + 0 + 0 + 2) / 4, 2.0, 1.0),
        EventGroup("1 to 9", 1, 0.25, 3.0, 3.0),
        EventGroup("100 to 999", 1, 0.25, 3.0, 3.0),
        EventGroup("1,000 and more", 1, -0.5, 5.0, 5.0),
    ]


def test_of_several_interests_the_best_one_counts() -> None:
    found = ranks_by_events(np.array([[1, 0, 0, 2]], np.float32), ITEMS, COUNTS, seed=1)
    # Scores 1, .5, 2, .5, 0.
    assert (found[0].mean_score, found[0].median_rank, found[0].best_rank) == (1.5, 1.5, 1.0)
    assert found[-1].best_rank == 5.0


def test_without_users_nothing_is_ranked() -> None:
    assert ranks_by_events(np.empty((0, 2), np.float32), ITEMS, COUNTS, seed=1) == []


def test_a_group_is_a_sentence() -> None:
    assert EventGroup("0", 2000, -0.61, 38932.0, 33559.0).sentence(92348) == (
        "2,000 items with 0 events: mean score -0.610, median rank 38,932 of 92,348, the best of a user 33,559"
    )


@pytest.mark.parametrize("count", [0, 1, 9, 10, 99, 100, 999, 1000, 10**6])
def test_every_count_is_in_one_group(count: int) -> None:
    (group,) = ranks_by_events(np.ones((1, 2), np.float32), ITEMS[:1], np.array([count]), seed=1)
    low, _, high = group.events.replace(",", "").partition(" to ")
    first = int(low.removesuffix(" and more"))
    assert first <= count <= (int(high) if high else 10**9 if "more" in low else first)
