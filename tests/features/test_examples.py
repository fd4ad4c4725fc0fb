"""There is one example for each event, with the features known at that moment, in immutable partitions."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from features.examples import PARTS, Day, batches_of, join_days, missing_days
from features.sources.events import EVENTS_SCHEMA
from features.store import JoinError, Store

FIRST = dt.date(2017, 1, 1)
DAYS = [FIRST + dt.timedelta(days=number) for number in range(4)]
USERS, ITEMS = [f"u{number}" for number in range(5)], [f"i{number}" for number in range(30)]
NUM_EVENTS = 400
MET_BEFORE = ("u0", "i2")
Row = dict[str, Any]


def moment(day: dt.date, seconds: float = 0) -> dt.datetime:
    return dt.datetime(day.year, day.month, day.day, tzinfo=dt.UTC) + dt.timedelta(seconds=seconds)


@pytest.fixture(scope="module")
def store(
    make_store: Callable[..., Store], snapshot_row: Callable[..., Row], tmp_path_factory: pytest.TempPathFactory
) -> Store:
    """Everybody but u4 has a row at each midnight of even number, everything at each of odd number."""
    users = [
        snapshot_row("user", user, moment(DAYS[day]), day * 10 + int(user[1:])) for user in USERS[:4] for day in (0, 2)
    ]
    items = [
        snapshot_row("item", item, moment(DAYS[day]), day * 100 + int(item[1:])) for item in ITEMS for day in (1, 3)
    ]
    return make_store(tmp_path_factory.mktemp("store"), user=users, item=items)


@pytest.fixture(scope="module")
def events() -> pa.Table:
    """Baskets: many items of a user in one second. One in five has no reward, and the last second of a day is used."""
    rng = np.random.default_rng(8)
    drawn = {
        (
            moment(DAYS[rng.integers(4)], float(rng.choice([0, 3600, 86_399, 86_399.5]))),
            str(rng.choice(USERS)),
            str(rng.choice(ITEMS)),
        )
        for _ in range(NUM_EVENTS)
    }
    rows = [
        {
            "timestamp": when,
            "user_id": user,
            "item_id": item,
            "value": number / 4,
            "reward": None if number % 5 == 0 else 1 + number / 2,
        }
        for number, (when, user, item) in enumerate(sorted(drawn))
    ]
    return pa.Table.from_pylist(rows, schema=EVENTS_SCHEMA)


@pytest.fixture(scope="module")
def met(events: pa.Table) -> pd.Series:
    """First meetings; one pair had met in the year before."""
    frame = events.to_pandas()
    seconds = frame["timestamp"].astype("datetime64[s, UTC]").astype("int64")
    first = seconds.groupby([frame["user_id"], frame["item_id"]]).min()
    first.loc[MET_BEFORE] = int(moment(dt.date(2016, 5, 1)).timestamp())
    return first


def of_days(events: pa.Table, days: Iterable[dt.date]) -> pa.Table:
    days = set(days)
    return events.filter(pa.array([when.date() in days for when in events.column("timestamp").to_pylist()]))


@pytest.fixture(scope="module")
def join(store: Store, events: pa.Table, met: pd.Series) -> Callable[..., int]:
    def join(folder: Path, *days: dt.date, seed: int = 3) -> int:
        ids = np.array(ITEMS, dtype=object)
        return join_days(store, of_days(events, days), met=met, item_ids=ids, seed=seed, folder=folder)

    return join


@pytest.fixture(scope="module")
def joined(join: Callable[..., int], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    join(folder, *DAYS)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_every_event_is_one_example_of_its_own_user_and_item(joined: Path, events: pa.Table) -> None:
    found = []
    for day in DAYS:
        part = Day.load(joined / str(day))
        plain = part.events.to_pylist()
        users, items = part.users.column("user_id").to_pylist(), part.items.column("item_id").to_pylist()
        assert {row["timestamp"].date() for row in plain} == {day}
        found += [
            {
                "user_id": users[row["user_row"]],
                "item_id": items[row["item_row"]],
                **{name: row[name] for name in ("timestamp", "reward", "value")},
            }
            for row in plain
        ]
    assert found == events.to_pylist()


def test_examples_carry_the_features_known_at_their_moment(joined: Path) -> None:
    # The second field of a row, here the number of events, is 100 * number + 1.
    # Users have rows of the days 0 and 2, items of 1 and 3.
    for place, day in enumerate(DAYS):
        part = Day.load(joined / str(day))
        for row in part.users.to_pylist():
            number = place // 2 * 20 + int(row["user_id"][1:])
            assert row["user_num_events"] == (None if row["user_id"] == "u4" else 100 * number + 1)
            # Shares come along like every other field of the view: 1/2 + number / 1024, then 1/4.
            assert row["user_aisle_shares"] == (None if row["user_id"] == "u4" else [1 / 2 + number / 1024, 1 / 4])
        for row in part.items.to_pylist():
            number = {0: None, 1: 100, 2: 100, 3: 300}[place]
            expected = None if number is None else 100 * (number + int(row["item_id"][1:])) + 1
            assert row["item_num_events"] == expected


def test_a_basket_shares_the_features_of_its_user(joined: Path) -> None:
    for day in DAYS:
        part = Day.load(joined / str(day))
        for side, key in ((part.users, "user_id"), (part.items, "item_id")):
            moments = list(zip(side.column(key).to_pylist(), side.column("event_timestamp").to_pylist(), strict=True))
            assert len(moments) == len(set(moments))
            assert len(moments) < part.events.num_rows


def test_first_meetings_are_marked(joined: Path, events: pa.Table) -> None:
    marks = np.concatenate([Day.load(joined / str(day)).events.column("first_meeting").to_numpy() for day in DAYS])
    seen = {MET_BEFORE}
    expected = []
    for row in events.to_pylist():
        pair = (row["user_id"], row["item_id"])
        expected.append(pair not in seen)
        seen.add(pair)
    assert MET_BEFORE in {(row["user_id"], row["item_id"]) for row in events.to_pylist()}
    assert marks.tolist() == expected
    assert 0 < marks.sum() < len(marks)


def test_uniform_negatives_are_distinct_items_as_known_at_the_start_of_the_day(joined: Path) -> None:
    pools = []
    for place, day in enumerate(DAYS):
        part = Day.load(joined / str(day))
        drawn = part.uniform.column("item_id").to_pylist()
        assert len(drawn) == len(set(drawn)) == min(part.events.num_rows, len(ITEMS))
        assert set(drawn) <= set(ITEMS)
        assert set(part.uniform.column("event_timestamp").to_pylist()) == {moment(day)}
        assert (part.uniform.column("item_num_events").null_count == 0) == (place > 0)
        pools.append(drawn)
    assert len({tuple(pool) for pool in pools}) == len(DAYS)


def test_on_a_quiet_day_there_are_as_many_uniform_negatives_as_events(
    store: Store, events: pa.Table, met: pd.Series, tmp_path: Path
) -> None:
    few = of_days(events, DAYS[1:2]).slice(0, 7)
    join_days(store, few, met=met, item_ids=np.array(ITEMS, dtype=object), seed=3, folder=tmp_path)
    assert Day.load(tmp_path / str(DAYS[1])).uniform.num_rows == 7


def test_another_seed_draws_other_negatives_for_the_same_examples(
    join: Callable[..., int], joined: Path, tmp_path: Path
) -> None:
    join(tmp_path, DAYS[0], seed=4)
    found, other = Day.load(joined / str(DAYS[0])), Day.load(tmp_path / str(DAYS[0]))
    assert (found.events, found.users, found.items) == (other.events, other.users, other.items)
    assert found.uniform.column("item_id") != other.uniform.column("item_id")


def test_joining_the_new_day_alone_gives_the_bytes_of_joining_all(
    join: Callable[..., int], joined: Path, tmp_path: Path
) -> None:
    num_written = join(tmp_path, *DAYS[:2])
    for day in DAYS[2:]:
        num_written += join(tmp_path, day)
    assert content(tmp_path) == content(joined)
    assert len(content(tmp_path)) == len(DAYS) * len(PARTS)
    assert num_written == sum(Day.load(joined / str(day)).events.num_rows for day in DAYS)


def test_days_are_missing_until_their_partition_is_complete(join: Callable[..., int], tmp_path: Path) -> None:
    assert missing_days(tmp_path / "none", DAYS) == DAYS
    join(tmp_path, DAYS[1], DAYS[3])
    (tmp_path / f".{DAYS[0]}.tmp").mkdir()
    (tmp_path / f".{DAYS[0]}.tmp" / "events.parquet").touch()
    assert missing_days(tmp_path, DAYS) == [DAYS[0], DAYS[2]]


def test_leftovers_of_an_interrupted_run_are_replaced(join: Callable[..., int], joined: Path, tmp_path: Path) -> None:
    (tmp_path / f".{DAYS[0]}.tmp").mkdir()
    (tmp_path / f".{DAYS[0]}.tmp" / "rubbish.parquet").touch()
    join(tmp_path, DAYS[0])
    assert content(tmp_path / str(DAYS[0])) == content(joined / str(DAYS[0]))
    assert [path.name for path in tmp_path.iterdir()] == [str(DAYS[0])]


def test_an_existing_partition_is_never_replaced(join: Callable[..., int], tmp_path: Path) -> None:
    join(tmp_path, DAYS[0])
    before = content(tmp_path / str(DAYS[0]))
    with pytest.raises(FileExistsError, match=rf"{DAYS[0]}: this partition is there already and is never changed"):
        join(tmp_path, DAYS[0], DAYS[1], seed=4)
    assert [path.name for path in tmp_path.iterdir()] == [str(DAYS[0])]
    assert content(tmp_path / str(DAYS[0])) == before


def test_features_of_another_user_are_noticed(
    store: Store, events: pa.Table, met: pd.Series, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = store.join

    def shifted(tower: Any, keys: pd.DataFrame) -> pa.Table:
        table = honest(tower, keys)
        return table.take(pa.array(np.roll(np.arange(table.num_rows), 1))) if tower == "user" else table

    monkeypatch.setattr(store, "join", shifted)
    with pytest.raises(JoinError, match="examples got the features of another user_id, such as"):
        join_days(store, events, met=met, item_ids=np.array(ITEMS, dtype=object), seed=3, folder=tmp_path)
    assert missing_days(tmp_path, DAYS) == DAYS


def test_days_are_joined_in_runs_of_a_size() -> None:
    assert list(batches_of(DAYS, 3)) == [DAYS[:3], DAYS[3:]]
    assert list(batches_of(DAYS, 4)) == [DAYS]
    assert list(batches_of([], 4)) == []
