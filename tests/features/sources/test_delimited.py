"""Rows of delimited files have the right numbers, for any block boundaries."""

from __future__ import annotations

import pytest

import features.sources.files as delimited
import features.sources.records as records
from features.ingest import SourceError
from features.sources.files import Dialect, read_delimited


@pytest.mark.parametrize("block_bytes", [16, 64, 1 << 20])
@pytest.mark.parametrize("chunk_rows", [1, 7, 1000])
def test_every_row_has_its_own_number_in_order(tmp_path, monkeypatch, block_bytes, chunk_rows):
    monkeypatch.setattr(records, "BLOCK_BYTES", block_bytes)
    lines = [f"{n}" if n % 5 in (0, 1) else f"{n},b" for n in range(1, 200)]
    path = tmp_path / "rows.csv"
    path.write_text("a,b\n" + "\n".join(lines))
    rows = []
    for chunk in read_delimited(path, Dialect(), wanted=["a"], chunk_rows=chunk_rows):
        assert chunk.rows.num_rows <= chunk_rows
        texts = zip(chunk.rows.column("a").to_pylist(), chunk.broken.to_pylist(), strict=True)
        rows += list(zip(chunk.numbers.to_pylist(), texts, strict=True))
    assert rows == [(n, (None, f"{n}") if n % 5 in (0, 1) else (f"{n}", None)) for n in range(1, 200)]


def test_delimiters_of_several_characters_split_lines(tmp_path):
    path = tmp_path / "rows.dat"
    path.write_bytes(b'1::caf\xe9 "x\n2\n3::::\n4::\n')
    dialect = Dialect("::", quoted=False, encoding="latin-1", names=("a", "b"))
    [chunk] = read_delimited(path, dialect, wanted=["b", "a"], chunk_rows=10)
    assert chunk.rows.to_pydict() == {"b": ['café "x', None, None, None], "a": ["1", None, None, "4"]}
    assert chunk.broken.to_pylist() == [None, "2", "3::::", None]


def test_endless_broken_rows_are_an_error_that_names_the_delimiter(tmp_path, monkeypatch):
    monkeypatch.setattr(delimited, "MAX_BROKEN_AT_ONCE", 3)
    path = tmp_path / "rows.csv"
    path.write_text("a,b\n" + "x\n" * 5)
    with pytest.raises(SourceError, match=r"rows.csv: cannot be read: .*check .* that the delimiter is right"):
        list(read_delimited(path, Dialect(), wanted=["a"], chunk_rows=10))
