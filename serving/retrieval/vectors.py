"""Vector files: the Parquet format of user and item vectors, and the widths of an ensemble's parts."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from artefacts.files import all_files

# Next to the exported towers of an ensemble: the width of each member's part of the vectors.
PARTS_FILE = "parts.json"


def read_parts(model: Path) -> tuple[int, ...]:
    """Widths of the parts of the vectors, as written next to the towers."""
    return tuple(json.loads((model / PARTS_FILE).read_text()))


ROW, VECTOR = "row", "vector"


def vector_schema(dimension: int) -> pa.Schema:
    """Arrow schema of the vectors: `row` in the features file, `vector` [D]."""
    return pa.schema([(ROW, pa.int64()), (VECTOR, pa.list_(pa.float32(), dimension))])


def read_vectors(folder: Path) -> npt.NDArray[np.float32]:
    """Vectors in the order of the features file: [N, D] float32.

    Raises:
        ValueError: A file is missing, or a row is missing or occurs twice.
    """
    table = pq.read_table(all_files(folder, advice="run the embedding job again"))
    rows = table.column(ROW).to_numpy()
    order = np.argsort(rows, kind="stable")
    if not np.array_equal(rows[order], np.arange(len(rows))):
        raise ValueError(f"{folder}: rows are not 0 to {len(rows) - 1}, each once; run the embedding job again")
    flat = table.column(VECTOR).combine_chunks().flatten().to_numpy()
    return np.ascontiguousarray(flat.reshape(len(rows), -1)[order])


def unit_rows(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Vectors [N, D] of length one, of which inner products are cosines; one of zeros stays as it is."""
    unit: npt.NDArray[np.float32] = vectors / np.maximum(
        np.linalg.norm(vectors, axis=1, keepdims=True), np.float32(1e-12)
    )
    return unit


# In the folder of a model: the vectors of the fit that knew nothing of the days held out for validation.
VALIDATION_FILE = "validation_vectors.npz"


@dataclass(frozen=True)
class ItemsAsNew:
    """Vectors of some items with events as they would be without any."""

    rows: npt.NDArray[np.int64]
    """[h] of the canonical tables."""
    vectors: npt.NDArray[np.float32]
    """[h, D]."""


@dataclass(frozen=True)
class ValidationVectors:
    """All vectors at the moment when the days held out for validation begin, by a fit that ends there."""

    moment: dt.date
    """First of these days."""
    users: npt.NDArray[np.float32]
    """[users, D] by row of the canonical tables."""
    items: npt.NDArray[np.float32]
    """[N, D] likewise."""
    as_new: ItemsAsNew | None = None
    """Some of the items without their events; None in those of earlier versions."""

    def save(self, model: Path) -> None:
        """Writes them into the folder of a model."""
        moment = np.asarray(self.moment.isoformat())
        kept: dict[str, npt.NDArray[np.generic]] = {"moment": moment, "users": self.users, "items": self.items}
        if self.as_new is not None:
            kept |= {"new_rows": self.as_new.rows, "new_vectors": self.as_new.vectors}
        with (model / VALIDATION_FILE).open("wb") as file:
            np.savez(file, allow_pickle=False, **kept)

    @classmethod
    def load(cls, model: Path) -> ValidationVectors | None:
        """Those of a model; None where its fit held no days out."""
        path = model / VALIDATION_FILE
        if not path.exists():
            return None
        with np.load(path, allow_pickle=False) as kept:
            as_new = ItemsAsNew(kept["new_rows"], kept["new_vectors"]) if "new_rows" in kept else None
            return cls(dt.date.fromisoformat(str(kept["moment"])), kept["users"], kept["items"], as_new)
