"""Every kind of unusable row goes to the quarantine with its reason."""

from __future__ import annotations

import json
import math

import pyarrow as pa
import pytest

from features.ingest import QuarantineError
from features.tables import read_items, read_users

HEADER = "user_id,item_id,timestamp,reward,value\n"
GOOD = "u,i,5,1,1\n"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("v,i,5,1", "wrong_fields"),
        ("v,i,5,1,1,1", "wrong_fields"),
        (",i,5,1,1", "null_id"),
        ('u,"",5,1,1', "null_id"),
        ("v,i,,1,1", "unparsable_timestamp"),
        ("v,i,yesterday,1,1", "unparsable_timestamp"),
        ("v,i,now,1,1", "unparsable_timestamp"),
        ("v,i,2024-13-01,1,1", "unparsable_timestamp"),
        ("v,i,-99999999999999,1,1", "unparsable_timestamp"),
        ("v,i,2024-06-01T00:00:00.000001Z,1,1", "future_timestamp"),
        ("v,i,1717200000000,1,1", "future_timestamp"),  # milliseconds where seconds are declared
        ("v,i,999999999999999999,1,1", "future_timestamp"),  # nanoseconds
        ("v,i,5,much,1", "unparsable_number"),
        ("v,i,5,1,'1,5'", "wrong_fields"),
        ('v,i,5,1,"1,5"', "unparsable_number"),
        ("v,i,5,1e39,1", "number_too_large"),
        ("v,i,5,1,1e308", "number_too_large"),
        ("v,i,5,1,1e309", "negative_value"),
        ("9007199254740993.0,i,5,1,1", "bad_id"),
        ('v,"i\n2",5,1,1', "bad_id"),
        (" ,i,5,1,1", "null_id"),
        ("v,i,5,-0.5,1", "negative_reward"),
        ("v,i,5,NaN,1", "negative_reward"),
        ("v,i,5,1,-1", "negative_value"),
        ("v,i,5,1,inf", "negative_value"),
        ("u,i,5,9,9", "duplicate"),
        ("u,i,1970-01-01 00:00:05,9,9", "duplicate"),
        (",i,tomorrow,-1,-1", "null_id"),  # the first that applies
    ],
)
def test_a_row_is_set_aside_with_its_reason(shop, row, reason):
    summary = shop.ingest(HEADER + GOOD + row + "\n")
    assert summary.quarantined["events"] == {reason: 1}
    assert (summary.rows_read, summary.rows_kept) == (2, 1)
    [kept] = shop.quarantine()
    assert (kept["source"], kept["source_row"], kept["reason"]) == ("events.csv", 2, reason)


def test_the_moment_of_the_run_is_not_in_the_future(shop):
    assert shop.ingest(HEADER + "u,i,2024-06-01,1,1\n").quarantined["events"] == {}


def test_the_raw_row_is_kept_as_json(shop):
    shop.ingest(HEADER + GOOD + ",i,5,1,é\n" + "a,b\n")
    first, second = (json.loads(row["raw"]) for row in shop.quarantine())
    assert first == {"user_id": None, "item_id": "i", "timestamp": "5", "reward": "1", "value": "é"}
    assert second == {"line": "a,b"}


def test_rows_are_numbered_through_broken_ones_and_blank_lines(shop):
    shop.ingest(HEADER + "x\n\n" + GOOD + "y,y\n,i,5,1,1\n" + "z\n", chunk_rows=1)
    assert [(row["source_row"], row["reason"]) for row in shop.quarantine()] == [
        (1, "wrong_fields"),
        (3, "wrong_fields"),
        (4, "null_id"),
        (5, "wrong_fields"),
    ]


def test_nan_and_nulls_of_parquet_are_checked_too(shop):
    table = pa.table(
        {
            "user_id": pa.array([1.0, None, 3.0, 4.0, math.nan]),
            "item_id": pa.array([1, 2, 3, 4, 5]),
            "timestamp": pa.array([1.5, 2.0, math.nan, 4.0, 5.0]),
            "value": pa.array([None, 1.0, 1.0, math.inf, 1.0]),
        }
    )
    summary = shop.ingest(table)
    assert summary.quarantined["events"] == {"null_id": 2, "unparsable_timestamp": 1, "negative_value": 1}
    assert read_users(shop.out).column("user_id").to_pylist() == ["1"]


def test_repeated_ids_and_words_for_numbers_are_set_aside_from_users_and_items(described_shop):
    users = "user_id,country\nu,FR\nu,DE\n,IT\n"
    items = "item_id,brand,price\ni,A,cheap\nj,B,nan\nk,C\n"
    summary = described_shop.ingest(HEADER + GOOD, users, items, chunk_rows=1)
    assert summary.quarantined["users"] == {"null_id": 1, "duplicate_id": 1}
    assert summary.quarantined["items"] == {"wrong_fields": 1, "unparsable_number": 1}
    assert read_users(described_shop.out).to_pydict() == {"user_id": ["u"], "country": ["FR"]}
    assert read_items(described_shop.out).column("price").to_pylist() == [None, None]
    assert [row["source_row"] for row in described_shop.quarantine("users")] == [3, 2]


def test_too_many_bad_rows_stop_the_job_and_stay_in_the_quarantine(shop):
    shop.ingest(HEADER + GOOD)
    with pytest.raises(QuarantineError) as caught:
        shop.ingest(HEADER + GOOD + ",i,6,1,1\n,i,7,1,1\nu,i,5,1,1\n", max_quarantine_share=0.5)
    message = str(caught.value)
    path = shop.folder / "tables.quarantine" / "events.parquet"
    assert "3 of 4 rows of events (75.00%) were set aside, more than max_quarantine_share allows (50.00%)" in message
    assert "2 null_id, 1 duplicate" in message
    assert 'null_id is row 2 of events.csv: {"user_id": null, "item_id": "i", "timestamp": "6"' in message
    assert f"All of them are in {path}" in message
    assert "raise ingest.max_quarantine_share" in message
    assert path.exists()
    assert read_users(shop.out).num_rows == 1, "the previous tables are untouched"


def test_exactly_the_allowed_share_passes_and_clears_an_earlier_failure(shop):
    with pytest.raises(QuarantineError, match="1 of 2 rows"):
        shop.ingest(HEADER + GOOD + GOOD, max_quarantine_share=0.49)
    assert shop.ingest(HEADER + GOOD + GOOD, max_quarantine_share=0.5).rows_kept == 1
    assert not (shop.folder / "tables.quarantine").exists()


def test_a_wholly_wrong_column_of_users_or_items_stops_the_job(described_shop):
    with pytest.raises(QuarantineError, match=r"1 of 1 rows of items \(100.00%\).*1 unparsable_number"):
        described_shop.ingest(
            HEADER + GOOD, "user_id,country\n", "item_id,brand,price\ni,A,cheap\n", max_quarantine_share=0.5
        )
    assert (described_shop.folder / "tables.quarantine" / "items.parquet").exists()


def test_a_number_beyond_float32_is_set_aside_from_items(described_shop):
    items = "item_id,brand,price\ni,A,1e39\nj,B,1e30\n"
    assert described_shop.ingest(HEADER + GOOD, "user_id,country\n", items).quarantined["items"] == {
        "number_too_large": 1
    }
