"""Checks of the features: complete, fresh, and equal in training and in the online store (feature parity)."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from evaluation.gates.candidate import Candidate, Look
from evaluation.gates.report import Check
from features import columns
from features.examples import Day
from features.online_versions import open_filled
from features.schema import ENTITY_KEY, TOWERS, Tower
from features.store import JoinError, check_not_younger
from features.tables import example_days, num_positives

AS_OF: dict[Tower, str] = {"user": columns.USER_AS_OF, "item": columns.ITEM_AS_OF}
SECONDS_PER_DAY = 86_400
# Floats pass through text or 32 bits on their way into an online store.
TOLERANCE = 1e-6


def examples(candidate: Candidate) -> Check:
    """As many examples as events on every day that is trained on; on the new days none with a younger feature."""
    paths = candidate.paths
    first = paths.as_of - dt.timedelta(days=candidate.sections.example_days)
    days = example_days(paths.tables, first=first, end=paths.as_of, num_events=candidate.sections.example_events)
    counts = {day: _counts(candidate, day) for day in days}
    short = {day: pair for day, pair in counts.items() if pair[0] != pair[1]}
    if short:
        day, (joined, events) = next(iter(short.items()))
        return _examples(
            f"{len(short)} days have another number of examples than of events, such as {day}: {joined:,} examples of "
            f"{events:,} events; expected one each",
            len(short),
        )
    for folder in (paths.examples / str(day) for day in candidate.new_days if day in counts):
        try:
            _check_day(Day.load(folder))
        except JoinError as error:
            return _examples(f"{folder}: {error}", 1)
    total = sum(joined for joined, _ in counts.values())
    return _examples(f"{total:,} examples of {len(counts)} days, one for each event; none with a younger feature", 0)


def catalogue(candidate: Candidate) -> Check:
    """Every user and item once, in the order of the tables, with numbers that are numbers."""
    counted = []
    for tower in TOWERS:
        path = candidate.paths.catalogue(candidate.paths.as_of) / f"{tower}s.parquet"
        table, key = pq.read_table(path), ENTITY_KEY[tower]
        ids = table.column(key).to_pylist()
        wanted = pq.read_table(candidate.paths.tables / f"{tower}s.parquet", columns=[key]).column(0).to_pylist()
        problems = [f"{len(ids) - len(set(ids)):,} ids occur twice"] if len(set(ids)) < len(ids) else []
        if ids != wanted:
            problems.append(f"it has {len(ids):,} ids, and the tables have {len(wanted):,} or others in another order")
        problems += [f"{count:,} values of {name} are not finite" for name, count in _not_finite(table)]
        if problems:
            return Check.measured(
                "catalogue", False, f"{path}: {problems[0]}; expected every id once and finite numbers",
                "run the features step again with --force; then look for the value in the source",
            )  # fmt: skip
        counted.append(f"{len(ids):,} {tower}s")
    return Check.measured("catalogue", True, f"{' and '.join(counted)}, each once, all numbers finite", "")


def freshness(candidate: Candidate) -> Check:
    """Age of the newest features in the catalogue, and whether the online store holds them."""
    paths, limit = candidate.paths, candidate.limits.max_feature_age_days
    moment = columns.seconds_of(paths.as_of)
    ages: dict[str, float] = {}
    for tower in TOWERS:
        seconds = pq.read_table(paths.catalogue(paths.as_of) / f"{tower}s.parquet", columns=[AS_OF[tower]]).column(0)
        newest = pc.max(seconds).as_py()
        ages[f"{tower}s"] = float("inf") if newest is None else (moment - newest) / SECONDS_PER_DAY
    version = paths.features_version.read_text() if paths.features_version.exists() else None
    online = version if version is not None and paths.are_online(version) else None
    allowed = float("inf") if limit is None else limit
    shown = ", ".join(f"the newest features of {name} are {age:g} days old" for name, age in ages.items())
    return Check.measured(
        "freshness",
        max(ages.values()) <= allowed and online is not None,
        f"{shown}, and the online store holds {online or f'none of {paths.as_of}'}; expected at most {allowed:g} days, "
        f"and a version of {paths.as_of}",
        "run the features step again, which fills the online store",
        found={**ages, "online_features": online},
        expected={"max_age_days": limit, "online_features": version},
    )


def parity(candidate: Candidate) -> Check:
    """Features of a sample of users in the catalogue, which the towers saw, against the online store's."""
    paths, count = candidate.paths, candidate.limits.parity_users or 0
    offline = pq.read_table(paths.catalogue(paths.as_of) / "users.parquet")
    rng = np.random.default_rng(candidate.sections.seed)
    some = np.sort(rng.permutation(offline.num_rows)[:count])
    offline = offline.take(pa.array(some))
    store = open_filled(paths.features, paths.features_version.read_text())
    online = store.read_online(offline.column(columns.USER_ID).to_pylist())
    differ = differences(offline, online)
    worst = max(differ, key=lambda name: differ[name])
    return Check.measured(
        "parity",
        not differ[worst],
        f"{differ[worst]:,} of {len(some):,} users have another {worst} in the online store than the towers were "
        "asked with; expected none",
        "run the features step again, which fills the online store; look whether another run writes into it",
        found={name: value for name, value in differ.items() if value} | {"users": len(some)},
        expected={"users_that_differ": 0},
    )


def differences(offline: pa.Table, online: pa.Table) -> dict[str, int]:
    """Rows in which two tables of the same users differ, by field.

    Args:
        offline: Features of some users, with their moments.
        online: The same users in the same order; has the fields that are compared.
    """
    found = {}
    for name in online.column_names:
        pairs = zip(offline.column(name).to_pylist(), online.column(name).to_pylist(), strict=True)
        found[name] = sum(not _same(one, other) for one, other in pairs)
    return found


def _same(one: object, other: object) -> bool:
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return bool(np.isclose(one, other, rtol=TOLERANCE, atol=0.0, equal_nan=True))
    return one == other


def _examples(sentence: str, num_days: int) -> Check:
    return Check.measured(
        "examples",
        not num_days,
        sentence,
        "remove those folders, which the features step then joins again; events may have come late",
        found={"days_that_differ": num_days},
        expected={"days_that_differ": 0},
    )


def _counts(candidate: Candidate, day: dt.date) -> tuple[int, int]:
    """Examples of a day, and its events that become some."""
    joined = candidate.paths.examples / str(day) / "events.parquet"
    rows = pq.ParquetFile(joined).metadata.num_rows if joined.exists() else 0
    return int(rows), num_positives(candidate.paths.tables, day)


def _check_day(day: Day) -> None:
    """Raises `JoinError` where a feature is younger than its example, or no number."""
    for tower, table in (("user", day.users), ("item", day.items), ("item", day.uniform)):
        side: Tower = "user" if tower == "user" else "item"
        check_not_younger(table, key=ENTITY_KEY[side], as_of=AS_OF[side])
        for name, count in _not_finite(table):
            raise JoinError(f"{count:,} values of {name} are not finite; expected finite numbers or nulls")


def _not_finite(table: pa.Table) -> Iterator[tuple[str, int]]:
    """Columns with numbers that are none, and how many; nulls are no numbers and are allowed."""
    for field in table.schema:
        if pa.types.is_floating(field.type):
            count = pc.sum(pc.invert(pc.is_finite(table.column(field.name)))).as_py()
            if count:
                yield field.name, count


CHECKS: dict[str, Look] = {
    "examples": examples,
    "catalogue": catalogue,
    "freshness": freshness,
    "parity": parity,
}
