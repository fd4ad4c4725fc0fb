"""Writing posting lists, from the lowest code to the highest; see `postings.py`.

Shape letters: n codes of a run, p postings of a run, N items of the catalogue.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from serving.sparcode.codebook import Keys

Items = npt.NDArray[np.int32]
Scores = npt.NDArray[np.float32]

HEADER = "postings.json"
ITEM_BLOCK = 2**16
FILES: dict[str, type[np.generic]] = {"keys": np.int64, "starts": np.int64, "items": np.uint16, "scores": np.float16}


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


def map_array(path: Path, dtype: np.dtype[Any], length: int) -> npt.NDArray[Any]:
    """Maps a file of numbers, read-only.

    Args:
        path: File to read.
        dtype: Of its numbers.
        length: How many there must be.

    Returns:
        [length]; not of the map's own class, which makes every slice many times slower.

    Raises:
        ValueError: The file is missing or damaged, or its numbers are others.
    """
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: cannot be read: {error}; copy the postings again") from error
    if array.shape != (length,) or array.dtype != dtype:
        raise ValueError(
            f"{path}: holds {array.dtype} of shape {list(array.shape)}, expected {dtype} of shape [{length}] after "
            f"{HEADER}; copy the postings again"
        )
    if (size := path.stat().st_size) != array.offset + array.nbytes:
        raise ValueError(f"{path}: has {size} bytes, expected {array.offset + array.nbytes}; copy the postings again")
    return np.asarray(array)


_BLOCK_SHIFT = 16
_LARGEST = float(np.finfo(np.float16).max)
_SMALLEST = np.finfo(np.float16).smallest_subnormal


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
        (self._folder / HEADER).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")

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
