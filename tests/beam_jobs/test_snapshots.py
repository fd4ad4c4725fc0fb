"""The snapshot job writes the same rows for any sharding, and no row knows its own day."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing import test_pipeline
from apache_beam.testing.util import assert_that, equal_to

from beam_jobs.snapshot_state import SavedState
from beam_jobs.snapshots import PARTS, DailySnapshots, part_schemas, run, split_by_shard
from features.schema import Schema

START = dt.date(2017, 1, 1)
NUM_DAYS = 6
REFRESH_DAYS = {"user": 3, "item": 2}
Event = dict[str, Any]
Rows = dict[str, list[dict[str, Any]]]
SORTED_BY = {
    "user": ("event_timestamp", "user_id"),
    "item": ("event_timestamp", "item_id"),
    "pairs": ("user_id", "item_id"),
    "user_state": ("user_id",),
    "item_state": ("item_id",),
}


def day(number: int) -> dt.date:
    return START + dt.timedelta(days=number)


def midnight(number: int) -> dt.datetime:
    return dt.datetime(2017, 1, 1, tzinfo=dt.UTC) + dt.timedelta(days=number)


@pytest.fixture(scope="module")
def tables(write_tables: Callable[..., Path], events: list[Event], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tables(tmp_path_factory.mktemp("tables") / "tables", events)


@pytest.fixture(scope="module")
def transform(schema: Schema) -> Callable[..., DailySnapshots]:
    def make(
        tables: Path, first: int, end: int, *, num_shards: int = 2, saved: SavedState | None = None, rows_from: int = 0
    ) -> DailySnapshots:
        return DailySnapshots(
            tables,
            schema,
            days=(day(first), day(end)),
            rows_from=day(rows_from),
            num_shards=num_shards,
            history_length=3,
            user_refresh_days=REFRESH_DAYS["user"],
            item_refresh_days=REFRESH_DAYS["item"],
            saved=saved,
        )

    return make


def paths_of(tables: Path, first: int, end: int) -> list[str]:
    return sorted(str(path) for path in (tables / "events").iterdir() if str(day(first)) <= path.stem < str(day(end)))


def state_in(out: Path) -> SavedState:
    return SavedState(out / "user_state.parquet", out / "item_state.parquet", out / "pairs.parquet")


@pytest.fixture(scope="module")
def snapshots(
    schema: Schema, options: PipelineOptions, transform: Callable[..., DailySnapshots]
) -> Callable[..., Rows]:
    """Runs the job from files to files and gives the rows of its files, sorted; the pairs come sorted by shard."""

    def make(tables: Path, out: Path, first: int, end: int, **kwargs: Any) -> Rows:
        out.mkdir(exist_ok=True)
        run(
            transform(tables, first, end, **kwargs),
            paths_of(tables, first, end),
            out=out,
            schema=schema,
            options=options,
        )
        made = {}
        for part, by in SORTED_BY.items():
            table = pq.read_table(out / f"{part}.parquet")
            assert table.schema.equals(part_schemas(schema)[part])
            made[part] = table.sort_by([(name, "ascending") for name in by]).to_pylist()
        assert {path.name for path in out.iterdir()} == {f"{part}.parquet" for part in PARTS}
        return made

    return make


@pytest.fixture(scope="module")
def everything(tables: Path, snapshots: Callable[..., Rows], tmp_path_factory: pytest.TempPathFactory) -> Rows:
    return snapshots(tables, tmp_path_factory.mktemp("all"), 0, NUM_DAYS)


def test_rows_summarise_the_events_before_their_midnight(everything: Rows, events: list[Event]) -> None:
    ages = dict(
        zip((f"u{number}" for number in range(7)), ["old", None, "young", "old", "young", None, "old"], strict=True)
    )
    for row in everything["user"]:
        moment = row["event_timestamp"]
        past = [event for event in events if event["user_id"] == row["user_id"] and event["timestamp"] < moment]
        # Of events at the same second the one with the later item id counts as the later.
        past.sort(key=lambda event: (event["timestamp"], event["item_id"]))
        latest: dict[str, int] = {}
        for event in reversed(past):
            latest.setdefault(event["item_id"], int(event["timestamp"].timestamp()))
        assert row == {
            "user_id": row["user_id"],
            "event_timestamp": moment,
            "created_timestamp": moment,
            "user_as_of_seconds": int(moment.timestamp()),
            "user_num_events": len(past),
            "user_num_items": len(latest),
            "user_num_days": len({event["timestamp"].date() for event in past}),
            "user_value": sum(event["value"] or 0 for event in past),
            "user_last_seconds": int(past[-1]["timestamp"].timestamp()) if past else 0,
            "user_history": list(latest)[:3],
            "user_history_seconds": list(latest.values())[:3],
            "age": ages[row["user_id"]],
        }


def test_item_rows_count_each_user_at_the_first_event(everything: Rows, events: list[Event]) -> None:
    for row in everything["item"]:
        moment = row["event_timestamp"]
        past = [event for event in events if event["item_id"] == row["item_id"] and event["timestamp"] < moment]
        assert row["item_as_of_seconds"] == int(moment.timestamp())
        assert row["created_timestamp"] == moment
        assert row["item_num_events"] == len(past)
        assert row["item_num_buyers"] == len({event["user_id"] for event in past})
        total = sum(event["value"] or 0 for event in past)
        assert row["item_price"] == pytest.approx(total / len(past) if past else 0, rel=1e-6)
        first = {user: min(event["timestamp"].date() for event in past if event["user_id"] == user)
                 for user in {event["user_id"] for event in past}}  # fmt: skip
        keep = 2 ** (-1 / 7)
        rate = sum((1 - keep) * keep ** ((moment.date() - met).days - 1) for met in first.values())
        assert row["item_fast_new_rate"] == pytest.approx(rate, rel=1e-6)
        number = int(row["item_id"][1:])
        assert (row["aisle"], row["size"]) == (["tea", "ice cream", None][number % 3], number / 4)


def test_every_midnight_has_its_rows_and_no_user_is_missing_for_longer_than_the_refresh(
    everything: Rows, events: list[Event]
) -> None:
    for tower, everybody in (("user", 7), ("item", 9)):
        at = {number: set() for number in range(1 - REFRESH_DAYS[tower], NUM_DAYS + 1)}
        for row in everything[tower]:
            names = at[(row["event_timestamp"] - midnight(0)).days]
            assert row[f"{tower}_id"] not in names
            names.add(row[f"{tower}_id"])
        # New users have the row of the latest refresh before the run.
        assert sum(len(names) for number, names in at.items() if number <= 0) == everybody
        for number in range(1, NUM_DAYS + 1):
            active = {event[f"{tower}_id"] for event in events if event["timestamp"].date() == day(number - 1)}
            assert active <= at[number]
            recent = [at[earlier] for earlier in range(number + 1 - REFRESH_DAYS[tower], number + 1)]
            assert len(set.union(*recent)) == everybody


def test_pairs_are_all_who_have_met(everything: Rows, events: list[Event]) -> None:
    met: dict[tuple[str, str], list[int]] = {}
    for event in events:
        met.setdefault((event["user_id"], event["item_id"]), []).append(int(event["timestamp"].timestamp()))
    expected = [(*pair, len(when), min(when), max(when)) for pair, when in sorted(met.items())]
    assert [tuple(row.values()) for row in everything["pairs"]] == expected


@pytest.mark.parametrize("num_shards", [1, 5])
def test_the_number_of_shards_does_not_change_a_row(
    num_shards: int, everything: Rows, tables: Path, snapshots: Callable[..., Rows], tmp_path: Path
) -> None:
    assert snapshots(tables, tmp_path, 0, NUM_DAYS, num_shards=num_shards) == everything


@pytest.mark.parametrize("cut", range(NUM_DAYS + 1))
def test_days_added_to_a_saved_state_give_the_rows_and_the_state_of_one_run(
    cut: int, everything: Rows, tables: Path, snapshots: Callable[..., Rows], tmp_path: Path
) -> None:
    early = snapshots(tables, tmp_path / "early", 0, cut)
    # Tomorrow's run may have more workers than today's.
    shards = 2 if cut % 2 else 5
    late = snapshots(tables, tmp_path / "late", cut, NUM_DAYS, saved=state_in(tmp_path / "early"), num_shards=shards)
    for tower in ("user", "item"):
        assert early[tower] + late[tower] == everything[tower]
    for part in ("pairs", "user_state", "item_state"):
        assert late[part] == everything[part]


def test_a_day_at_a_time_writes_the_bytes_of_a_run_over_all_days(
    tables: Path, snapshots: Callable[..., Rows], tmp_path: Path
) -> None:
    snapshots(tables, tmp_path / "at once", 0, NUM_DAYS, rows_from=NUM_DAYS)
    saved = None
    for number in range(NUM_DAYS):
        snapshots(tables, tmp_path / str(number), number, number + 1, saved=saved, rows_from=NUM_DAYS)
        saved = state_in(tmp_path / str(number))
    for part in PARTS:
        last, whole = (tmp_path / folder / f"{part}.parquet" for folder in (str(NUM_DAYS - 1), "at once"))
        assert last.read_bytes() == whole.read_bytes()
        assert pq.ParquetFile(last).num_row_groups == 2


def test_a_user_missing_from_the_state_gets_the_row_of_the_latest_refresh(
    everything: Rows, tables: Path, snapshots: Callable[..., Rows], tmp_path: Path
) -> None:
    snapshots(tables, tmp_path / "early", 0, 4)
    for tower, stranger in (("user", "u6"), ("item", "i8")):
        path = tmp_path / "early" / f"{tower}_state.parquet"
        state = pq.read_table(path)
        # The last user and the last item never meet anybody.
        pq.write_table(state.filter(pc.not_equal(state.column(0), stranger)), path)
        late = snapshots(tables, tmp_path / tower, 4, NUM_DAYS, saved=state_in(tmp_path / "early"))
        early = [row for row in late[tower] if row["event_timestamp"] <= midnight(4)]
        known = [row for row in everything[tower] if row["event_timestamp"] <= midnight(4)]
        assert early == [row for row in known if row[f"{tower}_id"] == stranger][-1:]
        assert late[tower][1:] == [row for row in everything[tower] if row["event_timestamp"] > midnight(4)]


def test_a_later_start_leaves_out_the_rows_before_it_and_changes_no_other(
    everything: Rows, tables: Path, snapshots: Callable[..., Rows], tmp_path: Path
) -> None:
    made = snapshots(tables, tmp_path / "out", 0, NUM_DAYS, rows_from=3)
    for tower in ("user", "item"):
        assert made[tower] == [row for row in everything[tower] if row["event_timestamp"] >= midnight(3)]
    assert made["pairs"] == everything["pairs"]


def test_a_row_knows_the_last_moment_before_its_midnight_and_nothing_of_the_midnight_itself(
    write_tables: Callable[..., Path], snapshots: Callable[..., Rows], tmp_path: Path
) -> None:
    before = {"timestamp": midnight(1) - dt.timedelta(microseconds=1), "user_id": "u1", "item_id": "i1", "value": 1.0}
    at = {"timestamp": midnight(1), "user_id": "u1", "item_id": "i2", "value": 2.0}
    made = snapshots(write_tables(tmp_path / "tables", [before, at]), tmp_path / "out", 0, 2)
    users = {row["event_timestamp"]: row for row in made["user"] if row["user_id"] == "u1"}
    assert users[min(users)]["user_num_events"] == 0
    assert min(users) <= midnight(0)
    assert (users[midnight(1)]["user_num_events"], users[midnight(1)]["user_history"]) == (1, ["i1"])
    assert (users[midnight(2)]["user_num_events"], users[midnight(2)]["user_history"]) == (2, ["i2", "i1"])
    bought = {(row["event_timestamp"], row["item_id"]): row["item_num_events"] for row in made["item"]}
    assert bought[midnight(1), "i1"] == 1
    assert bought.get((midnight(1), "i2"), 0) == 0
    assert bought[midnight(2), "i2"] == 1


def test_without_events_everybody_has_the_rows_that_are_due(
    write_tables: Callable[..., Path], snapshots: Callable[..., Rows], tmp_path: Path
) -> None:
    made = snapshots(write_tables(tmp_path / "tables", []), tmp_path / "out", 0, 2, num_shards=20)
    assert len([row for row in made["user"] if row["event_timestamp"] <= midnight(0)]) == 7
    assert {row["user_num_events"] for row in made["user"]} == {0}
    assert {tuple(row["user_history"]) for row in made["user"]} == {()}
    assert {row["item_fast_rate"] for row in made["item"]} == {0.0}
    assert made["pairs"] == []


def test_the_transform_gives_a_collection_of_shards_for_each_part(
    tables: Path, transform: Callable[..., DailySnapshots], options: PipelineOptions, everything: Rows
) -> None:
    def ids(element: tuple[int, pa.Table]) -> list[tuple[str, str]]:
        return list(zip(*(map(str, column.to_pylist()) for column in element[1].columns[:2]), strict=True))

    with test_pipeline.TestPipeline(options=options) as pipeline:
        made = pipeline | beam.Create(paths_of(tables, 0, NUM_DAYS)) | transform(tables, 0, NUM_DAYS)
        assert set(made) == set(PARTS)
        for part, rows in everything.items():
            expected = [tuple(map(str, list(row.values())[:2])) for row in rows]
            assert_that(made[part] | f"{part} ids" >> beam.FlatMap(ids), equal_to(expected), label=part)


def test_shards_part_a_table(tables: Path) -> None:
    table = pq.read_table(paths_of(tables, 0, 1)[0])
    parts = dict(split_by_shard(table, "user_id", 3))
    assert set(parts) <= {0, 1, 2}
    assert sum(part.num_rows for part in parts.values()) == table.num_rows
    users = [set(part.column("user_id").to_pylist()) for part in parts.values()]
    assert len(set.union(*users)) == sum(map(len, users))
