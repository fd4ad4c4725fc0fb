"""Checks of the new events, users and items: volume, quarantine, nulls, new categories."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from evaluation.gates.candidate import MORE_DAYS, NEXT_NIGHT, NO_PARENT, Candidate, Look
from evaluation.gates.report import Check
from features.columns import day_range
from features.encoding import category_inputs
from features.schema import TOWERS

WEEKS, MIN_WEEKS, MIN_DAYS = 4, 3, 14
TABLES = ("events", "users", "items")
# Of a Poisson count: a day's events must be off by more than chance, too, which on few events is a lot.
DEVIATIONS = 4.0


def volume(candidate: Candidate) -> Check:
    """Events of each new day against the median of the same weekday in the last four weeks."""
    limits, new = candidate.limits, candidate.new_days
    earlier = [day for day in candidate.event_days if day < new[0]]
    if len(earlier) < MIN_DAYS:
        return Check.not_applicable(
            "volume",
            f"{len(earlier)} days with events before {new[0]}, expected at least {MIN_DAYS} to compare with",
            MORE_DAYS,
        )
    counts = {day: _num_events(candidate, day) for day in (*earlier[-7 * WEEKS :], *new)}
    usual = {day: _usual(counts, day, new[0], earlier[0]) for day in new}
    lowest = limits.min_volume_ratio or 0.0
    highest = np.inf if limits.max_volume_ratio is None else limits.max_volume_ratio

    def beyond(day: dt.date) -> float:
        """How often a limit is exceeded; at most 1 where the day is fine."""
        count, expected = counts[day], max(usual[day], 0.5)
        if abs(count - expected) <= DEVIATIONS * np.sqrt(expected):
            return 0.0
        return max(lowest * expected / max(count, 0.5), count / (highest * expected))

    worst = max(new, key=beyond)
    ratio = counts[worst] / max(usual[worst], 0.5)
    return Check.measured(
        "volume",
        beyond(worst) <= 1,
        f"{worst} has {counts[worst]:,} events, {ratio:.2f} of the {usual[worst]:,.0f} that are usual on its weekday; "
        f"expected {lowest:g} to {highest:g}",
        "look whether the source was complete when it was read, or delivered twice; after a holiday, skip the check",
        found={"day": str(worst), "events": counts[worst], "ratio": ratio},
        expected={"usual": usual[worst], "min_ratio": limits.min_volume_ratio, "max_ratio": limits.max_volume_ratio},
    )


def quarantine(candidate: Candidate) -> Check:
    """Share of the rows read since the previous night that ingestion set aside, table by table.

    Where a table was replaced rather than appended to, or there is no previous night, of all its rows.
    """
    now = _rows(candidate)
    before = {} if candidate.parent_report is None else candidate.parent_report.found("quarantine")
    limit = 1.0 if candidate.limits.max_quarantine_share is None else candidate.limits.max_quarantine_share
    shares, excess = {}, {}
    for table in TABLES:
        names = (f"{table}_read", f"{table}_aside")
        read, aside = (now[name] - int(before.get(name) or 0) for name in names)
        if read <= 0 or aside < 0:
            read, aside = (now[name] for name in names)
        shares[table] = aside / max(read, 1)
        # A single bad row among forty is within chance.
        excess[table] = aside - limit * read - DEVIATIONS * np.sqrt(limit * read)
    worst = max(TABLES, key=lambda table: (excess[table] > 0, shares[table]))
    return Check.measured(
        "quarantine",
        excess[worst] <= 0,
        f"{shares[worst]:.2%} of the new rows of {worst} were set aside; expected at most {limit:.2%}",
        f"look into {candidate.paths.tables / 'quarantine'} for the reasons, and correct the source",
        # The counts, because the next night takes them off.
        found={**shares, **now},
        expected={"max_share": limit},
    )


def nulls(candidate: Candidate) -> Check:
    """Rise of the share of nulls in each declared column since the previous night, as its report has it."""
    now = _null_shares(candidate)
    earlier = {} if candidate.parent_report is None else candidate.parent_report.found("nulls")
    known = {name: float(earlier[name] or 0) for name in now if name in earlier}
    if not known:
        why = NO_PARENT if candidate.parent is None else "the previous night has no report with these columns"
        if not now:
            return Check.not_applicable("nulls", "no columns are declared")
        return Check.not_applicable("nulls", why, NEXT_NIGHT, found=now)
    worst = max(known, key=lambda name: now[name] - known[name])
    limit = candidate.limits.max_null_rise or 0.0
    return Check.measured(
        "nulls",
        now[worst] - known[worst] <= limit,
        f"{now[worst]:.1%} of {worst} are null, {known[worst]:.1%} the previous night; expected a rise of at most "
        f"{limit:.1%}",
        f"look whether the source still fills {worst}, under the name that ingest.source.columns gives it",
        # All of them, because the next night compares with them.
        found=now,
        expected={worst: known[worst] + limit},
    )


def new_categories(candidate: Candidate) -> Check:
    """Share of the values of each categorical column that the encoder of the previous night does not know."""
    encoder = candidate.parent_encoder
    if encoder is None:
        return Check.not_applicable("new_categories", NO_PARENT, NEXT_NIGHT)
    shares = {}
    for tower in TOWERS:
        inputs = category_inputs(candidate.sections.dataset, tower)
        table = pq.read_table(candidate.paths.tables / f"{tower}s.parquet", columns=[name for name, *_ in inputs])
        for name, known, values_of in inputs:
            if known in encoder.vocabularies:
                values = values_of(table.column(name)).drop_null().to_numpy(zero_copy_only=False)
                unknown = encoder.vocabularies[known].rows(values) == 0
                shares[f"{tower}s.{known}"] = float(unknown.mean()) if len(unknown) else 0.0
    if not shares:
        return Check.not_applicable("new_categories", "no categorical columns are declared")
    limit, worst = candidate.limits.max_new_category_share, max(shares, key=lambda name: shares[name])
    allowed = 1.0 if limit is None else limit
    return Check.measured(
        "new_categories",
        shares[worst] <= allowed,
        f"{shares[worst]:.2%} of the values of {worst} are new since the previous night; expected at most "
        f"{allowed:.2%}",
        f"look whether the source spells {worst} differently; if it is intended, skip the check once and retrain fully",
        found=shares,
        expected={"max_share": limit},
    )


def _rows(candidate: Candidate) -> dict[str, int]:
    """Rows read and set aside of each table, by the manifest of the ingestion."""
    manifest = json.loads((candidate.paths.tables / "manifest.json").read_text())
    found: dict[str, int] = {}
    for table in TABLES:
        aside = sum(manifest["quarantined"].get(table, {}).values())
        if table == "events":
            read = manifest["rows_read"]
        else:
            read = manifest[f"num_{table}"] - manifest[f"num_added_{table}"] + aside
        found |= {f"{table}_read": int(read), f"{table}_aside": int(aside)}
    return found


def _num_events(candidate: Candidate, day: dt.date) -> int:
    path = candidate.paths.tables / "events" / f"{day}.parquet"
    return int(pq.ParquetFile(path).metadata.num_rows) if path.exists() else 0


def _usual(counts: Mapping[dt.date, int], day: dt.date, new: dt.date, begin: dt.date) -> float:
    """Median of the same weekday, of all days where too few weeks are known; a day without events counts as 0."""
    before = [other for other in day_range(new - dt.timedelta(days=7 * WEEKS), new) if other >= begin]
    same = [other for other in before if other.weekday() == day.weekday()]
    days = same if len(same) >= MIN_WEEKS else before
    return float(np.median([counts.get(other, 0) for other in days]))


def _null_shares(candidate: Candidate) -> dict[str, float]:
    shares = {}
    for tower in TOWERS:
        names = list(candidate.sections.dataset.columns_of(tower))
        table = pq.read_table(candidate.paths.tables / f"{tower}s.parquet", columns=names)
        for name in names:
            shares[f"{tower}s.{name}"] = num_missing(table.column(name)) / max(table.num_rows, 1)
    return shares


def num_missing(values: pa.ChunkedArray) -> int:
    """Values that are null, or not a number."""
    nan = pc.sum(pc.is_nan(values)).as_py() if pa.types.is_floating(values.type) else 0
    return int(values.null_count) + int(nan or 0)


CHECKS: dict[str, Look] = {
    "volume": volume,
    "quarantine": quarantine,
    "nulls": nulls,
    "new_categories": new_categories,
}
