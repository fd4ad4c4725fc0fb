"""The online store returns the values of the point-in-time join at the same moment, in SQLite and in Redis."""

from __future__ import annotations

import datetime as dt
import importlib.util
import re
import shutil
import socket
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from artefacts.locks import locked
from features import online_versions
from features.schema import SERVICE_NAMES, Schema
from features.store import Store, forget_online

START = dt.datetime(2017, 1, 1, tzinfo=dt.UTC)
LOOK_BACK = dt.timedelta(days=6)  # the refresh days and one more
VERSION = "2017-01-05-5f3c9a71"
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
    **dict.fromkeys(("age", "income", "likes", "likes_weights", "taste", "joined", "home", "member")),
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
    store = make_store(tmp_path, user=rows, version=VERSION)
    assert_both_agree(store, [day(number) for number in (0, 1.5, 2, 2.99, 3, 5, 5.7)])
    online = {row["user_id"]: row for row in store.read_online(USERS).to_pylist()}
    assert online["zoë"] == {"user_id": "zoë", "user_as_of_seconds": int(day(4).timestamp())} | NO_PAST
    assert set(online["nobody"].values()) == {"nobody", None}
    assert online["late"]["user_history"] == ["user_history 9", "é6"]


def test_a_store_that_was_opened_again_answers_the_same(
    make_store: Callable[..., Store], rows: list[Row], tmp_path: Path
) -> None:
    store = make_store(tmp_path, user=rows, version=VERSION)
    store.materialize(day(4) - LOOK_BACK, day(4))
    assert Store.open(tmp_path, VERSION).read_online(USERS).equals(store.read_online(USERS))


def test_it_answers_what_feast_itself_answers(
    make_store: Callable[..., Store], rows: list[Row], tmp_path: Path
) -> None:
    store = make_store(tmp_path, user=rows, version=VERSION)
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
    make_store(tmp_path, user=rows, version=VERSION).materialize(day(4) - LOOK_BACK, day(4))
    store = Store.open(tmp_path, VERSION)
    store.online_wait_seconds = 0.05
    known = store.read_online(["anna"])
    # In milliseconds, on the connection that reads; SQLite's own default is five seconds.
    assert store._online_users._connection.execute("PRAGMA busy_timeout").fetchone() == (50,)  # type: ignore[attr-defined]
    with closing(sqlite3.connect(tmp_path / "online" / VERSION / "online.db")) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            store.read_online(["anna"])
    assert store.read_online(["anna"]).equals(known)


def test_before_materialisation_the_online_store_knows_no_user(
    make_store: Callable[..., Store], rows: list[Row], tmp_path: Path
) -> None:
    answer = make_store(tmp_path, user=rows, version=VERSION).read_online(["anna"]).to_pylist()[0]
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
    sqlite = make_store(tmp_path / "sqlite", user=rows, version=VERSION)
    redis = make_store(tmp_path / "redis_store", user=rows, redis=redis_address, version=VERSION)
    assert redis.feast.config.online_store.type == "redis"
    assert_both_agree(redis, [day(1.5), day(3)])
    sqlite.materialize(day(3) - LOOK_BACK, day(3))
    assert redis.read_online(USERS).equals(sqlite.read_online(USERS))
    assert not (tmp_path / "redis_store" / "online" / VERSION / "online.db").exists()


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
    store = make_store(
        tmp_path / "store", user=rows, redis=f"{redis_address},password=${{CACHE_PASSWORD}}", version=VERSION
    )
    store.materialize(day(3) - LOOK_BACK, day(3))
    again = Store.open(tmp_path / "store", VERSION)
    assert again.read_online(["anna"]).column("user_as_of_seconds").to_pylist() == [int(day(3).timestamp())]
    assert forget_online(again, ["anna"]) == 1
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 3
    assert [path for path in files if password.encode() in path.read_bytes()] == []
    monkeypatch.setenv("CACHE_PASSWORD", "another word")
    with pytest.raises(AuthenticationError) as caught:
        Store.open(tmp_path / "store", VERSION).read_online(["anna"])
    assert "another word" not in str(caught.value)


@pytest.fixture(params=["sqlite", "redis"])
def kept(request: pytest.FixtureRequest, make_store: Callable[..., Store], rows: list[Row], tmp_path: Path) -> Store:
    """The store of the joins, over which versions are filled."""
    redis = request.getfixturevalue("redis_address") if request.param == "redis" else None
    return make_store(tmp_path / "features", user=rows, redis=redis)


FOUR, TWO = "2017-01-05-5f3c9a71", "2017-01-03-00000000"


def keys_of(store: Store) -> list[bytes]:
    """All keys in Redis."""
    client = store.feast._get_provider().online_store._get_client(store.feast.config.online_store)
    return list(client.scan_iter("*"))


def read_of(store: Store, version: str, user_ids: list[str]) -> dict[str, Row]:
    found = online_versions.open_filled(store.folder, version).read_online(user_ids)
    return {row["user_id"]: row for row in found.to_pylist()}


def test_a_version_holds_what_it_was_filled_with_whatever_is_filled_later(kept: Store) -> None:
    for version in (FOUR, TWO):
        online_versions.fill(kept.folder, kept.settings, version)
    four, two = (read_of(kept, version, ["anna", "late"]) for version in (FOUR, TWO))
    assert [one["anna"]["user_as_of_seconds"] for one in (four, two)] == [
        int(day(number).timestamp()) for number in (4, 2)
    ]
    # Who came later is not known to the earlier one.
    assert (two["late"]["user_history"], four["late"]["user_history"]) == (None, ["user_history 9", "é6"])
    online_versions.remove(kept.folder, TWO)
    assert online_versions.versions(kept.folder) == [FOUR]
    assert read_of(kept, FOUR, ["anna", "late"]) == four
    with pytest.raises(
        FileNotFoundError, match=r"filled.txt: missing, .* `twinspire features --force --as-of 2017-01-03`"
    ):
        online_versions.open_filled(kept.folder, TWO)


def test_nothing_of_a_removed_version_stays_in_the_store(kept: Store) -> None:
    for version in (FOUR, TWO):
        online_versions.fill(kept.folder, kept.settings, version)
    reader = Store.open(kept.folder, TWO)
    assert reader.read_online(["anna"]).column("user_as_of_seconds").null_count == 0
    online_versions.remove(kept.folder, TWO)
    if kept.settings.online_store == "redis":
        assert set(reader.read_online(["anna"]).drop_columns(["user_id"]).to_pylist()[0].values()) == {None}
        assert {key[-len(FOUR) :] for key in keys_of(reader)} == {FOUR.replace("-", "_").encode()}
    assert not (kept.folder / "online" / TWO).exists()


def test_a_version_with_other_columns_leaves_the_others_readable(kept: Store) -> None:
    online_versions.fill(kept.folder, kept.settings, FOUR)
    before = read_of(kept, FOUR, ["anna"])
    plain = kept.settings.schema.model_dump(mode="json")
    narrow = Schema.model_validate(plain | {"user_columns": {"income": "numeric"}, "item_statistics_of": []})
    other = "2017-01-05-11111111"
    online_versions.fill(kept.folder, replace(kept.settings, schema=narrow), other)
    assert read_of(kept, FOUR, ["anna"]) == before
    assert "age" in before["anna"]
    assert "age" not in read_of(kept, other, ["anna"])["anna"]


def test_a_fill_that_is_killed_leaves_a_version_that_is_not_read_and_is_filled_next_time(
    kept: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(online_versions.files, "replace_text", kill)
        with pytest.raises(KeyboardInterrupt):
            online_versions.fill(kept.folder, kept.settings, FOUR)
    with pytest.raises(FileNotFoundError, match="not there or not whole"):
        online_versions.open_filled(kept.folder, FOUR)
    assert online_versions.expired(kept.folder, ()) == [FOUR]
    online_versions.fill(kept.folder, kept.settings, FOUR)
    assert read_of(kept, FOUR, ["anna"])["anna"]["user_as_of_seconds"] == int(day(4).timestamp())
    assert online_versions.expired(kept.folder, ()) == [], "the one that was filled last may get a bundle"


def test_versions_that_no_bundle_names_expire(kept: Store) -> None:
    names = [f"2017-01-0{number}-00000000" for number in (2, 3, 4, 5)]
    for version in names:
        online_versions.fill(kept.folder, kept.settings, version)
    assert online_versions.expired(kept.folder, {names[1]}, {"2017-01-02"}) == [names[2]]
    with locked(kept.folder / "online" / names[2]):
        assert online_versions.expired(kept.folder, {names[1]}, {"2017-01-02"}) == [], "it is being filled"


def test_the_name_of_a_version_follows_what_it_holds(tmp_path: Path, schema: Schema) -> None:
    users = tmp_path / "users.parquet"

    def name(values: list[int], schema: Schema = schema, rows: int = 1000) -> str:
        pq.write_table(pa.table({"user_id": ["a", "b"], "value": values}), users, row_group_size=rows)
        return online_versions.version_of(dt.date(2017, 1, 5), users, schema)

    found = name([1, 2])
    assert re.fullmatch(r"2017-01-05-[0-9a-f]{8}", found)
    assert name([1, 2]) == found
    assert name([1, 3]) != found
    assert name([1, 2], Schema.model_validate({"item_columns": {"size": "numeric"}})) != found


def test_another_kind_of_store_takes_the_values_over(
    make_store: Callable[..., Store], rows: list[Row], tmp_path: Path, redis_address: str
) -> None:
    kept = make_store(tmp_path / "features", user=rows, redis=redis_address)
    online_versions.fill(kept.folder, kept.settings, FOUR)
    before = read_of(kept, FOUR, USERS)
    reader = Store.open(kept.folder, FOUR)
    assert len(keys_of(reader)) == 4
    online_versions.fill(kept.folder, replace(kept.settings, online_store="sqlite"), FOUR)
    assert read_of(kept, FOUR, USERS) == before
    assert keys_of(reader) == [], "nobody would find them there to forget them"


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
    store = make_store(tmp_path, user=rows, version=VERSION)
    assert_forgets_one_and_keeps_the_others(store)
    content = (tmp_path / "online" / VERSION / "online.db").read_bytes()
    assert b"anna" not in content
    assert b"boris" in content


def test_redis_forgets_a_person_and_keeps_the_others(
    make_store: Callable[..., Store], rows: list[Row], tmp_path: Path, redis_address: str
) -> None:
    assert_forgets_one_and_keeps_the_others(
        make_store(tmp_path / "store", user=rows, redis=redis_address, version=VERSION)
    )


def test_without_an_online_store_forgetting_removes_nothing(make_store: Callable[..., Store], tmp_path: Path) -> None:
    store = make_store(tmp_path, version=VERSION)
    (tmp_path / "online" / VERSION / "online.db").unlink(missing_ok=True)
    assert forget_online(store, ["anna"]) == 0
    assert not (tmp_path / "online" / VERSION / "online.db").exists()
