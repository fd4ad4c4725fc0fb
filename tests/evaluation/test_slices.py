"""Groups are what they are called, and recall within them adds up."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from evaluation.metrics import find_hits, recall_at_k
from evaluation.slices import (
    Groups,
    by_user_group,
    items_by_category,
    items_by_hidden_past,
    items_by_novelty,
    items_by_popularity,
    recall_by_day,
    recall_by_item_group,
    users_by_history_length,
    users_by_past,
    users_new_and_returning,
)
from evaluation.split import Split, make_split


def relevant_of(rows: list[list[int]], num_items: int) -> sp.csr_array:
    dense = np.zeros((len(rows), num_items), bool)
    for user, items in enumerate(rows):
        dense[user, items] = True
    return sp.csr_array(dense)


def test_each_popularity_bucket_has_a_third_of_the_events() -> None:
    # In order of popularity: row 1 (3 of 9 events), rows 3 and 4 (3 of 9), then 0, 2 and 6; row 5 has none.
    groups = items_by_popularity(np.array([1, 3, 1, 2, 1, 0, 1]))
    assert groups.names == ("head", "middle", "tail")
    assert groups.labels.tolist() == [1, 0, 2, 1, 2, 2, 2]


def test_one_item_with_all_events_is_the_head_and_nothing_is_without_events() -> None:
    assert items_by_popularity(np.array([0, 5, 0])).labels.tolist() == [2, 0, 2]
    assert items_by_popularity(np.array([0, 0])).labels.tolist() == [2, 2]


def test_items_with_a_hidden_past_are_apart_from_the_others() -> None:
    groups = items_by_hidden_past(np.array([False, True, False]))
    assert (groups.names, groups.labels.tolist()) == (("hidden items", "other items"), [1, 0, 1])


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40))
def test_a_more_popular_item_is_never_in_a_lower_bucket(counts: list[int]) -> None:
    array = np.array(counts)
    labels = items_by_popularity(array).labels
    order = np.argsort(-array, kind="stable")
    assert (np.diff(labels[order]) >= 0).all()
    # A bucket ends with the item that fills its third: it holds a third at least, and less than that without the last.
    for bucket in (0, 1) if array.sum() else ():
        upto = order[labels[order] <= bucket]
        assert 3 * array[upto].sum() >= (bucket + 1) * array.sum() or len(upto) == (array > 0).sum()
        assert 3 * array[upto[:-1]].sum() < (bucket + 1) * array.sum()


def test_an_item_is_cold_until_somebody_buys_it() -> None:
    groups = items_by_novelty(np.array([0, 1, 7, 0]))
    assert [groups.names[label] for label in groups.labels] == ["cold items", "warm items", "warm items", "cold items"]


def test_the_largest_categories_keep_their_name_and_the_rest_is_pooled() -> None:
    categories = ["milk", "bread", None, "milk", "tea", "wine"]
    groups = items_by_category(categories, np.array([2, 4, 99, 2, 4, 1]), num_largest=2)
    # Bread, milk and tea have four events each: the first two by name.
    assert groups.names == ("bread", "milk", "other categories")
    assert groups.labels.tolist() == [1, 0, 2, 1, 2, 2]


def test_a_dataset_with_few_categories_names_them_all() -> None:
    groups = items_by_category(["a", "b"], np.array([1, 2]), num_largest=5)
    assert groups.names == ("b", "a", "other categories")
    assert groups.labels.tolist() == [1, 0]


def test_categories_of_another_catalogue_are_refused() -> None:
    with pytest.raises(ValueError, match="1 categories for 2 items"):
        items_by_category(["a"], np.array([1, 2]), num_largest=5)


def split_with_past(num_past: list[int], has_new: list[bool]) -> Split:
    width = max(num_past) + 1
    history = relevant_of([list(range(count)) for count in num_past], width)
    new = relevant_of([[width - 1] if new else [] for new in has_new], width)
    rest = {name: None for name in Split.__dataclass_fields__ if name not in ("history", "relevant_new")}
    return Split(history=history, relevant_new=new, **rest)  # type: ignore[arg-type]


def test_users_are_split_into_thirds_by_their_number_of_items_and_ties_stay_together() -> None:
    groups = users_by_past(split_with_past([0, 1, 2, 3, 4, 5, 9], [True] * 6 + [False]))
    # The user with nine has nothing to find.
    assert groups.labels.tolist() == [0, 0, 1, 1, 2, 2, -1]
    assert users_by_past(split_with_past([3, 3, 3], [True] * 3)).labels.tolist() == [0, 0, 0]
    assert users_by_past(split_with_past([3], [False])).labels.tolist() == [-1]


def test_users_without_an_event_before_the_cut_are_new() -> None:
    groups = users_new_and_returning(split_with_past([0, 3, 1, 0], [True, True, False, False]))
    assert [groups.names[label] for label in groups.labels] == [
        "new users",
        "returning users",
        "returning users",
        "new users",
    ]


def test_history_lengths_are_powers_of_ten() -> None:
    groups = users_by_history_length(split_with_past([0, 1, 9, 10, 99, 100, 999, 1000, 1001], [True] * 9))
    assert groups.names == ("0", "1 to 9", "10 to 99", "100 to 999", "1,000 and more")
    assert groups.labels.tolist() == [0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_recall_by_day_by_hand(split: Split) -> None:
    # ann first buys b on day 0 and c on day 1, cat e on day 2; bob buys nothing in the window.
    ranked = np.array([[1, 0, 2], [1, 2, 3], [0, 1, 4]], np.int32)
    hits = find_hits(ranked, split.relevant)
    nan = np.nan
    found = recall_by_day(hits, ranked, split, split.relevant, k=2)
    np.testing.assert_array_equal(found, [[1, 0, nan], [nan, nan, nan], [nan, nan, 0]])
    found = recall_by_day(hits, ranked, split, split.relevant, k=3)
    np.testing.assert_array_equal(found, [[1, 1, nan], [nan, nan, nan], [nan, nan, 1]])
    # She knew b before: of what is new to her, nothing is left of day 0.
    new = recall_by_day(find_hits(ranked, split.relevant_new), ranked, split, split.relevant_new, k=3)
    np.testing.assert_array_equal(new[0], [nan, 1, nan])


@given(st.integers(0, 10_000), st.integers(1, 4))
def test_recall_by_day_is_that_of_the_pairs_cut_down_to_each_day(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    cut = pd.Timestamp("2020-01-10", tz="UTC").as_unit("us")
    events = pd.DataFrame({"user_id": rng.choice(list("uvwx"), 40), "item_id": rng.choice(list("abcdef"), 40)})
    days = rng.integers(-2, 4, 40)
    events["timestamp"] = cut + pd.to_timedelta(days, unit="D")
    order = list("abcdef")
    split = make_split(events, order, cut=dt.datetime(2020, 1, 10, tzinfo=dt.UTC), window_days=4)
    ranked = np.array([rng.permutation(6)[:4] for _ in split.user_ids], np.int32)
    ranked[0, 1:] = -1
    first = events[days >= 0].assign(day=days[days >= 0]).groupby(["user_id", "item_id"])["day"].min()
    found = recall_by_day(find_hits(ranked, split.relevant), ranked, split, split.relevant, k=k)
    assert found.shape == (len(split.user_ids), 4)
    for day in range(4):
        only = np.zeros(split.relevant.shape, bool)
        for user, item in first[first == day].index:
            only[split.user_ids.tolist().index(user), order.index(item)] = True
        np.testing.assert_allclose(found[:, day], recall_at_k(find_hits(ranked, sp.csr_array(only)), k))


def test_pairs_from_outside_the_window_have_no_day(split: Split) -> None:
    ranked = np.array([[0], [1], [4]], np.int32)
    relevant = relevant_of([[0, 1], [3], [4]], 5)
    with pytest.raises(ValueError, match="2 relevant pairs were not bought in the window, the first of user row 0 and"):
        recall_by_day(find_hits(ranked, relevant), ranked, split, relevant, k=1)
    with pytest.raises(ValueError, match="k is 2 and the lists have 1 places"):
        recall_by_day(find_hits(ranked, relevant), ranked, split, relevant, k=2)


def test_recall_within_a_group_counts_only_its_items() -> None:
    ranked = np.array([[0, 1, 2], [3, -1, -1], [4, 0, 1]], np.int32)
    relevant = relevant_of([[0, 2, 3], [1], []], 5)
    groups = Groups("kind", ("even", "odd"), np.array([0, 1, 0, 1, -1]))
    found = recall_by_item_group(find_hits(ranked, relevant), ranked, relevant, groups, k=2)
    # First user, first two places: of the even items 0 and 2 she finds 0; of the odd ones, only 3, none.
    assert found[0].tolist() == [1 / 2, 0.0]
    np.testing.assert_array_equal(found[1:], [[np.nan, 0.0], [np.nan, np.nan]])


@given(st.integers(0, 10_000), st.integers(1, 4))
def test_recall_within_groups_is_that_of_the_relevant_items_cut_down_to_each(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    num_users, num_items = 5, 8
    ranked = np.array([rng.permutation(num_items)[:4] for _ in range(num_users)], np.int32)
    ranked[0, 2:] = -1
    wanted = rng.random((num_users, num_items)) < 0.4
    relevant = sp.csr_array(wanted)
    labels = rng.integers(-1, 3, num_items)
    groups = Groups("chance", ("a", "b", "c"), labels)
    found = recall_by_item_group(find_hits(ranked, relevant), ranked, relevant, groups, k=k)
    for group in range(3):
        only = sp.csr_array(wanted & (labels == group))
        np.testing.assert_allclose(found[:, group], recall_at_k(find_hits(ranked, only), k))


def test_a_figure_is_in_the_column_of_the_users_group() -> None:
    groups = Groups("past", ("few", "many"), np.array([1, 0, -1]))
    found = by_user_group(np.array([0.5, np.nan, 0.25]), groups)
    np.testing.assert_array_equal(found, [[np.nan, 0.5], [np.nan, np.nan], [np.nan, np.nan]])


def test_groups_of_others_and_labels_without_names_are_refused() -> None:
    ranked, relevant = np.array([[0]], np.int32), relevant_of([[0]], 2)
    hits = find_hits(ranked, relevant)
    with pytest.raises(ValueError, match="groups of 3 items for a catalogue of 2"):
        recall_by_item_group(hits, ranked, relevant, Groups("x", ("a",), np.zeros(3, np.int64)), k=1)
    with pytest.raises(ValueError, match="k is 2 and the lists have 1 places"):
        recall_by_item_group(hits, ranked, relevant, Groups("x", ("a",), np.zeros(2, np.int64)), k=2)
    with pytest.raises(ValueError, match="values of 1 users and groups of 2"):
        by_user_group(np.zeros(1), Groups("x", ("a",), np.zeros(2, np.int64)))
    with pytest.raises(ValueError, match="labels of 'x' run from 0 to 1, expected -1 to 0"):
        Groups("x", ("a",), np.array([0, 1]))
