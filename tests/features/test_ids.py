"""Every id has its own row, and unknown ids keep their bucket."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.ids import FEW, IdMap, stable_number


@given(st.lists(st.text(max_size=4), unique=True, max_size=20), st.lists(st.none() | st.text(max_size=4), max_size=20))
def test_ids_have_consecutive_rows_from_one_and_everything_else_has_row_zero(
    ids: list[str], asked: list[str | None]
) -> None:
    rows_of = IdMap(ids)
    assert len(rows_of) == len(ids) + 1
    expected = {name: row for row, name in enumerate(ids, start=1)}
    assert rows_of.rows(asked).tolist() == [expected.get(name, 0) if name is not None else 0 for name in asked]
    assert rows_of.ids(rows_of.rows(ids)) == ids


def test_rows_fit_an_embedding_lookup() -> None:
    assert IdMap(["a"]).rows(["a", "b", None]).dtype == np.int32


def test_a_saved_map_has_the_same_rows(tmp_path: Path) -> None:
    ids = ["b", "", "a", "zoë", "ice cream"]
    IdMap(ids).save(tmp_path / "ids.parquet")
    assert IdMap.load(tmp_path / "ids.parquet").ids(np.arange(1, 6)) == ids


def test_a_saved_empty_map_has_no_ids(tmp_path: Path) -> None:
    IdMap([]).save(tmp_path / "ids.parquet")
    loaded = IdMap.load(tmp_path / "ids.parquet")
    assert len(loaded) == 1
    assert loaded.rows(["a", None]).tolist() == [0, 0]


def test_a_repeated_id_is_named() -> None:
    with pytest.raises(ValueError, match="id 'b' occurs more than once"):
        IdMap(["a", "b", "b"])


def test_a_null_id_is_placed() -> None:
    with pytest.raises(ValueError, match="id at position 1 is null"):
        IdMap(np.array(["a", None], dtype=object))


@pytest.mark.parametrize(("rows", "found"), [([0, 1], "0 to 1"), ([1, 3], "1 to 3"), ([-1], "-1 to -1")])
def test_a_row_without_an_id_is_refused(rows: list[int], found: str) -> None:
    with pytest.raises(ValueError, match=rf"rows run from {found}, expected 1 to 2"):
        IdMap(["a", "b"]).ids(rows)


def test_a_stable_number_is_the_same_in_every_process_and_never_negative() -> None:
    names = [f"user {number}" for number in range(1000)] + ["", "zoë"]
    numbers = stable_number(names)
    assert numbers.dtype == np.int64
    assert (numbers >= 0).all()
    assert len(set(numbers.tolist())) == len(names)
    assert stable_number(reversed(names)).tolist() == numbers[::-1].tolist()
    # Written down once: rows of yesterday were spread over days and shards by it, and towers have learned buckets.
    assert stable_number(["u1", "zoë"]).tolist() == [1492305090623295934, 7394018131990428511]


@pytest.mark.parametrize("ids", [[], ["zoë", "", "u1"]])
def test_rows_have_the_stable_numbers_of_their_ids(ids: list[str]) -> None:
    for num_buckets in (0, 2):
        found = IdMap(ids, num_buckets).stable_numbers()
        assert found.dtype == np.int64
        assert found.tolist() == [0, *(int(stable_number([name])[0]) for name in ids)]


IDS = st.text(max_size=4)


@given(
    st.lists(IDS, unique=True, max_size=20), st.lists(st.none() | IDS, max_size=20), st.integers(0, 5), st.booleans()
)
def test_in_a_table_known_ids_have_rows_unknown_ones_a_bucket_and_null_row_zero(
    ids: list[str], asked: list[str | None], num_buckets: int, many: bool
) -> None:
    """Few ids and many are looked up in two ways, which must agree."""
    asked = asked * (FEW + 1) if many else asked
    rows_of = IdMap(ids, num_buckets)
    expected = []
    for name in asked:
        if name in ids:
            expected.append(ids.index(name) + 1)
        elif name is None or num_buckets == 0:
            expected.append(0)
        else:
            expected.append(len(ids) + 1 + int(stable_number([name])[0]) % num_buckets)
    rows = rows_of.table_rows(asked)
    assert rows.dtype == np.int32
    assert rows.tolist() == expected
    catalogue = rows_of.rows(asked)
    assert catalogue.dtype == np.int32
    assert catalogue.tolist() == [row if row <= len(ids) else 0 for row in expected]
    assert rows_of.num_table_rows == len(rows_of) + num_buckets == len(ids) + 1 + num_buckets


@given(st.lists(IDS, unique=True, max_size=20), st.integers(0, 5))
def test_the_bucket_of_a_known_id_is_the_one_it_had_before_it_was_known(ids: list[str], num_buckets: int) -> None:
    known = IdMap(ids, num_buckets).bucket_of_row()
    before = IdMap([], num_buckets).table_rows(ids)
    assert known.dtype == np.int32
    # The buckets of a map of nothing begin at row 1, those of a map of n ids at row n + 1.
    assert known.tolist() == [0, *(row + len(ids) if num_buckets else 0 for row in before.tolist())]


def test_every_bucket_is_used() -> None:
    rows = IdMap(["a"], 7).table_rows([f"stranger {number}" for number in range(1000)])
    counts = np.bincount(rows, minlength=9)
    assert counts[:2].tolist() == [0, 0]
    # 1000 / 7 = 143 each; six standard deviations of a binomial are 66.
    assert np.abs(counts[2:] - 1000 / 7).max() < 66


def test_a_saved_map_has_its_buckets(tmp_path: Path) -> None:
    IdMap(["a", "b"], 5).save(tmp_path / "ids.parquet")
    loaded = IdMap.load(tmp_path / "ids.parquet")
    assert (len(loaded), loaded.num_buckets, loaded.num_table_rows) == (3, 5, 8)
    asked = ["b", "stranger", None]
    assert loaded.table_rows(asked).tolist() == IdMap(["a", "b"], 5).table_rows(asked).tolist()


def test_a_bucket_has_no_id() -> None:
    with pytest.raises(ValueError, match="rows run from 3 to 3, expected 1 to 2"):
        IdMap(["a", "b"], 5).ids([3])


def test_a_negative_number_of_buckets_is_refused() -> None:
    with pytest.raises(ValueError, match="num_buckets is -1, expected 0 or more"):
        IdMap(["a"], -1)
