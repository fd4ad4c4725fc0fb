"""A join returns what was known at each moment, in the order of its keys, and detects violations."""

from __future__ import annotations

import datetime as dt
import itertools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from features import online_versions
from features.schema import Schema
from features.store import JoinError, Store, StoreSettings, check_not_younger, in_order_of

UTC = dt.UTC
START = dt.datetime(2017, 1, 1, tzinfo=UTC)
TIME_TO_LIVE = {"user": dt.timedelta(days=6), "item": dt.timedelta(days=4)}  # the refresh days and one more
Row = dict[str, Any]


def day(number: float) -> dt.datetime:
    return START + dt.timedelta(days=number)


@pytest.fixture(scope="module")
def user_rows(snapshot_row: Callable[..., Row]) -> list[Row]:
    """Anna's second day is corrected at noon and again at six; Boris has a row without a past; Zoë is new."""
    nothing = {"user_num_events": 0, "user_value": 0.0, "user_last_seconds": 0, "user_history": []}
    nothing |= {"user_history_seconds": [], "age": None, "income": None}
    return [
        snapshot_row("user", "anna", day(0), 1),
        snapshot_row("user", "anna", day(1), 2),
        snapshot_row("user", "anna", day(1), 20, created=day(1.5)),
        snapshot_row("user", "anna", day(1), 21, created=day(1.75)),
        snapshot_row("user", "anna", day(3), 4),
        snapshot_row("user", "boris", day(0), 5) | nothing,
        snapshot_row("user", "boris", day(2), 6),
        snapshot_row("user", "zoë", day(3), 7),
    ]


@pytest.fixture(scope="module")
def item_rows(snapshot_row: Callable[..., Row]) -> list[Row]:
    return [
        snapshot_row("item", f"i{item}", day(number), 10 * item + number)
        for item, number in itertools.product(range(4), range(0, 6, 2))
    ]


@pytest.fixture(scope="module")
def store(
    make_store: Callable[..., Store],
    user_rows: list[Row],
    item_rows: list[Row],
    tmp_path_factory: pytest.TempPathFactory,
) -> Store:
    return make_store(tmp_path_factory.mktemp("store"), user=user_rows, item=item_rows)


def known_at(rows: list[Row], key: str, entity: str, moment: dt.datetime, tower: str) -> Row | None:
    """Slow twin: of the rows that existed at the moment and are not too old, the latest, as last corrected."""
    seen = [
        row
        for row in rows
        if row[key] == entity
        and row["created_timestamp"] <= moment
        and moment - TIME_TO_LIVE[tower] <= row["event_timestamp"] <= moment
    ]
    return max(seen, key=lambda row: (row["event_timestamp"], row["created_timestamp"]), default=None)


@pytest.mark.parametrize("tower", ["user", "item"])
def test_a_join_returns_the_features_known_at_each_moment_in_the_order_of_the_keys(
    tower: str, store: Store, user_rows: list[Row], item_rows: list[Row]
) -> None:
    key, rows = f"{tower}_id", user_rows if tower == "user" else item_rows
    entities = [*sorted({row[key] for row in rows}), "nobody"]
    # Every quarter of a day, so that baskets share a second, moments meet midnights, corrections and the time to live.
    every = list(itertools.product(entities, (day(number / 4) for number in range(-4, 44))))
    np.random.default_rng(1).shuffle(every)
    keys = pd.DataFrame(every, columns=[key, "event_timestamp"])
    joined = store.join(tower, keys)
    nothing = dict.fromkeys(joined.column_names)
    expected = [
        nothing
        | {name: (known_at(rows, key, who, when, tower) or nothing)[name] for name in joined.column_names[2:]}
        | {key: who, "event_timestamp": when}
        for who, when in every
    ]
    assert joined.to_pylist() == expected
    assert {row is None for row in joined.column(f"{tower}_as_of_seconds").to_pylist()} == {True, False}


def test_a_late_correction_is_not_seen_before_it_was_made(store: Store) -> None:
    moments = [day(1.25), day(1.5) - dt.timedelta(microseconds=1), day(1.5), day(1.6), day(1.75), day(2.9)]
    joined = store.join("user", pd.DataFrame({"user_id": "anna", "event_timestamp": moments}))
    # user_num_events is the second field: 100 * number + 1.
    assert joined.column("user_num_events").to_pylist() == [201, 201, 2001, 2001, 2101, 2101]


def test_a_row_is_valid_from_its_timestamp_on_and_not_before(store: Store) -> None:
    moments = [day(3) - dt.timedelta(microseconds=1), day(3)]
    joined = store.join("user", pd.DataFrame({"user_id": "zoë", "event_timestamp": moments}))
    assert joined.column("user_num_events").to_pylist() == [None, 701]


def test_a_join_leaves_its_keys_alone_and_has_the_types_of_the_schema(store: Store) -> None:
    keys = pd.DataFrame({"user_id": ["boris", "anna"], "event_timestamp": [day(0.5), day(0.5)]})
    before = keys.copy(deep=True)
    joined = store.join("user", keys)
    pd.testing.assert_frame_equal(keys, before)
    assert joined.schema.field("user_value").type == pa.float32()
    assert joined.schema.field("user_history_seconds").type == pa.list_(pa.int64())
    assert joined.column("user_history").to_pylist() == [[], ["user_history 1", "é6"]]


def test_joining_and_materialising_warn_of_nothing(store: Store) -> None:
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        store.join("user", pd.DataFrame({"user_id": ["anna"], "event_timestamp": [day(1)]}))
        online_versions.fill(store.folder, store.settings, "2017-01-02-5f3c9a71")
    ours = [str(warning.message) for warning in raised if not issubclass(warning.category, ResourceWarning)]
    assert ours == []


def test_a_snapshot_from_the_future_stops_the_join(
    make_store: Callable[..., Store], snapshot_row: Callable[..., Row], tmp_path: Path
) -> None:
    late = snapshot_row("user", "mallory", day(1), 1) | {"user_as_of_seconds": int(day(9).timestamp())}
    store = make_store(tmp_path, user=[snapshot_row("user", "anna", day(1), 2), late])
    keys = pd.DataFrame({"user_id": ["anna", "mallory"], "event_timestamp": [day(2), day(2)]})
    with pytest.raises(JoinError, match=rf"1 of 2 rows .*mallory.*{int(day(9).timestamp())}.*must not be later"):
        store.join("user", keys)
    assert store.join("user", keys.iloc[:1]).num_rows == 1


def keys_of(*names: str) -> pd.DataFrame:
    return pd.DataFrame({"user_id": list(names), "event_timestamp": [day(1)] * len(names)})


def joined_of(*names: str) -> pa.Table:
    moments = pa.array([day(1)] * len(names), pa.timestamp("us", tz="UTC"))
    places = pa.array(np.arange(len(names)))
    return pa.table([pa.array(names), moments, places], names=["user_id", "event_timestamp", "place"])


def test_joined_rows_are_put_into_the_order_of_their_keys() -> None:
    ordered = in_order_of(keys_of("a", "b", "c"), joined_of("c", "a", "b"), key="user_id")
    assert ordered.column("place").to_pylist() == [1, 2, 0]


def test_a_lost_key_is_named() -> None:
    with pytest.raises(
        JoinError, match=r"join of 3 rows gave 2; 1 are missing, such as b at 2017-01-02 00:00:00\+00:00"
    ):
        in_order_of(keys_of("a", "b", "c"), joined_of("c", "a"), key="user_id")


def test_a_doubled_key_is_named() -> None:
    with pytest.raises(JoinError, match=r"doubled 1 of 3 rows, such as c at 2017-01-02"):
        in_order_of(keys_of("a", "b", "c"), joined_of("c", "a", "b", "c"), key="user_id")


def test_a_key_that_was_not_requested_is_noticed() -> None:
    with pytest.raises(JoinError, match="join of 1 rows gave 2"):
        in_order_of(keys_of("a"), joined_of("a", "b"), key="user_id")


def test_features_as_old_as_their_example_or_unknown_are_not_younger() -> None:
    seconds = int(day(1).timestamp())
    fine = joined_of("a", "b", "c").append_column("user_as_of_seconds", pa.array([seconds, seconds - 1, None]))
    check_not_younger(fine, key="user_id", as_of="user_as_of_seconds")


def test_features_a_second_younger_than_their_example_are_named() -> None:
    seconds = int(day(1).timestamp())
    wrong = joined_of("a", "b", "c").append_column("user_as_of_seconds", pa.array([seconds, seconds + 1, seconds]))
    with pytest.raises(JoinError, match=rf"1 of 3 rows have features from after.*'b'.*{seconds + 1}"):
        check_not_younger(wrong, key="user_id", as_of="user_as_of_seconds")


def test_an_opened_store_is_the_store_that_was_made(store: Store) -> None:
    again = Store.open(store.folder)
    assert again.settings == store.settings
    keys = keys_of("anna", "boris")
    assert again.join("user", keys).equals(store.join("user", keys))


def test_registering_again_changes_nothing(store: Store) -> None:
    def registered() -> list[Any]:
        feast = store.feast
        return [*feast.list_entities(), *feast.list_feature_views(), *feast.list_feature_services()]

    before = registered()
    store.apply()
    assert registered() == before
    assert len(before) == 6


def test_a_folder_without_a_store_names_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"settings.json: no feature store here; run `twinspire features`"):
        Store.open(tmp_path)


def test_settings_with_no_default_value_survive_being_written(schema: Schema) -> None:
    settings = StoreSettings(
        project="other",
        schema=schema,
        refresh_days={"user": 9, "item": 8},
        online_store="redis",
        redis_connection="cache.example:7777,password=x",
    )
    assert StoreSettings.from_json(settings.to_json()) == settings
