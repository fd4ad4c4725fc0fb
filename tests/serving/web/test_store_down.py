"""Answers while a real Redis is down, and after it is back."""

from __future__ import annotations

import datetime as dt
import importlib.util
import re
import runpy
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features import online_versions
from features.encoding import Encoder
from features.schema import snapshot_schema
from features.store import OnlineStore, Store, StoreSettings

HELD = runpy.run_path(str(Path(__file__).with_name("test_workers.py")))
JOURNEY = Path(__file__).parents[3] / "configs" / "complete_journey.yaml"
MOMENT = dt.datetime(2017, 12, 1, tzinfo=dt.UTC)
VERSION = "2017-12-01-5f3c9a71"
pytestmark = pytest.mark.slow


class Redis:
    """A server on a port of its own, without persistence."""

    def __init__(self, binary: str, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        options = ["--port", self.port, "--bind", "127.0.0.1", "--dir", folder, "--save", "", "--appendonly", "no"]
        self._command = [binary, *map(str, options)]

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert self._process.stdout is not None
        assert any("eady to accept connections" in line for line in self._process.stdout)

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("no redis-server on this machine; on Debian or Ubuntu: apt-get install redis-server")
    if importlib.util.find_spec("redis") is None:
        pytest.skip("the package redis is missing; make setup EXTRAS=demo,dev,redis")
    server = Redis(binary, tmp_path)
    server.start()
    yield server
    server.kill()


def filled(folder: Path, encoder: Encoder, online: pa.Table, kind: OnlineStore, address: str = "") -> Store:
    """A store that holds what `online` does."""
    for tower in ("user", "item"):
        (folder / "snapshots" / tower).mkdir(parents=True)
    stamped = [
        {**row, "event_timestamp": MOMENT - dt.timedelta(hours=1), "created_timestamp": MOMENT}
        for row in online.to_pylist()
    ]
    users = pa.Table.from_pylist(stamped, schema=snapshot_schema(encoder.schema, "user"))
    pq.write_table(users, folder / "snapshots" / "user" / "0.parquet")
    pq.write_table(snapshot_schema(encoder.schema, "item").empty_table(), folder / "snapshots" / "item" / "0.parquet")
    settings = StoreSettings("small", encoder.schema, {"user": 30, "item": 30}, kind, address)
    store = Store(folder, settings, VERSION)
    online_versions.fill(folder, settings, VERSION)
    return store


@pytest.fixture
def store(redis: Redis, encoder: Encoder, online: pa.Table, tmp_path: Path) -> Store:
    return filled(tmp_path / "features", encoder, online, "redis", f"127.0.0.1:{redis.port}")


@pytest.mark.parametrize("num_workers", [1, 2])
def test_while_redis_is_down_all_are_answered_without_it_and_with_it_again_after(
    written: Path, redis: Redis, store: Store, tmp_path: Path, num_workers: int
) -> None:
    bundles = tmp_path / "bundles"
    shutil.copytree(written, bundles / written.name)
    (bundles / "current").symlink_to(written.name)
    with HELD["running"](bundles, store.folder, num_workers) as server, HELD["Load"](server) as load:

        def latest_reasons() -> list[set[str]]:
            return [set(result["reasons"]) for answer in load.answers[-10:] for result in answer["results"][:2]]

        def all_say(expected: set[str]) -> bool:
            return len(load.answers) > 10 and all(reasons == expected for reasons in latest_reasons())

        server.until(lambda: all_say(set()))
        for _ in range(2):
            redis.kill()
            server.until(lambda: all_say({"no_features"}))
            server.until(lambda: server.get("/readyz").json()["features"] != "ok")
            redis.start()
            online_versions.fill(store.folder, store.settings, VERSION)
            server.until(lambda: all_say(set()))
        server.until(lambda: server.get("/readyz").json()["features"] == "ok")
        assert "twinspire_fallback_lists_total" in server.get("/metrics").text
    lists: list[dict[str, Any]] = [result for answer in load.answers for result in answer["results"]]
    assert {len(result["items"]) for result in lists} == {5}, "every list is full"


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_redis_that_came_back_empty_is_noticed_without_a_request_and_in_answers(
    written: Path, redis: Redis, store: Store, tmp_path: Path, num_workers: int
) -> None:
    bundles = tmp_path / "bundles"
    shutil.copytree(written, bundles / written.name)
    (bundles / "current").symlink_to(written.name)

    def reasons(server: Any) -> list[str]:
        asked = {"user_ids": ["u1", "u4"], "k": 5, "retriever": "two_tower"}
        with server.client() as client:
            results = client.post("/v1/recommend", json=asked).json()["results"]
        return [reason for result in results for reason in result["reasons"]]

    with HELD["running"](bundles, store.folder, num_workers) as server:
        assert reasons(server) == []
        before = server.get("/readyz").json()
        assert (before["features"], before["features_version"]) == ("ok", VERSION)
        redis.kill()
        redis.start()
        empty = f"online features {VERSION}: the store has none of"
        server.until(lambda: server.get("/readyz").json()["features"].startswith(empty))
        server.until(lambda: "twinspire_features_missing 1.0" in server.get("/metrics").text)
        assert reasons(server) == ["no_features", "no_features"]
        online_versions.fill(store.folder, store.settings, VERSION)
        server.until(lambda: server.get("/readyz").json()["features"] == "ok")
        server.until(lambda: "twinspire_features_missing 0.0" in server.get("/metrics").text)
        assert reasons(server) == []


def maps_of(pid: int) -> str:
    """Libraries of a process and of its children, by their paths."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return "".join(Path(f"/proc/{one}/maps").read_text() for one in (pid, *children))


def test_the_command_serves_with_several_processes_from_a_store_in_a_file(
    written: Path, encoder: Encoder, online: pa.Table, tmp_path: Path
) -> None:
    run = tmp_path / "complete_journey"
    shutil.copytree(written, run / "bundles" / written.name)
    (run / "bundles" / "current").symlink_to(written.name)
    filled(run / "features", encoder, online, "sqlite")
    options = ["serve", "--workers", "2", "--port", "0", "--runs", tmp_path, "--config", JOURNEY]
    command = [sys.executable, "-c", "from twinspire.cli import main; main()", *map(str, options)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        address = process.stdout.readline().split()[-1]
        for _ in range(20):  # connections of their own, so that both workers are asked
            asked = {"user_id": "u1", "k": 5, "retriever": "two_tower"}
            (result,) = httpx.post(f"{address}/v1/recommend", json=asked, trust_env=False, timeout=30).json()["results"]
            assert (len(result["items"]), result["reasons"]) == (5, [])
        libraries = set(re.findall(r"site-packages/_?(\w+)", maps_of(process.pid)))
        assert "pyarrow" in libraries
        assert not libraries & {"duckdb", "sqlalchemy"}, "Feast is loaded"
        process.terminate()
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
