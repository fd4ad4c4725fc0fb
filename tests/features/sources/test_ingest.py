"""The tables that ingestion writes, and the account of every row."""

from __future__ import annotations

import datetime as dt
import json
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.config import TableFile
from features.ingest import IngestSummary, SourceError, ingest
from features.schema import Schema
from features.sources.tables import open_tables
from features.tables import event_days, read_events, read_items, read_users

NOW = dt.datetime(2024, 6, 1, tzinfo=dt.UTC)
# Two days in disorder; 86_400 is 1970-01-02.
EVENTS = "user_id,item_id,timestamp,reward,value\nu2,i1,86400,,\nu1,i2,5,2,3.5\nu1,i1,5,,\nu10,i9,86399,,0\n"


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_events_go_to_their_days_in_order_of_time_user_and_item(shop):
    summary = shop.ingest(EVENTS)
    assert event_days(shop.out) == [dt.date(1970, 1, 1), dt.date(1970, 1, 2)]
    events = read_events(shop.out, first_day=dt.date.min, end_day=dt.date.max)
    ids = list(zip(*(events.column(name).to_pylist() for name in ("user_id", "item_id")), strict=True))
    assert ids == [("u1", "i1"), ("u1", "i2"), ("u10", "i9"), ("u2", "i1")]
    assert events.column("reward").to_pylist() == [1.0, 2.0, 1.0, 1.0]
    assert events.column("value").to_pylist() == [None, 3.5, 0.0, None]
    assert [field.type for field in events.schema] == [
        pa.string(), pa.string(), pa.timestamp("us", "UTC"), pa.float32(), pa.float64()
    ]  # fmt: skip
    assert (summary.first_event, summary.last_event) == (
        dt.datetime(1970, 1, 1, 0, 0, 5, tzinfo=dt.UTC),
        dt.datetime(1970, 1, 2, tzinfo=dt.UTC),
    )


def test_days_are_read_half_open(shop):
    shop.ingest(EVENTS)
    first, second = dt.date(1970, 1, 1), dt.date(1970, 1, 2)
    assert read_events(shop.out, first_day=first, end_day=second).num_rows == 3
    assert read_events(shop.out, first_day=second, end_day=second).num_rows == 0


def test_users_and_items_known_from_events_only_are_added_and_counted(described_shop):
    users = "user_id,country\nu2,FR\nu3,\n"
    items = "item_id,item_name,brand,price\ni2,Tea,Ty,1.5\n"
    summary = described_shop.ingest(EVENTS, users, items)
    assert (summary.num_users, summary.num_added_users) == (4, 2)
    assert (summary.num_items, summary.num_added_items) == (3, 2)
    assert read_users(described_shop.out).to_pydict() == {
        "user_id": ["u1", "u10", "u2", "u3"],
        "country": [None, None, "FR", None],
    }
    assert read_items(described_shop.out).to_pylist()[1] == {
        "item_id": "i2", "item_name": "Tea", "brand": "Ty", "price": 1.5
    }  # fmt: skip


def test_without_tables_users_and_items_come_from_events(shop):
    summary = shop.ingest(EVENTS)
    assert (summary.num_users, summary.num_items) == (3, 3)
    assert read_items(shop.out).to_pydict() == {"item_id": ["i1", "i2", "i9"], "item_name": [None] * 3}


def test_the_manifest_holds_the_summary(shop):
    summary = shop.ingest(EVENTS)
    manifest = json.loads((shop.out / "manifest.json").read_text())
    assert manifest["rows_read"] == manifest["rows_kept"] == summary.rows_kept == 4
    assert manifest["last_event"] == "1970-01-02T00:00:00+00:00"


def test_other_data_of_the_same_size_has_another_manifest(shop):
    digests = [shop.ingest(text).content_digest for text in (EVENTS, EVENTS, EVENTS.replace("3.5", "3.6"))]
    assert digests[0] == digests[1] != digests[2]


def test_the_outcome_is_one_line_with_the_counts_and_the_unused_columns(shop):
    text = "user_id,item_id,timestamp,shelf\nu,i,5,a\nu,i,5,b\n,i,5,c\n"
    assert shop.ingest(text).outcome() == (
        "1 of 3 events from 1970-01-01 to 1970-01-01, 1 users, 1 items; set aside from events: 1 null_id, "
        "1 duplicate; 1 users known from events only; 1 items known from events only; 4 lines: 3 rows and 1 of "
        "headers, blank lines and line breaks in fields; unused columns: events.shelf"
    )


def test_the_size_of_chunks_does_not_change_the_bytes(shop, tmp_path):
    text = EVENTS + "u1,i2,5,9,9\nu1,i2\nu2,,7,,\nu4,i4,x,,\nu2,i1,86400,,\n"
    found = []
    for chunk_rows in (1, 2, 3, 1000):
        shop.ingest(text, chunk_rows=chunk_rows, out=tmp_path / str(chunk_rows))
        found.append(files_of(tmp_path / str(chunk_rows)))
    assert found[1:] == found[:-1]
    assert set(found[0]) >= {"events/1970-01-01.parquet", "users.parquet", "items.parquet", "manifest.json"}


def test_an_earlier_result_is_replaced_whole(shop):
    shop.ingest(EVENTS)
    shop.ingest("user_id,item_id,timestamp\nu,i,999999\n")
    assert event_days(shop.out) == [dt.date(1970, 1, 12)]
    assert {path.name for path in shop.folder.iterdir()} == {"events.csv", "tables"}


def test_files_of_a_folder_are_read_by_name_and_the_first_of_equal_events_is_kept(shop):
    folder = shop.folder / "orders"
    folder.mkdir()
    (folder / "b.csv").write_text("user_id,item_id,timestamp,value\nu,i,5,2\nv,i,5,2\n")
    pq.write_table(pa.table({"user_id": ["u"], "item_id": ["i"], "timestamp": [5], "value": [1]}), folder / "a.parquet")
    source = open_tables(schema=Schema(), events=TableFile(path=folder))
    ingest(source, schema=Schema(), out=shop.out, chunk_rows=10, max_quarantine_share=1, now=NOW)
    events = read_events(shop.out, first_day=dt.date.min, end_day=dt.date.max)
    assert events.column("value").to_pylist() == [1.0, 2.0]
    assert [(row["source"], row["source_row"]) for row in shop.quarantine()] == [("b.csv", 1)]


def test_progress_counts_every_event_row(shop):
    source = open_tables(schema=Schema(), events=shop.table("events", EVENTS))
    reported: list[int] = []
    ingest(
        source, schema=Schema(), out=shop.out, chunk_rows=3, max_quarantine_share=1, now=NOW, progress=reported.append
    )
    assert reported[:2] == [3, 1]
    assert sum(reported) == 4


def test_a_moment_without_time_zone_and_empty_chunks_are_refused(shop):
    with pytest.raises(ValueError, match="2024-06-01T00:00:00 without a time zone"):
        shop.ingest(EVENTS, now=dt.datetime(2024, 6, 1))
    with pytest.raises(ValueError, match="chunk_rows is 0; give at least 1"):
        shop.ingest(EVENTS, chunk_rows=0)


def test_a_source_without_usable_event_is_refused(shop):
    with pytest.raises(SourceError, match="none of 1 event rows can be used: 1 were set aside and 0 filtered"):
        shop.ingest("user_id,item_id,timestamp\n,i,5\n")
    with pytest.raises(SourceError, match="none of 0 event rows"):
        shop.ingest("user_id,item_id,timestamp\n")
    assert not shop.out.exists()


def test_missing_tables_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no canonical tables here"):
        event_days(tmp_path)


IDS = st.sampled_from(["", "a", "b", "ü\t,"])
NUMBERS = st.sampled_from(["", "0", "1.5", "-1", "nan", "inf", "x"])
TIMES = st.sampled_from(["", "5", "6", "2024-05-31", "2024-05-31T10:00:00+02:00", "now", "9999999999", "-1", "1e3"])
ROWS = st.lists(st.tuples(IDS, IDS, TIMES, NUMBERS, NUMBERS), max_size=30)


@given(rows=ROWS, chunk_rows=st.integers(1, 40))
def test_every_row_is_kept_or_set_aside(rows: list[tuple[str, ...]], chunk_rows: int):
    names = ("user_id", "item_id", "timestamp", "reward", "value")
    good = ("a", "a", "1000000", "", "")  # so that there is always an event to write
    values = zip(good, *rows, strict=True)
    table = pa.table({name: pa.array(column, pa.string()) for name, column in zip(names, values, strict=True)})
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder) / "events.parquet", Path(folder) / "tables"
        pq.write_table(table, path)
        summary = _ingest(path, out, chunk_rows)
        events = read_events(out, first_day=dt.date.min, end_day=dt.date.max)
        aside = pq.read_table(out / "quarantine" / "events.parquet").to_pylist()
    keys = list(zip(*(events.column(name).to_pylist() for name in ("timestamp", "user_id", "item_id")), strict=True))
    assert keys == sorted(set(keys))
    assert summary.rows_read == len(rows) + 1 == events.num_rows + len(aside)
    assert summary.rows_kept == events.num_rows
    assert len({row["source_row"] for row in aside}) == len(aside) == sum(summary.quarantined["events"].values())
    for row in aside:
        if row["reason"] != "duplicate":
            raw = [json.loads(row["raw"])[name] for name in names]
            assert raw == list((good, *rows)[row["source_row"] - 1])


def _ingest(path: Path, out: Path, chunk_rows: int) -> IngestSummary:
    source = open_tables(schema=Schema(), events=TableFile(path=path))
    return ingest(source, schema=Schema(), out=out, chunk_rows=chunk_rows, max_quarantine_share=1, now=NOW)


def test_ids_meet_however_files_write_them(described_shop):
    users = "user_id,country\n12.0,FR\n 13 ,IT\n"
    summary = described_shop.ingest(
        "user_id,item_id,timestamp\n12, i1,5\n13.0,i1 ,6\n", users, "item_id,brand,price\ni1,A,1\n"
    )
    assert (summary.num_users, summary.num_added_users, summary.num_items) == (2, 0, 1)
    assert read_users(described_shop.out).to_pydict() == {"user_id": ["12", "13"], "country": ["FR", "IT"]}
    assert summary.notes == ()


def test_a_table_whose_ids_nearly_all_miss_those_of_the_events_warns(described_shop):
    users = "user_id,country\n" + "".join(f"0{number},FR\n" for number in range(300))
    items = "item_id,brand,price\ni1,A,1\n"
    text = "user_id,item_id,timestamp\n" + "".join(f"{number},i1,5\n" for number in range(300))
    [note] = described_shop.ingest(text, users, items).notes
    assert note.startswith(
        "WARNING: 0 of 300 ids of users meet one of the 300 of the events; users have '00', events have '0'"
    )
