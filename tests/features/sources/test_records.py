"""Lines of a delimited file all arrive: in whole records, or as lines that an open quote swallowed."""

from __future__ import annotations

import datetime as dt
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.config import TableFile
from features.ingest import QuarantineError, SourceError, ingest
from features.schema import Schema
from features.sources import records
from features.sources.records import frame
from features.sources.tables import open_tables
from features.tables import read_items

NOW = dt.datetime(1970, 1, 5, tzinfo=dt.UTC)
HEADER = "user_id,item_id,timestamp,note\n"
PIECES = st.sampled_from(["a", ",", '"', "\n", "\r\n", "\r", "x,y,z\n", '"q,\nr"', '""'])


def lines_of(data: bytes) -> list[bytes]:
    return [line for line in re.split(rb"[\r\n]+", data) if line]


@given(st.lists(PIECES, max_size=30).map("".join), st.integers(1, 40))
def test_every_line_is_in_one_place_wherever_the_blocks_end(text: str, block_bytes: int) -> None:
    found = []
    for size in (block_bytes, 1 << 20):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(records, "BLOCK_BYTES", size)
            parts = list(frame(io.BytesIO(text.encode()), delimiter=b",", quoted=True, num_columns=3))
        whole = b"".join(part.whole for part in parts)
        swallowed = [line for part in parts for line in part.swallowed if line]
        assert len(lines_of(whole)) + len(swallowed) == len(lines_of(text.encode()))
        found.append((whole, swallowed))
    assert found[0] == found[1]


def rows(first: int, end: int) -> list[str]:
    return [f"u{number},i{number % 5},{number},plain" for number in range(first, end)]


@pytest.mark.parametrize("columns", [{}, {"value": "note"}], ids=["unused", "used"])
def test_a_quote_that_nothing_closes_is_no_hole(shop: Any, columns: dict[str, str]) -> None:
    text = HEADER + "\n".join([*rows(0, 50), '"u50,i0,50,plain', *rows(51, 100)]) + "\n"
    with pytest.raises(QuarantineError, match=r"50 of 100 rows .* 50 open_quote.* row 51 of events.csv: .*u50,i0"):
        shop.ingest(text, max_quarantine_share=0.1)
    text = HEADER + "\n".join([*rows(0, 90), 'u90,i0,90,"plain', *rows(91, 100)]) + "\n"
    summary = shop.ingest(text)
    assert (summary.rows_read, summary.rows_kept, summary.quarantined["events"]) == (100, 90, {"open_quote": 10})
    assert [row["source_row"] for row in shop.quarantine()] == list(range(91, 101))


@pytest.mark.parametrize(
    "faulty",
    [
        ['u0,i0,0,"stray', "u1,i1,1,plain", 'u2,i2,2,stray"'],
        ['u0,i0,0,"stray', "u1,i1,1,plain", 'u2,i2,2,"stray'],
        ['"u0,i0,0,plain', "u1,i1,1,plain", '"u2,i2,2,plain'],
        ['u0,"i0,0,plain', "u1,i1,1,plain", 'u2,i2",2,plain'],
    ],
)
def test_a_quote_that_a_later_row_closes_swallows_nothing(shop: Any, faulty: list[str]) -> None:
    summary = shop.ingest(HEADER + "\n".join([*faulty, *rows(3, 9)]))
    assert (summary.rows_read, summary.rows_kept, summary.quarantined["events"]) == (9, 6, {"open_quote": 3})


def test_behind_the_longest_record_rows_are_read_again(shop: Any) -> None:
    text = HEADER + "\n".join(['"u0,i0,0,plain', *rows(1, 2000)])
    summary = shop.ingest(text)
    assert (summary.rows_read, summary.rows_kept, summary.quarantined["events"]) == (2000, 1000, {"open_quote": 1000})


LINES = [
    "u1,i1,1,plain",
    'u2,i2,2,"two\nlines, of it"',
    "",
    "u3,i3",
    '"u4,i4,4,open',
    'u5,i5,5,"a\r\nb\n\nc"',
    "x,i1,,",
]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from(LINES), max_size=12),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.booleans(),
    st.sampled_from([1, 5, 64, 1 << 20]),
)
def test_lines_are_those_of_rows_kept_and_set_aside_and_the_rest(
    tmp_path: Path, pieces: list[str], end: str, is_ended: bool, size: int
) -> None:
    text = end.join([HEADER.rstrip("\n"), "u0,i0,0,plain", *pieces]) + (end if is_ended else "")
    path = tmp_path / "events.csv"
    path.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(records, "BLOCK_BYTES", size)
        source = open_tables(schema=Schema(), events=TableFile(path=path))
        found = ingest(source, schema=Schema(), out=tmp_path / "out", chunk_rows=3, max_quarantine_share=1, now=NOW)
    # Counted by another rule than the reader's: what splitlines finds.
    assert found.lines_read == len(text.encode().splitlines())
    assert found.lines_read == found.rows_read + found.other_lines
    assert found.rows_read == found.rows_kept + sum(found.quarantined["events"].values())
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["lines_read"], manifest["other_lines"]) == (found.lines_read, found.other_lines)


def test_a_plain_file_has_one_line_more_than_rows_and_a_header_alone_has_one(tmp_path: Path) -> None:
    folder = tmp_path / "orders"
    folder.mkdir()
    (folder / "a.csv").write_text(HEADER + "\n".join([*rows(0, 20), "u1,i1"]) + "\n")
    (folder / "b.csv").write_text(HEADER)
    for _ in range(2):  # The second time, nothing is read again.
        source = open_tables(schema=Schema(), events=TableFile(path=folder))
        found = ingest(source, schema=Schema(), out=tmp_path / "out", chunk_rows=3, max_quarantine_share=1, now=NOW)
        assert (found.lines_read, found.rows_read, found.other_lines) == (23, 21, 2)
        assert (found.rows_kept, found.quarantined["events"]) == (20, {"wrong_fields": 1})


def test_quotes_of_inches_and_texts_of_several_lines_are_kept(described_shop: Any) -> None:
    texts = ['Tea, ""green""\nor black', "a\n\nb, c\r\nd", 'a 5" screen', "x" * 9_000_000]
    quoted = [f'i{number},"{text}",B,1' for number, text in enumerate(texts) if number != 2]
    items = "item_id,item_name,brand,price\n" + "\n".join([*quoted, f"i2,{texts[2]},B,1"]) + "\n"
    summary = described_shop.ingest("user_id,item_id,timestamp\nu,i0,5\n", "user_id,country\n", items)
    assert summary.quarantined["items"] == {}
    expected = [texts[0].replace('""', '"'), *texts[1:]]
    assert read_items(described_shop.out).column("item_name").to_pylist() == expected


def test_a_row_beyond_all_bounds_names_the_file_and_the_limit(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "BLOCK_BYTES", 1 << 10)
    monkeypatch.setattr(records, "MAX_RECORD_BYTES", 1 << 20)
    with pytest.raises(SourceError, match=r"events.csv: cannot be read: a row is longer than 1 MB, which is the limit"):
        shop.ingest(HEADER + "u,i,5," + "x" * (2 << 20) + "\n")
