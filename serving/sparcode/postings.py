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
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from artefacts.files import json_text
from serving.sparcode.codebook import Codebook, Keys

Items = npt.NDArray[np.int32]
Scores = npt.NDArray[np.float32]

HEADER = "postings.json"
ITEM_BLOCK = 2**16
FILES: dict[str, type[np.generic]] = {"keys": np.int64, "starts": np.int64, "items": np.uint16, "scores": np.float16}
_BLOCK_SHIFT = 16
_LARGEST = float(np.finfo(np.float16).max)
_SMALLEST = np.finfo(np.float16).smallest_subnormal
# Postings copied at a time.
_COPIED = 2**22


@dataclass(frozen=True)
class PostingsHeader:
    """Content of `postings.json`."""

    num_items: int
    """N."""
    num_codes: int
    """K, of which some may have no postings."""
    num_blocks: int
    """X."""
    num_postings: int
    """P."""
    bias: float
    """What was added to the scores before the ReLU."""
    cap: int
    """Postings that a code keeps at most."""
    codebook: str
    """Digest of the codebook that the keys are of."""
    catalogue: str
    """Digest of the item ids, in the order of the rows."""
    interaction: str
    """Digest of the net that scored."""

    @classmethod
    def read(cls, folder: Path) -> PostingsHeader:
        """Reads the header of a folder.

        Raises:
            ValueError: There is none, or it is damaged.
        """
        path = folder / HEADER
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise ValueError(f"{path}: missing; the postings were never finished, score the codes again") from None
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: describes no postings: {error}; score the codes again") from error


class GrowingArray:
    """A one-dimensional `.npy` file that grows; its head is written again when the length is known.

    Args:
        path: File to write.
        dtype: Of its numbers.
    """

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        """Begins with nothing."""
        self.length = 0
        self._dtype = dtype
        self._file = path.open("wb")
        self._write_head()

    def append(self, values: npt.NDArray[Any]) -> None:
        """Writes more numbers: [n] of any type that has the same values in the file's."""
        self._file.write(values.astype(self._dtype, copy=False).tobytes())
        self.length += len(values)

    def close(self) -> None:
        """Writes the length; a second time does nothing."""
        if self._file.closed:
            return
        self._file.seek(0)
        self._write_head()
        self._file.close()

    def _write_head(self) -> None:
        # NumPy leaves room for the longest length there is, so that every head takes as many bytes.
        descr = np.lib.format.dtype_to_descr(self._dtype)
        head = {"descr": descr, "fortran_order": False, "shape": (self.length,)}
        np.lib.format.write_array_header_1_0(self._file, head)


def read_array(path: Path, dtype: np.dtype[Any], length: int) -> npt.NDArray[Any]:
    """Reads a file of numbers, and does not map it: one that is cut short in place would kill whoever touches it.

    Args:
        path: File to read.
        dtype: Of its numbers.
        length: How many there must be.

    Returns:
        [length], read-only.

    Raises:
        ValueError: The file is missing or damaged, or its numbers are others.
    """
    try:
        with path.open("rb") as file:
            array: npt.NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
            expected, size = file.tell(), os.fstat(file.fileno()).st_size
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: cannot be read: {error}; copy the postings again") from error
    if array.shape != (length,) or array.dtype != dtype:
        raise ValueError(
            f"{path}: holds {array.dtype} of shape {list(array.shape)}, expected {dtype} of shape [{length}] after "
            f"{HEADER}; copy the postings again"
        )
    if size != expected:
        raise ValueError(f"{path}: has {size} bytes, expected {expected}; copy the postings again")
    array.flags.writeable = False
    return array


class PostingsWriter:
    """Writes postings from the lowest code to the highest, without holding them.

    Leaving a `with` block closes it; an exception leaves the folder without its header, which no reader takes.

    Args:
        folder: Made where it is missing; holds no finished postings.
        num_items: N.
        bias: What was added to the scores.
        cap: Postings of a code at most.
        codebook: Digest of the codebook.
        catalogue: Digest of the item ids.
        interaction: Digest of the net that scored.

    Raises:
        ValueError: The folder holds finished postings.
    """

    def __init__(
        self, folder: Path, *, num_items: int, bias: float, cap: int, codebook: str, catalogue: str, interaction: str
    ) -> None:
        """Opens the files."""
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / HEADER).exists():
            raise ValueError(f"{folder}: holds finished postings, which are never changed; write to another folder")
        self._folder = folder
        self._num_blocks = max(-(-num_items // ITEM_BLOCK), 1)
        self._about = PostingsHeader(
            num_items, 0, self._num_blocks, 0, float(bias), int(cap), codebook, catalogue, interaction
        )
        self._last_key = -1
        self._files = {name: GrowingArray(folder / f"{name}.npy", np.dtype(kind)) for name, kind in FILES.items()}
        self._files["starts"].append(np.zeros(1, np.int64))

    def add(self, keys: Keys, starts: npt.NDArray[np.int64], items: Items, scores: Scores) -> None:
        """Adds the next codes.

        Args:
            keys: [n] int64, ascending, above all that were added before.
            starts: [n + 1] int64, from 0 to p: where the postings of each code begin.
            items: [p] int32, ascending within a code.
            scores: [p] float32, above 0.

        Raises:
            ValueError: Order, number or range of the arguments is another.
        """
        counts = np.diff(starts)
        self._check(keys, starts, counts, items, scores)
        if not len(keys):
            return
        cells = np.repeat(np.arange(len(keys)) * self._num_blocks, counts) + (items >> _BLOCK_SHIFT)
        in_cells = np.bincount(cells, minlength=len(keys) * self._num_blocks)
        self._files["keys"].append(keys)
        self._files["starts"].append(self._files["items"].length + np.cumsum(in_cells))
        self._files["items"].append(items & (ITEM_BLOCK - 1))
        # What is above 0 stays above 0.
        self._files["scores"].append(np.maximum(scores.astype(np.float16), _SMALLEST))
        self._last_key = int(keys[-1])

    def close(self) -> None:
        """Finishes the files and writes the header."""
        self._close_files()
        about = asdict(self._about) | {
            "num_codes": self._files["keys"].length,
            "num_postings": self._files["items"].length,
        }
        (self._folder / HEADER).write_text(json_text(about, indent=2) + "\n", encoding="utf-8")

    def __enter__(self) -> Self:
        """Nothing to do."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes; without a header after an error."""
        if kind is None:
            self.close()
        else:
            self._close_files()

    def _close_files(self) -> None:
        for file in self._files.values():
            file.close()

    def _check(
        self, keys: Keys, starts: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], items: Items, scores: Scores
    ) -> None:
        if np.any(np.diff(keys, prepend=self._last_key) <= 0):
            raise ValueError(f"keys must ascend and lie above {self._last_key}, the last one added")
        if len(starts) != len(keys) + 1 or starts[0] != 0 or starts[-1] != len(items) or np.any(counts < 0):
            raise ValueError(f"starts must be {len(keys) + 1} numbers that rise from 0 to {len(items)}")
        if len(items) != len(scores):
            raise ValueError(f"{len(items)} items and {len(scores)} scores, expected one score for each item")
        if np.any(counts > self._about.cap):
            raise ValueError(f"a code has {counts.max()} postings, expected at most {self._about.cap}, the cap")
        if not len(items):
            return
        if items.min() < 0 or items.max() >= self._about.num_items:
            raise ValueError(
                f"items run from {items.min()} to {items.max()}, expected 0 to {self._about.num_items - 1}"
            )
        falls = np.flatnonzero(np.diff(items) <= 0) + 1
        if not np.isin(falls, starts).all():
            raise ValueError("the items of a code must ascend without repeats")
        if not ((scores > 0) & (scores <= _LARGEST)).all():
            raise ValueError(
                f"scores run from {scores.min()} to {scores.max()}, expected above 0 and up to {_LARGEST}, the "
                "largest float16; keep what passes the ReLU only, and look at the scale of the scorer"
            )


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
        name: read_array(folder / f"{name}.npy", np.dtype(FILES[name]), length) for name, length in lengths.items()
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
