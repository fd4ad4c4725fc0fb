"""A user's own files open, and mistakes in them are named."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from features.config import TableFile, TablesSource
from features.ingest import SourceError, open_source
from features.schema import Schema
from features.sources.tables import open_tables
from features.tables import read_events, read_items, read_users
from tests.features.sources.conftest import Shop
from twinspire.load_config import load

ROOT = Path(__file__).resolve().parents[3]
TEXT = "user_id,item_id,timestamp\nu,i,5\n"


def test_columns_are_mapped_and_unlisted_ones_keep_their_names(shop):
    shop.ingest("who,item_id,when\nu,i,5\n", columns={"user_id": "who", "timestamp": "when"})
    assert read_events(shop.out, first_day=dt.date.min, end_day=dt.date.max).num_rows == 1


def test_a_missing_column_names_the_nearest_one(shop):
    with pytest.raises(SourceError, match=r"events.csv: has no column 'user' \(for user_id\); the nearest .* 'userId'"):
        shop.ingest("userId,item_id,timestamp\nu,i,5\n", columns={"user_id": "user"})


def test_an_optional_column_that_is_mapped_must_be_there(shop):
    with pytest.raises(SourceError, match=r"has no column 'amount' \(for value\)"):
        shop.ingest(TEXT, columns={"value": "amount"})


def test_a_declared_column_that_items_lack_is_named(described_shop):
    with pytest.raises(SourceError, match=r"items.csv: has no column 'price'; the nearest existing column is 'prize'"):
        described_shop.ingest(TEXT, "user_id,country\n", "item_id,brand,prize\n")


def test_declared_columns_need_their_table(described_shop):
    with pytest.raises(SourceError, match=r"has no users table, but dataset.user_columns declares: country"):
        described_shop.ingest(TEXT)


def test_a_mapped_column_that_nothing_reads_is_named(shop):
    with pytest.raises(SourceError, match=r"events.columns: 'usr_id' is neither .* did you mean 'user_id'"):
        shop.ingest(TEXT, columns={"usr_id": "user_id"})


def test_two_columns_of_one_name_are_refused(shop):
    with pytest.raises(SourceError, match="has 2 columns named 'user_id'"):
        shop.ingest("user_id,user_id,item_id,timestamp\nu,u,i,5\n")


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_file_is_named(shop, content):
    with pytest.raises(SourceError, match=r"events.csv: cannot be read: .*[Ee]mpty CSV file"):
        shop.ingest(content)


def test_text_in_another_encoding_is_named(shop):
    with pytest.raises(SourceError, match=r"events.csv: cannot be read: .*invalid UTF8 data"):
        shop.ingest(TEXT.encode() + b"\xe9,i,5\n")


def test_a_file_that_is_no_parquet_is_named(shop):
    (shop.folder / "events.parquet").write_text("hello")
    with pytest.raises(SourceError, match=r"events.parquet: not a Parquet file"):
        open_tables(schema=Schema(), events=TableFile(path=shop.folder / "events.parquet"))


def test_files_of_other_kinds_and_missing_ones_are_named(shop):
    with pytest.raises(SourceError, match="nowhere: no such file or folder"):
        open_tables(schema=Schema(), events=TableFile(path=shop.folder / "nowhere"))
    (shop.folder / "notes.txt").write_text("")
    with pytest.raises(SourceError, match=r"notes.txt: neither Parquet nor CSV"):
        open_tables(schema=Schema(), events=TableFile(path=shop.folder / "notes.txt"))
    with pytest.raises(SourceError, match=r"folder with 1 other files \(notes.txt\); expected .parquet, .csv"):
        open_tables(schema=Schema(), events=TableFile(path=shop.folder))


def test_a_later_file_of_a_folder_must_have_the_columns_too(shop):
    folder = shop.folder / "orders"
    folder.mkdir()
    (folder / "a.csv").write_text(TEXT)
    (folder / "b.csv").write_text("user_id,item,timestamp\nu,i,5\n")
    with pytest.raises(SourceError, match=r"b.csv: has no column 'item_id'; the nearest existing column is 'item'"):
        open_tables(schema=Schema(), events=TableFile(path=folder))


def test_a_byte_order_mark_is_not_part_of_the_first_column(shop):
    assert shop.ingest(b"\xef\xbb\xbf" + TEXT.encode()).rows_kept == 1


def test_line_breaks_and_delimiters_in_quotes_are_text(described_shop):
    items = 'item_id,item_name,brand,price\ni,"Tea, ""green""\nor black",A,1\n'
    described_shop.ingest(TEXT, "user_id,country\n", items)
    assert read_items(described_shop.out).column("item_name").to_pylist() == ['Tea, "green"\nor black']


def test_milliseconds_read_as_seconds_lie_in_the_future(shop):
    stamp = 1_700_000_000_000
    table = pa.table({"user_id": ["u", "u"], "item_id": ["i", "j"], "timestamp": [5, stamp]})
    assert shop.ingest(table).quarantined["events"] == {"future_timestamp": 1}
    assert shop.ingest(table, timestamp_unit="ms").quarantined["events"] == {}


def test_a_column_that_cannot_be_text_is_named(shop):
    table = pa.table({"user_id": [{"a": 1}], "item_id": ["i"], "timestamp": [5]})
    with pytest.raises(SourceError, match=r"events.parquet, column 'user_id': has type struct<a: int64>"):
        shop.ingest(table)


def test_a_timestamp_column_of_another_kind_is_unparsable(shop):
    with pytest.raises(SourceError, match="none of 1 event rows can be used: 1 were set aside"):
        shop.ingest(pa.table({"user_id": ["u"], "item_id": ["i"], "timestamp": [True]}))


def test_lists_dictionaries_and_big_strings_are_text(described_shop):
    items = pa.table(
        {
            "item_id": pa.array(["i", "j"], pa.large_string()),
            "brand": pa.array(["A", None]).dictionary_encode(),
            "price": pa.array([1, None], pa.int8()),
            "item_name": pa.array([["green", "tea"], None]),
        }
    )
    described_shop.ingest(TEXT, "user_id,country\n", items)
    assert read_items(described_shop.out).to_pylist() == [
        {"item_id": "i", "item_name": "green tea", "brand": "A", "price": 1.0},
        {"item_id": "j", "item_name": None, "brand": None, "price": None},
    ]


def test_the_configuration_opens_its_own_source(tmp_path):
    (tmp_path / "customers.csv").write_text("customer;country;age\n1;FR;30\n")
    pq.write_table(pa.table({"u": [1], "i": [2], "t": [5]}), tmp_path / "orders.parquet")
    settings = TablesSource(
        kind="tables",
        events=TableFile(path=tmp_path / "orders.parquet", columns={"user_id": "u", "item_id": "i", "timestamp": "t"}),
        users=TableFile(path=tmp_path / "customers.csv", columns={"user_id": "customer"}, delimiter=";"),
        timestamp_unit="ms",
    )
    source = open_source(settings, schema=Schema(user_columns={"age": "numeric"}))
    assert source.events.timestamp_unit == "ms"
    assert source.users is not None
    assert source.users.unused == ("country",)
    assert source.items is None


@pytest.mark.parametrize(
    ("table", "named", "found"),
    [
        ("events", {"user_id": "who", "item_id": "who"}, "'who' two roles, user_id and item_id"),
        ("events", {"value": "timestamp"}, "'timestamp' two roles, timestamp and value"),
        ("items", {"item_name": "item_id"}, "'item_id' two roles, item_id and item_name"),
    ],
)
def test_one_column_for_two_roles_is_refused(table, named, found):
    tables = {"events": {"path": "ev.csv"}, table: {"path": "x.csv", "columns": named}}
    with pytest.raises(ValidationError, match=rf"{table}.columns gives the column {found}"):
        TablesSource.model_validate({"kind": "tables", **tables})


def test_a_column_with_a_role_has_no_other_by_its_name(shop):
    shop.ingest("user_id,item_id,value\nu,i,5\n", columns={"timestamp": "value"})
    events = read_events(shop.out, first_day=dt.date.min, end_day=dt.date.max)
    assert events.column("value").to_pylist() == [None]


def test_columns_called_like_those_of_the_quarantine_are_columns(tmp_path):
    shop = Shop(tmp_path, Schema(user_columns={"source": "categorical", "source_row": "numeric"}))
    shop.ingest(TEXT, "user_id,source,source_row\nu,web,3\nu,app,4\n")
    assert read_users(shop.out).to_pylist() == [{"user_id": "u", "source": "web", "source_row": 3.0}]
    assert [row["source_row"] for row in shop.quarantine("users")] == [2]


def test_an_unknown_kind_names_the_nearest_one():
    class Settings:
        kind = "movie_lens"

        def __iter__(self):
            return iter([("kind", self.kind)])

    with pytest.raises(SourceError, match="kind is 'movie_lens'; did you mean 'movielens'"):
        open_source(Settings(), schema=Schema())


def test_the_documented_example_is_the_one_in_configs_and_valid():
    example = ROOT / "configs" / "tables_example.yaml"
    assert f"```yaml\n{example.read_text()}```" in (ROOT / "docs" / "bring_your_data.md").read_text()
    config = load(example)
    assert config.ingest.source.kind == "tables"
    assert config.ingest.source.events.columns["value"] == "amount"
    assert load(ROOT / "configs" / "movielens.yaml").ingest.source.kind == "movielens"
