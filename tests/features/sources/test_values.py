"""Raw values become the same text and numbers for every type of column."""

from __future__ import annotations

import math

import pyarrow as pa
import pytest

from features.ingest import SourceError
from features.sources.values import join_known, to_numbers, to_text


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
