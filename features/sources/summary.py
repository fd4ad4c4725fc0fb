"""Summary of an ingestion: counts for the console and for the manifest."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from artefacts.files import json_text


@dataclass(frozen=True)
class DayFacts:
    """What is in the file of a day.

    Attributes:
        digest: SHA-256 of its bytes: the events of two days are the same where this is.
        num_events: Its rows.
        num_repeats: Rows of the day that were set aside because they repeat others.
    """

    digest: str
    num_events: int
    num_repeats: int


@dataclass(frozen=True)
class IngestSummary:
    """Counts of an ingestion: `rows_read = rows_kept + filtered + quarantined["events"]`, summed over the reasons.

    Of text files `lines_read = rows_read + other_lines`, so that `wc -l` finds the same.

    Attributes:
        rows_read: Event rows of the source.
        rows_kept: Events written.
        filtered: Reason -> event rows left out by configuration.
        quarantined: Table -> reason -> rows set aside.
        num_users, num_items: Rows of the tables written.
        num_added_users, num_added_items: Those among them that only the events know.
        num_days: Days with events.
        days: Day -> what is in its file.
        first_event, last_event: Moments of the first and the last event.
        unused_columns: Table -> raw columns that nothing uses.
        content_digest: SHA-256 over the tables' bytes, without the quarantine: other data of the same size shows.
        notes: What people should know of files and ids.
        lines_read: Lines of the events' files, where they are text; of Parquet files, their rows.
        other_lines: Those of them that are no row: headers, blank lines, further lines of rows whose fields have line
            breaks.
        num_forgotten_users: Rows of the users table left out because they are of somebody who is forgotten.
    """

    rows_read: int
    rows_kept: int
    filtered: Mapping[str, int]
    quarantined: Mapping[str, Mapping[str, int]]
    num_users: int
    num_items: int
    num_added_users: int
    num_added_items: int
    num_days: int
    days: Mapping[str, DayFacts]
    first_event: dt.datetime
    last_event: dt.datetime
    unused_columns: Mapping[str, tuple[str, ...]]
    content_digest: str
    num_forgotten_users: int = 0
    notes: tuple[str, ...] = ()
    lines_read: int = 0
    other_lines: int = 0

    def outcome(self) -> str:
        """One line for people."""
        parts = [
            f"{self.rows_kept:,} of {self.rows_read:,} events from {self.first_event:%Y-%m-%d} to "
            f"{self.last_event:%Y-%m-%d}, {self.num_users:,} users, {self.num_items:,} items"
        ]
        parts += [f"{count:,} filtered ({reason})" for reason, count in self.filtered.items() if count]
        for table, counts in self.quarantined.items():
            if counts:
                reasons = ", ".join(f"{count:,} {reason}" for reason, count in counts.items())
                parts.append(f"set aside from {table}: {reasons}")
        for name, count in (("users", self.num_added_users), ("items", self.num_added_items)):
            if count:
                parts.append(f"{count:,} {name} known from events only")
        if self.other_lines:
            parts.append(
                f"{self.lines_read:,} lines: {self.rows_read:,} rows and {self.other_lines:,} of headers, blank lines "
                "and line breaks in fields"
            )
        unused = [f"{table}.{name}" for table, names in self.unused_columns.items() for name in names]
        parts.append(f"unused columns: {', '.join(unused) or 'none'}")
        return "; ".join([*parts, *self.notes])

    def to_json(self, schema: Mapping[str, Any]) -> str:
        """The text of `manifest.json`, with the columns that were read."""
        return (
            json_text({"format": 1, **asdict(self), "schema": schema}, indent=2, default=dt.datetime.isoformat) + "\n"
        )
