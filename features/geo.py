"""Places: the cells of several grids that a latitude and a longitude lie in.

A cell is a value like that of a categorical column: places in the same small cell share its vector, and those of one
city or region that of a larger one.

Shape letters: B rows, G grids.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.ids import IdMap
from features.kinds import to_floats

CELL_DEGREES = (0.02, 0.1, 0.5, 2.0)
"""Side of the cells of each grid (G of them): about 2, 10, 50 and 200 km from north to south."""


def cell_names(latitude: pa.ChunkedArray, longitude: pa.ChunkedArray) -> npt.NDArray[np.object_]:
    """The cell of each place in each grid.

    Args:
        latitude: [B] degrees, null where unknown.
        longitude: [B] degrees, likewise.

    Returns:
        [B, G] names such as "0.5:96:23"; None where the place is unknown.
    """
    degrees = np.stack([to_floats(latitude), to_floats(longitude)], axis=1).astype(np.float32).astype(np.float64)
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
    names = cell_names(latitude, longitude)
    return cells.rows(names.ravel()).reshape(names.shape)
