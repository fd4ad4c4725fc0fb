"""Exposure files are read as they were written."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serving.exposures import files as module
from serving.exposures.files import (
    SCHEMA,
    Exposure,
    are_exposures,
    exposure_files,
    read_exposures,
    to_table,
    write_exposures,
)

DAY = dt.date(2024, 1, 31)
MIDNIGHT = 1_706_745_600  # 2024-02-01 00:00 UTC
LATER = DAY + dt.timedelta(days=1)


def shown(user: int, moment: float = MIDNIGHT - 1, num_items: int = 2) -> Exposure:
    items = [f"i{user + place}" for place in range(num_items)]
    return Exposure(moment, f"u{user}", "a", "2024-01-30-0123abcd", "fused", 2, ("no_history",), items)


def write(folder: Path, day: dt.date, name: str, *exposures: Exposure) -> Path:
    path = folder / f"day={day}" / name
    write_exposures(to_table(exposures), path)
    return path


def test_rows_come_back_as_they_were() -> None:
    first, second = to_table([shown(1, MIDNIGHT + 0.25), shown(2, num_items=0)]).to_pylist()
    assert first == {
        "moment": dt.datetime(2024, 2, 1, 0, 0, 0, 250_000, dt.UTC),
        "user_id": "u1",
        "arm": "a",
        "bundle_version": "2024-01-30-0123abcd",
        "retriever": "fused",
        "k": 2,
        "reasons": ["no_history"],
        "item_ids": ["i1", "i2"],
    }
    assert (second["user_id"], second["item_ids"]) == ("u2", [])
    assert to_table([]).schema == SCHEMA


def test_many_rows_are_turned_into_arrow_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    exposures = [shown(user, num_items=user % 4) for user in range(50)]
    whole = to_table(exposures)
    monkeypatch.setattr(module, "CALL_ITEMS", 7)
    assert to_table(exposures).to_pylist() == whole.to_pylist()


def test_a_day_is_that_of_the_moment_in_utc() -> None:
    assert [shown(1, moment).day for moment in (MIDNIGHT - 1e-3, MIDNIGHT)] == [DAY, LATER]


def test_days_are_streamed_in_order_from_the_first_to_the_one_before_the_end(tmp_path: Path) -> None:
    write(tmp_path, LATER, "a-000000.parquet", shown(3))
    write(tmp_path, DAY, "b-000000.parquet", shown(2))
    write(tmp_path, DAY, "a-000000.parquet", shown(0), shown(1))
    (tmp_path / f"day={DAY}" / ".a-000001.tmp").write_bytes(b"half")
    (tmp_path / "day=tomorrow").mkdir()

    def users(first: dt.date, end: dt.date) -> list[list[str]]:
        return [batch.column("user_id").to_pylist() for batch in read_exposures(tmp_path, first, end)]

    assert users(DAY, LATER) == [["u0", "u1"], ["u2"]]
    assert users(LATER, LATER + dt.timedelta(days=1)) == [["u3"]]
    assert users(dt.date.min, dt.date.max) == [["u0", "u1"], ["u2"], ["u3"]]
    assert users(LATER, LATER) == []


def test_only_the_columns_that_are_asked_for_come(tmp_path: Path) -> None:
    write(tmp_path, DAY, "a-000000.parquet", shown(0))
    [batch] = read_exposures(tmp_path, DAY, LATER, columns=["item_ids", "arm"])
    assert sorted(batch.schema.names) == ["arm", "item_ids"]


def test_a_missing_folder_and_a_damaged_file_are_reported(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none: does not exist; a server with serving\.log_exposures makes it"):
        list(read_exposures(tmp_path / "none", DAY, LATER))
    path = write(tmp_path, DAY, "a-000000.parquet", shown(0))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"a-000000\.parquet: cannot be read \(.*\); remove it to continue"):
        list(read_exposures(tmp_path, DAY, LATER))


def test_a_failed_write_leaves_the_old_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, DAY, "a-000000.parquet", shown(0))

    def full(table: pa.Table, file: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path, DAY, "a-000000.parquet", shown(1))
    assert list(path.parent.iterdir()) == [path]
    assert pq.read_table(path).column("user_id").to_pylist() == ["u0"]


def test_a_folder_of_exposures_is_distinguished_from_others(tmp_path: Path) -> None:
    assert not are_exposures(tmp_path)
    (tmp_path / f"day={DAY}").mkdir()
    assert exposure_files(tmp_path) == []
    pq.write_table(pa.table({"user_id": ["u1"], "item_id": ["i1"]}), tmp_path / f"day={DAY}" / "pairs.parquet")
    assert not are_exposures(tmp_path)
    assert are_exposures(write(tmp_path / "others", DAY, "a-000000.parquet", shown(0)).parents[1])
    assert not are_exposures(tmp_path / f"day={DAY}" / "pairs.parquet")
