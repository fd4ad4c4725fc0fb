"""A folder of files is one table: every file is read or named, whatever its name and columns."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.config import TableFile
from features.ingest import IngestSummary, SourceError, ingest
from features.schema import Schema
from features.sources.tables import open_tables
from features.tables import read_events, read_items

NOW = dt.datetime(2024, 6, 1, tzinfo=dt.UTC)
HEADER = "user_id,item_id,timestamp\n"


def run(folder: Path, schema: Schema | None = None, items: Path | None = None) -> IngestSummary:
    schema = schema or Schema()
    source = open_tables(
        schema=schema, events=TableFile(path=folder / "ev"), items=None if items is None else TableFile(path=items)
    )
    return ingest(source, schema=schema, out=folder / "tables", chunk_rows=10, max_quarantine_share=0, now=NOW)


def values(folder: Path, column: str) -> list[object]:
    found: list[object] = read_events(folder / "tables", first_day=dt.date.min, end_day=dt.date.max)[column].to_pylist()
    return found


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    codec = {".zst": "zstd", ".bz2": "bz2", ".gz": "gzip"}.get(path.suffix.lower())
    with pa.output_stream(str(path), compression=codec) as file:
        file.write(text.encode())


def test_every_suffix_is_read_in_any_case_and_in_subfolders(tmp_path: Path) -> None:
    names = [
        "a.csv",
        "b.CSV",
        "c.csv.zst",
        "d.tsv",
        "e.csv.GZ",
        "f.tsv.bz2",
        "day=2024-01-02/part.csv",
        "day=2/part.csv",
    ]
    for number, name in enumerate(names):
        text = f"{HEADER}u{number},i,{number}\n"
        write(tmp_path / "ev" / name, text.replace(",", "\t") if ".tsv" in name else text)
    pq.write_table(pa.table({"user_id": ["u8"], "item_id": ["i"], "timestamp": [8]}), tmp_path / "ev" / "p.PARQUET")
    for _ in range(2):
        summary = run(tmp_path)
        assert values(tmp_path, "user_id") == [f"u{number}" for number in range(9)]
        assert summary.unused_columns["events"] == ("day",)
    write(tmp_path / "ev" / names[-1], f"{HEADER}u7,i,17\n")
    run(tmp_path)
    assert values(tmp_path, "user_id")[-1] == "u7"


def test_what_is_not_read_is_named_and_hidden_files_are_no_data(tmp_path: Path) -> None:
    write(tmp_path / "ev" / "a.csv", HEADER + "u,i,5\n")
    for name in (".old.csv", "._a.csv", "_SUCCESS", "_temporary/b.csv", ".git/c.csv"):
        write(tmp_path / "ev" / name, HEADER + "ghost,i,5\n")
    for name in ("b.xlsx", "sub/c.json"):
        write(tmp_path / "ev" / name, "")
    summary = run(tmp_path)
    assert values(tmp_path, "user_id") == ["u"]
    assert summary.notes == (f"{tmp_path / 'ev'}: 2 files are not read: b.xlsx, sub/c.json",)
    assert summary.notes[0] in summary.outcome()


@pytest.mark.parametrize("names", [("a.csv", "b.csv"), ("b.csv", "a.csv")])
def test_a_column_that_only_some_files_have_is_null_in_the_others(tmp_path: Path, names: tuple[str, str]) -> None:
    write(tmp_path / "ev" / names[0], HEADER + "u,i,5\n")
    write(tmp_path / "ev" / names[1], "user_id,value,item_id,timestamp\nv,5.5,i,6\n")
    summary = run(tmp_path)
    assert values(tmp_path, "value") == [None, 5.5]
    assert summary.notes == (f"{tmp_path / 'ev'}: 1 of 2 files have no value, the first is {names[0]}",)


def test_columns_in_the_names_of_folders_are_columns(tmp_path: Path) -> None:
    write(tmp_path / "ev" / "a.csv", HEADER + "u,i,5\n")
    for folder, item in (("brand=A%20B", "i"), ("brand=__HIVE_DEFAULT_PARTITION__", "j")):
        write(tmp_path / "items" / folder / "x.csv", f"item_id\n{item}\n")
    run(tmp_path, Schema(item_columns={"brand": "categorical"}), tmp_path / "items")
    assert read_items(tmp_path / "tables")["brand"].to_pylist() == ["A B", None]


def test_a_column_that_no_file_has_is_named(tmp_path: Path) -> None:
    write(tmp_path / "ev" / "a.csv", HEADER + "u,i,5\n")
    write(tmp_path / "items" / "x.csv", "item_id,colour\ni,red\n")
    with pytest.raises(SourceError, match=r"x.csv: has no column 'color'; the nearest existing column is 'colour'"):
        run(tmp_path, Schema(item_columns={"color": "categorical"}), tmp_path / "items")
