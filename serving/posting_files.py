"""What lies in a folder of postings? A header in JSON, and arrays that grow while written and are mapped to be read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

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
    """Digest of the codebook that the keys speak of."""
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
