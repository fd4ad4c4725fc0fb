"""Whatever is wrong with a file, the message has its name; no damage ends the process."""

from __future__ import annotations

import bz2
import gzip
import io
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evaluation.foreign_tables import read_table
from features.config import TableFile
from features.ingest import QuarantineError, SourceError, ingest
from features.schema import Schema
from features.sources.movielens import open_movielens
from features.sources.tables import open_tables
from tests.features.sources.conftest import NOW

ROWS = [(f"u{number}", f"i{number}", 1000 + number) for number in range(2000)]
TEXT = ("user_id,item_id,timestamp\n" + "".join(f"{user},{item},{moment}\n" for user, item, moment in ROWS)).encode()


def parquet() -> bytes:
    sink = io.BytesIO()
    users, items, moments = zip(*ROWS, strict=True)
    pq.write_table(pa.table({"user_id": users, "item_id": items, "timestamp": moments}), sink)
    return sink.getvalue()


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as file:
        file.write(data)
    return sink.getvalue().to_pybytes()


def flipped(data: bytes, seed: int) -> bytes:
    """The same with a few bytes changed."""
    drawn, changed = random.Random(seed), bytearray(data)
    for _ in range(8):
        changed[drawn.randrange(len(data))] ^= 1 << drawn.randrange(8)
    return bytes(changed)


WHOLE: dict[str, bytes] = {
    "x.csv": TEXT,
    "x.csv.gz": gzip.compress(TEXT),
    "x.csv.bz2": bz2.compress(TEXT),
    "x.csv.zst": zstd(TEXT),
    "x.tsv": TEXT.replace(b",", b"\t"),
    "x.parquet": parquet(),
}
DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "blank": lambda data: b"\n\n\n",
    "zeros": lambda data: bytes(len(data)),
    "cut at the start": lambda data: data[:3],
    "half": lambda data: data[: len(data) // 2],
    "without its end": lambda data: data[:-9],
    "without its start": lambda data: data[9:],
    "a web page": lambda data: b"<!DOCTYPE html>\n<html><body>404 Not Found</body></html>\n",
    "text": lambda data: b"hello",
    "UTF-16": lambda data: TEXT.decode().encode("utf-16"),
    "UTF-16 without mark": lambda data: TEXT.decode().encode("utf-16-le"),
    "Latin-1": lambda data: TEXT + "é,i,5\n".encode("latin-1"),
    "Latin-1 header": lambda data: "é,".encode("latin-1") + TEXT,
    "open quote": lambda data: TEXT.replace(b"u5,", b'"u5,', 1),
    "open quote in the header": lambda data: b'"' + TEXT,
    "one long line": lambda data: TEXT.replace(b"\n", b","),
    "Parquet": lambda data: parquet(),
    "gzip": lambda data: gzip.compress(TEXT),
    "archive": lambda data: b"PK\x03\x04" + data,
    **{f"bits {seed}": lambda data, seed=seed: flipped(data, seed) for seed in range(5)},
}
Reader = Callable[[Path, Path], object]


def read_events_of(path: Path, out: Path) -> object:
    source = open_tables(schema=Schema(), events=TableFile(path=path))
    return ingest(source, schema=Schema(), out=out / "tables", chunk_rows=100, max_quarantine_share=0.0, now=NOW)


def read_folder_of(path: Path, out: Path) -> object:
    return read_events_of(path.parent, out)


def read_items_of(path: Path, out: Path) -> object:
    events = out / "good.csv"
    events.write_bytes(TEXT)
    schema = Schema(item_columns={"user_id_of": "text"})
    items = TableFile(path=path, columns={"user_id_of": "user_id"})
    source = open_tables(schema=schema, events=TableFile(path=events), items=items)
    return ingest(source, schema=schema, out=out / "tables", chunk_rows=100, max_quarantine_share=0.0, now=NOW)


def read_lists_of(path: Path, out: Path) -> object:
    return read_table(path, {"user_id": (), "item_id": ()})


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("reader", [read_events_of, read_folder_of, read_items_of, read_lists_of])
def test_each_damage_is_told_with_the_name_of_the_file(tmp_path: Path, reader: Reader, name: str) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / name
    path.write_bytes(WHOLE[name])
    if reader is read_folder_of:
        (tmp_path / "in" / "other.csv").write_text("user_id,item_id,timestamp\nother,i,5\n")
    reader(path, tmp_path)
    told = {}
    for kind, damage in DAMAGE.items():
        path.write_bytes(damage(WHOLE[name]))
        told[kind] = message_of(lambda: reader(path, tmp_path))
    assert [(kind, text) for kind, text in told.items() if text is not None and name not in text] == []
    assert sum(text is not None for text in told.values()) > len(DAMAGE) // 2


def message_of(read: Callable[[], object]) -> str | None:
    """What is said of a file; None where it can be read."""
    try:
        read()
    except (SourceError, QuarantineError, ValueError) as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", ["ratings.csv", "movies.csv"])
def test_each_damage_of_movielens_is_told_with_the_name_of_the_file(tmp_path: Path, name: str) -> None:
    whole = {
        "ratings.csv": b"userId,movieId,rating,timestamp\n" + b"".join(b"%d,1,5.0,%d\n" % (n, n) for n in range(2000)),
        "movies.csv": b"movieId,title,genres\n" + b"".join(b"%d,Heat (1995),Drama\n" % n for n in range(2000)),
    }
    for other, content in whole.items():
        (tmp_path / other).write_bytes(content)
    schema = Schema(item_columns={"title": "text"})

    def read() -> object:
        source = open_movielens(schema=schema, path=tmp_path)
        return ingest(source, schema=schema, out=tmp_path / "out", chunk_rows=100, max_quarantine_share=0.0, now=NOW)

    told = {}
    for kind, damage in DAMAGE.items():
        (tmp_path / name).write_bytes(damage(whole[name]))
        told[kind] = message_of(read)
    assert [(kind, text) for kind, text in told.items() if text is not None and name not in text] == []


HEADER_ONLY = """
import sys
from pathlib import Path
from features.sources.files import Dialect, column_names
assert column_names(Path(sys.argv[1]), Dialect()) == ["User_ID", "Item_ID", "Timestamp"]
sys.exit(1)
"""


def test_reading_a_header_leaves_no_thread_that_aborts_the_process(tmp_path: Path) -> None:
    path = tmp_path / "ev.csv"
    path.write_text("User_ID,Item_ID,Timestamp\nu1,i1,1704067200\n")
    root = Path(__file__).resolve().parents[3]
    running = [
        subprocess.Popen([sys.executable, "-c", HEADER_ONLY, str(path)], cwd=root, stderr=subprocess.PIPE)
        for _ in range(6)
    ]
    found: list[Any] = [(process.communicate()[1], process.returncode) for process in running]
    assert found == [(b"", 1)] * 6
