"""Dated facts of items are read with the days of which they are true."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evaluation.worlds.config import WorldConfig
from evaluation.worlds.write import write_world
from features.ingest import IngestSummary, SourceError, ingest
from features.schema import Schema
from features.sources import complete_journey
from features.sources.lightgcn import open_lightgcn
from features.sources.tables import open_tables
from features.tables import dated_facts

SCHEMA = Schema.model_validate({"dated_columns": {"discount": "numeric", "shelf": "categorical"}})
NOW = dt.datetime(2024, 6, 1, tzinfo=dt.UTC)
HEADER = "item_id,first_day,last_day,discount,shelf\n"
EVENTS = "user_id,item_id,timestamp\nu,i,1\n"


def read(shop: Any, facts: str | pa.Table, *, chunk_rows: int = 2, **named: Any) -> IngestSummary:
    source = open_tables(
        schema=SCHEMA, events=shop.table("events", EVENTS), dated=shop.table("promotions", facts, **named)
    )
    return ingest(source, schema=SCHEMA, out=shop.out, chunk_rows=chunk_rows, max_quarantine_share=1, now=NOW)


def found(shop: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(shop.out / "dated.parquet").to_pylist()
    return rows


def test_facts_are_kept_in_the_order_of_the_source_with_their_days(shop: Any) -> None:
    read(
        shop,
        HEADER
        + " j ,2024-05-01,2024-05-07,0.25,front\n"
        + "i,2024-04-01T23:00:00+02:00,,,\n"
        + "i,1714521600,1714521600,1,\n",
    )
    day = dt.date
    assert found(shop) == [
        {"item_id": "j", "first_day": day(2024, 5, 1), "last_day": day(2024, 5, 7), "discount": 0.25, "shelf": "front"},
        {"item_id": "i", "first_day": day(2024, 4, 1), "last_day": day(9999, 12, 31), "discount": None, "shelf": None},
        {"item_id": "i", "first_day": day(2024, 5, 1), "last_day": day(2024, 5, 1), "discount": 1, "shelf": None},
    ]
    parts = list(dated_facts(shop.out, ["shelf"]))
    assert pa.concat_tables(parts).to_pydict() == {"shelf": ["front", None, None]}
    assert list(dated_facts(shop.out, [])) == []


def test_facts_that_cannot_be_used_are_set_aside_and_counted(shop: Any) -> None:
    summary = read(
        shop,
        HEADER
        + "i,2024-05-01,2024-05-01,0,\n"
        + "i,2024-05-02,2024-05-01,0,\n"
        + "i,,2024-05-01,0,\n"
        + "i,soon,2024-05-01,0,\n"
        + ",2024-05-01,2024-05-01,0,\n"
        + "i,2024-05-01,2024-05-01,much,\n",
    )
    assert summary.quarantined["dated"] == {
        "null_id": 1,
        "unparsable_timestamp": 1,
        "unparsable_number": 1,
        "no_validity": 2,
    }
    assert len(found(shop)) == 1
    assert [row["source_row"] for row in shop.quarantine("dated") if row["reason"] == "no_validity"] == [2, 3]
    assert "set aside from dated: 1 null_id" in summary.outcome()


def test_other_facts_are_other_content(shop: Any) -> None:
    one, other, again = (read(shop, f"{HEADER}i,2024-05-01,,{discount},\n") for discount in (0.1, 0.2, 0.1))
    assert one.content_digest == again.content_digest != other.content_digest


def test_a_table_without_declared_columns_and_columns_without_a_table_are_refused(shop: Any) -> None:
    events, facts = shop.table("events", EVENTS), shop.table("promotions", HEADER)
    with pytest.raises(SourceError, match=r"promotions.csv, and dataset.dated_columns declares: \(none\)"):
        open_tables(schema=Schema(), events=events, dated=facts)
    with pytest.raises(SourceError, match=r"dated is absent, and dataset.dated_columns declares: discount, shelf"):
        open_tables(schema=SCHEMA, events=events)
    table = shop.table("promotions", HEADER, columns={"last_day": "until"})
    with pytest.raises(SourceError, match=r"promotions.csv: has no column 'until' \(for last_day\)"):
        open_tables(schema=SCHEMA, events=events, dated=table)


def test_a_source_without_dated_facts_refuses_them(tmp_path: Path) -> None:
    for name in ("train.txt", "test.txt"):
        (tmp_path / name).write_text("0 1\n")
    with pytest.raises(SourceError, match=r"it has no dated facts, but dataset.dated_columns declares: discount"):
        open_lightgcn(schema=SCHEMA, path=tmp_path)


def test_promotions_of_a_world_can_be_read(shop: Any, tmp_path: Path) -> None:
    world = WorldConfig.model_validate({"name": "w", "users": 20, "days": 15, "calendar": {"promotions": 0.3}})
    folder = tmp_path / "world"
    write_world(world, folder)
    schema = Schema.model_validate({"dated_columns": {"discount": "numeric"}})
    at = {name: shop.table(name, pa.table({"x": [1]})) for name in ("events", "promotions")}
    source = open_tables(
        schema=schema,
        events=type(at["events"])(folder / "events"),
        dated=type(at["events"])(folder / "promotions.parquet"),
    )
    ingest(source, schema=schema, out=shop.out, chunk_rows=7, max_quarantine_share=0, now=NOW)
    written = pq.read_table(folder / "promotions.parquet")
    assert written.num_rows > 20
    assert pq.read_table(shop.out / "dated.parquet").column("discount").to_pylist() == written["discount"].to_pylist()


def test_promotions_of_stores_become_shares_whatever_the_stretches() -> None:
    rows = pa.table(
        {
            "product_id": [7, 7, 7, 8],
            "store_id": [1, 2, 1, 2],
            "display_location": ["9", "0", "A", "0"],
            "mailer_location": ["0", "D", "0", "0"],
            "week": [1, 1, 2, 2],
        }
    )
    whole = complete_journey.added_up(None, rows)
    sums = None
    for place in range(4):
        sums = complete_journey.added_up(sums, rows.slice(place, 1))
    found, again = (complete_journey.with_shares(table, num_stores=2).to_pylist() for table in (whole, sums))
    assert found == again
    assert [tuple(row.values()) for row in found] == [
        (7, dt.date(2016, 12, 26), dt.date(2017, 1, 1), 0.5, 0.5),
        (7, dt.date(2017, 1, 2), dt.date(2017, 1, 8), 0.5, 0),
        (8, dt.date(2017, 1, 2), dt.date(2017, 1, 8), 0, 0),
    ]
