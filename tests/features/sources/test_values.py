"""Raw values become the same text and numbers for every type of column."""

from __future__ import annotations

import decimal
import math

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from features.ids import normal_id
from features.ingest import SourceError
from features.sources.values import join_known, to_ids, to_numbers, to_text


def test_whole_floats_read_like_integers():
    assert to_text(pa.array([12.0, 1.5, None, math.nan, 1234567890.0]), "x").to_pylist() == [
        "12", "1.5", None, None, "1234567890"
    ]  # fmt: skip
    assert to_text(pa.array([12], pa.uint16()), "x").to_pylist() == ["12"]


def test_empty_text_is_null():
    assert to_text(pa.array(["", " ", "a"]), "x").to_pylist() == [None, " ", "a"]


def test_numbers_are_read_from_text_and_words_are_marked():
    numbers, wrong = to_numbers(pa.array(["1", "+2.5", "-3e2", " 4 ", ".5", "", None, "six", "1,5", "0x1"]), "x")
    assert numbers.to_pylist() == [1.0, 2.5, -300.0, 4.0, 0.5, None, None, None, None, None]
    assert wrong.to_pylist() == [False] * 7 + [True] * 3


def test_nan_and_infinity_are_numbers():
    numbers, wrong = to_numbers(pa.array(["nan", "-inf", "Infinity"]), "x")
    assert math.isnan(numbers[0].as_py())
    assert numbers.to_pylist()[1:] == [-math.inf, math.inf]
    assert wrong.to_pylist() == [False] * 3


def test_booleans_are_zero_and_one():
    assert to_numbers(pa.array([True, False, None]), "x")[0].to_pylist() == [1.0, 0.0, None]


def test_a_struct_is_neither_text_nor_number():
    for read in (to_text, to_numbers):
        with pytest.raises(SourceError, match=r"orders.parquet, column 'a': has type struct"):
            read(pa.array([{"b": 1}]), "orders.parquet, column 'a'")


def test_known_values_are_joined_and_an_empty_row_keeps_its_place():
    first, second = pa.array(["a", None, "c", None]), pa.chunked_array([["b", None], [None, "é"]])
    assert join_known([first, second], ", ").to_pylist() == ["a, b", None, "c", "é"]


@pytest.mark.parametrize("text", [pa.string(), pa.large_string(), pa.string_view()])
@pytest.mark.parametrize("kind", [pa.list_, pa.large_list, pa.list_view, pa.large_list_view])
def test_lists_of_every_type_are_joined_without_their_nulls(kind, text):
    values = [["a", None], None, [], [None], ["b", "c d"]]
    for array in (pa.array(values, kind(text)), pa.array([["x"], *values], kind(text)).slice(1)):
        assert to_text(array, "x").to_pylist() == ["a", None, None, None, "b c d"]


def test_lists_of_numbers_and_of_fixed_size_are_text():
    assert to_text(pa.array([[1, None], None], pa.list_(pa.float64())), "x").to_pylist() == ["1", None]
    assert to_text(pa.array([["a", "b"], None, ["c", None]], pa.list_(pa.string(), 2)), "x").to_pylist() == [
        "a b", None, "c"
    ]  # fmt: skip


def test_ids_are_written_alike_however_they_are_typed():
    texts = ["12", " 12.0 ", "12.00", "\ufeff12", "12\u00a0"]
    for array in (pa.array(texts), pa.array([12.0]), pa.array([12], pa.int8()), pa.array([12.0]).dictionary_encode(),
                  pa.array(["12"], pa.string_view()), pa.array([decimal.Decimal("12.00")])):  # fmt: skip
        ids, faulty = to_ids(array, "x")
        assert set(ids.to_pylist()) == {"12"}
        assert not any(faulty.to_pylist())


@pytest.mark.parametrize(
    ("array", "faulty"),
    [
        (pa.array([2.0**53 - 1, 2.0**53, -(2.0**53), math.inf, None, math.nan]), [0, 1, 1, 1, 0, 0]),
        (pa.array([2.0**24 - 1, 2.0**24], pa.float32()), [0, 1]),
        (pa.array([2**60, -(2**60)]), [0, 0]),
        (pa.array(["9007199254740991.0", "9007199254740992.0", "1.23457E+12", "12e5", "1.5"]), [0, 1, 1, 0, 0]),
        (pa.array(["a b", "a\nb", "a\u2028b", "x" * 256, "x" * 257, "\n", None]), [0, 1, 1, 0, 1, 0, 0]),
    ],
)
def test_ids_that_have_lost_digits_or_that_no_door_takes_are_faulty(array, faulty):
    assert to_ids(array, "x")[1].to_pylist() == [bool(mark) for mark in faulty]


@example([1e16, 12.0, -0.0])
@given(st.lists(st.text() | st.integers() | st.floats(), max_size=5))
def test_one_id_is_read_as_a_column_of_ids_is(values):
    for value in values:
        kind = {str: pa.string(), int: pa.string(), float: pa.float64()}[type(value)]
        [text], [faulty] = (
            part.to_pylist() for part in to_ids(pa.array([str(value) if kind == pa.string() else value], kind), "x")
        )
        try:
            assert normal_id(value) == text
        except ValueError:
            assert text is None or faulty or isinstance(value, float)
        else:
            assert not faulty
