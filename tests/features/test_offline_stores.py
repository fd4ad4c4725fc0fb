"""Other offline stores of Feast join the same rows as DuckDB, or report that they cannot."""

from __future__ import annotations

import dataclasses
import datetime as dt
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from features.store import JoinError, Store
from tests.waiting import wait_until

START = dt.datetime(2017, 1, 1, tzinfo=dt.UTC)


def day(number: float) -> dt.datetime:
    return START + dt.timedelta(days=number)


KEYS = pd.DataFrame(
    {"user_id": ["anna", "boris", "nobody", "anna"], "event_timestamp": [day(1.5), day(2.5), day(3), day(4)]}
)


@pytest.fixture
def store(make_store: Callable[..., Store], snapshot_row: Callable[..., dict[str, Any]], tmp_path: Path) -> Store:
    rows = [snapshot_row("user", "anna", day(number), number) for number in range(6)]
    return make_store(tmp_path, user=[*rows, snapshot_row("user", "boris", day(2), 6)])


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.fixture
def served(store: Store) -> Iterator[int]:
    """Port of Feast's own server, which joins for others."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("feast")), "-c", str(store.folder / "feast"), "serve_offline"]
    with subprocess.Popen(
        [*command, "-h", "127.0.0.1", "-p", str(port)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as server:
        try:
            wait_until(lambda: accepts(port), process=server)
            yield port
        finally:
            server.kill()


def through(store: Store, **offline: Any) -> Store:
    """The same store, joined by something else."""
    return Store(store.folder, dataclasses.replace(store.settings, offline_store=offline))


def test_another_machine_joins_the_same(store: Store, served: int) -> None:
    expected = store.join("user", KEYS)
    found = through(store, type="remote", host="127.0.0.1", port=served).join("user", KEYS)
    assert found.equals(expected)
    assert found.column("user_num_events").null_count == 1


def test_a_store_that_cannot_join_is_reported(store: Store) -> None:
    with pytest.raises(JoinError, match=r"(offline store 'dask'|the join of 4 rows gave).*type: duckdb"):
        through(store, type="dask").join("user", KEYS)
