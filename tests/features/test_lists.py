"""Lists become arrays without mixing up their rows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.encoding import dense_shares
from features.ids import IdMap
from features.lists import flat
from features.schema import MAX_SHARES, Shares

FIELD = Shares("age", "item_age_values", "item_age_shares")
VOCABULARY = IdMap(["old", "young"])
LISTS = st.lists(
    st.tuples(st.sampled_from(["old", "young", "gone", "lost"]), st.sampled_from([0.5, 1.0, 3.0])), max_size=MAX_SHARES
)


def table_of(rows: list[list[tuple[str, float]] | None]) -> pa.Table:
    values = [None if row is None else [value for value, _ in row] for row in rows]
    shares = [None if row is None else [share for _, share in row] for row in rows]
    arrays = [pa.array(values, pa.list_(pa.string())), pa.array(shares, pa.list_(pa.float32()))]
    return pa.table(arrays, names=[FIELD.values, FIELD.shares])


@given(st.lists(st.none() | LISTS.filter(lambda row: len(row) <= 5), max_size=6), st.integers(0, 3))
def test_each_value_has_its_row_and_its_place_in_it(rows: list[list[tuple[str, float]] | None], length: int) -> None:
    values, (row, place) = flat(table_of(rows).column(FIELD.values), length)
    expected = [
        (value, number, spot) for number, row in enumerate(rows) for spot, (value, _) in enumerate((row or [])[:length])
    ]
    assert list(zip(values.tolist(), row.tolist(), place.tolist(), strict=True)) == expected


@given(st.lists(st.none() | LISTS, max_size=6))
def test_shares_are_summed_by_value_and_scaled_to_one(rows: list[list[tuple[str, float]] | None]) -> None:
    found = dense_shares(table_of(rows), FIELD, VOCABULARY)
    expected = np.zeros((len(rows), 3))
    for number, row in enumerate(rows):
        for value, share in row or []:
            expected[number, {"old": 1, "young": 2}.get(value, 0)] += share
        if row:
            expected[number] /= expected[number].sum()
    assert found.dtype == np.float32
    assert found.shape == (len(rows), 3)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_cut_off_shares_are_distributed_over_the_kept_ones() -> None:
    """Two of three quarters were kept: each is one half."""
    assert dense_shares(table_of([[("old", 0.25), ("young", 0.25)]]), FIELD, VOCABULARY).tolist() == [[0.0, 0.5, 0.5]]


def test_a_list_beyond_the_limit_is_cut() -> None:
    row = [("old", 0.5)] * MAX_SHARES + [("young", 9.0)]
    assert dense_shares(table_of([row]), FIELD, VOCABULARY)[0].tolist() == pytest.approx([0.0, 1.0, 0.0])
