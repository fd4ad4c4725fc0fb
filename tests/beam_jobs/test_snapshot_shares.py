"""Snapshots hold the shares of values among an item's buyers and among a user's items."""

from __future__ import annotations

import datetime as dt
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from beam_jobs.snapshot_state import SavedState
from beam_jobs.snapshots import DailySnapshots, run
from features.schema import ENTITY_KEY, Schema, Tower, snapshot_schema

START = dt.date(2017, 1, 1)
NUM_DAYS = 6
AGES = dict(
    zip((f"u{number}" for number in range(7)), ["old", None, "young", "old", "young", None, "old"], strict=True)
)
AISLES = {f"i{number}": ["tea", "ice cream", None][number % 3] for number in range(9)}
FIELDS: dict[Tower, tuple[str, str]] = {
    "user": ("user_aisle_values", "user_aisle_shares"),
    "item": ("item_age_values", "item_age_shares"),
}
Event = dict[str, Any]
Rows = dict[Tower, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def with_shares(schema: Schema) -> Schema:
    return schema.model_copy(update={"user_statistics_of": ("aisle",), "item_statistics_of": ("age",)})


@pytest.fixture(scope="module")
def snapshots(options: PipelineOptions) -> Callable[..., Rows]:
    def make(
        schema: Schema, tables: Path, out: Path, *, first: int = 0, end: int = NUM_DAYS, num_shards: int = 2,
        saved: Path | None = None,
    ) -> Rows:  # fmt: skip
        days = START + dt.timedelta(days=first), START + dt.timedelta(days=end)
        job = DailySnapshots(
            tables,
            schema,
            days=days,
            rows_from=START,
            num_shards=num_shards,
            history_length=3,
            user_refresh_days=3,
            item_refresh_days=2,
            saved=saved and SavedState(*(saved / f"{part}.parquet" for part in ("user_state", "item_state", "pairs"))),
        )
        out.mkdir(exist_ok=True)
        paths = sorted(map(str, (tables / "events").iterdir()))
        paths = [path for path in paths if str(days[0]) <= Path(path).stem < str(days[1])]
        run(job, paths, out=out, schema=schema, options=options)
        made: Rows = {}
        for tower, key in ENTITY_KEY.items():
            table = pq.read_table(out / f"{tower}.parquet")
            assert table.schema.equals(snapshot_schema(schema, tower))
            made[tower] = table.sort_by([("event_timestamp", "ascending"), (key, "ascending")]).to_pylist()
        return made

    return make


@pytest.fixture(scope="module")
def tables(write_tables: Callable[..., Path], events: list[Event], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tables(tmp_path_factory.mktemp("tables") / "tables", events)


@pytest.fixture(scope="module")
def everything(
    with_shares: Schema, tables: Path, snapshots: Callable[..., Rows], tmp_path_factory: pytest.TempPathFactory
) -> Rows:
    return snapshots(with_shares, tables, tmp_path_factory.mktemp("all"))


def known(events: list[Event], tower: Tower, entity: str, moment: dt.datetime) -> list[tuple[str, float]]:
    """Slow twin: each one met before counts once; those without a value do not count."""
    own, other, values = ("user_id", "item_id", AISLES) if tower == "user" else ("item_id", "user_id", AGES)
    met = {event[other] for event in events if event[own] == entity and event["timestamp"] < moment}
    counts = Counter(value for value in map(values.get, met) if value is not None)
    total = sum(counts.values())
    return [
        (value, float(np.float32(count / total)))
        for value, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    ]


@pytest.mark.parametrize("tower", ["user", "item"])
def test_rows_have_the_shares_of_those_met_before_their_midnight(
    tower: Tower, everything: Rows, events: list[Event]
) -> None:
    values, shares = FIELDS[tower]
    found = [list(zip(row[values], row[shares], strict=True)) for row in everything[tower]]
    assert found == [known(events, tower, row[ENTITY_KEY[tower]], row["event_timestamp"]) for row in everything[tower]]
    assert {len(lists) for lists in found} == {0, 1, 2}


@pytest.mark.parametrize("tower", ["user", "item"])
def test_shares_change_nothing_else_in_a_row(
    tower: Tower, everything: Rows, schema: Schema, tables: Path, snapshots: Callable[..., Rows], tmp_path: Path
) -> None:
    without = [{name: row[name] for name in row if name not in FIELDS[tower]} for row in everything[tower]]
    assert snapshots(schema, tables, tmp_path)[tower] == without


def test_the_number_of_shards_does_not_change_a_share(
    everything: Rows, with_shares: Schema, tables: Path, snapshots: Callable[..., Rows], tmp_path: Path
) -> None:
    # More shards than users and items: some have members without events, some are empty.
    assert snapshots(with_shares, tables, tmp_path, num_shards=13) == everything


def test_days_added_to_a_saved_state_give_the_shares_of_one_run(
    everything: Rows, with_shares: Schema, tables: Path, snapshots: Callable[..., Rows], tmp_path: Path
) -> None:
    early = snapshots(with_shares, tables, tmp_path / "early", end=3)
    late = snapshots(with_shares, tables, tmp_path / "late", first=3, saved=tmp_path / "early", num_shards=3)
    assert {tower: early[tower] + late[tower] for tower in everything} == everything


def test_a_value_that_changes_between_two_days_counts_as_if_it_had_always_been_so(
    with_shares: Schema, tables: Path, snapshots: Callable[..., Rows], tmp_path: Path
) -> None:
    changed = tmp_path / "tables"
    shutil.copytree(tables, changed)
    for name, column in (("users", "age"), ("items", "aisle")):
        table = pq.read_table(changed / f"{name}.parquet")
        place = table.column_names.index(column)
        values = table.column(column).to_pylist()
        moved = pa.array([*values[1:], values[0]])
        pq.write_table(table.set_column(place, column, moved), changed / f"{name}.parquet")
    snapshots(with_shares, tables, tmp_path / "early", end=3)
    late = snapshots(with_shares, changed, tmp_path / "late", first=3, saved=tmp_path / "early")
    whole = snapshots(with_shares, changed, tmp_path / "whole")
    midnight = dt.datetime(2017, 1, 4, tzinfo=dt.UTC)
    assert late == {tower: [row for row in whole[tower] if row["event_timestamp"] > midnight] for tower in whole}


def test_a_planted_event_moves_no_snapshot_of_its_own_midnight_or_before(
    everything: Rows,
    with_shares: Schema,
    events: list[Event],
    write_tables: Callable[..., Path],
    snapshots: Callable[..., Rows],
    tmp_path: Path,
) -> None:
    moment = dt.datetime(2017, 1, 4, tzinfo=dt.UTC)
    # u6 is old and meets anything at all for the first time, in the first moment of the fourth day.
    planted = {"timestamp": moment, "user_id": "u6", "item_id": "i4", "value": 1.0}
    moved = snapshots(with_shares, write_tables(tmp_path / "tables", [*events, planted]), tmp_path / "out")
    for tower, rows in everything.items():
        before = [row for row in rows if row["event_timestamp"] <= moment]
        assert [row for row in moved[tower] if row["event_timestamp"] <= moment] == before != []
        entity = planted[ENTITY_KEY[tower]]
        [after] = [
            row
            for row in moved[tower]
            if row[ENTITY_KEY[tower]] == entity and row["event_timestamp"] == moment + dt.timedelta(days=1)
        ]
        expected = known([*events, planted], tower, str(entity), moment + dt.timedelta(days=1))
        assert list(zip(*(after[name] for name in FIELDS[tower]), strict=True)) == expected
        assert expected != known(events, tower, str(entity), moment + dt.timedelta(days=1))


def test_without_events_every_list_is_empty(
    with_shares: Schema, write_tables: Callable[..., Path], snapshots: Callable[..., Rows], tmp_path: Path
) -> None:
    made = snapshots(with_shares, write_tables(tmp_path / "tables", []), tmp_path / "out", end=1)
    for tower, fields in FIELDS.items():
        assert made[tower] != []
        assert all(row[name] == [] for row in made[tower] for name in fields)
