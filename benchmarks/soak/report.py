"""The page of docs with the figures of a soak test: replaces the text between its markers."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.soak.phases import Others

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
# A connection that no worker accepted before the server ended; in any other phase it is a failure.
AT_THE_END = ("refused", "not taken")

COLUMNS = (
    "while", "s", "requests", "answered with 200", "wrong", "with a fallback", "p50, ms", "p99, ms", "PSS, MB",
    "RSS, MB", "seen",
)  # fmt: skip


@dataclass
class Row:
    """A phase.

    Attributes:
        begun: Seconds of CLOCK_MONOTONIC, as is `ended`.
        others: What other clients saw.
        before: Memory by kind, MB, as is `after`.
        answered: Requests by status; 0 for those without an answer.
        wrong: Those that should not be, by what is wrong.
        milliseconds: Of each request that was answered.
        lists: Lists that were answered with, and those among them with a fallback.
    """

    name: str
    begun: float
    ended: float
    others: Others
    before: dict[str, float]
    after: dict[str, float]
    answered: Counter[int] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    milliseconds: list[float] = field(default_factory=list)
    lists: int = 0
    not_plain: int = 0


@dataclass
class Soak:
    """All of it."""

    machine: str
    rate: float
    connections: int
    minutes: float
    rows: list[Row] = field(default_factory=list)
    logged: int = 0
    dropped: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def lists(self) -> int:
        """Lists in answers, to the load and to others, all of which must be logged."""
        return sum(row.lists + row.others.lists for row in self.rows)


def read_load(found: Soak, samples: Path) -> None:
    """Shares out what the load saw among the phases, by the moment at which a request fell due; notes failures."""
    with samples.open() as file:
        for begun, seconds, status, lists, not_plain, wrong in csv.reader(file):
            moment = float(begun)
            row = next((row for row in reversed(found.rows) if row.begun <= moment), found.rows[0])
            row.answered[int(status)] += 1
            row.lists += int(lists)
            row.not_plain += int(not_plain)
            if int(status):
                row.milliseconds.append(float(seconds) * 1e3)
            if wrong:
                row.wrong[wrong] += 1
    last = found.rows[-1]
    for row in found.rows:
        bad = {wrong: number for wrong, number in row.wrong.items() if row is not last or wrong not in AT_THE_END}
        if bad:
            found.failures.append(f"{row.name}: {bad}")
        if not row.milliseconds:
            found.failures.append(f"{row.name}: no request was answered")
    if found.lists != found.logged + found.dropped:
        found.failures.append(
            f"{found.lists:,} lists were in answers, {found.logged:,} are logged and {found.dropped:,} are counted "
            "as dropped, which do not add up"
        )


def write_report(path: Path, found: Soak) -> None:
    """Puts the table between the page's markers, or into a page of nothing else; prints it."""
    text = path.read_text(encoding="utf-8") if path.exists() else f"{BEGIN}\n{END}\n"
    head, rest = text.split(BEGIN)
    tail = rest.split(END)[1]
    path.write_text(f"{head}{BEGIN}\n{table(found)}\n{END}{tail}", encoding="utf-8")
    print(table(found))


def table(found: Soak) -> str:
    """All of it, as Markdown."""
    total = sum(row.answered.total() for row in found.rows)
    verdict = "**Passed.**" if not found.failures else f"**Failed:** {'; '.join(found.failures)}."
    parts = [
        f"\n{verdict} {found.machine}; {found.minutes:g} minutes, {found.rate:g} requests a second over "
        f"{found.connections} connections, {total:,} in all; 2 workers.\n",
        f"| {' | '.join(COLUMNS)} |",
        f"|{'---|' * len(COLUMNS)}",
    ]
    parts += [_line(row) for row in found.rows]
    left = found.lists - found.logged - found.dropped
    parts.append(
        f"\nLists answered with: {found.lists:,}. Logged: {found.logged:,}; counted as dropped: {found.dropped:,}; "
        f"neither: {left:,}.\n"
    )
    return "\n".join(parts)


def _line(row: Row) -> str:
    p50, p99 = np.percentile(row.milliseconds, [50, 99]) if row.milliseconds else (np.nan, np.nan)
    wrong = ", ".join(f"{number} {what}" for what, number in sorted(row.wrong.items())) or "0"
    statuses = ", ".join(f"{number:,} x {status}" for status, number in sorted(row.others.statuses.items()))
    cells = [
        row.name,
        f"{row.ended - row.begun:.0f}",
        f"{row.answered.total():,}",
        f"{row.answered[200]:,}",
        wrong,
        f"{row.not_plain / max(row.lists, 1):.0%}",
        f"{p50:.1f}",
        f"{p99:.1f}",
        *(f"{row.before[kind]:.0f} → {row.after[kind]:.0f}" for kind in ("Pss", "Rss")),
        "; ".join(part for part in (row.others.note, statuses and f"others got {statuses}") if part),
    ]
    return f"| {' | '.join(cells)} |"
