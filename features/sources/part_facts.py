"""What did an ingestion find in each file of a source that is made of several? So that it need not look again.

    <tables>.sources/ledger.json     of which tables, read how, and the facts of each file
                     user_ids.parquet, item_ids.parquet   distinct ids of the events, and on how many days each occurs

It lies beside the tables and names their digest: after a crash between the two it tells of others, and is not believed.
"""

from __future__ import annotations

import datetime as dt
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from features.quarantine import Reason
from features.sources.day_files import DAY_MICROSECONDS
from features.sources.events import EPOCH, MICROSECOND
from features.sources.raw import SourcePart
from features.sources.write_events import digest_of_file

FORMAT = 1


@dataclass(frozen=True)
class PartFacts:
    """What is in one file of events.

    Attributes:
        size: Bytes.
        mtime_ns: When it was last changed.
        digest: SHA-256 of its bytes.
        num_rows: Rows.
        num_filtered: Rows filtered by their reward.
        faults: Reason -> rows set aside, without repeated rows.
        days: Day numbers of its usable events, ascending.
        latest: Its latest usable event, microseconds since 1970; None where there is none.
        num_forgotten: Rows left out because they are of somebody who is forgotten.
    """

    size: int
    mtime_ns: int
    digest: str
    num_rows: int
    num_filtered: int
    faults: Mapping[str, int]
    days: Sequence[int]
    latest: int | None
    num_forgotten: int = 0

    @property
    def num_faults(self) -> int:
        """Rows set aside, without repeated rows."""
        return sum(self.faults.values())

    def depends_on(self, now: dt.datetime) -> bool:
        """Whether another moment of the run would judge an event otherwise."""
        return Reason.FUTURE_TIMESTAMP in self.faults or (self.latest or 0) > (now - EPOCH) // MICROSECOND


@dataclass(frozen=True)
class Ledger:
    """All files of the events.

    Attributes:
        tables: Content digest of the tables that were made of them.
        reading: How they were read; otherwise the facts are of no use.
        files: Name -> facts.
        ids: Users and items, as `count_days` gives them.
    """

    tables: str
    reading: str
    files: Mapping[str, PartFacts]
    ids: tuple[pa.Table, pa.Table]

    def save(self, folder: Path) -> None:
        """Writes it in place of what is there."""
        temporary = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        for name, table in zip(("user_ids", "item_ids"), self.ids, strict=True):
            pq.write_table(table, temporary / f"{name}.parquet", compression="zstd")
        plain = {
            "format": FORMAT,
            "tables": self.tables,
            "reading": self.reading,
            "files": {name: asdict(facts) for name, facts in self.files.items()},
        }
        (temporary / "ledger.json").write_text(json.dumps(plain), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)

    @classmethod
    def load(cls, folder: Path, *, tables: str, reading: str) -> Ledger | None:
        """Reads it; None where there is none, or one of other tables or another way of reading."""
        path = folder / "ledger.json"
        plain = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if (plain.get("format"), plain.get("tables"), plain.get("reading")) != (FORMAT, tables, reading):
            return None
        ids = (pq.read_table(folder / "user_ids.parquet"), pq.read_table(folder / "item_ids.parquet"))
        return cls(tables, reading, {name: PartFacts(**facts) for name, facts in plain["files"].items()}, ids)


def unchanged_parts(parts: Sequence[SourcePart], ledger: Ledger, *, now: dt.datetime) -> dict[str, PartFacts]:
    """The files that are as they were: by size and time, and where only the time differs by their bytes."""
    found = {}
    for part in parts:
        facts = ledger.files.get(part.path.name)
        stat = part.path.stat()
        if facts is None or facts.size != stat.st_size or facts.depends_on(now):
            continue
        if facts.mtime_ns == stat.st_mtime_ns:
            found[part.path.name] = facts
        elif facts.digest == digest_of_file(part.path):
            found[part.path.name] = replace(facts, mtime_ns=stat.st_mtime_ns)
    return found


def day_of(number: int) -> dt.date:
    """The day with a day number."""
    return (EPOCH + number * DAY_MICROSECONDS * MICROSECOND).date()
