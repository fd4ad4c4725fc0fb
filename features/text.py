"""Texts as letter trigrams: the word hashing of DSSM, vectorised over a whole column.

Shape letters: B texts, L trigrams kept of each.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.column_kind import Encoding, Input, InputSpec, OwnInput
from features.lists import as_text

_MARK = ord("#")
TEXT_SUFFIX = "_text"


def _text_spec(encoder: Encoding, column: str) -> InputSpec:
    return InputSpec(column + TEXT_SUFFIX, "text", encoder.text_length, encoder.text_buckets + 1)


def _encode_text(encoder: Encoding, column: str, raw: pa.ChunkedArray) -> Input:
    return trigrams(as_text(raw), length=encoder.text_length, num_buckets=encoder.text_buckets)


TEXT_INPUT = OwnInput(TEXT_SUFFIX, _text_spec, _encode_text)


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
