"""Ingestion leaves out every row that names a forgotten person, and no other row."""

from __future__ import annotations

import datetime as dt
import json
import stat
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.forgotten import NOBODY, Forgotten, are_of, name_any
from features.ingest import IngestSummary, ingest
from features.schema import Schema
from features.sources.tables import open_tables
from features.tables import forget_in_tables

NOW = dt.datetime(2024, 6, 1, tzinfo=dt.UTC)
HEAD = "user_id,item_id,timestamp\n"
# Of anna: an event, one in the future, one that cannot be read, a line with a field too many, and one that repeats.
ANNA = ["anna,i1,10", "anna,i2,99999999999", "anna,i2,soon", "anna,i2,20,more", "anna,i1,10"]
OTHERS = ["boris,i1,30", "boris,i1,30", "annabel,i2,40", "zoë,i2,soon", "boris,i2,90000"]


def ingested(folder: Path, *days: list[str], forgotten: Forgotten = NOBODY, users: list[str]) -> IngestSummary:
    """Ingests files of events, one for each list, and a users table, into `folder/tables`."""
    orders = folder / "orders"
    orders.mkdir(parents=True, exist_ok=True)
    for number, lines in enumerate(days):
        path, text = orders / f"{number}.csv", HEAD + "".join(f"{line}\n" for line in lines)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
    (folder / "users.csv").write_text("user_id,country\n" + "".join(f"{line}\n" for line in users))

    class Named:
        def __init__(self, path: Path) -> None:
            self.path, self.columns, self.delimiter = path, {}, ","

    schema = Schema(user_columns={"country": "categorical"})
    source = open_tables(
        schema=schema, events=Named(orders), users=Named(folder / "users.csv"), items=None, timestamp_unit="s"
    )
    limits: dict[str, Any] = {"chunk_rows": 2, "max_quarantine_share": 1.0, "now": NOW}
    return ingest(source, schema=schema, out=folder / "tables", forgotten=forgotten, **limits)


def tables_of(folder: Path) -> dict[str, Any]:
    """Bytes of the tables, rows of what was set aside."""
    tables = folder / "tables"
    found: dict[str, Any] = {str(path.relative_to(tables)): path.read_bytes() for path in tables.glob("*.parquet")}
    found |= {path.name: path.read_bytes() for path in (tables / "events").glob("*")}
    aside = {path.name: pq.read_table(path).drop_columns("source_row") for path in (tables / "quarantine").glob("*")}
    return found | {f"aside {name}": table.to_pylist() for name, table in aside.items()}


ANNA_AND_OTHERS = [ANNA[0], OTHERS[0], ANNA[1], OTHERS[1], ANNA[2], OTHERS[2], ANNA[3]]


def test_the_tables_are_those_of_a_world_without_them(tmp_path: Path) -> None:
    anna = NOBODY.and_also(["anna"])
    users = ["anna,NL", "anna,DE", "boris,DE", "zoë,FR"]
    with_her = ingested(tmp_path / "a", ANNA_AND_OTHERS, [ANNA[4], *OTHERS[3:]], forgotten=anna, users=users)
    without = ingested(tmp_path / "b", OTHERS[:3], OTHERS[3:], users=users[2:])
    assert tables_of(tmp_path / "a") == tables_of(tmp_path / "b")
    assert (with_her.filtered, without.filtered) == ({"forgotten": 5}, {})
    assert (with_her.rows_read, without.rows_read) == (10, 5)
    assert (with_her.num_forgotten_users, without.num_forgotten_users) == (2, 0)
    assert with_her.quarantined == without.quarantined
    assert "5 filtered (forgotten)" in with_her.outcome()


def test_unchanged_files_are_read_again_once_for_a_new_list(tmp_path: Path) -> None:
    days, users = ([ANNA[0], *OTHERS[:2]], [ANNA[4], OTHERS[4]]), ["anna,NL"]
    ingested(tmp_path, *days, users=users)
    anna = NOBODY.and_also(["anna"])
    for _ in range(2):
        assert ingested(tmp_path, *days, forgotten=anna, users=users).filtered == {"forgotten": 2}
    assert pq.read_table(tmp_path / "tables" / "users.parquet").column("user_id").to_pylist() == ["boris"]
    ledger = json.loads((tmp_path / "tables.sources" / "ledger.json").read_text())
    assert [facts["num_forgotten"] for facts in ledger["files"].values()] == [1, 1]


def test_existing_tables_lose_only_their_rows_and_the_next_ingestion_finds_the_days_unchanged(
    tmp_path: Path,
) -> None:
    days, users = (ANNA_AND_OTHERS, [*OTHERS[3:], "anna,i3,200000"]), ["anna,NL", "boris,DE"]
    ingested(tmp_path, *days, users=users)
    tables = tmp_path / "tables"
    assert forget_in_tables(tables, {"anna", "nobody"}) == {"events": 2, "quarantine": 3, "users": 1}
    # The third day was hers alone.
    manifest = json.loads((tables / "manifest.json").read_text())
    assert list(manifest["days"]) == ["1970-01-01", "1970-01-02"]
    assert (manifest["rows_kept"], manifest["num_days"]) == (3, 2)
    assert not (tmp_path / "tables.sources").exists()
    patched = tables_of(tmp_path)
    inodes = {path.name: path.stat().st_ino for path in (tables / "events").glob("*")}
    ingested(tmp_path, *days, forgotten=NOBODY.and_also(["anna"]), users=users)
    again = tables_of(tmp_path)
    assert {path.name: path.stat().st_ino for path in (tables / "events").glob("*")} == inodes
    # An item that only they had bought is known until then.
    assert {name for name in again if again[name] != patched[name]} == {"items.parquet"}
    assert forget_in_tables(tables, {"anna"}) == {"events": 0, "quarantine": 0, "users": 0}


def test_the_next_call_finishes_a_killed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ingested(tmp_path, ANNA_AND_OTHERS, users=["anna,NL"])
    tables, whole = tmp_path / "tables", tmp_path / "whole"
    ingested(whole, ANNA_AND_OTHERS, users=["anna,NL"])
    forget_in_tables(whole / "tables", {"anna"})
    from artefacts import files as module

    real, calls = module.os.replace, []
    for allowed in range(5):

        def replace(source: Any, target: Any, allowed: int = allowed) -> None:
            if len(calls) == allowed:
                raise KeyboardInterrupt
            calls.append(target)
            real(source, target)

        calls.clear()
        monkeypatch.setattr(module.os, "replace", replace)
        try:
            forget_in_tables(tables, {"anna"})
        except KeyboardInterrupt:
            continue
    monkeypatch.setattr(module.os, "replace", real)
    forget_in_tables(tables, {"anna"})
    assert tables_of(tmp_path) == tables_of(whole)
    days = [json.loads((folder / "manifest.json").read_text())["days"] for folder in (tables, whole / "tables")]
    assert days[0] == days[1]


def test_the_list_holds_no_id_is_for_its_owner_alone_and_salted_by_dataset(tmp_path: Path) -> None:
    path = tmp_path / "forgotten.json"
    anna = NOBODY.and_also(["anna"])
    anna.and_also(["boris", "anna"]).save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "anna" not in path.read_text()
    found = Forgotten.load(path)
    assert [name in found for name in ("anna", "boris", "annabel", None, 7)] == [True, True, False, False, False]
    assert (len(found.hashes), found.salt) == (2, anna.salt)
    assert NOBODY.and_also(["anna"]).hashes.isdisjoint(found.hashes)
    assert not Forgotten.load(tmp_path / "none.json")
    assert found.digest() != anna.digest() != NOBODY.digest() == ""


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 2}', '{"format": 1, "salt": "x"}'])
def test_a_damaged_list_stops_the_job(tmp_path: Path, text: str) -> None:
    path = tmp_path / "forgotten.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"forgotten\.json: cannot be read .*restore it from a backup"):
        Forgotten.load(path)


def test_ids_are_found_in_columns_and_in_rows_as_text() -> None:
    ids = pa.chunked_array([["a", None, "b"], ["a"]], pa.string())
    assert are_of({"a"}, ids).tolist() == [True, False, False, True]
    assert are_of({"c"}, ids).tolist() == [False] * 4
    texts = [
        '{"customer": "12", "item": "x"}',
        '{"customer": "12.0"}',
        "x;12;y",
        '{"line": "x,\\"12\\",y,z"}',
        "112",
        None,
    ]
    assert name_any({"12"}, pa.array(texts)).tolist() == [True, True, True, True, False, False]
