"""GDPR erasure from the canonical tables: every file that names forgotten users is written again without their rows.

A file is replaced at once, and `users.parquet`, which names every user, last: after a kill, the next call continues.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Container
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from features import columns
from features.forgotten import are_of, name_any
from features.sources.write_events import digest_of_file

RAW = "raw"


def forget_in_tables(tables: Path, people: Container[str]) -> dict[str, int]:
    """Takes the rows of some people out of the tables, and out of what is kept of rows that were set aside.

    The manifest follows as far as later steps rely on it: days, their digests and their numbers of events. What a
    source of several files need not read again is in a ledger with all ids, which is removed: the next ingestion
    reads everything once.

    Args:
        tables: Folder of the tables; it need not be there.
        people: Ids of users.

    Returns:
        Rows taken out of `events`, `quarantine` and `users`.
    """
    old = tables.with_name(f".{tables.name}.old")
    if old.exists() and not tables.exists():
        # Of an ingestion that was killed between two renames.
        old.rename(tables)
    sources = tables.with_name(f"{tables.name}.sources")
    for left in (old, *(path.with_name(f".{path.name}.tmp") for path in (tables, sources))):
        shutil.rmtree(left, ignore_errors=True)
    events = {path: without_users(path, people) for path in sorted((tables / "events").glob("*.parquet"))}
    if events and not _is_told(tables, events):
        _tell_manifest(tables)
    aside = 0
    for folder in (tables / "quarantine", tables.with_name(f"{tables.name}.quarantine")):
        aside += sum(_without_raw(path, people) for path in sorted(folder.glob("*.parquet")))
    if _name_users(sources / "user_ids.parquet", people):
        shutil.rmtree(sources)
    users = tables / "users.parquet"
    num_users = without_users(users, people) if users.exists() else 0
    return {"events": sum(events.values()), "quarantine": aside, "users": num_users}


def without_users(path: Path, people: Container[str]) -> int:
    """Writes a Parquet file with a column `user_id` again without the rows of some people; returns how many went."""
    gone = are_of(people, pq.read_table(path, columns=[columns.USER_ID]).column(0))
    return _rewrite(path, gone)


def _without_raw(path: Path, people: Container[str]) -> int:
    return _rewrite(path, name_any(people, pq.read_table(path, columns=[RAW]).column(0)))


def _name_users(path: Path, people: Container[str]) -> bool:
    return path.exists() and bool(are_of(people, pq.read_table(path, columns=["id"]).column(0)).any())


def _rewrite(path: Path, gone: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> int:
    if gone.any():
        kept = pq.read_table(path).filter(pa.array(~gone)).combine_chunks()
        temporary = path.with_name(f".{path.name}.tmp")
        pq.write_table(kept, temporary, compression="zstd")
        os.replace(temporary, path)
    return int(gone.sum())


def _is_told(tables: Path, files: Collection[Path]) -> bool:
    """Whether the manifest speaks of the day files that are there: a call may have been killed before it did."""
    days = json.loads((tables / "manifest.json").read_text(encoding="utf-8")).get("days") or {}
    return {day: facts["num_events"] for day, facts in days.items()} == {
        path.stem: pq.read_metadata(path).num_rows for path in files
    }


def _tell_manifest(tables: Path) -> None:
    """Brings the days of the manifest to what the day files hold now; a day that is empty goes."""
    path = tables / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    days = manifest.get("days") or {}
    for file in sorted((tables / "events").glob("*.parquet")):
        num_events = pq.read_metadata(file).num_rows
        if num_events and file.stem in days:
            days[file.stem] |= {"digest": digest_of_file(file), "num_events": num_events}
        elif not num_events:
            days.pop(file.stem, None)
            file.unlink()
    manifest |= {"rows_kept": sum(facts["num_events"] for facts in days.values()), "num_days": len(days)}
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, path)
