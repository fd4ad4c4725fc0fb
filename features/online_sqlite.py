"""What does Feast's SQLite store know of some users now? Read from its file, without loading Feast.

Feast takes half of a server's start and of its memory. So the rows of its table are read here: one for each user and
field, the value as a protobuf message. Tests compare every kind of field with what Feast answers, and so does the gate
`parity` every night; what looks otherwise is left to Feast (`fits`).

B users.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pyarrow as pa

from features.feast_values import KEY_HEAD, plain, user_key, value_message
from features.online_users import row_type, table_of

_COLUMNS = {"entity_key", "feature_name", "value"}


class SqliteUsers:
    """Reads rows of the user view; several threads may share one.

    Nothing is opened before the first read, so that a process that forks shares no connection with its children. A file
    that takes the place of another one is noticed at the next read.

    Args:
        path: The store's file, which need not be there yet.
        table: The view's table in it.
        schema: Fields of the view.
        wait_seconds: What a read may wait for a writer.
    """

    def __init__(self, path: Path, table: str, schema: pa.Schema, *, wait_seconds: float) -> None:
        """Opens nothing yet."""
        self._path, self._rows, self._wait_seconds = path, row_type(schema), wait_seconds
        self._query = f"SELECT feature_name, value FROM {_quoted(table)} WHERE entity_key = ?"
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._lock = threading.Lock()

    def __call__(self, user_ids: list[str]) -> pa.Table:
        """One row per id in the order asked: user_id and the fields of the view, nulls where nothing is known.

        Raises:
            OSError, sqlite3.Error: There is no such file or table, or a writer holds it for longer than may be waited.
        """
        with self._lock:
            connection = self._opened()
            found = [connection.execute(self._query, (user_key(user_id),)).fetchall() for user_id in user_ids]
        read = value_message().FromString
        return table_of(user_ids, [{name: plain(read(value)) for name, value in rows} for rows in found], self._rows)

    def _opened(self) -> sqlite3.Connection:
        try:
            status = os.stat(self._path)
        except FileNotFoundError:
            # Clients of the server are told this, and need not know its folders.
            raise FileNotFoundError(f"{self._path.name}: no such file; `twinspire features` fills one") from None
        file = (status.st_dev, status.st_ino)
        if self._connection is None or file != self._file:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            self._connection, self._file = _connect(self._path, self._wait_seconds), file
        return self._connection


def fits(path: Path, table: str) -> bool:
    """Whether a store is of the form that is read here, as far as there is one: columns of the table, form of a key."""
    try:
        with closing(_connect(path, 0.0)) as connection:
            names = {name for _, name, *_ in connection.execute(f"PRAGMA table_info({_quoted(table)})")}
            if not names:
                return True
            if not names >= _COLUMNS:
                return False
            key = connection.execute(f"SELECT entity_key FROM {_quoted(table)} LIMIT 1").fetchone()
    except sqlite3.Error:
        return True  # Missing, or held by a writer: a read will say so.
    return key is None or bytes(key[0]).startswith(KEY_HEAD)


def _connect(path: Path, wait_seconds: float) -> sqlite3.Connection:
    # Not `ro`: what a writer that was killed has left half done could not be undone before reading.
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        timeout=wait_seconds,
        isolation_level=None,
        check_same_thread=False,
    )
    connection.execute("PRAGMA query_only = ON")
    return connection


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
