"""Raw timestamps become the moments that they mean."""

from __future__ import annotations

import datetime as dt

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.sources.values import LARGEST, to_microseconds

SECOND = 1_000_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1500000000", 1_500_000_000 * SECOND),
        (" 12 ", 12 * SECOND),
        ("1.25", 1_250_000),
        ("8.8e8", 880_000_000 * SECOND),
        ("-1", -SECOND),
        ("1970-01-02", 86_400 * SECOND),
        ("1970-01-01T02:00:00+02:00", 0),
        ("1970-01-01 00:00:00.0000019", 1),
        ("today", None),
        ("01.02.2024", None),
        ("2024-02-30", None),
        ("2024-13-01", None),
        ("1970-01-01 24:00", None),
        ("1970-01-01T00:00:00+24:00", None),
        ("1970-01-02 UTC", 86_400 * SECOND),
        ("1970-01-01 00:30-0030", 3_600 * SECOND),
        ("1970-01-01T00:00:00.5Z", 500_000),
        ("1500-01-01", -14_831_769_600 * SECOND),
        ("0000-01-01", None),
        ("", None),
        (None, None),
    ],
)
def test_text_is_a_number_or_an_iso_date(text, expected):
    assert to_microseconds(pa.array([text], pa.string()), "s").to_pylist() == [expected]


@pytest.mark.parametrize(("unit", "number"), [("s", 7), ("ms", 7_000), ("us", 7_000_000), ("ns", 7_000_000_499)])
def test_numbers_have_the_declared_unit(unit, number):
    for array in (pa.array([number]), pa.array([float(number)]), pa.array([str(number)])):
        assert to_microseconds(array, unit).to_pylist() == [7 * SECOND]


def test_values_beyond_the_range_are_clipped_instead_of_wrapping_round():
    huge = to_microseconds(pa.array([2**62, -(2**62)]), "s").to_pylist()
    assert huge == [LARGEST, None]
    assert to_microseconds(pa.array([1e300, -1e300]), "s").to_pylist()[0] > 9e18
    assert to_microseconds(pa.array([-1e300, float("nan"), float("inf")]), "s").to_pylist() == [None, None, None]


@given(st.datetimes(dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31)), st.sampled_from([None, "UTC", "Asia/Tokyo"]))
def test_typed_timestamps_are_read_as_they_are(moment, zone):
    array = pa.array([moment], pa.timestamp("us")).cast(pa.timestamp("us", tz=zone))
    expected = (moment - dt.datetime(1970, 1, 1)) // dt.timedelta(microseconds=1)
    assert to_microseconds(array, "s").to_pylist() == [expected]


def test_typed_timestamps_know_their_unit_and_dates_begin_at_midnight():
    assert to_microseconds(pa.array([1], pa.timestamp("s")), "ns").to_pylist() == [SECOND]
    assert to_microseconds(pa.array([1_999], pa.timestamp("ns")), "s").to_pylist() == [1]
    assert to_microseconds(pa.array([dt.date(1970, 1, 2)]), "s").to_pylist() == [86_400 * SECOND]
    assert to_microseconds(pa.array([None], pa.null()), "s").to_pylist() == [None]


def test_chunked_and_dictionary_columns_are_read_like_others():
    column = pa.chunked_array([pa.array(["5"]).dictionary_encode(), pa.array(["6"]).dictionary_encode()])
    assert to_microseconds(column, "s").to_pylist() == [5 * SECOND, 6 * SECOND]


TEXTS = st.sampled_from(
    ["1970-01-02", "1970-01-01T01:00:00+01:00", "1970-01-01 00:00:00.123456789", "1500-01-01", "2024-02-30", "7", "1.5",
     "1970-01-01T00:00Z", "soon", "", None, "9999-12-31T23:59:59-12:00"]
)  # fmt: skip


@given(st.lists(TEXTS, max_size=8))
def test_a_text_is_read_alike_whatever_the_rows_around_it(texts: list[str | None]) -> None:
    alone = [to_microseconds(pa.array([text], pa.string()), "s")[0].as_py() for text in texts]
    for kind in (pa.string(), pa.large_string(), pa.string_view()):
        assert to_microseconds(pa.array(texts, kind), "s").to_pylist() == alone
