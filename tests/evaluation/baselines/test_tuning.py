"""Settings of baselines are chosen on the days before the cut, and their lists are filled up as the product's are."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from evaluation.baselines import BASELINES, tuning
from evaluation.baselines.baseline import Past, RankSome
from evaluation.baselines.popularity import filled_up
from evaluation.baselines.tuning import Settings, Tunable, most_used
from evaluation.split import Split, make_split, validation_split

CUT = dt.datetime(2024, 3, 1, tzinfo=dt.UTC)
ITEMS = np.array([f"i{row}" for row in range(12)], dtype=object)
FITTED = ("ease", "als", "item-knn")


def past_of(rows: list[tuple[str, int, int]], *, window_days: int = 7) -> Past:
    """Of (user, item, days before the cut); days below 0 are after it."""
    events = pa.table(
        {
            "user_id": pa.array([user for user, _, _ in rows], pa.string()),
            "item_id": pa.array([ITEMS[item] for _, item, _ in rows], pa.string()),
            "timestamp": pa.array([CUT - dt.timedelta(days=days) for _, _, days in rows], pa.timestamp("us", "UTC")),
        }
    )
    return Past(make_split(events, ITEMS, cut=CUT, window_days=window_days), events, ITEMS, seed=1, k=3)


def shop(seed: int = 0) -> Past:
    """Forty users with two tastes over thirty days, and two who come after the cut."""
    rng = np.random.default_rng(seed)
    rows = [
        (f"u{user}", int(rng.integers(0, 6) + 6 * (user % 2)), int(rng.integers(1, 31)))
        for user in range(40)
        for _ in range(8)
    ]
    return past_of([*rows, ("late", 3, -2), ("later", 7, -3), ("u1", 1, -1)])


def test_the_validation_days_are_a_window_before_the_cut() -> None:
    past = past_of([("ann", 0, 20), ("ann", 1, 7), ("bob", 2, 1), ("bob", 3, -1)])
    found = validation_split(past.split, past.events, past.item_ids)
    assert found is not None
    assert (found.cut, found.window_days) == (CUT - dt.timedelta(days=7), 7)
    assert found.user_ids.tolist() == ["ann", "bob"]
    assert found.history.nonzero()[1].tolist() == [0]
    assert found.relevant.nonzero()[1].tolist() == [1, 2]
    assert validation_split(past_of([("ann", 0, 3)]).split, past.events.slice(0, 0), ITEMS) is None


def fixed(lists_of: Callable[[float], list[int]], grid: tuple[float, ...], seconds: float = 0.0) -> Tunable:
    """A baseline that lists the same for all users, by its only setting."""

    def prepare(split: Split, is_final: bool) -> tuple[Callable[[Settings], RankSome], str]:
        def fit(settings: Settings) -> RankSome:
            row = np.array([*lists_of(settings["width"]), *[-1] * 9], np.int32)
            return lambda users, k, new_only: (np.tile(row[:k], (len(users), 1)), np.zeros((len(users), k), np.float32))

        return fit, "all items"

    return Tunable("by hand", {"width": grid}, {"width": grid[0]}, prepare, lambda split, settings: seconds)


# In the seven days ann comes back to items 0 and 1 and meets item 2; after the cut she meets item 5.
TWO_TASKS = [("ann", 0, 20), ("ann", 1, 20), ("ann", 0, 3), ("ann", 1, 3), ("ann", 2, 2), ("ann", 5, -1)]


def test_each_task_gets_the_settings_that_found_most_on_the_validation_days() -> None:
    # Of what is relevant, 0 and 1 are known and 2 is new: width 2 finds two of the three, and width 4 the new one.
    lists = {1.0: [9, 0], 2.0: [0, 1, 8], 4.0: [2, 8], 8.0: [9, 5], 16.0: [5, 9]}
    fitted = fixed(lambda width: lists[width], tuple(lists)).fit(past_of(TWO_TASKS))
    assert fitted.rank(2, False)[0].tolist() == [0, 1]
    assert fitted.rank(2, True)[0].tolist() == [2, 8]
    assert fitted.note == (
        "by hand: all items; width 4 for what is new, width 2 for everything, chosen of 4 by recall@3 on the 7 days "
        "before the cut"
    )


def test_the_window_after_the_cut_decides_nothing() -> None:
    fitted = fixed(lambda width: [int(width)], (5.0, 2.0)).fit(past_of(TWO_TASKS))
    assert fitted.rank(1, True)[0].tolist() == [2]


def test_a_search_ends_when_its_time_is_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "MOST_SECONDS", 2.5)
    # Of three settings, each better than the one before, there is time for two.
    lists = {1.0: [9], 2.0: [0], 4.0: [0, 1]}
    found = fixed(lambda width: lists[width], tuple(lists), seconds=1.0).fit(past_of([*TWO_TASKS, ("ann", 2, 20)]))
    assert found.note.endswith("chosen of 2 by recall@3 on the 7 days before the cut, as many as the time allows")
    assert found.rank(2, False)[0].tolist() == [0, 2]
    long = fixed(lambda width: [int(width)], (7.0, 0.0), seconds=3.0).fit(past_of(TWO_TASKS))
    assert long.note == (
        "by hand: all items; width 7 by default, as a search on the 7 days before the cut would take too long"
    )
    early = fixed(lambda width: [int(width)], (7.0, 0.0)).fit(past_of(TWO_TASKS[5:]))
    assert early.note.endswith("width 7 by default, as there are no days before the cut to choose on")


@pytest.mark.parametrize("name", FITTED)
def test_users_without_a_past_get_what_is_popular(name: str) -> None:
    past = shop()
    rates = np.zeros(len(ITEMS))
    for item, moment in zip(past.events["item_id"].to_pylist(), past.events["timestamp"].to_pylist(), strict=True):
        if moment < CUT:
            rates[int(item[1:])] += 2.0 ** (-((CUT - moment).days - 1) / 28)
    popular = np.argsort(-rates, kind="stable")
    fitted = BASELINES[name].fit(past)
    for new_only in (False, True):
        ranked = fitted.rank(4, new_only)
        for user in ("late", "later"):
            assert ranked[past.split.user_ids.tolist().index(user)].tolist() == popular[:4].tolist()


@pytest.mark.parametrize("name", FITTED)
def test_lists_are_as_long_as_there_are_items(name: str) -> None:
    past = shop()
    fitted = BASELINES[name].fit(past)
    met = past.split.history.toarray() > 0
    everything, new = fitted.rank(12, False), fitted.rank(12, True)
    assert (np.sort(everything, axis=1) == np.arange(12)).all()
    for row, own in zip(new, met, strict=True):
        assert sorted(row[row >= 0].tolist()) == np.flatnonzero(~own).tolist()


@pytest.mark.parametrize("name", FITTED)
def test_known_items_come_back_where_everything_counts(name: str) -> None:
    past = shop()
    ranked, known = BASELINES[name].fit(past).rank(3, False), past.split.history.toarray() > 0
    users = np.flatnonzero(known.any(axis=1))
    assert np.take_along_axis(known[users], ranked[users].astype(np.int64), axis=1).any()


@pytest.mark.parametrize("name", FITTED)
def test_the_note_names_the_settings_the_items_and_the_days(name: str) -> None:
    note = BASELINES[name].fit(shop()).note
    assert "all 12 items that anybody met" in note
    assert {"ease": "lambda ", "als": "factors ", "item-knn": "neighbours "}[name] in note
    assert note.endswith("by recall@3 on the 7 days before the cut")


def test_filling_keeps_the_order_and_lists_nothing_twice() -> None:
    past = past_of([("ann", 0, 2), ("ann", 1, 2), ("bob", 1, 2), ("bob", 2, 2), ("cat", 1, 3), ("cat", 2, 3)])
    found = {"ann": [2, -1, -1], "bob": [-1, -1, -1], "cat": [0, 2, 1]}

    def rank(k: int, new_only: bool) -> npt.NDArray[np.int32]:
        return np.array([found[user] for user in past.split.user_ids], np.int32)

    # Rates: item 1 has three events, item 2 two, item 0 one.
    assert filled_up(past, rank)(3, False).tolist() == [[2, 1, 0], [1, 2, 0], [0, 2, 1]]
    assert filled_up(past, rank)(3, True).tolist() == [[2, -1, -1], [0, -1, -1], [0, 2, 1]]


def test_the_items_with_most_users_are_kept() -> None:
    split = past_of([("ann", 4, 1), ("bob", 4, 1), ("bob", 2, 1), ("cat", 9, 1), ("cat", 2, 1)]).split
    assert most_used(split, 2)[0].tolist() == [2, 4]
    assert most_used(split, 3) == (pytest.approx([2, 4, 9]), "all 3 items that anybody met")
    assert most_used(split, 1)[1].startswith("1 of 3 items, those with the most users")
