"""Moments of a row, such as a release: how long ago they are, and where they lie in the day, the week and the year.

    age     log(1 + days from the moment to that of the example), 0 for a moment that is still to come
    ahead   1 where it is still to come, else 0
    hour, weekday, yearday   sine and cosine of 2 pi times the share of the day, week or year that has passed, in UTC

Ages are relative to the moment of the example, so that a row of the past is described as it was then.

Shape letters: B rows.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from features.column_kind import Floats, Ints, Number, to_floats
from features.computed import DAY_SECONDS

LAST_SECOND = 253_402_300_799
"""Of 9999-12-31, the last day that has a date."""
WEEK_SECONDS = 7 * DAY_SECONDS
# The epoch was a Thursday.
MONDAY_SECONDS = 4 * DAY_SECONDS


def _share_of_year(seconds: Floats) -> Floats:
    known = np.isfinite(seconds)
    moments = np.where(known, seconds, 0).astype(np.int64).astype("datetime64[s]")
    years = moments.astype("datetime64[Y]")
    begin, end = (year.astype("datetime64[s]").astype(np.int64) for year in (years, years + 1))
    return np.where(known, (moments.astype(np.int64) - begin) / (end - begin), np.nan)


PERIODS: dict[str, Callable[[Floats], Floats]] = {
    "hour": lambda seconds: seconds % DAY_SECONDS / DAY_SECONDS,
    "weekday": lambda seconds: (seconds - MONDAY_SECONDS) % WEEK_SECONDS / WEEK_SECONDS,
    "yearday": _share_of_year,
}
"""Unix seconds [B], nan where unknown -> share of the period that has passed."""


def _age(raw: pa.ChunkedArray, moments: Ints) -> Floats:
    return np.asarray(np.log1p(np.maximum(moments - to_floats(raw), 0) / DAY_SECONDS))


def _ahead(raw: pa.ChunkedArray, moments: Ints) -> Floats:
    seconds = to_floats(raw)
    return np.where(np.isnan(seconds), np.nan, seconds > moments)


def _wave(share: Callable[[Floats], Floats], wave: Callable[[Floats], Floats]) -> Number:
    return lambda raw, moments: wave(2 * np.pi * share(to_floats(raw)))


MOMENT_NUMBERS: dict[str, Number] = {
    "age": _age,
    "ahead": _ahead,
    **{
        f"{period}_{name}": _wave(share, wave)
        for period, share in PERIODS.items()
        for name, wave in (("sin", np.sin), ("cos", np.cos))
    },
}
