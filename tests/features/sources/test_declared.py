"""Raw columns become the values that kinds store, and what is no such value is counted, as a slow twin has it."""

from __future__ import annotations

import datetime as dt
import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.config import TableFile
from features.ingest import ingest
from features.kinds import Storage
from features.schema import Schema
from features.sources.declared import convert, convert_declared
from features.sources.raw import SourceError
from features.sources.tables import open_tables
from features.tables import read_items

NOW = dt.datetime(2024, 3, 1, tzinfo=dt.UTC)
NAN, INF = float("nan"), float("inf")
Found = list[tuple[Any, str | None]]


def read(values: list[Any], storage: Storage, kind: pa.DataType | None = None) -> Found:
    """Value and fault of each row."""
    found = convert(pa.array(values, kind), storage, where="a.csv, column 'x'", timestamp_unit="s")
    faults: list[str | None] = [None] * len(values)
    for reason, mask in found.faults.items():
        for row, is_faulty in enumerate(mask.to_pylist()):
            faults[row] = reason.value if is_faulty else faults[row]
    return list(zip(found.values.to_pylist(), faults, strict=True))


def test_flags_are_read_from_booleans_numbers_and_words() -> None:
    assert read([True, False, None], Storage.BOOL) == [(True, None), (False, None), (None, None)]
    assert read([1, 0, 2, None], Storage.BOOL) == [
        (True, None),
        (False, None),
        (None, "unparsable_value"),
        (None, None),
    ]
    assert read([1.0, 0.0, NAN], Storage.BOOL) == [(True, None), (False, None), (None, None)]
    words = ["Yes", " no ", "TRUE", "f", "1", "0.0", "", "perhaps", None]
    known = [True, False, True, False, True, False, None, None, None]
    assert read(words, Storage.BOOL) == [
        (value, "unparsable_value" if word == "perhaps" else None) for word, value in zip(words, known, strict=True)
    ]


def test_moments_are_unix_seconds_of_any_form() -> None:
    assert (
        read(["2024-01-01", "2024-01-01T01:00:00+01:00", "1704067200"], Storage.MOMENT) == [(1_704_067_200, None)] * 3
    )
    wrong = (None, "unparsable_timestamp")
    assert read(["soon", "", None, "99999999999999"], Storage.MOMENT) == [wrong, (None, None), (None, None), wrong]
    assert read([dt.datetime(1969, 12, 31, 23, 59, 59, 500_000), None], Storage.MOMENT) == [(-1, None), (None, None)]
    assert read([1.9, NAN], Storage.MOMENT) == [(1, None), (None, None)]


VALUES = st.none() | st.text("ab |é", max_size=3)


@given(st.lists(st.none() | st.lists(VALUES, max_size=3), max_size=5))
def test_lists_of_texts_lose_nulls_and_blanks(rows: list[list[str | None] | None]) -> None:
    def known(row: list[str | None] | None) -> list[str] | None:
        return [value.strip() for value in row or [] if value and value.strip()] or None

    kind = pa.list_(pa.string())
    assert read(rows, Storage.STRINGS, kind) == [(known(row), None) for row in rows]
    assert read(rows, Storage.STRINGS, pa.large_list(pa.string())) == read(rows, Storage.STRINGS, kind)
    texts = [None if row is None else json.dumps(row) for row in rows]
    assert read(texts, Storage.STRINGS, pa.string()) == read(rows, Storage.STRINGS, kind)


def test_lists_of_texts_are_read_from_separated_text_numbers_and_json() -> None:
    texts = ["a|b", " a || b ", '["a", 12.0, true, null]', "a, b", ""]
    assert [value for value, _ in read(texts, Storage.STRINGS)] == [
        ["a", "b"],
        ["a", "b"],
        ["a", "12", "true"],
        ["a, b"],
        None,
    ]
    for wrong in ('["a"', "[[1]]", '[{"a": 1}]'):
        assert read([wrong], Storage.STRINGS) == [(None, "unparsable_value")]
    assert read([12, None], Storage.STRINGS) == [(["12"], None), (None, None)]
    assert read([["a", "b"], None, ["c", "d"]], Storage.STRINGS, pa.list_(pa.string(), 2))[1:] == [
        (None, None),
        (["c", "d"], None),
    ]


NUMBERS = st.sampled_from([0.0, -1.5, 2.25, NAN, INF, 1e31, None])


@given(st.lists(st.none() | st.lists(NUMBERS, max_size=3), max_size=5))
def test_a_vector_with_an_unknown_number_is_none(rows: list[list[float | None] | None]) -> None:
    def known(row: list[float | None] | None) -> tuple[list[float] | None, str | None]:
        if any(value is not None and 1e30 < value < INF for value in row or []):
            return None, "number_too_large"
        if not row or any(value is None or not math.isfinite(value) for value in row):
            return None, None
        return row, None  # type: ignore[return-value]

    found = read(rows, Storage.VECTOR, pa.list_(pa.float64()))
    expected = [known(row) for row in rows]
    assert [fault for _, fault in found] == [fault for _, fault in expected]
    assert [one for one in found if one[1] is None] == [one for one in expected if one[1] is None]


def test_vectors_are_read_from_text_and_lists_of_one_size() -> None:
    for text in ("[0.5, -1e1]", "0.5 -10", "0.5;-10", "0.5|-10", "(0.5,-10)"):
        assert read([text], Storage.VECTOR) == [([0.5, -10.0], None)]
    assert read(["", "[1, null]", "nan 1", None], Storage.VECTOR) == [(None, None)] * 4
    assert read(["1,x"], Storage.VECTOR)[0][1] == "unparsable_number"
    sized = pa.list_(pa.float32(), 2)
    assert read([[1.0, 2.0], None], Storage.VECTOR, sized) == [([1.0, 2.0], None), (None, None)]
    with pytest.raises(
        SourceError, match=r"a.csv, column 'x': has type int64, which holds no lists of numbers; expected a"
    ):
        read([1], Storage.VECTOR)


def test_weights_are_finite_and_not_negative() -> None:
    rows = [[0.0, 2.0], None, [-1.0], [NAN], [None], []]
    wrong = "unparsable_value"
    assert [fault for _, fault in read(rows, Storage.WEIGHTS, pa.list_(pa.float64()))] == [
        None,
        None,
        wrong,
        wrong,
        wrong,
        None,
    ]


def test_places_are_pairs_in_range() -> None:
    place, wrong, unknown = ([48.5, 11.5], None), "unparsable_value", (None, None)
    assert read(["48.5,11.5", "[48.5, 11.5]", "48.5 11.5"], Storage.PLACE) == [place] * 3
    assert read([[48.5, 11.5], (48.5, 11.5), [NAN, 11.5], None], Storage.PLACE) == [place, place, unknown, unknown]
    assert read([{"Latitude": 48.5, "lng": 11.5}, None], Storage.PLACE) == [place, unknown]
    assert read([{"lat": "48.5", "lon": "11.5"}], Storage.PLACE) == [place]
    assert read([{"lat": "north", "lon": "11.5"}], Storage.PLACE)[0][1] == "unparsable_number"
    faults = [fault for _, fault in read(["91,0", "-90,181", "48", "1,2,3", "-90,-180", ""], Storage.PLACE)]
    assert faults == [wrong, wrong, wrong, wrong, None, None]
    with pytest.raises(
        SourceError, match="has the fields x, y, expected one of lat, latitude and one of lon, lng, long"
    ):
        read([{"x": 1.0, "y": 2.0}], Storage.PLACE)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_texts_of_any_form_are_read_alike(kind: pa.DataType) -> None:
    found = {
        Storage.MOMENT: read(["1700000000", "", None], Storage.MOMENT, kind),
        Storage.VECTOR: read(["1 2", "", None], Storage.VECTOR, kind),
        Storage.STRINGS: read(["a|b", "", None], Storage.STRINGS, kind),
        Storage.BOOL: read(["no", "", None], Storage.BOOL, kind),
        Storage.PLACE: read(["1,2", "", None], Storage.PLACE, kind),
    }
    known = [1_700_000_000, [1.0, 2.0], ["a", "b"], False, [1.0, 2.0]]
    assert list(found.values()) == [[(value, None), (None, None), (None, None)] for value in known]


def test_a_column_of_several_kinds_is_faulty_where_any_of_them_cannot_read_it() -> None:
    """It is stored as text, and was read as a number only when it was too late to say which row is wrong."""
    found = convert_declared(
        pa.array(["7", "seven"]), ["categorical", "numeric"], where="a.csv, column 'x'", timestamp_unit="s"
    )
    assert found.values.to_pylist() == ["7", "seven"]
    assert found.faults["unparsable_number"].to_pylist() == [False, True]  # type: ignore[index]


def shop(folder: Path, items: pa.Table, columns: dict[str, Any], *, chunk_rows: int = 2) -> dict[str, int]:
    events = pa.table({"user_id": ["u"], "item_id": ["i0"], "timestamp": [1_700_000_000]})
    pq.write_table(events, folder / "events.parquet")
    pq.write_table(items, folder / "items.parquet")
    schema = Schema.model_validate({"item_columns": columns})
    files = {name: TableFile(path=folder / f"{name}.parquet") for name in ("events", "items")}
    source = open_tables(schema=schema, **files)
    summary = ingest(
        source, schema=schema, out=folder / "tables", chunk_rows=chunk_rows, max_quarantine_share=1, now=NOW
    )
    return dict(summary.quarantined["items"])


@pytest.mark.parametrize("chunk_rows", [1, 2, 100])
def test_vectors_of_another_width_than_most_are_set_aside_wherever_they_are(tmp_path: Path, chunk_rows: int) -> None:
    rows = [[9.0], [1.0, 2.0], None, [3.0, 4.0], [5.0, 6.0, 7.0]]
    items = pa.table({"item_id": [f"i{n}" for n in range(5)], "content": pa.array(rows, pa.list_(pa.float32()))})
    assert shop(tmp_path, items, {"content": "vector"}, chunk_rows=chunk_rows) == {"wrong_width": 2}
    assert read_items(tmp_path / "tables").column("content").to_pylist() == [None, [1.0, 2.0], None, [3.0, 4.0]]
    kept = pq.read_table(tmp_path / "tables" / "quarantine" / "items.parquet").to_pylist()
    assert [(row["source_row"], row["reason"]) for row in kept] == [(1, "wrong_width"), (5, "wrong_width")]


def test_lists_of_one_size_with_nulls_are_read(tmp_path: Path) -> None:
    """Arrow writes them and refuses to read them (apache/arrow issue 35692)."""
    rows = [[1.0, 2.0], None, [3.0, 4.0]]
    items = pa.table({"item_id": ["i0", "i1", "i2"], "content": pa.array(rows, pa.list_(pa.float32(), 2))})
    assert shop(tmp_path, items, {"content": "vector"}) == {}
    assert read_items(tmp_path / "tables").column("content").to_pylist() == rows


def test_there_is_one_weight_for_each_value(tmp_path: Path) -> None:
    items = pa.table(
        {
            "item_id": [f"i{n}" for n in range(4)],
            "tags": [["a", "b"], ["a", None], None, ["a"]],
            "tags_weights": [[1.0, 2.0], [1.0, 2.0], [1.0], None],
        }
    )
    assert shop(tmp_path, items, {"tags": "categories", "tags_weights": "weights"}) == {"wrong_width": 2}
    assert read_items(tmp_path / "tables").column("tags").to_pylist() == [["a", "b"], ["a"]]
