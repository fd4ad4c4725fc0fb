"""Places: the cells of several grids that a latitude and a longitude lie in.

A cell is a value like that of a categorical column: places in the same small cell share its vector, and those of one
city or region that of a larger one.

Shape letters: B rows, G grids.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.column_kind import Encoding, Input, InputSpec, OwnInput, to_floats
from features.ids import IdMap
from features.lists import numbers_of

CELL_DEGREES = (0.02, 0.1, 0.5, 2.0)
"""Side of the cells of each grid (G of them): about 2, 10, 50 and 200 km from north to south."""
CELLS_SUFFIX = "_cells"
MOST_NORTH, MOST_EAST = 90.0, 180.0
Names = npt.NDArray[np.object_]


def cell_names(latitude: pa.ChunkedArray, longitude: pa.ChunkedArray) -> Names:
    """The cell of each place in each grid.

    Args:
        latitude: [B] degrees, null where unknown.
        longitude: [B] degrees, likewise.

    Returns:
        [B, G] names such as "0.5:96:23"; None where the place is unknown.
    """
    return _cell_names(np.stack([to_floats(latitude), to_floats(longitude)], axis=1).astype(np.float32))


def _cell_names(places: npt.NDArray[np.float32]) -> Names:
    """Likewise of latitudes and longitudes [B, 2]."""
    degrees = places.astype(np.float64)
    known = np.isfinite(degrees).all(axis=1)
    names = np.full((len(degrees), len(CELL_DEGREES)), None, dtype=object)
    for grid, side in enumerate(CELL_DEGREES):
        cells, cell_of = np.unique(np.floor(degrees[known] / side).astype(np.int64), axis=0, return_inverse=True)
        named = np.array([f"{side:g}:{north}:{east}" for north, east in cells], dtype=object)
        names[known, grid] = named[cell_of.ravel()]
    return names


def vocabulary_of(latitude: pa.ChunkedArray, longitude: pa.ChunkedArray) -> IdMap:
    """The cells of a table's places; arguments as in `cell_names`."""
    return IdMap(sorted({name for name in cell_names(latitude, longitude).ravel() if name is not None}))


def cell_rows(latitude: pa.ChunkedArray, longitude: pa.ChunkedArray, cells: IdMap) -> npt.NDArray[np.int32]:
    """Rows of the cells: [B, G] int32, 0 where the place is unknown or in a cell that the map does not know.

    Args:
        latitude: As in `cell_names`.
        longitude: Likewise.
        cells: The map.
    """
    return _rows(cell_names(latitude, longitude), cells)


def _rows(names: Names, cells: IdMap) -> npt.NDArray[np.int32]:
    return cells.rows(names.ravel()).reshape(names.shape)


def _names_of_pairs(raw: pa.ChunkedArray) -> Names:
    return _cell_names(numbers_of(raw, 2))


def _spec(encoder: Encoding, column: str) -> InputSpec:
    name = column + CELLS_SUFFIX
    num_rows = len(encoder.vocabularies[name])
    return InputSpec(name, "cells", len(CELL_DEGREES), num_rows, is_fact=True)


def _encode(encoder: Encoding, column: str, raw: pa.ChunkedArray) -> Input:
    return _rows(_names_of_pairs(raw), encoder.vocabularies[column + CELLS_SUFFIX])


def _values(raw: pa.ChunkedArray) -> pa.Array:
    return pa.array(_names_of_pairs(raw).ravel(), pa.string())


PLACE_INPUT = OwnInput(CELLS_SUFFIX, _spec, _encode, values=_values)
"""Of a pair in each row, latitude and longitude in degrees."""
