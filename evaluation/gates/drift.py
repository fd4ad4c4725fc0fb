"""Checks of drift: numbers and categories of the new events against the days before.

Measured by the population stability index of two histograms p (new days) and q (days before) over B bins:

    PSI = sum_b (p_b - q_b) ln(p_b / q_b)

From .1 on it is usually called a moderate shift, from .25 on a large one. Of two samples of the same things it is not 0
but about chi-square with B - 1 degrees of freedom times (1/n + 1/m): on few samples a large value means nothing.
What chance explains but once in a thousand is subtracted first. Events of a user come in baskets and resemble each
other: n and m are numbers of users, not of events.

Source: Siddiqi, Credit Risk Scorecards, 2006, chapter 10; the distribution, Yurdakul, PhD thesis, Western Michigan
University, 2018.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy import stats

from evaluation.gates.candidate import MORE_DAYS, Candidate, Look
from evaluation.gates.report import Check
from features import columns
from features.encoding import category_inputs, moments_of
from features.examples import ITEM_ROW, USER_ROW, Day
from features.numbers import numeric_inputs, numeric_values
from features.schema import TOWERS

NUM_BINS, NUM_VALUES = 10, 20
# Once in a thousand, by chance.
CHANCE = 0.999
# Events of a day that are looked at, so that any number of them fits.
DAY_EVENTS = 20_000
Values = npt.NDArray[np.float64] | npt.NDArray[np.object_]


@dataclass(frozen=True)
class Drift:
    """How far two samples are apart.

    Attributes:
        index: The population stability index.
        chance: What it is exceeded by once in a thousand times where nothing has changed.
    """

    index: float
    chance: float

    @property
    def beyond_chance(self) -> float:
        """What chance does not explain."""
        return max(0.0, self.index - self.chance)


def drift_of(new: npt.NDArray[np.int64], before: npt.NDArray[np.int64], *, num_new: int, num_before: int) -> Drift:
    """Compares two histograms.

    Args:
        new: [B] counts.
        before: [B] counts in the same bins.
        num_new: Independent samples behind `new`, at least 1; an empty bin counts as half of one.
        num_before: The same of `before`.
    """
    used = (new > 0) | (before > 0)
    new, before = new[used], before[used]
    shares = [
        np.maximum(counts / max(counts.sum(), 1), 0.5 / num) for counts, num in ((new, num_new), (before, num_before))
    ]
    p, q = (share / share.sum() for share in shares)
    allowed = float(stats.chi2.ppf(CHANCE, max(len(new) - 1, 1))) * (1 / num_new + 1 / num_before)
    return Drift(float(((p - q) * np.log(p / q)).sum()), allowed)


def binned(new: Values, before: Values) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Counts of two samples in the same bins.

    Numbers fall between the deciles of the days before, below or above all of them, or are missing. Of other values,
    the 20 most frequent before have bins of their own, the rest share one, and null has one.
    """
    if before.dtype == object:
        names, counts = np.unique([str(name) for name in before if name is not None], return_counts=True)
        kept = names[np.argsort(-counts, kind="stable")][:NUM_VALUES].tolist()
        place = {**{name: number for number, name in enumerate(kept)}, None: len(kept) + 1}
        rows = [np.asarray([place.get(name, len(kept)) for name in some], np.int64) for some in (new, before)]
        size = len(kept) + 2
    else:
        known = before[~np.isnan(before)]
        deciles = np.quantile(known, np.arange(NUM_BINS + 1) / NUM_BINS).tolist() if len(known) else []
        # Just below the smallest, so that what was never as small has a bin, even where a number never varied.
        edges = np.unique([np.nextafter(edge, -np.inf) for edge in deciles[:1]] + deciles[1:])
        rows = [np.where(np.isnan(some), len(edges) + 1, np.searchsorted(edges, some)) for some in (new, before)]
        size = len(edges) + 2
    first, second = (np.bincount(row, minlength=size) for row in rows)
    return first, second


def numeric_drift(candidate: Candidate) -> Check:
    """Drift of each number that enters a tower, but those of moments, which become others by themselves."""
    return _check(candidate, "numeric_drift", candidate.limits.max_numeric_drift, categories=False)


def category_drift(candidate: Candidate) -> Check:
    """Drift of the mix of each column with categories."""
    return _check(candidate, "category_drift", candidate.limits.max_category_drift, categories=True)


@dataclass(frozen=True)
class _Sample:
    """What a number of days hold: name -> one value an event, and how many users they are of."""

    values: dict[str, Values]
    num_users: int


def _check(candidate: Candidate, name: str, limit: float | None, *, categories: bool) -> Check:
    why = _why_not(candidate)
    if why is not None:
        return Check.not_applicable(name, why, MORE_DAYS)
    first = candidate.new_days[0]
    new = _read(candidate, candidate.new_days, categories=categories)
    if new.num_users < candidate.limits.drift_min_users:
        return Check.not_applicable(
            name,
            f"the new days have {new.num_users} users, expected at least {candidate.limits.drift_min_users} to compare",
            "look at the numbers of the new days; to compare fewer users, lower gates.drift_min_users",
        )
    earlier = [first - dt.timedelta(days=days) for days in range(candidate.limits.drift_days, 0, -1)]
    before = _read(candidate, earlier, categories=categories)
    drifts = {
        key: drift_of(*binned(values, before.values[key]), num_new=new.num_users, num_before=before.num_users)
        for key, values in new.values.items()
    }
    if not drifts:
        return Check.not_applicable(name, "there is no such column")
    worst = max(drifts, key=lambda key: drifts[key].beyond_chance)
    drift, allowed = drifts[worst], np.inf if limit is None else limit
    return Check.measured(
        name,
        drift.beyond_chance <= allowed,
        f"{worst} has a stability index of {drift.index:.3f} against the {len(earlier)} days before, of which chance "
        f"explains {drift.chance:.3f}; expected at most {allowed:g} beyond that",
        f"look at {worst} in the source: another unit, another spelling, or only some of the users or shops; if it is "
        "real, skip the check",
        found={key: found.beyond_chance for key, found in drifts.items()},
        expected={"max_drift": limit},
    )


def _why_not(candidate: Candidate) -> str | None:
    """Why there is nothing to compare; None if there is."""
    first, days = candidate.new_days[0], candidate.limits.drift_days
    have = [day for day in candidate.event_days if (candidate.paths.examples / str(day)).is_dir()]
    # In a young log all users' counts grow from day to day, which is no drift.
    if not candidate.event_days or (first - candidate.event_days[0]).days < 2 * days:
        return f"the events begin less than {2 * days} days before {first}, when all counts still grow"
    recent = [day for day in have if 0 < (first - day).days <= days]
    if len(recent) < days // 2:
        return f"{len(recent)} of the {days} days before {first} have examples, expected at least {days // 2}"
    return None


def _read(candidate: Candidate, days: list[dt.date], *, categories: bool) -> _Sample:
    parts: list[dict[str, Values]] = []
    users: set[str] = set()
    for day in days:
        if not (candidate.paths.examples / str(day)).is_dir():
            continue
        loaded = Day.load(candidate.paths.examples / str(day))
        rng = np.random.default_rng([candidate.sections.seed, columns.number_of(day)])
        some = np.sort(rng.permutation(loaded.events.num_rows)[:DAY_EVENTS])
        users |= set(loaded.users.column(columns.USER_ID).to_pylist())
        parts.append(_values(candidate, loaded, loaded.events.take(pa.array(some)), categories=categories))
    names = parts[0] if parts else {}
    return _Sample({name: np.concatenate([part[name] for part in parts]) for name in names}, len(users))


def _values(candidate: Candidate, day: Day, events: pa.Table, *, categories: bool) -> dict[str, Values]:
    found: dict[str, Values] = {}
    for tower, table, row in zip(TOWERS, (day.users, day.items), (USER_ROW, ITEM_ROW), strict=True):
        rows, schema = events.column(row).to_numpy(), candidate.sections.dataset
        if categories:
            for name, key, values_of in category_inputs(schema, tower):
                values = values_of(table.column(name).take(pa.array(rows)))
                found[f"{tower}s.{key}"] = values.to_numpy(zero_copy_only=False).astype(object)
        else:
            numbers = numeric_values(table, schema, tower, as_of_seconds=moments_of(table))
            moving = {one.name for one in numeric_inputs(schema, tower) if one.moves_with_time}
            found |= {name: values[rows] for name, values in numbers.items() if name not in moving}
    if not categories:
        found |= {name: _number(events, name) for name in (columns.REWARD, columns.VALUE)}
    return found


def _number(events: pa.Table, name: str) -> npt.NDArray[np.float64]:
    values: npt.NDArray[np.float64] = events.column(name).cast(pa.float64()).to_numpy(zero_copy_only=False)
    return values


CHECKS: dict[str, Look] = {"numeric_drift": numeric_drift, "category_drift": category_drift}
