"""Equal vectors: an index holds each distinct vector once, and a search answers with all items that have it.

Many equal vectors, as new items have that share a category and nothing else, link a graph's nodes only to each other,
so that it falls into parts. Of equal items the first in the catalogue represents all of them.

B queries, N items of the catalogue, D vector width, E items with the vector of an earlier one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from serving.retrieval.eligible import NO_ITEMS, Items, eligible_rows
from serving.retrieval.index import ItemIndex, backend_of
from serving.retrieval.ranking import Rows, Scores, padding

EQUALS_FILE = "equal_vectors.npy"


def equal_items(vectors: Scores, left_out: Items = NO_ITEMS) -> Rows:
    """Items whose vector an earlier item has, too.

    Args:
        vectors: [N, D] float32.
        left_out: [W] int32 rows, ascending, that are neither.

    Returns:
        [E, 2] int32 catalogue rows, ascending: an item, and the first item with the same vector.

    Raises:
        ValueError: All rows are left out.
    """
    rows = eligible_rows(left_out, num_items=len(vectors))
    # Adding 0 makes one of the two zeros, which are equal and differ in their bytes.
    held = np.ascontiguousarray(vectors[rows] + np.float32(0))
    _, first, group = np.unique(
        held.view(np.dtype((np.void, held.strides[0]))).ravel(), return_index=True, return_inverse=True
    )
    firsts = first[group]
    later = np.flatnonzero(firsts != np.arange(len(rows)))
    return np.stack([rows[later], rows[firsts[later]]], axis=1).astype(np.int32)


class DistinctIndex:
    """An index over distinct vectors that finds the items of each. The items of a vector come in catalogue order.

    Args:
        backend: Over the first item of each vector; leaves out `left_out` and all later ones.
        equals: [E, 2] int32, see `equal_items`.
        num_items: N.
        left_out: [W] int32 catalogue rows, ascending, that no search finds.
    """

    def __init__(self, backend: ItemIndex, equals: Rows, *, num_items: int, left_out: Items) -> None:
        """Sorts the items by the vector that they have."""
        self.left_out = left_out
        self._backend, self._equals = backend, equals
        first = np.arange(num_items, dtype=np.int32)
        first[equals[:, 0]] = equals[:, 1]
        self._items = np.argsort(first, kind="stable").astype(np.int32)
        self._counts = np.bincount(first, minlength=num_items)
        self._starts = np.cumsum(self._counts) - self._counts

    def save(self, path: Path) -> None:
        """Writes the backend's file, and the equal items into a file next to it."""
        self._backend.save(path)
        np.save(path.with_name(EQUALS_FILE), self._equals, allow_pickle=False)

    def search(self, query_embeddings: Scores, *, k: int, ef: int) -> tuple[Rows, Scores]:
        """See `ItemIndex`; k vectors have k items or more."""
        found, found_scores = self._backend.search(query_embeddings, k=k, ef=ef)
        counts = np.where(found < 0, 0, self._counts[found])
        # Up to k items of a user: the last vector may have more than there is room for.
        taken = np.clip(k - (np.cumsum(counts, axis=1) - counts), 0, counts)
        num_taken = taken.ravel()
        first = np.repeat(found.ravel(), num_taken)
        place = np.arange(len(first)) - np.repeat(np.cumsum(num_taken) - num_taken, num_taken)
        rows, scores = padding(len(found), k)
        is_filled = np.arange(k) < taken.sum(axis=1, keepdims=True)
        rows[is_filled] = self._items[self._starts[first] + place]
        scores[is_filled] = np.repeat(found_scores.ravel(), num_taken)
        return rows, scores


def build_index(
    form: str,
    vectors: Scores,
    *,
    m: int,
    ef_construction: int,
    seed: int,
    left_out: Items = NO_ITEMS,
    equals: Rows | None = None,
) -> ItemIndex:
    """Builds an index of a form over the distinct vectors of a catalogue.

    Args:
        form: A name in `INDEXES`.
        vectors: [N, D] float32.
        m: See `AnnIndex.build`.
        ef_construction: Likewise.
        seed: Likewise.
        left_out: [W] int32 rows, ascending, that no search finds.
        equals: [E, 2] what `equal_items` found; None looks for them.

    Raises:
        ValueError: There is no such form, or the backend refuses the vectors.
    """
    equals = equal_items(vectors, left_out) if equals is None else equals
    index = backend_of(form).build(
        vectors, m=m, ef_construction=ef_construction, seed=seed, left_out=_not_held(left_out, equals)
    )
    return DistinctIndex(index, equals, num_items=len(vectors), left_out=left_out) if len(equals) else index


def load_index(form: str, path: Path, vectors: Scores, left_out: Items = NO_ITEMS) -> ItemIndex:
    """Reads an index that was saved, and the equal items where there is a file of them next to it.

    Raises:
        ValueError: A file is damaged, or not of these vectors without these rows.
    """
    file = path.with_name(EQUALS_FILE)
    equals = _read_equals(file, vectors, left_out) if file.exists() else np.empty((0, 2), np.int32)
    index = backend_of(form).load(path, vectors, _not_held(left_out, equals))
    return DistinctIndex(index, equals, num_items=len(vectors), left_out=left_out) if len(equals) else index


def num_indexed(form: str, path: Path) -> int:
    """Number of items that the index in a file finds, from the heads of its files."""
    file = path.with_name(EQUALS_FILE)
    num_equal = len(np.load(file, mmap_mode="r", allow_pickle=False)) if file.exists() else 0
    return backend_of(form).num_vectors(path) + num_equal


def _not_held(left_out: Items, equals: Rows) -> Items:
    return np.union1d(left_out, equals[:, 0]).astype(np.int32) if len(equals) else left_out


def _read_equals(path: Path, vectors: Scores, left_out: Items) -> Rows:
    equals: Rows = np.load(path, allow_pickle=False)
    if equals.dtype != np.int32 or equals.ndim != 2 or equals.shape[1] != 2:
        raise ValueError(f"{path}: holds {equals.dtype} of shape {list(equals.shape)}, expected int32 of shape [E, 2]")
    items, firsts = equals.T
    holds = (
        (np.diff(items, prepend=-1) > 0).all()
        and (firsts >= 0).all()
        and (firsts < items).all()
        and items.max(initial=-1) < len(vectors)
        and not np.isin(firsts, items).any()
        and not np.isin(equals, left_out).any()
        and np.array_equal(vectors[items], vectors[firsts])
    )
    if not holds:
        raise ValueError(
            f"{path}: {len(equals)} items do not have the vectors of the items that represent them; build the index "
            "again after a change of the catalogue, vectors or weights"
        )
    return equals
