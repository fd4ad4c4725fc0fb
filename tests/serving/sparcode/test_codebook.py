"""Tokens become codes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.sparcode import codebook as module
from serving.sparcode.codebook import Codebook
from towers.quantizer import ProductQuantizer


def random_codebook(num_parts: int = 3, num_codes: int = 5, part_width: int = 2, *, seed: int = 1) -> Codebook:
    rng = np.random.default_rng(seed)
    return Codebook(rng.normal(size=(num_parts, num_codes, part_width)).astype(np.float32))


def random_tokens(count: int, width: int, *, seed: int = 2) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


def slow_keys(codebooks: npt.NDArray[np.float32], tokens: npt.NDArray[np.float32]) -> list[int]:
    """One distance after the other, in double precision."""
    num_parts, num_codes, part_width = codebooks.shape
    keys = []
    for token in tokens.astype(np.float64):
        key = 0
        for part in range(num_parts):
            own = token[part * part_width : (part + 1) * part_width]
            distances = [sum((own - row) ** 2) for row in codebooks[part].astype(np.float64)]
            key += distances.index(min(distances)) * num_codes**part
        keys.append(key)
    return keys


def test_a_key_by_hand() -> None:
    # Parts of width one; rows at 0, 1, 4 and at 0, 10, 20: .9 is next to 1 (row 1), 17 to 20 (row 2): 1 + 2 * 3.
    codebook = Codebook(np.array([[[0], [1], [4]], [[0], [10], [20]]], np.float32))
    tokens = np.array([[0.9, 17], [-3, 4], [100, 6]], np.float32)
    assert codebook.keys(tokens).tolist() == [7, 0, 2 + 1 * 3]
    assert codebook.codes(np.array([7, 0, 5])).tolist() == [[1, 2], [0, 0], [2, 1]]
    assert codebook.decode(np.array([7, 0, 5])).tolist() == [[1, 20], [0, 0], [4, 10]]
    assert (codebook.num_parts, codebook.num_codes, codebook.width) == (2, 3, 2)


@given(st.integers(1, 4), st.integers(1, 7), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_keys_are_those_of_one_distance_after_the_other(
    num_parts: int, num_codes: int, part_width: int, seed: int
) -> None:
    codebook = random_codebook(num_parts, num_codes, part_width, seed=seed)
    tokens = random_tokens(9, codebook.width, seed=seed + 1)
    keys = codebook.keys(tokens)
    assert (keys.dtype, keys.shape) == (np.int64, (9,))
    assert keys.tolist() == slow_keys(codebook.codebooks, tokens)


@given(st.integers(1, 4), st.integers(1, 7), st.integers(0, 2**32 - 1))
def test_the_codes_of_a_key_have_that_key(num_parts: int, num_codes: int, seed: int) -> None:
    codebook = random_codebook(num_parts, num_codes, 3, seed=seed)
    keys = np.random.default_rng(seed).integers(0, num_codes**num_parts, 20)
    decoded = codebook.decode(keys)
    assert (decoded.dtype, decoded.shape) == (np.float32, (20, codebook.width))
    assert codebook.keys(decoded).tolist() == keys.tolist()
    powers = num_codes ** np.arange(num_parts)
    assert (codebook.codes(keys) @ powers).tolist() == keys.tolist()


def test_of_equally_near_rows_the_first_is_taken() -> None:
    codebook = Codebook(np.array([[[3], [1], [-1], [1], [-1]]], np.float32))
    assert codebook.keys(np.array([[0], [1], [-1]], np.float32)).tolist() == [1, 1, 2]


def test_keys_do_not_depend_on_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    codebook, tokens = random_codebook(), random_tokens(101, 6)
    together = codebook.keys(tokens)
    monkeypatch.setattr(module, "_BLOCK", 7 * codebook.num_codes)
    np.testing.assert_array_equal(codebook.keys(tokens), together)
    assert len(set(together.tolist())) > 20
    assert codebook.keys(tokens[:0]).shape == (0,)


def test_codes_are_those_of_the_quantizer_that_was_fitted() -> None:
    quantizer = ProductQuantizer(num_parts=4, num_codes=16, width=32, decay=0.9, restart_below=0.1, seed=1)
    tokens = random_tokens(500, 32)
    quantizer.start(tokens[:100])
    codebook = Codebook(quantizer.codebooks.numpy())
    keys = codebook.keys(tokens)
    np.testing.assert_array_equal(codebook.codes(keys), quantizer.codes(tokens).numpy())
    np.testing.assert_array_equal(codebook.decode(keys), quantizer.decode(codebook.codes(keys)).numpy())


def test_keys_up_to_63_bits_are_distinct() -> None:
    # 2^62 keys are the last power of two below 2^63.
    codebook = random_codebook(62, 2, 1)
    ends = np.array([0, 2**62 - 1])
    assert codebook.keys(codebook.decode(ends)).tolist() == ends.tolist()
    with pytest.raises(ValueError, match=r"63 parts of 2 codes make 2\^63 keys, expected fewer than 2\^63"):
        random_codebook(63, 2, 1)


@pytest.mark.parametrize(
    ("codebooks", "message"),
    [
        (np.zeros((2, 3), np.float32), r"float32 of shape \[2, 3\], expected float32 of shape \[parts"),
        (np.zeros((2, 0, 3), np.float32), r"shape \[2, 0, 3\]"),
        (np.zeros((2, 3, 4)), r"codebooks are float64"),
        (np.array([[[0], [1]], [[2], [np.nan]]], np.float32), "row 1 of codebook 1 is not finite"),
        (np.array([[[0], [np.inf]]], np.float32), "row 1 of codebook 0 is not finite"),
    ],
)
def test_an_invalid_codebook_is_refused(codebooks: npt.NDArray[np.float32], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Codebook(codebooks)


def test_tokens_that_have_no_code_are_refused() -> None:
    codebook = random_codebook()
    with pytest.raises(ValueError, match=r"shape \[4, 5\], expected \[n, 6\]"):
        codebook.keys(random_tokens(4, 5))
    tokens = random_tokens(4, 6)
    tokens[2, 5] = np.inf
    with pytest.raises(ValueError, match="token 2 of 4 is not finite"):
        codebook.keys(tokens)


@pytest.mark.parametrize("key", [-1, 125])
def test_keys_of_no_code_are_refused(key: int) -> None:
    with pytest.raises(ValueError, match=f"key {key} is not of this codebook, expected 0 to 124"):
        random_codebook().decode(np.array([3, key]))


def test_a_saved_codebook_is_the_same(tmp_path: Path) -> None:
    codebook = random_codebook()
    codebook.save(tmp_path / "codebook.npy")
    loaded = Codebook.load(tmp_path / "codebook.npy")
    np.testing.assert_array_equal(loaded.codebooks, codebook.codebooks)
    assert loaded.digest == codebook.digest


def test_the_digest_depends_on_numbers_and_shape() -> None:
    codebooks = random_codebook(2, 6, 2).codebooks
    other = codebooks.copy()
    other[1, 5, 1] = np.nextafter(other[1, 5, 1], np.float32(9))
    digests = {Codebook(array).digest for array in (codebooks, other, codebooks.reshape(2, 4, 3))}
    assert len(digests) == 3
    assert all(len(digest) == 64 for digest in digests)


def test_a_codebook_does_not_change_with_its_source_array() -> None:
    codebooks = random_codebook().codebooks.copy()
    codebook = Codebook(codebooks)
    codebooks[:] = 0
    assert np.abs(codebook.codebooks).min() > 0
    with pytest.raises(ValueError, match="read-only"):
        codebook.codebooks[0] = 0


def _saved(array: npt.NDArray[np.generic]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no array",
        _saved(random_codebook().codebooks)[:-1],
        _saved(random_codebook().codebooks)[:40],
        _saved(random_codebook().codebooks) + b"x",
        _saved(np.zeros((2, 3, 4))),
        _saved(np.array([{}], dtype=object)),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "codebook.npy"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"codebook\.npy: holds no codebook: .+; export it again"):
        Codebook.load(path)
