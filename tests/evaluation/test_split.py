"""The past ends at the cut, and what is relevant lies in the window."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.split import Split, make_split, recent_item_counts

CUT = dt.datetime(2020, 1, 10, tzinfo=dt.UTC)
ITEMS = ["a", "b", "c", "d", "e"]


def test_worked_by_hand(split: Split) -> None:
    # dan bought only what the catalogue lacks and eve only after the window: neither is a user here.
    assert split.user_ids.tolist() == ["ann", "bob", "cat"]
    assert split.history.toarray().tolist() == [[2, 1, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]]
    assert split.relevant.toarray().tolist() == [[0, 1, 1, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 1]]
    assert split.relevant_new.toarray().tolist() == [[0, 0, 1, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 1]]
    assert split.history.dtype == np.float32
    assert split.relevant.dtype == np.bool_


def test_days_since_is_that_of_the_latest_purchase(split: Split) -> None:
    assert split.days_since.toarray()[0, 0] == 6.0
    assert split.days_since.toarray()[1, 1] == 5.0
    assert 0 < split.days_since.toarray()[0, 1] < 1e-9
    np.testing.assert_array_equal(split.days_since.indices, split.history.indices)


def test_days_until_is_that_of_the_first_purchase_and_day_0_is_stored(split: Split) -> None:
    # ann buys b at the cut itself and c on the next day (and again); cat buys e in the last microsecond of three days.
    np.testing.assert_array_equal(split.days_until.indices, split.relevant.indices)
    np.testing.assert_array_equal(split.days_until.indptr, split.relevant.indptr)
    assert split.days_until.data.tolist() == [0, 1, 2]
    assert split.days_until.dtype == np.int16


def test_items_outside_the_catalogue_are_counted(split: Split) -> None:
    assert split.num_unknown_window_pairs == 2  # cat's two purchases are one pair, dan's the other
    assert split.num_unknown_window_items == 1
    assert split.num_unknown_history_events == 1


def test_table_and_frame_give_the_same_split(events: pd.DataFrame, split: Split) -> None:
    table = pa.Table.from_pandas(events, preserve_index=False)
    again = make_split(table, np.array(ITEMS), cut=CUT, window_days=3)
    np.testing.assert_array_equal(again.history.toarray(), split.history.toarray())
    np.testing.assert_array_equal(again.relevant.toarray(), split.relevant.toarray())


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("xyz"), st.sampled_from("abcde"), st.integers(0, 30)), max_size=40))
def test_nothing_from_the_cut_on_changes_the_history(later: list[tuple[str, str, int]]) -> None:
    past = [("x", "a", -1), ("y", "b", -3), ("z", "c", -7)]
    histories = []
    for rows in (past, past + later):
        frame = pd.DataFrame(rows, columns=["user_id", "item_id", "day"])
        frame["timestamp"] = pd.Timestamp(CUT).as_unit("us") + pd.to_timedelta(frame["day"], unit="D")
        histories.append(make_split(frame, ITEMS, cut=CUT, window_days=7).history.toarray())
    np.testing.assert_array_equal(histories[0], histories[1])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("xyz"), st.sampled_from("abc"), st.integers(-24, 100)), max_size=30))
def test_days_until_equals_a_loop_over_events(rows: list[tuple[str, str, int]]) -> None:
    rows = [("x", "a", 0), *rows]
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "hour"])
    frame["timestamp"] = pd.Timestamp(CUT).as_unit("us") + pd.to_timedelta(frame["hour"], unit="h")
    split = make_split(frame, ITEMS, cut=CUT, window_days=4)
    first: dict[tuple[str, str], int] = {}
    for user, item, hour in rows:
        if 0 <= hour < 96:
            first[user, item] = min(hour, first.get((user, item), hour))
    found = split.days_until.tocoo()
    pairs = zip(split.user_ids[found.row], np.array(ITEMS)[found.col], found.data.tolist(), strict=True)
    assert {(user, item): day for user, item, day in pairs} == {pair: hour // 24 for pair, hour in first.items()}


def test_recent_counts_look_back_and_never_forward(events: pd.DataFrame) -> None:
    # In [2020-01-04, 2020-01-10): ann's second a, ann's first b, bob's b.
    assert recent_item_counts(events, ITEMS, cut=CUT, days=6).tolist() == [1, 2, 0, 0, 0]
    assert recent_item_counts(events, ITEMS, cut=CUT, days=28).tolist() == [2, 2, 0, 0, 0]


def test_a_cut_without_time_zone_is_refused(events: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="cut is 2020-01-10T00:00:00, expected a time in UTC"):
        make_split(events, ITEMS, cut=CUT.replace(tzinfo=None), window_days=3)


def test_an_empty_window_and_look_back_are_refused(events: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="window_days is 0"):
        make_split(events, ITEMS, cut=CUT, window_days=0)
    with pytest.raises(ValueError, match="window_days is 32768; give at least 1 and at most 32767"):
        make_split(events, ITEMS, cut=CUT, window_days=32_768)
    with pytest.raises(ValueError, match="days is 0"):
        recent_item_counts(events, ITEMS, cut=CUT, days=0)


def test_repeated_items_are_refused(events: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="3 ids, 0 null and 2 distinct"):
        make_split(events, ["a", "a", "b"], cut=CUT, window_days=3)


def test_faulty_events_are_refused(events: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match=r"lack \['timestamp'\]"):
        make_split(events.drop(columns="timestamp"), ITEMS, cut=CUT, window_days=3)
    with pytest.raises(ValueError, match=r"hold nulls: \{'item_id': 1\}"):
        make_split(events.assign(item_id=events["item_id"].mask(events.index == 0)), ITEMS, cut=CUT, window_days=3)
    with pytest.raises(ValueError, match=r"is timestamp\[us\], expected a timestamp with a time zone"):
        make_split(events.assign(timestamp=events["timestamp"].dt.tz_localize(None)), ITEMS, cut=CUT, window_days=3)
