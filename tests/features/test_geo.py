"""Places become cells of grids, and inputs of the towers."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from features.columns import midnight
from features.encoding import Encoder, fit_encoder
from features.geo import CELL_DEGREES, cell_names, cell_rows, vocabulary_of
from features.ids import IdMap
from features.schema import Schema, snapshot_schema

LATITUDE, LONGITUDE = "north", "east"
SCHEMA = Schema(item_columns={LATITUDE: "numeric", LONGITUDE: "numeric"}, item_geo=(LATITUDE, LONGITUDE))
NAN = float("nan")


def column(*values: float | None) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values, pa.float32())])


def test_a_place_has_the_cell_of_each_grid_that_it_lies_in() -> None:
    found = cell_names(column(48.13, -0.01, None), column(11.57, 179.99, 3.0)).tolist()
    assert found == [
        ["0.02:2406:578", "0.1:481:115", "0.5:96:23", "2:24:5"],
        ["0.02:-1:8999", "0.1:-1:1799", "0.5:-1:359", "2:-1:89"],
        [None, None, None, None],
    ]


def test_near_places_share_the_cells_that_hold_both() -> None:
    rows = cell_rows(column(10.01, 10.03, 11.9), column(20.01, 20.01, 21.9), IdMap(_names()))
    same = rows[:, None, :] == rows[None, :, :]
    assert same[0, 1].tolist() == [False, True, True, True]
    assert same[0, 2].tolist() == [False, False, False, True]


def _names() -> list[str]:
    names = cell_names(column(10.01, 10.03, 11.9), column(20.01, 20.01, 21.9))
    return sorted(set(names.ravel().tolist()))


@pytest.mark.parametrize("missing", [None, NAN, float("inf")])
def test_a_place_that_is_unknown_or_in_no_known_cell_has_row_0(missing: float | None) -> None:
    cells = vocabulary_of(column(10.0, missing), column(20.0, 20.0))
    assert len(cells) == 1 + len(CELL_DEGREES)
    found = cell_rows(column(missing, 10.0, -60.0), column(20.0, missing, -60.0), cells)
    assert found.dtype == np.int32
    assert found.tolist() == [[0] * len(CELL_DEGREES)] * 3


def encoder() -> Encoder:
    items = pa.table({"item_id": ["a", "b", "c"], LATITUDE: [48.1, 48.1, None], LONGITUDE: [11.5, 11.5, None]})
    return fit_encoder(SCHEMA, pa.table({"user_id": ["u"]}), items, [], history_length=2, text_length=3, text_buckets=7)


def test_cells_are_an_input_of_the_tower_and_survive_on_disk(tmp_path: Path) -> None:
    made = encoder()
    made.save(tmp_path)
    again = Encoder.load(tmp_path)
    rows = [
        {"item_id": name, LATITUDE: north, LONGITUDE: 11.5, "event_timestamp": midnight(dt.date(2020, 1, 1))}
        for name, north in (("a", 48.1), ("c", None))
    ]
    raw = pa.Table.from_pylist(rows, schema=snapshot_schema(SCHEMA, "item"))
    seconds = np.full(2, 1_577_836_800)
    [spec] = [spec for spec in again.input_specs("item") if spec.name == "item_cells"]
    assert (spec.kind, spec.length, spec.num_rows) == ("cells", len(CELL_DEGREES), 1 + len(CELL_DEGREES))
    for some in (made, again):
        found = some.encode_items(raw, as_of_seconds=seconds)["item_cells"]
        assert (found[0] > 0).all()
        assert (found[1] == 0).all()


def test_a_pair_in_one_column_lies_in_the_cells_of_two_columns() -> None:
    places = [(48.13, 11.57), (-0.01, 179.99), (48.13, None), None, (89.9, -179.9)]
    schema = Schema.model_validate({"item_columns": {"place": "geo"}})
    names = [f"i{number}" for number in range(len(places))]
    pairs = pa.array([None if pair is None or None in pair else pair for pair in places], pa.list_(pa.float32()))
    items = pa.table({"item_id": names, "place": pairs})
    made = fit_encoder(schema, pa.table({"user_id": ["u"]}), items, [], history_length=2, text_length=3, text_buckets=7)
    [(spec, facts)] = made.facts_of(items)
    north, east = zip(*((None, None) if pair is None else pair for pair in places), strict=True)
    expected = cell_rows(column(*north), column(*east), vocabulary_of(column(*north), column(*east)))
    assert (spec.name, spec.kind, spec.num_rows) == ("place_cells", "cells", expected.max() + 1)
    np.testing.assert_array_equal(facts["place_cells"], expected)


@pytest.mark.parametrize(
    ("geo", "message"),
    [
        (("north", "price"), "item_geo names 'price', which is not a numeric item column; .*among: north"),
        (("name", "north"), "item_geo names 'name', which is not a numeric item column"),
    ],
)
def test_a_place_is_made_of_numeric_columns(geo: tuple[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Schema(item_columns={"north": "numeric", "name": "text"}, item_geo=geo)


def test_a_column_is_not_called_as_the_input_of_cells() -> None:
    with pytest.raises(ValueError, match="column 'item_cells' is what a model input is called"):
        Schema(item_columns={"item_cells": "numeric"})
