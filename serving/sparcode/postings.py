"""SparCode's posting lists: an inverted index of scored items for each code, mapped from files.

    postings/
      keys.npy       [K] int64, ascending: the codes that were built
      starts.npy     [K X + 1] int64: where the postings of a code within a block of items begin
      items.npy      [P] uint16, ascending within a code and block: the item's place in its block
      scores.npy     [P] float16, above 0: S + bias
      postings.json  what it is, and what it was made from; written last

Items are cut into X blocks of 65,536, so that an item takes two bytes and a posting four.

Shape letters: K codes, X blocks of items, P postings, N items of the catalogue, n rows of a request.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.sparcode.codebook import Codebook, Keys
from serving.sparcode.postings_writer import (
    FILES,
    HEADER,
    ITEM_BLOCK,
    Items,
    PostingsHeader,
    Scores,
    map_array,
)
from serving.sparcode.postings_writer import PostingsWriter as PostingsWriter

# Postings copied at a time.
_COPIED = 2**22


def catalogue_digest(item_ids: Sequence[str]) -> str:
    """SHA-256 over the ids in order, in hexadecimal.

    Args:
        item_ids: [N] by catalogue row.
    """
    # Lengths part the ids: no two lists look the same.
    made = hashlib.sha256()
    for item_id in item_ids:
        encoded = item_id.encode()
        made.update(len(encoded).to_bytes(8, "little") + encoded)
    return made.hexdigest()


class Postings:
    """Finished postings.

    Use `Postings.open`.
    """

    def __init__(self, folder: Path, about: PostingsHeader, arrays: dict[str, npt.NDArray[Any]]) -> None:
        """Takes what `read_postings` checked."""
        self.folder, self.about = folder, about
        self.num_items, self.bias, self.cap = about.num_items, about.bias, about.cap
        self.keys: Keys = arrays["keys"]
        self._starts, self._items, self._scores = arrays["starts"], arrays["items"], arrays["scores"]
        self._counts: npt.NDArray[np.int64] = np.diff(self._starts[:: about.num_blocks])

    @classmethod
    def open(cls, folder: Path, *, codebook: Codebook, catalogue: str) -> Postings:
        """Maps finished postings after checking that they are the right ones.

        Args:
            folder: What a `PostingsWriter` closed.
            codebook: What keys are made with.
            catalogue: Digest of the item ids, see `catalogue_digest`.

        Returns:
            The postings, read-only.

        Raises:
            ValueError: They are unfinished or damaged, or were made with another codebook or for another catalogue.
        """
        found = read_postings(folder)
        for what, digest, expected in (
            ("codebook", found.about.codebook, codebook.digest),
            ("catalogue", found.about.catalogue, catalogue),
        ):
            if digest != expected:
                raise ValueError(
                    f"{folder / HEADER}: made with {what} {digest[:12]}, expected {expected[:12]}; "
                    "score the codes again"
                )
        return found

    @property
    def size_bytes(self) -> int:
        """Size of all files of the folder."""
        return sum((self.folder / name).stat().st_size for name in [HEADER, *(f"{name}.npy" for name in FILES)])

    def counts(self) -> npt.NDArray[np.int64]:
        """[K] postings of each code."""
        return self._counts.copy()

    def find(self, keys: Keys) -> npt.NDArray[np.int64]:
        """The row of each key, -1 for one that was not built: [n] int64 -> [n] int64."""
        if not len(self.keys):
            return np.full(len(keys), -1, np.int64)
        places = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[places] == keys, places, -1)

    def joined(self, rows: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], Scores]:
        """The postings of some codes, one list behind the other.

        Args:
            rows: [n] 0 to K - 1, in any order; one may be asked for twice.

        Returns:
            Items [p] int64, which is what NumPy's indexing is fast with, ascending within a list; scores [p] float32.
        """
        num_blocks = self.about.num_blocks
        bounds = self._starts[rows[:, None] * num_blocks + np.arange(num_blocks + 1)]
        spans = list(zip(bounds[:, 0].tolist(), bounds[:, -1].tolist(), strict=True))
        items = np.concatenate([self._items[:0], *(self._items[first:end] for first, end in spans)], dtype=np.int64)
        if num_blocks > 1:
            offsets = np.zeros((len(rows), 1), np.int64) + np.arange(num_blocks) * ITEM_BLOCK
            items += np.repeat(offsets.ravel(), (bounds[:, 1:] - bounds[:, :-1]).ravel())
        scores = [self._scores[:0], *(self._scores[first:end] for first, end in spans)]
        return items, np.concatenate(scores, dtype=np.float32)

    def lists(self, rows: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], Items, Scores]:
        """The postings of some codes, with whose they are.

        Args:
            rows: [n] 0 to K - 1, in any order; one may be asked for twice.

        Returns:
            Owner [p] int64, index into `rows`; items [p] int32, ascending within an owner; scores [p] float32.

        Raises:
            ValueError: There is no such row.
        """
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self.keys)):
            raise ValueError(f"rows run from {rows.min()} to {rows.max()}, expected 0 to {len(self.keys) - 1}")
        items, scores = self.joined(rows)
        return np.repeat(np.arange(len(rows)), self._counts[rows]), items.astype(np.int32), scores


def read_postings(folder: Path) -> Postings:
    """Maps finished postings without checking what they were made from.

    Raises:
        ValueError: They are unfinished or damaged.
    """
    about = PostingsHeader.read(folder)
    lengths = {
        "keys": about.num_codes,
        "starts": about.num_codes * about.num_blocks + 1,
        "items": about.num_postings,
        "scores": about.num_postings,
    }
    arrays = {
        name: map_array(folder / f"{name}.npy", np.dtype(FILES[name]), length) for name, length in lengths.items()
    }
    if np.any(np.diff(arrays["keys"], prepend=-1) <= 0):
        raise ValueError(f"{folder / 'keys.npy'}: keys do not ascend from 0 on; copy or score again")
    starts = arrays["starts"]
    if starts[0] != 0 or starts[-1] != about.num_postings or np.any(np.diff(starts) < 0):
        raise ValueError(
            f"{folder / 'starts.npy'}: starts do not rise from 0 to {about.num_postings}; copy or score again"
        )
    return Postings(folder, about, arrays)


def truncated(folder_in: Path, folder_out: Path, bias: float) -> None:
    """Writes the postings that a lower bias would have left: score - (old bias - new bias) where that is above 0.

    Codes stay, also those left without postings. Where the cap cut a list, what the lower bias leaves is what it would
    have been cut to, too.

    Args:
        folder_in: Finished postings.
        folder_out: Folder to write.
        bias: New bias, at most the old one.

    Raises:
        ValueError: The bias is higher, or the postings are damaged.
    """
    found = read_postings(folder_in)
    if not bias <= found.bias:
        raise ValueError(f"bias is {bias}, expected at most {found.bias}, with which {folder_in} was made")
    about = asdict(found.about) | {"bias": bias}
    kept_fields = ("num_items", "bias", "cap", "codebook", "catalogue", "interaction")
    firsts = np.searchsorted(np.cumsum(found.counts()), np.arange(0, found.about.num_postings, _COPIED))
    bounds = np.unique([0, *firsts.tolist(), len(found.keys)]).tolist()
    with PostingsWriter(folder_out, **{name: about[name] for name in kept_fields}) as writer:
        for first, last in pairwise(bounds):
            owners, items, scores = found.lists(np.arange(first, last))
            lower = scores - np.float32(found.bias - bias)
            kept = lower > 0
            starts = np.searchsorted(owners[kept], np.arange(last - first + 1))
            writer.add(found.keys[first:last], starts, items[kept], lower[kept])
