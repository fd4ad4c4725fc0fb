"""Reads the canonical tables that ingestion wrote (events, users and items), and erases people from them (GDPR).

tables/events/2017-01-31.parquet  events of one UTC day by (timestamp, user_id, item_id)
       users.parquet              user_id and the declared user columns, by user_id
       items.parquet              item_id, item_name and the declared item columns, by item_id
       dated.parquet              item_id, first_day, last_day and the declared dated columns, as the source has them
       withdrawn_items.parquet    item_id of those that only events know, where the source has a table of items
       quarantine/                rows set aside
       manifest.json              counts, and of each day a digest of its events

Erasure writes every file that names forgotten users again without their rows. A file is replaced at once, and
`users.parquet`, which names every user, last: after a kill, the next call continues.
"""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Collection, Container, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from artefacts.files import json_text, json_value, replace_text, replaced
from features import columns, event_kinds
from features.forgotten import are_of, name_any
from features.sources.events import EVENTS_SCHEMA
from features.sources.summary import DayFacts
from features.sources.write_events import digest_of_file

WITHDRAWN_FILE = "withdrawn_items.parquet"
DATED_FILE = "dated.parquet"
RAW = "raw"


def event_days(tables: Path) -> list[dt.date]:
    """Days that have events, in order.

    Raises:
        FileNotFoundError: There are no tables in the folder.
    """
    _check(tables)
    return sorted(dt.date.fromisoformat(path.stem) for path in (tables / "events").glob("*.parquet"))


def day_facts(tables: Path) -> dict[dt.date, DayFacts]:
    """Digest and number of events of each day, from the manifest: no day is read.

    Raises:
        FileNotFoundError: There are no tables in the folder.
        ValueError: They were written before manifests had this.
    """
    _check(tables)
    days = json_value((tables / "manifest.json").read_text(encoding="utf-8")).get("days")
    if days is None:
        raise ValueError(f"{tables / 'manifest.json'}: has no digests of days; run `twinspire ingest --force` once")
    return {dt.date.fromisoformat(day): DayFacts(**facts) for day, facts in days.items()}


LEAST_EVENTS, EVENTS_PER_USER = 500_000, 50


def example_days(tables: Path, *, first: dt.date, end: dt.date, num_events: int | None) -> list[dt.date]:
    """Days whose events become examples: the latest ones that have enough of them, in order.

    Args:
        tables: The canonical tables.
        first: The earliest day that may be one.
        end: The day after the last.
        num_events: How many are enough; None takes 500,000, or 50 for each user where that is more.

    Raises:
        FileNotFoundError: There are no tables in the folder.
    """
    facts = day_facts(tables)
    if num_events is None:
        with pq.ParquetFile(tables / "users.parquet") as users:
            num_events = max(LEAST_EVENTS, EVENTS_PER_USER * users.metadata.num_rows)
    kinds = event_kinds_of(tables)
    is_whole = kinds is None or kinds.chooses_all("positives")
    found: list[dt.date] = []
    total = 0
    for day in sorted((day for day in facts if first <= day < end), reverse=True):
        if total >= num_events:
            break
        if number := facts[day].num_events if is_whole else num_positives(tables, day):
            found.append(day)
            total += number
    return found[::-1]


def read_events(
    tables: Path,
    *,
    first_day: dt.date,
    end_day: dt.date,
    purpose: event_kinds.Purpose = "positives",
    more: Collection[str] = (),
) -> pa.Table:
    """Events of the days from `first_day` to the one before `end_day`, in order of time: `EVENTS_SCHEMA`.

    Args:
        tables: The canonical tables.
        first_day: The first day.
        end_day: The day after the last.
        purpose: Which events, where they are of several kinds.
        more: Declared columns that are read too.

    Raises:
        FileNotFoundError: There are no tables in the folder.
    """
    days = [day for day in event_days(tables) if first_day <= day < end_day]
    kinds = event_kinds_of(tables)
    names = None if kinds is None or kinds.chooses_all(purpose) else kinds.chosen(purpose)
    parts = [] if days else [EVENTS_SCHEMA.empty_table()]
    wanted = [*EVENTS_SCHEMA.names, *more, *([columns.KIND] if names else [])]
    for day in days:
        of_day = pq.read_table(tables / "events" / f"{day}.parquet", columns=wanted)
        parts.append(event_kinds.of_kinds(of_day, names).drop_columns([columns.KIND]) if names else of_day)
    return pa.concat_tables(parts)


def num_positives(tables: Path, day: dt.date) -> int:
    """Events of a day that become examples; 0 where the day has no file."""
    path = tables / "events" / f"{day}.parquet"
    if not path.exists():
        return 0
    kinds = event_kinds_of(tables)
    if kinds is None or kinds.chooses_all("positives"):
        return int(pq.read_metadata(path).num_rows)
    return int(event_kinds.of_kinds(pq.read_table(path, columns=[columns.KIND]), kinds.positives).num_rows)


def has_other_histories(tables: Path) -> bool:
    """Whether histories are made of events that are no positives."""
    kinds = event_kinds_of(tables)
    return kinds is not None and len(kinds.histories) > len(kinds.positives)


def event_kinds_of(tables: Path) -> event_kinds.EventKinds | None:
    """The kinds of the events that were ingested, from the manifest; None where all are of one kind."""
    dataset = json_value((tables / "manifest.json").read_text(encoding="utf-8")).get("schema", {}).get("dataset", {})
    names = ("positive_kinds", "history_kinds")
    return event_kinds.EventKinds.of(dataset.get("event_kinds", {}), *(dataset.get(name) for name in names))


def read_users(tables: Path) -> pa.Table:
    """All users, by user_id.

    Raises:
        FileNotFoundError: There are no tables in the folder.
    """
    _check(tables)
    return pq.read_table(tables / "users.parquet")


def read_items(tables: Path) -> pa.Table:
    """All items, by item_id.

    Raises:
        FileNotFoundError: There are no tables in the folder.
    """
    _check(tables)
    return pq.read_table(tables / "items.parquet")


def dated_facts(tables: Path, names: Sequence[str]) -> Iterator[pa.Table]:
    """Declared columns of all dated facts, a stretch at a time; nothing where none are declared."""
    if names:
        with pq.ParquetFile(tables / DATED_FILE) as file:
            for batch in file.iter_batches(columns=list(names)):
                yield pa.Table.from_batches([batch])


def withdrawn_items(tables: Path) -> list[str]:
    """Items that are known from events only, though the source has a table of items: they left it, or never were in it.

    Their events stay part of everybody's history; they are not offered any more. Where a source has no table of items,
    everything is offered.
    """
    path = tables / WITHDRAWN_FILE
    return pq.read_table(path).column(0).to_pylist() if path.exists() else []


def _check(tables: Path) -> None:
    if not (tables / "manifest.json").exists():
        raise FileNotFoundError(f"{tables}: no canonical tables here; run `twinspire ingest` first")


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
    return rewrite_without(path, gone)


def _without_raw(path: Path, people: Container[str]) -> int:
    return rewrite_without(path, name_any(people, pq.read_table(path, columns=[RAW]).column(0)))


def _name_users(path: Path, people: Container[str]) -> bool:
    return path.exists() and bool(are_of(people, pq.read_table(path, columns=["id"]).column(0)).any())


def rewrite_without(path: Path, gone: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> int:
    """Writes a Parquet file again without some of its rows, given as [rows] bool; returns how many went."""
    if gone.any():
        kept = pq.read_table(path).filter(pa.array(~gone)).combine_chunks()
        with replaced(path) as temporary:
            pq.write_table(kept, temporary, compression="zstd")
    return int(gone.sum())


def _is_told(tables: Path, files: Collection[Path]) -> bool:
    """Whether the manifest speaks of the day files that are there: a call may have been killed before it did."""
    days = json_value((tables / "manifest.json").read_text(encoding="utf-8")).get("days") or {}
    return {day: facts["num_events"] for day, facts in days.items()} == {
        path.stem: pq.read_metadata(path).num_rows for path in files
    }


def _tell_manifest(tables: Path) -> None:
    """Brings the days of the manifest to what the day files hold now; a day that is empty goes."""
    path = tables / "manifest.json"
    manifest = json_value(path.read_text(encoding="utf-8"))
    days = manifest.get("days") or {}
    for file in sorted((tables / "events").glob("*.parquet")):
        num_events = pq.read_metadata(file).num_rows
        if num_events and file.stem in days:
            days[file.stem] |= {"digest": digest_of_file(file), "num_events": num_events}
        elif not num_events:
            days.pop(file.stem, None)
            file.unlink()
    manifest |= {"rows_kept": sum(facts["num_events"] for facts in days.values()), "num_days": len(days)}
    replace_text(path, json_text(manifest, indent=2) + "\n")
