"""Letter trigrams of texts, compared with a slow twin that walks over the bytes."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.kinds import trigrams

LENGTH, NUM_BUCKETS = 12, 50_000


def bucket(gram: bytes, num_buckets: int = NUM_BUCKETS) -> int:
    """The finaliser of splitmix64 in Python's own integers."""
    code, mask = int.from_bytes(gram, "big"), 2**64 - 1
    code = ((code ^ (code >> 30)) * 0xBF58476D1CE4E5B9) & mask
    code = ((code ^ (code >> 27)) * 0x94D049BB133111EB) & mask
    return 1 + (code ^ (code >> 31)) % num_buckets


def grams(text: str | None) -> list[bytes]:
    marked = [b"#" + word.encode() + b"#" for word in (text or "").lower().replace("#", " ").split()]
    return [word[start : start + 3] for word in marked for start in range(len(word) - 2)]


def expected(text: str | None, length: int = LENGTH, num_buckets: int = NUM_BUCKETS) -> list[int]:
    found = [bucket(gram, num_buckets) for gram in grams(text)][:length]
    return found + [0] * (length - len(found))


def found(texts: list[str | None], length: int = LENGTH, num_buckets: int = NUM_BUCKETS) -> list[list[int]]:
    return trigrams(pa.array(texts, pa.string()), length=length, num_buckets=num_buckets).tolist()


@pytest.mark.parametrize(
    ("text", "by_hand"),
    [
        ("Ice", [b"#ic", b"ice", b"ce#"]),
        ("a", [b"#a#"]),
        ("ice tea", [b"#ic", b"ice", b"ce#", b"#te", b"tea", b"ea#"]),
        ("  Tea\t\n#tea# ", [b"#te", b"tea", b"ea#", b"#te", b"tea", b"ea#"]),
        # é is the two bytes C3 A9, lower-cased from É; a trigram is of bytes.
        ("É", [b"#\xc3\xa9", b"\xc3\xa9#"]),
        ("", []),
        ("# ## ", []),
        (None, []),
    ],
)
def test_words_become_their_trigrams(text: str | None, by_hand: list[bytes]) -> None:
    assert grams(text) == by_hand
    row = [bucket(gram) for gram in by_hand]
    assert found([text]) == [row + [0] * (LENGTH - len(row))]


@given(st.lists(st.none() | st.text(st.sampled_from("abÉß茶#🍦 \t"), max_size=9), max_size=6))
def test_a_batch_is_its_texts_one_by_one(texts: list[str | None]) -> None:
    assert found(texts) == [expected(text) for text in texts]


def test_chunks_and_slices_are_the_same_texts() -> None:
    texts = ["ice", None, "tea time", "", "crème"]
    whole = pa.array(texts, pa.string())
    chunked = pa.chunked_array([whole.slice(0, 2), whole.slice(2, 0), whole.slice(2)])
    for shape in (chunked, chunked.slice(1, 3), pa.chunked_array([], pa.string())):
        made = trigrams(shape, length=LENGTH, num_buckets=NUM_BUCKETS)
        assert made.tolist() == [expected(text) for text in shape.to_pylist()]
        assert made.shape == (len(shape), LENGTH)
        assert made.dtype == np.int32


def test_later_trigrams_are_left_out() -> None:
    assert found(["ice tea"], length=4) == [expected("ice tea", 4)]


def test_buckets_leave_row_zero_to_the_padding() -> None:
    rows = np.array(found(["the quick brown fox jumps"], length=30, num_buckets=3))
    assert rows.tolist() == [expected("the quick brown fox jumps", 30, 3)]
    assert set(rows[0, :21]) == {1, 2, 3}  # a word of n letters has n trigrams: 3 + 5 + 5 + 3 + 5
