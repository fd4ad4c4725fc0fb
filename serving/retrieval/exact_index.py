"""Exact search as an index backend, for catalogues in which it is cheap.

B queries, N items of the catalogue, D vector width, W items left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

import numpy as np

from serving.retrieval import exact
from serving.retrieval.eligible import NO_ITEMS, Items, eligible_rows, everything_but
from serving.retrieval.ranking import Rows, Scores


class ExactIndex:
    """Every search goes through all vectors; the file holds only the rows that are searched.

    Args:
        vectors: [N, D] float32.
        left_out: [W] int32 catalogue rows, ascending, that no search finds.
    """

    def __init__(self, vectors: Scores, left_out: Items) -> None:
        """Takes the vectors."""
        self.left_out = left_out
        self._vectors = vectors
        eligible = everything_but(left_out, num_items=len(vectors))
        self._offered = None if eligible is None else eligible.mask

    @classmethod
    def build(cls, vectors: Scores, *, m: int, ef_construction: int, seed: int, left_out: Items = NO_ITEMS) -> Self:
        """See `AnnIndex`; there is nothing to build.

        Raises:
            ValueError: All rows are left out.
        """
        eligible_rows(left_out, num_items=len(vectors))
        return cls(vectors, left_out)

    @classmethod
    def load(cls, path: Path, vectors: Scores, left_out: Items = NO_ITEMS) -> Self:
        """Reads what `save` wrote.

        Raises:
            ValueError: The file is damaged, or of other rows.
        """
        found = np.load(path, allow_pickle=False)
        if not np.array_equal(found, eligible_rows(left_out, num_items=len(vectors))):
            raise ValueError(
                f"{path}: holds {found.size} rows, expected those of {len(vectors)} items without the {len(left_out)} "
                "that are left out; build it again after a change of the catalogue"
            )
        return cls(vectors, left_out)

    @classmethod
    def num_vectors(cls, path: Path) -> int:
        """See `AnnIndex`."""
        return len(np.load(path, mmap_mode="r", allow_pickle=False))

    def save(self, path: Path) -> None:
        """Writes the rows that are searched, [N - W] int64."""
        # To an open file: NumPy would add a suffix to the name.
        with path.open("wb") as file:
            np.save(file, eligible_rows(self.left_out, num_items=len(self._vectors)), allow_pickle=False)

    def search(self, query_embeddings: Scores, *, k: int, ef: int) -> tuple[Rows, Scores]:
        """See `AnnIndex`; `ef` has no effect."""
        return exact.search(query_embeddings, self._vectors, k=k, offered=self._offered)
