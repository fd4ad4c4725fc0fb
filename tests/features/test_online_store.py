"""The online store returns the values of the point-in-time join at the same moment, in SQLite and in Redis."""

from __future__ import annotations

import datetime as dt
import importlib.util
import shutil
import socket
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from features.schema import SERVICE_NAMES
from features.store import Store, empty_online_store, forget_online

START = dt.datetime(2017, 1, 1, tzinfo=dt.UTC)
LOOK_BACK = dt.timedelta(days=6)  # the refresh days and one more
USERS = ["anna", "nobody", "boris", "zoë", "late", "anna"]
NO_PAST = {
    "user_num_events": 0,
    "user_num_items": 0,
    "user_num_days": 0,
    "user_value": 0.0,
    "user_last_seconds": 0,
    "user_history": [],
    "user_history_seconds": [],
    "user_aisle_values": [],
    "user_aisle_shares": [],
    "age": None,
    "income": None,
}
Row = dict[str, Any]


def day(number: float) -> dt.datetime:
    return START + dt.timedelta(days=number)


@pytest.fixture(scope="module")
def rows(snapshot_row: Callable[..., Row]) -> list[Row]:
    """Boris has no past until day 2, Zoë never has one, and "late" comes on day 3."""
    boris = [snapshot_row("user", "boris", day(0), 5) | NO_PAST, snapshot_row("user", "boris", day(2), 6)]
    zoe = [snapshot_row("user", "zoë", day(number), 8) | NO_PAST for number in (0, 4)]
    anna = [snapshot_row("user", "anna", day(number), number) for number in range(6)]
    return [*anna, *boris, *zoe, snapshot_row("user", "late", day(3), 9)]


def assert_both_agree(store: Store, moments: list[dt.datetime]) -> None:
    for moment in moments:
        store.materialize(moment - LOOK_BACK, moment)
        online = store.read_online(USERS)
        known = store.join("user", pd.DataFrame({"user_id": sorted(set(USERS)), "event_timestamp": moment}))
        offline = {row.pop("user_id"): row for row in known.drop_columns(["event_timestamp"]).to_pylist()}
        assert online.column("user_id").to_pylist() == USERS
        assert [row for row in online.drop_columns(["user_id"]).to_pylist()] == [offline[user] for user in USERS]
        assert online.schema == known.drop_columns(["event_timestamp"]).schema


def test_offline_and_online_agree_on_every_field_of_every_user_at_any_moment(
    make_store: Callable[..., Store], rows: list[Row], tmp_path: Path
) -> None:
    store = make_store(tmp_path, user=rows)
    assert_both_agree(store, [day(number) for number in (0, 1.5, 2, 2.99, 3, 5, 5.7)])
    online = {row["user_id"]: row for row in store.read_online(USERS).to_pylist()}
    assert online["zoë"] == {"user_id": "zoë", "user_as_of_seconds": int(day(4).timestamp())} | NO_PAST
    assert set(online["nobody"].values()) == {"nobody", None}
    assert online["late"]["user_history"] == ["user_history 9", "é6"]


def test_a_store_that_was_opened_again_answers_the_same(
    make_store: Callable[..., Store], rows: list[Row], tmp_path: Path
) -> None:
    store = make_store(tmp_path, user=rows)
    store.materialize(day(4) - LOOK_BACK, day(4))
    assert Store.open(tmp_path).read_online(USERS).equals(store.read_online(USERS))


def test_it_answers_what_feast_itself_answers(
    make_store: Callable[..., Store], rows: list[Row], tmp_path: Path
) -> None:
    store = make_store(tmp_path, user=rows)
    store.materialize(day(4) - LOOK_BACK, day(4))
    response = store.feast.get_online_features(
        features=store.feast.get_feature_service(SERVICE_NAMES["user"]),
        entity_rows=[{"user_id": user_id} for user_id in USERS],
    ).to_dict()
    found = store.read_online(USERS)
    assert set(response) == set(found.column_names)
    for name in found.column_names:
        assert found.column(name).to_pylist() == pa.array(response[name], found.schema.field(name).type).to_pylist()


def test_a_read_waits_for_a_writer_no_longer_than_its_timeout(
    make_store: Callable[..., Store], rows: list[Row], tmp_path: Path
) -> None:
    make_store(tmp_path, user=rows).materialize(day(4) - LOOK_BACK, day(4))
    store = Store.open(tmp_path)
    store.online_wait_seconds = 0.05
    known = store.read_online(["anna"])
    # In milliseconds, on the connection that reads; SQLite's own default is five seconds.
    assert store._online_users._connection.execute("PRAGMA busy_timeout").fetchone() == (50,)  # type: ignore[attr-defined]
    with closing(sqlite3.connect(tmp_path / "feast" / "online.db")) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            store.read_online(["anna"])
    assert store.read_online(["anna"]).equals(known)


def test_before_materialisation_the_online_store_knows_no_user(
    make_store: Callable[..., Store], rows: list[Row], tmp_path: Path
) -> None:
    answer = make_store(tmp_path, user=rows).read_online(["anna"]).to_pylist()[0]
    assert answer.pop("user_id") == "anna"
    assert set(answer.values()) == {None}


@pytest.fixture
def redis_address(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """A server of its own on a free port of this machine, without persistence; the parameter is its password."""
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("no redis-server on this machine; on Debian or Ubuntu: apt-get install redis-server")
    if importlib.util.find_spec("redis") is None:
        pytest.skip("the package redis is missing; make setup EXTRAS=demo,dev,redis")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path / "redis"
    folder.mkdir()
    command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    command += ["--requirepass", request.param] if hasattr(request, "param") else []
    with subprocess.Popen(
        [*command, "--appendonly", "no"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as server:
        assert server.stdout is not None
        output = []
        for line in server.stdout:
            output.append(line)
            if "eady to accept connections" in line:
                break
        else:
            pytest.fail(f"redis-server ended before it was ready: {''.join(output)}")
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.terminate()
            server.stdout.read()


def test_redis_answers_what_sqlite_answers(
    make_store: Callable[..., Store], rows: list[Row], tmp_path: Path, redis_address: str
) -> None:
    sqlite = make_store(tmp_path / "sqlite", user=rows)
    redis = make_store(tmp_path / "redis_store", user=rows, redis=redis_address)
    assert redis.feast.config.online_store.type == "redis"
    assert_both_agree(redis, [day(1.5), day(3)])
    sqlite.materialize(day(3) - LOOK_BACK, day(3))
    assert redis.read_online(USERS).equals(sqlite.read_online(USERS))
    assert not (tmp_path / "redis_store" / "feast" / "online.db").exists()


@pytest.mark.parametrize("redis_address", ["hunter2", "1e5", "a,b:c=d${HOME}#"], indirect=True)
def test_a_password_of_any_characters_opens_redis_and_is_in_no_file(
    make_store: Callable[..., Store],
    rows: list[Row],
    tmp_path: Path,
    redis_address: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from redis import AuthenticationError

    password = request.node.callspec.params["redis_address"]
    monkeypatch.setenv("CACHE_PASSWORD", password)
    store = make_store(tmp_path / "store", user=rows, redis=f"{redis_address},password=${{CACHE_PASSWORD}}")
    store.materialize(day(3) - LOOK_BACK, day(3))
    again = Store.open(tmp_path / "store")
    assert again.read_online(["anna"]).column("user_as_of_seconds").to_pylist() == [int(day(3).timestamp())]
    assert forget_online(again, ["anna"]) == 1
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 3
    assert [path for path in files if password.encode() in path.read_bytes()] == []
    monkeypatch.setenv("CACHE_PASSWORD", "another word")
    with pytest.raises(AuthenticationError) as caught:
        Store.open(tmp_path / "store").read_online(["anna"])
    assert "another word" not in str(caught.value)


def assert_goes_back_where_it_was_emptied(store: Store) -> None:
    """An earlier moment, or other values of the same one, as after a late event."""
    store.materialize(day(4) - LOOK_BACK, day(4))
    empty_online_store(store)
    assert set(store.read_online(["anna"]).drop_columns(["user_id"]).to_pylist()[0].values()) == {None}
    store.materialize(day(2) - LOOK_BACK, day(2))
    online = {row["user_id"]: row for row in store.read_online(["anna", "late"]).to_pylist()}
    assert online["anna"]["user_as_of_seconds"] == int(day(2).timestamp())
    # Who came later is forgotten.
    assert online["late"]["user_history"] is None


def test_an_emptied_store_can_be_filled_for_an_earlier_moment(
    make_store: Callable[..., Store], rows: list[Row], tmp_path: Path
) -> None:
    assert_goes_back_where_it_was_emptied(make_store(tmp_path, user=rows))


def test_redis_refuses_older_rows_and_is_filled_again_once_emptied(
    make_store: Callable[..., Store], rows: list[Row], tmp_path: Path, redis_address: str
) -> None:
    assert_goes_back_where_it_was_emptied(make_store(tmp_path / "store", user=rows, redis=redis_address))


def assert_forgets_one_and_keeps_the_others(store: Store) -> None:
    store.materialize(day(4) - LOOK_BACK, day(4))
    others = ["boris", "late"]
    before = store.read_online(others)
    assert forget_online(store, ["anna", "zoë", "nobody"]) == 2
    assert forget_online(store, ["anna", "zoë", "nobody"]) == 0
    for row in store.read_online(["anna", "zoë"]).drop_columns(["user_id"]).to_pylist():
        assert set(row.values()) == {None}
    assert store.read_online(others).equals(before)


def test_a_person_is_forgotten_to_the_last_byte_and_others_stay(
    make_store: Callable[..., Store], rows: list[Row], tmp_path: Path
) -> None:
    store = make_store(tmp_path, user=rows)
    assert_forgets_one_and_keeps_the_others(store)
    content = (tmp_path / "feast" / "online.db").read_bytes()
    assert b"anna" not in content
    assert b"boris" in content


def test_redis_forgets_a_person_and_keeps_the_others(
    make_store: Callable[..., Store], rows: list[Row], tmp_path: Path, redis_address: str
) -> None:
    assert_forgets_one_and_keeps_the_others(make_store(tmp_path / "store", user=rows, redis=redis_address))


def test_without_an_online_store_forgetting_removes_nothing(make_store: Callable[..., Store], tmp_path: Path) -> None:
    store = make_store(tmp_path)
    (tmp_path / "feast" / "online.db").unlink(missing_ok=True)
    assert forget_online(store, ["anna"]) == 0
    assert not (tmp_path / "feast" / "online.db").exists()
