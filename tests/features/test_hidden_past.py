"""A share of the items looks new: what happened to them before a day is not read."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.config import TableFile
from features.hidden_past import HiddenPast
from features.ingest import ingest
from features.schema import Schema
from features.sources.tables import open_tables

BEFORE = dt.date(2024, 1, 3)
DAY = 86_400
ITEMS = [f"item {number}" for number in range(2000)]


def test_as_many_items_are_hidden_as_asked_for_and_always_the_same() -> None:
    hidden = HiddenPast(0.1, BEFORE).are_hidden(ITEMS)
    # Four standard errors of a share of 2,000.
    assert abs(hidden.mean() - 0.1) < 4 * (0.1 * 0.9 / 2000) ** 0.5
    backwards = HiddenPast(0.1, BEFORE).are_hidden(ITEMS[::-1])
    assert hidden.tolist() == backwards[::-1].tolist()
    assert hidden.tolist() != HiddenPast(0.1, BEFORE, seed=1).are_hidden(ITEMS).tolist()
    # Who is hidden at a tenth is hidden at a fifth, too.
    assert HiddenPast(0.2, BEFORE).are_hidden(ITEMS)[hidden].all()


def test_events_are_hidden_up_to_the_day_and_a_null_never() -> None:
    past = HiddenPast(0.5, BEFORE)
    hidden, shown = (ITEMS[int(place)] for place in (past.are_hidden(ITEMS).argmax(), past.are_hidden(ITEMS).argmin()))
    midnight = 1_704_240_000 * 1_000_000
    ids = pa.array([hidden, hidden, shown, None, hidden])
    moments = pa.array([midnight - 1, midnight, midnight - 1, midnight - 1, None], pa.int64())
    assert past.hides(ids, moments).tolist() == [True, False, False, False, False]


@pytest.mark.parametrize("hidden", [False, True])
def test_an_item_is_ingested_without_its_hidden_past_and_stays_in_the_catalogue(tmp_path: Path, hidden: bool) -> None:
    past = HiddenPast(0.3, BEFORE)
    names = ITEMS[:40]
    start = 1_704_067_200
    pq.write_table(pa.table({"item_id": names}), tmp_path / "items.parquet")
    moments = [start + day * DAY for day in range(4) for _ in names]
    events = {"user_id": ["u"] * len(moments), "item_id": names * 4, "timestamp": moments}
    pq.write_table(pa.table(events), tmp_path / "events.parquet")
    source = open_tables(
        schema=Schema(),
        events=TableFile(path=tmp_path / "events.parquet"),
        users=None,
        items=TableFile(path=tmp_path / "items.parquet"),
        timestamp_unit="s",
    )
    if hidden:
        source = source.with_hidden_past(past)
    now = dt.datetime(2024, 2, 1, tzinfo=dt.UTC)
    summary = ingest(source, schema=Schema(), out=tmp_path / "tables", chunk_rows=7, max_quarantine_share=0.0, now=now)
    num_hidden = int(past.are_hidden(names).sum()) if hidden else 0
    assert summary.filtered == ({"hidden_past": 2 * num_hidden} if hidden else {})
    assert (summary.num_items, summary.rows_kept) == (40, 160 - 2 * num_hidden)
    files = sorted((tmp_path / "tables" / "events").glob("*.parquet"))
    kept = [pq.read_table(path).column("item_id").to_pylist() for path in files]
    shown = [name for name, is_hidden in zip(names, past.are_hidden(names), strict=True) if not (hidden and is_hidden)]
    assert [sorted(day) for day in kept] == [sorted(shown), sorted(shown), sorted(names), sorted(names)]
