"""Leakage checks catch anything from the future that is planted on purpose."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from artefacts.paths import RunPaths
from evaluation.baselines import BASELINES
from evaluation.baselines.baseline import Past
from evaluation.folds import make_folds
from evaluation.leakage import LeakageError, check_features, check_popularity
from evaluation.split import Split
from features.tables import read_events

CUT = dt.date(2024, 1, 8)
AT_CUT = int(dt.datetime(2024, 1, 8, tzinfo=dt.UTC).timestamp())
ANN = int(dt.datetime(2024, 1, 3, 9, tzinfo=dt.UTC).timestamp())
Rows = dict[str, list[Any]]

USERS: Rows = {
    "user_id": ["ann", "bob"],
    "user_as_of_seconds": [AT_CUT, AT_CUT - 86_400],
    "user_last_seconds": [ANN, ANN - 86_400],
    "user_num_events": [3, 1],
    "user_history": [["apple", "bread"], ["drill"]],
    "user_history_seconds": [[ANN, ANN], [ANN]],
}
ITEM_ROWS: Rows = {
    "item_id": ["apple", "cheese"],
    "item_as_of_seconds": [AT_CUT, AT_CUT],
    "item_num_events": [2, 0],
}


@pytest.fixture
def events(paths: RunPaths) -> pa.Table:
    return read_events(paths.tables, first_day=dt.date.min, end_day=dt.date.max)


def write(folder: Path, **changed: list[Any]) -> Path:
    """A catalogue of features at the cut, with some columns changed."""
    folder.mkdir(exist_ok=True)
    for name, rows in (("users", USERS), ("items", ITEM_ROWS)):
        table = pa.table({column: changed.get(column, values) for column, values in rows.items()})
        pq.write_table(table, folder / f"{name}.parquet")
    return folder


def test_features_from_before_the_cut_pass(events: pa.Table, tmp_path: Path) -> None:
    check_features(write(tmp_path / "catalogue"), events, CUT)
    # Snapshots may be older than the cut, and know less.
    check_features(write(tmp_path / "catalogue", user_num_events=[2, 0], item_num_events=[1, 0]), events, CUT)


@pytest.mark.parametrize(
    ("column", "planted", "message"),
    [
        (
            "user_num_events",
            [4, 1],
            "user_num_events of ann is 4, and 3 events were known before the cut; 1 rows",
        ),
        ("item_num_events", [2, 1], "item_num_events of cheese is 1, and 0 events were known before the cut"),
        ("user_last_seconds", [ANN, AT_CUT], "user_last_seconds of bob is 2024-01-08T00:00:00.*expected before"),
        ("user_as_of_seconds", [AT_CUT + 1, AT_CUT], "user_as_of_seconds of ann is 2024-01-08T00:00:01"),
        ("item_as_of_seconds", [AT_CUT, AT_CUT + 86_400], "item_as_of_seconds of cheese is 2024-01-09"),
        (
            "user_history",
            [["apple", "cheese"], ["drill"]],
            "user_history of ann holds cheese, which the user had not met",
        ),
        ("user_history_seconds", [[ANN, AT_CUT], [ANN]], "user_history_seconds reaches 2024-01-08T00:00:00"),
    ],
)
def test_a_feature_value_from_the_future_is_caught(
    events: pa.Table, tmp_path: Path, column: str, planted: list[Any], message: str
) -> None:
    with pytest.raises(LeakageError, match=message):
        check_features(write(tmp_path / "catalogue", **{column: planted}), events, CUT)


def test_an_item_from_the_future_that_counts_as_popular_is_caught(events: pa.Table, tmp_path: Path) -> None:
    names = ["(unknown)", "apple", "bread", "cheese"]

    def ids(rows: np.ndarray) -> list[str]:
        return [names[row] for row in rows]

    check_popularity(tmp_path, np.array([3.0, 0.5, 0.0], np.float32), ids, events, CUT)
    with pytest.raises(LeakageError, match="item cheese counts as popular, and no user had met it before the cut"):
        check_popularity(tmp_path, np.array([3.0, 0.5, 0.1], np.float32), ids, events, CUT)


@pytest.mark.parametrize("name", BASELINES)
def test_no_baseline_reads_events_after_the_cut(
    name: str,
    paths: RunPaths,
    events: pa.Table,
    make_lists: Callable[[str, Split, pa.Table], np.ndarray],
) -> None:
    split = make_folds(paths.tables, item_category=None, protocol="after-cut", cuts=[CUT], window_days=3).folds[0].split
    known = events.filter(pa.compute.less(events["timestamp"], pa.scalar(dt.datetime(2024, 1, 8, tzinfo=dt.UTC))))
    assert np.array_equal(make_lists(name, split, events), make_lists(name, split, known))


@pytest.fixture
def make_lists() -> Callable[[str, Split, pa.Table], np.ndarray]:
    item_ids = np.array(["apple", "bread", "cheese", "drill", "nails"], dtype=object)

    def make(name: str, split: Split, events: pa.Table) -> np.ndarray:
        return BASELINES[name].fit(Past(split, events, item_ids, seed=1)).rank(3, False)

    return make
