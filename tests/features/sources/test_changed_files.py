"""An ingestion that reads only changed files writes the same bytes as one from scratch."""

from __future__ import annotations

import datetime as dt
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features import ingest as ingest_module
from features.config import TableFile
from features.ingest import IngestSummary, ingest
from features.schema import Schema
from features.sources.tables import open_tables

NOW = dt.datetime(1970, 1, 5, tzinfo=dt.UTC)
HEADER = "user_id,item_id,timestamp,value\n"
# Four days, moments that collide, rows of the future and rows that cannot be used.
ROWS = st.builds(
    lambda user, item, day, second, value: f"{user},{item},{day * 86_400 + second},{value}\n",
    st.sampled_from(["u1", "u2", "u3", "é"]),
    st.sampled_from(["i1", "i2"]),
    st.integers(0, 3),
    st.sampled_from([0, 5, 86_399]),
    st.sampled_from(["", "1.5", "-1", "x"]),
) | st.sampled_from(["u1,,7,1\n", "u1,i1\n", "u9,i9,soon,\n", "u2,i2,999999999,3\n"])
FILES = st.dictionaries(
    st.sampled_from([f"{name}.csv" for name in "abcde"]), st.lists(ROWS, max_size=6), min_size=1, max_size=5
)
GOOD = "u0,i0,3,\n"


def write(folder: Path, files: dict[str, list[str]]) -> None:
    """Makes the folder hold exactly these files; those that are as they were are not touched."""
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        if path.name not in files:
            path.unlink()
    for name, rows in files.items():
        text, path = HEADER + "".join(rows), folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            # A later moment, however coarse the clock of the file system is.
            stat = path.stat()
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1 + len(list(folder.iterdir()))))


def run(folder: Path, out: Path, *, now: dt.datetime = NOW, **kwargs: Any) -> IngestSummary:
    source = open_tables(schema=Schema(), events=TableFile(path=folder))
    return ingest(source, schema=Schema(), out=out, chunk_rows=3, max_quarantine_share=1, now=now, **kwargs)


def content(*folders: Path) -> dict[str, bytes]:
    paths = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in paths}


@settings(max_examples=60)
@given(st.lists(FILES, min_size=2, max_size=4), st.booleans())
def test_changed_files_give_the_tables_of_an_ingestion_from_scratch(
    steps: list[dict[str, list[str]]], keep_others: bool
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        before: dict[str, list[str]] = {}
        for number, step in enumerate(steps):
            before = {**before, **step} if keep_others else step
            # The last of the names, so that there are two files and some event at every step.
            write(folder / "orders", {**before, "z.csv": [GOOD]})
            summary = run(folder / "orders", folder / "tables")
            assert summary == run(folder / "orders", folder / f"scratch{number}")
            scratch = folder / f"scratch{number}", folder / f"scratch{number}.sources"
            found = content(folder / "tables", folder / "tables.sources")
            expected = {path.replace(f"scratch{number}", "tables"): text for path, text in content(*scratch).items()}
            assert found == expected


@pytest.fixture
def days(tmp_path: Path) -> Path:
    """A folder with a file for each of three days; the last has a row too many."""
    files = {f"{day}.csv": [f"u{user},i{day},{day * 86_400 + 5},1\n" for user in range(4)] for day in range(3)}
    files["2.csv"].append("u0,i2,172805,7\n")
    write(tmp_path / "orders", files)
    return tmp_path / "orders"


def inodes(tables: Path) -> dict[str, int]:
    return {path.stem: path.stat().st_ino for path in (tables / "events").iterdir()}


def test_a_new_file_is_read_alone_and_the_other_days_stay(days: Path, tmp_path: Path) -> None:
    run(days, tmp_path / "tables")
    before = inodes(tmp_path / "tables")
    (days / "3.csv").write_text(HEADER + "u7,i7,259205,1\n")
    read: list[int] = []
    summary = run(days, tmp_path / "tables", progress=read.append)
    assert (sum(read), summary.rows_read, summary.rows_kept, summary.num_users) == (1, 14, 13, 5)
    after = inodes(tmp_path / "tables")
    assert {day: after[day] for day in before} == before
    assert after.keys() - before.keys() == {"1970-01-04"}


def test_a_late_event_reads_its_day_again_and_no_other(days: Path, tmp_path: Path) -> None:
    run(days, tmp_path / "tables")
    before = inodes(tmp_path / "tables")
    (days / "late.csv").write_text(HEADER + "u0,i1,86405,9\nu8,i1,86406,9\n")
    read: list[int] = []
    summary = run(days, tmp_path / "tables", progress=read.append)
    # The first repeats an event of a file before it in the alphabet.
    assert summary.quarantined["events"] == {"duplicate": 2}
    assert sum(read) == 2
    after = inodes(tmp_path / "tables")
    assert {day for day in before if after[day] != before[day]} == {"1970-01-02"}


def test_a_file_that_was_only_touched_is_not_read(days: Path, tmp_path: Path) -> None:
    run(days, tmp_path / "tables")
    os.utime(days / "0.csv", ns=(1, 1))
    read: list[int] = []
    run(days, tmp_path / "tables", progress=read.append)
    assert read == []


def test_everything_is_read_on_request_or_when_columns_change_their_meaning(days: Path, tmp_path: Path) -> None:
    for path in days.iterdir():
        path.write_text(path.read_text().replace("value\n", "value,other\n").replace(",1\n", ",1,2\n"))
    first = run(days, tmp_path / "tables")
    read: list[int] = []
    run(days, tmp_path / "tables", progress=read.append, reuse=False)
    assert sum(read) == first.rows_read
    read.clear()
    source = open_tables(schema=Schema(), events=TableFile(path=days, columns={"value": "other"}))
    ingest(source, schema=Schema(), out=tmp_path / "tables", chunk_rows=9, max_quarantine_share=1, now=NOW,
           progress=read.append)  # fmt: skip
    assert sum(read) == first.rows_read


def test_future_events_are_read_again_once_their_time_has_come(days: Path, tmp_path: Path) -> None:
    noon = dt.datetime(1970, 1, 2, 12, tzinfo=dt.UTC)
    assert run(days, tmp_path / "tables", now=noon).quarantined["events"] == {"future_timestamp": 5}
    assert run(days, tmp_path / "tables").quarantined["events"] == {"duplicate": 1}
    # And back: a run with an earlier moment knows less.
    assert run(days, tmp_path / "tables", now=noon).quarantined["events"] == {"future_timestamp": 5}


def test_a_single_file_keeps_the_day_files_that_come_out_as_they_were(days: Path, tmp_path: Path) -> None:
    whole = tmp_path / "orders.csv"
    rows = [path.read_text().removeprefix(HEADER) for path in sorted(days.iterdir())]
    whole.write_text(HEADER + "".join(rows))
    run(whole, tmp_path / "tables")
    before = inodes(tmp_path / "tables")
    whole.write_text(HEADER + "".join(rows) + "u0,i5,86500,1\n")
    run(whole, tmp_path / "tables")
    after = inodes(tmp_path / "tables")
    assert {day for day in before if after[day] != before[day]} == {"1970-01-02"}
    assert {path.name for path in tmp_path.iterdir()} == {"orders", "orders.csv", "tables"}


@pytest.mark.parametrize("place", ["rmtree", "Ledger"])
def test_a_killed_run_leaves_tables_that_the_next_run_continues(
    place: str, days: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(days, tmp_path / "tables")
    (days / "late.csv").write_text(HEADER + "u8,i1,86406,9\n")

    class Killed(BaseException):
        pass

    def kill(*_: object, **__: object) -> None:
        raise Killed

    if place == "Ledger":
        with monkeypatch.context() as patched:
            patched.setattr(ingest_module.Ledger, "save", kill)
            with pytest.raises(Killed):
                run(days, tmp_path / "tables")
    else:
        # As between the two renames.
        (tmp_path / "tables").rename(tmp_path / ".tables.old")
    run(days, tmp_path / "tables")
    run(days, tmp_path / "scratch")
    assert content(tmp_path / "tables") == {
        path.replace("scratch", "tables"): text for path, text in content(tmp_path / "scratch").items()
    }
    assert {path.name for path in tmp_path.iterdir()} == {
        "orders", "tables", "tables.sources", "scratch", "scratch.sources"
    }  # fmt: skip
