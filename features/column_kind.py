"""What a kind of column is: how its values are stored, and which model inputs they become.

Shape letters: B rows, L values or trigrams kept of each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.ids import IdMap

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Input = npt.NDArray[np.int32] | npt.NDArray[np.float32]


@dataclass(frozen=True)
class Measure:
    """What is learned of the lists of a column when the encoder is fitted.

    Attributes:
        length: Values kept of each row (L).
        scale: What numbers are multiplied by.
    """

    length: int
    scale: float = 1.0


class Encoding(Protocol):
    """What the inputs of columns are made with; an `Encoder` has it."""

    @property
    def vocabularies(self) -> Mapping[str, IdMap]:
        """Rows of the values of inputs that are looked up, by the input's name."""

    @property
    def measures(self) -> Mapping[str, Measure]:
        """Length and scale of inputs that hold lists, by the input's name."""

    @property
    def text_length(self) -> int:
        """Trigrams kept of each text."""

    @property
    def text_buckets(self) -> int:
        """Buckets for trigrams."""

    def weights_of(self, column: str) -> str | None:
        """The column with the weights of a column's values; None where there is none."""


class Storage(StrEnum):
    """How a raw value is stored in snapshots and feature stores, and what of it the sources take for one."""

    STRING = "string"
    FLOAT = "float"
    INT = "int"
    STRINGS = "strings"
    INTS = "ints"
    FLOATS = "floats"
    # Those of kinds of columns alone.
    BOOL = "bool"
    MOMENT = "moment"
    VECTOR = "vector"
    WEIGHTS = "weights"
    PLACE = "place"


OF_STATISTICS_ALONE = frozenset({Storage.INT, Storage.INTS, Storage.FLOATS})


@dataclass(frozen=True)
class InputSpec:
    """One model input.

    Attributes:
        name: Key in the encoder's output and name of the model's input.
        kind: What it holds: which layer of the towers reads it.
        length: Values per row; None for a single value without an axis of its own.
        num_rows: Rows of the embedding table it points into, row 0 and buckets included; 0 for numbers.
        weights: Name of the input that holds a weight for each of its values; None where all count alike.
        is_fact: Of an item: whether the items of a history are known by it too.
    """

    name: str
    kind: str
    length: int | None
    num_rows: int = 0
    weights: str | None = None
    is_fact: bool = False

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
        values: Raw values [B] -> the values that they hold, any number of texts; the distinct ones of the table become
            rows of a vocabulary, `encoder.vocabularies`. None for an input that is not looked up by value.
        measure: Raw values of the table -> what is learned of lists, `encoder.measures`.
        are_categories: Whether the values are few and known beforehand, so that new ones and another mix are news.
    """

    suffix: str
    spec: Callable[[Encoding, str], InputSpec]
    encode: Callable[[Encoding, str, pa.ChunkedArray], Input]
    values: Callable[[pa.ChunkedArray], pa.Array | pa.ChunkedArray] | None = None
    measure: Callable[[pa.ChunkedArray], Measure] | None = None
    are_categories: bool = False


Number = Callable[[pa.ChunkedArray, Ints], Floats]
"""(raw values [B], moment of each row [B], Unix seconds) -> [B] float64, nan where unknown."""


@dataclass(frozen=True)
class ColumnKind:
    """A way in which a column enters its tower; has `numbers` or `own`.

    Attributes:
        storage: How its values are stored.
        numbers: Numbers of a row that join the tower's numeric input, by a word for each; the empty word is for one
            that is called after its column alone.
        own: An input of its own.
        moves_with_time: Whether its numbers become others as days pass, so that it is no news when they do.
    """

    storage: Storage
    numbers: Mapping[str, Number] = field(default_factory=dict)
    own: OwnInput | None = None
    moves_with_time: bool = False

    def __post_init__(self) -> None:
        """Refuses a kind that gives no input, or two."""
        if bool(self.numbers) == (self.own is not None):
            raise ValueError("a kind of column gives either numbers or an input of its own; set one of the two")
        if self.storage in OF_STATISTICS_ALONE:
            expected = ", ".join(storage.value for storage in Storage if storage not in OF_STATISTICS_ALONE)
            raise ValueError(f"this kind asks to be stored as {self.storage.value}, expected one of: {expected}")


def to_floats(raw: pa.ChunkedArray) -> Floats:
    """[B] float64, nan where the value is missing; text is parsed."""
    if pa.types.is_string(raw.type):
        raw = pc.replace_substring_regex(pc.utf8_trim_whitespace(raw), r"^\+", "")
        raw = pc.if_else(pc.equal(raw, ""), None, raw)
    elif not raw.null_count:
        return raw.to_numpy(zero_copy_only=False).astype(np.float64)  # type: ignore[no-any-return]
    return raw.cast(pa.float64()).to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]
