"""Kinds of columns: how the values of a declared column are stored, and which model input they become.

A kind is registered in `KINDS` under the word that a configuration uses. It either gives one number a row, which joins
the tower's numeric input and is scaled with it, or an input of its own. Texts become letter trigrams, the word hashing
of DSSM, vectorised over a whole column.

Shape letters: B rows or texts, L trigrams kept of each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.ids import IdMap

_MARK = ord("#")
Floats = npt.NDArray[np.float64]
Input = npt.NDArray[np.int32] | npt.NDArray[np.float32]
TEXT_SUFFIX = "_text"


class Encoding(Protocol):
    """What the inputs of columns are made with; an `Encoder` has it."""

    @property
    def vocabularies(self) -> Mapping[str, IdMap]:
        """Rows of the values of each categorical column."""

    @property
    def text_length(self) -> int:
        """L."""

    @property
    def text_buckets(self) -> int:
        """Buckets for trigrams."""


class Storage(StrEnum):
    """How a raw value is stored in snapshots and feature stores."""

    STRING = "string"
    FLOAT = "float"
    INT = "int"
    STRINGS = "strings"
    INTS = "ints"
    FLOATS = "floats"


@dataclass(frozen=True)
class InputSpec:
    """One model input.

    Attributes:
        name: Key in the encoder's output and name of the model's input.
        kind: What it holds: which layer of the towers reads it.
        length: Values per row; None for a single value without an axis of its own.
        num_rows: Rows of the embedding table it points into, row 0 and buckets included; 0 for numbers.
    """

    name: str
    kind: str
    length: int | None
    num_rows: int = 0

    @property
    def dtype(self) -> type[np.int32] | type[np.float32]:
        """Type of its values: rows of a table, or numbers."""
        return np.int32 if self.num_rows else np.float32


@dataclass(frozen=True)
class OwnInput:
    """A model input that a kind of column has to itself.

    Attributes:
        suffix: Behind the name of the column in the name of the input.
        spec: Kind, length and table rows of the input: (encoder, column) -> spec named after the input.
        encode: (encoder, column, raw values [B]) -> as in the spec, [B] or [B, length].
        learns_values: Whether the distinct values of the table become rows of a vocabulary, `encoder.vocabularies`.
    """

    suffix: str
    spec: Callable[[Encoding, str], InputSpec]
    encode: Callable[[Encoding, str, pa.ChunkedArray], Input]
    learns_values: bool = False


@dataclass(frozen=True)
class ColumnKind:
    """A way in which a column enters its tower; has `numbers` or `own`.

    Attributes:
        storage: How its values are stored: as text or as numbers.
        numbers: Raw values [B] -> [B] float64, nan where unknown; part of the tower's numeric input.
        own: An input of its own.
    """

    storage: Storage
    numbers: Callable[[pa.ChunkedArray], Floats] | None = None
    own: OwnInput | None = None

    def __post_init__(self) -> None:
        """Refuses a kind that gives no input, or two."""
        if (self.numbers is None) == (self.own is None):
            raise ValueError("a kind of column gives either numbers or an input of its own; set one of the two")
        if self.storage not in (Storage.STRING, Storage.FLOAT):
            raise ValueError(f"a column is stored as string or float, and this kind asks for {self.storage.value}")


class Kind:
    """The words of the kinds that other code asks for by name."""

    CATEGORICAL: Final = "categorical"
    NUMERIC: Final = "numeric"
    TEXT: Final = "text"


def to_floats(raw: pa.ChunkedArray) -> Floats:
    """[B] float64, nan where the value is missing; text is parsed."""
    if not raw.null_count and not pa.types.is_string(raw.type):
        return raw.to_numpy(zero_copy_only=False).astype(np.float64)  # type: ignore[no-any-return]
    return raw.cast(pa.float64()).to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]


def _categorical_spec(encoder: Encoding, column: str) -> InputSpec:
    return InputSpec(column, "categorical", None, len(encoder.vocabularies[column]))


def _encode_category(encoder: Encoding, column: str, raw: pa.ChunkedArray) -> Input:
    return encoder.vocabularies[column].rows(raw.to_numpy(zero_copy_only=False))


def _text_spec(encoder: Encoding, column: str) -> InputSpec:
    return InputSpec(column + TEXT_SUFFIX, "text", encoder.text_length, encoder.text_buckets + 1)


def _encode_text(encoder: Encoding, column: str, raw: pa.ChunkedArray) -> Input:
    return trigrams(raw, length=encoder.text_length, num_buckets=encoder.text_buckets)


# Inputs of a tower come in this order.
KINDS: dict[str, ColumnKind] = {
    Kind.CATEGORICAL: ColumnKind(
        Storage.STRING, own=OwnInput("", _categorical_spec, _encode_category, learns_values=True)
    ),
    Kind.NUMERIC: ColumnKind(Storage.FLOAT, numbers=to_floats),
    Kind.TEXT: ColumnKind(Storage.STRING, own=OwnInput(TEXT_SUFFIX, _text_spec, _encode_text)),
}


def stored_as(kinds: tuple[str, ...]) -> Storage:
    """How a column is stored that is used in these ways; as text where they differ."""
    storages = {KINDS[kind].storage for kind in kinds}
    return storages.pop() if len(storages) == 1 else Storage.STRING


def trigrams(texts: pa.Array | pa.ChunkedArray, *, length: int, num_buckets: int) -> npt.NDArray[np.int32]:
    """Hash buckets of the letter trigrams of each text.

    A text is lower-cased and cut at white space, each word becomes `#word#`, each three consecutive bytes of it are a
    trigram: "Ice" gives #ic, ice, ce#. Bytes, not characters, so that any script works without a word list.

    Args:
        texts: [B] strings; null is a text without words.
        length: L; later trigrams are left out.
        num_buckets: Buckets that trigrams are hashed into.

    Returns:
        [B, L] int32, bucket + 1, padded with 0.

    Source: Huang et al., CIKM 2013, section 3.2 (there without buckets).
    """
    words = pc.replace_substring_regex(pc.utf8_trim_whitespace(pc.utf8_lower(pc.fill_null(texts, ""))), r"[\s#]+", "##")
    marked = pc.binary_join_element_wise("#", words, "#", "")
    flat = marked.combine_chunks() if isinstance(marked, pa.ChunkedArray) else marked
    lengths = pc.binary_length(flat).to_numpy(zero_copy_only=False)
    data = np.frombuffer("".join(flat.to_pylist()).encode(), dtype=np.uint8)
    if len(data) < 3:
        return np.zeros((len(flat), length), np.int32)
    owner = np.repeat(np.arange(len(flat)), lengths)
    first, second, third = data[:-2], data[1:-1], data[2:]
    across_words = ((first == _MARK) & (second == _MARK)) | ((second == _MARK) & (third == _MARK))
    inside = np.flatnonzero((owner[:-2] == owner[2:]) & ~across_words)
    shifted = (
        column[inside].astype(np.uint64) << np.uint64(bits) for column, bits in ((first, 16), (second, 8), (third, 0))
    )
    code = np.bitwise_or.reduce(list(shifted))
    bucket = 1 + (_mix(code) % np.uint64(num_buckets)).astype(np.int32)
    return _padded(owner[inside], bucket, len(flat), length)


def _mix(code: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """A fixed 64-bit mixing of integers (the finaliser of splitmix64): the same in every process."""
    code = (code ^ (code >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    code = (code ^ (code >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return code ^ (code >> np.uint64(31))


def _padded(
    owner: npt.NDArray[np.int64], values: npt.NDArray[np.int32], num_rows: int, length: int
) -> npt.NDArray[np.int32]:
    """Lays out values by their (sorted) owner: [num_rows, length] int32, padded with 0."""
    begin = np.searchsorted(owner, np.arange(num_rows))
    place = np.arange(len(owner)) - begin[owner]
    fits = place < length
    out = np.zeros((num_rows, length), np.int32)
    out[owner[fits], place[fits]] = values[fits]
    return out
