"""Moments become ages and waves, as the calendar of Python has them, and know nothing of what comes after."""

from __future__ import annotations

import calendar
import datetime as dt
import math

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from features.kinds import KINDS
from features.moments import LAST_SECOND, MOMENT_NUMBERS

SECONDS = st.integers(-62_135_596_800, LAST_SECOND)


def numbers(raw: list[int | None], moments: list[int]) -> dict[str, list[float]]:
    column, at = pa.chunked_array([pa.array(raw, pa.int64())]), np.array(moments, np.int64)
    return {word: number(column, at).tolist() for word, number in MOMENT_NUMBERS.items()}


@given(SECONDS, SECONDS)
def test_parts_are_those_of_the_calendar(seconds: int, now: int) -> None:
    moment = dt.datetime(1970, 1, 1) + dt.timedelta(seconds=seconds)
    in_day = (moment - dt.datetime(moment.year, moment.month, moment.day)).total_seconds() / 86_400
    shares = {
        "hour": in_day,
        "weekday": (moment.weekday() + in_day) / 7,
        "yearday": (moment.timetuple().tm_yday - 1 + in_day) / (366 if calendar.isleap(moment.year) else 365),
    }
    found = numbers([seconds, None], [now, now])
    for name, share in shares.items():
        assert math.isclose(found[f"{name}_sin"][0], math.sin(2 * math.pi * share), abs_tol=1e-6)
        assert math.isclose(found[f"{name}_cos"][0], math.cos(2 * math.pi * share), abs_tol=1e-6)
    assert math.isclose(found["age"][0], math.log1p(max(now - seconds, 0) / 86_400), rel_tol=1e-9)
    assert found["ahead"][0] == (seconds > now)
    assert all(math.isnan(values[1]) for values in found.values())


@given(st.integers(0, 10**9), st.integers(1, 10**9))
def test_how_far_ahead_a_moment_is_leaves_no_trace_in_its_age(now: int, later: int) -> None:
    found = numbers([now + later, now + 2 * later], [now, now])
    assert found["age"] == [0.0, 0.0]
    assert found["ahead"] == [1.0, 1.0]


def test_a_flag_is_a_number_also_where_it_is_stored_as_text() -> None:
    flag = KINDS["boolean"].numbers[""]
    at = np.zeros(3, np.int64)
    for raw in ([True, False, None], ["Yes", "0", "perhaps"]):
        np.testing.assert_array_equal(flag(pa.chunked_array([pa.array(raw)]), at), [1.0, 0.0, np.nan])
