"""Feast's SQLite store is read without Feast, with the same result, also during writes."""

from __future__ import annotations

import datetime as dt
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Null, Value
from hypothesis import given
from hypothesis import strategies as st

from features.online_store import OnlineUsers, SqliteUsers, fits, plain, user_key, value_message
from features.online_versions import fill as fill_version
from features.schema import view_schema
from features.store import Store

REPOSITORY = Path(__file__).parents[2]
VERSION = "2017-01-02-5f3c9a71"
TABLE = "small_2017_01_02_5f3c9a71_user_daily"
USERS = ["anna", "nobody", "zoë", "", "boris", "anna"]
Row = dict[str, Any]


def day(number: int) -> dt.datetime:
    return dt.datetime(2017, 1, 1, tzinfo=dt.UTC) + dt.timedelta(days=number)


def fill(store: Store, until: int) -> None:
    store.materialize(day(until - 6), day(until))


@pytest.fixture
def store(make_store: Callable[..., Store], snapshot_row: Callable[..., Row], tmp_path: Path) -> Store:
    """Boris has nulls and empty lists; the others have every field."""
    boris: Row = {"user_history": [], "user_history_seconds": [], "age": None, "income": None, "user_value": -0.0}
    boris |= dict.fromkeys(("likes", "likes_weights", "taste", "joined", "home", "member"))
    rows = [snapshot_row("user", name, day(1), 7) for name in ("anna", "zoë", "")]
    rows += [snapshot_row("user", "boris", day(1), 8) | boris, snapshot_row("user", "anna", day(2), 9)]
    store = make_store(tmp_path / "features", user=rows, version=VERSION)
    fill(store, 1)
    return store


def direct(store: Store) -> SqliteUsers:
    return SqliteUsers(path_of(store), TABLE, view_schema(store.settings.schema, "user"), wait_seconds=0.0)


def path_of(store: Store) -> Path:
    return store.folder / "online" / VERSION / "online.db"


def test_every_kind_of_field_is_read_as_feast_reads_it(store: Store) -> None:
    schema = view_schema(store.settings.schema, "user")
    by_feast = OnlineUsers(store.feast, schema, wait_seconds=1.0)
    assert {str(kind) for kind in schema.types} == {
        "int64", "float", "string", "bool", "list<item: string>", "list<item: int64>", "list<item: float>",
    }  # fmt: skip
    for asked in (USERS, *([user] for user in USERS), []):
        found = direct(store)(asked)
        assert found.equals(by_feast(asked))
        assert found.schema == pa.schema([("user_id", pa.string()), *schema])
    assert direct(store)(["anna"]).to_pylist()[0]["user_history"] == ["user_history 7", "é6"]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_key_is_the_one_that_feast_writes(user_id: str) -> None:
    key = EntityKey(join_keys=["user_id"], entity_values=[Value(string_val=user_id)])
    assert user_key(user_id) == serialize_entity_key(key, entity_key_serialization_version=3)


def test_values_are_messages_of_feasts_own_kind_and_null_is_none() -> None:
    assert value_message() is Value
    assert plain(Value()) is None
    assert plain(Value(null_val=Null.NULL)) is None


def test_a_store_in_sqlite_is_read_without_loading_feast(store: Store) -> None:
    code = (
        "import sys; from pathlib import Path; from features.store import Store;"
        f"store = Store.open(Path({str(store.folder)!r}), {VERSION!r}); print(store.read_online(['anna']).num_rows);"
        "print(sorted({'feast', 'duckdb', 'ibis', 'dask', 'sqlalchemy'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    assert ran.stdout.split("\n")[:2] == ["1", "[]"]


def test_writes_of_another_process_are_seen_at_the_next_read(store: Store) -> None:
    read = direct(store)
    assert read(["anna"]).column("user_as_of_seconds").to_pylist() == [int(day(1).timestamp())]
    fill(Store.open(store.folder, VERSION), 2)
    assert read(["anna"]).column("user_as_of_seconds").to_pylist() == [int(day(2).timestamp())]


def test_a_file_in_the_place_of_another_one_is_noticed(store: Store) -> None:
    read = direct(store)
    assert read(["anna"]).column("user_as_of_seconds").to_pylist() == [int(day(1).timestamp())]
    before = path_of(store).stat().st_ino
    fill_version(store.folder, store.settings, VERSION)
    assert path_of(store).stat().st_ino != before
    assert read(["anna"]).column("user_as_of_seconds").to_pylist() == [int(day(1).timestamp())]
    store.feast.teardown()
    with pytest.raises(FileNotFoundError, match=r"online\.db"):
        read(["anna"])


def test_a_missing_file_is_an_error_until_it_exists(store: Store) -> None:
    path, read = path_of(store), direct(store)
    path.rename(path.with_suffix(".away"))
    with pytest.raises(FileNotFoundError, match=r"^online\.db: no such file; `twinspire features` fills one$"):
        read(["anna"])
    assert not path.exists()
    path.with_suffix(".away").rename(path)
    assert read(["anna"]).num_rows == 1


def test_a_missing_table_is_an_error(store: Store) -> None:
    read = SqliteUsers(path_of(store), "other", view_schema(store.settings.schema, "user"), wait_seconds=0.0)
    with pytest.raises(sqlite3.OperationalError, match="no such table: other"):
        read(["anna"])


def test_half_written_data_of_a_killed_writer_is_not_read(store: Store, tmp_path: Path) -> None:
    """A copy of the file and its journal in the middle of a transaction is what a crash leaves."""
    path, known = path_of(store), direct(store)(USERS)
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    with closing(sqlite3.connect(path)) as writer:
        writer.execute("PRAGMA cache_size = 1")
        writer.execute(f"UPDATE {TABLE} SET value_text = zeroblob(9000), value = x'0a'")
        for file in path.parent.glob("online.db*"):
            shutil.copy(file, crashed)
        writer.rollback()
    assert (crashed / "online.db").read_bytes() != path.read_bytes()
    assert (crashed / "online.db-journal").stat().st_size > 0
    read = SqliteUsers(crashed / "online.db", TABLE, view_schema(store.settings.schema, "user"), wait_seconds=0.0)
    assert read(USERS).equals(known)


def test_threads_share_a_reader(store: Store) -> None:
    read = direct(store)
    known = [read([user]) for user in USERS]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda number: read([USERS[number % len(USERS)]]), range(200)))
    assert all(table.equals(known[number % len(USERS)]) for number, table in enumerate(found))


@pytest.mark.parametrize(
    ("columns", "key", "expected"),
    [
        ("entity_key, feature_name, value", user_key("anna"), True),
        ("entity_key, feature_name, value", None, True),
        ("entity_key, feature_name, value, value_text", b"user_id\x02\x00", False),
        ("entity_key, feature_name, value_bytes", user_key("anna"), False),
    ],
)
def test_only_a_store_of_the_expected_form_is_read_without_feast(
    tmp_path: Path, columns: str, key: bytes | None, expected: bool
) -> None:
    path = tmp_path / "online.db"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(f"CREATE TABLE {TABLE} ({columns})")
        if key is not None:
            database.execute(f"INSERT INTO {TABLE} (entity_key) VALUES (?)", (key,))
    assert fits(path, TABLE) is expected


def test_a_missing_file_is_readable_without_feast(tmp_path: Path) -> None:
    assert fits(tmp_path / "online.db", TABLE)
    assert not (tmp_path / "online.db").exists()


def test_a_store_of_another_form_is_left_to_feast(store: Store) -> None:
    known = store.read_online(USERS)
    with closing(sqlite3.connect(path_of(store))) as database, database:
        database.execute(f"INSERT INTO {TABLE} (entity_key, feature_name) VALUES (x'00', 'a')")
    assert not fits(path_of(store), TABLE)
    again = Store.open(store.folder, VERSION)
    assert again.read_online(USERS).equals(known)
    assert "feast" in vars(again), "Feast's store was opened"
