"""Does every id have a row of its own, and nothing else one?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.ids import IdMap


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


def test_a_saved_map_of_nothing_still_knows_nobody(tmp_path: Path) -> None:
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
