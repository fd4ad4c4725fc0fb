"""SparCode's codebook: each part of a user token becomes its nearest row, all parts together one integer.

    k_m = argmin_k || t^(m) - C_k^(m) ||,   key = sum_m k_m N^m

Nothing but NumPy: what the tables are built with and what a request is answered with is the same code over the same
float32 numbers.

Shape letters: n tokens, D width of a token, M parts, N rows of a codebook, P = D / M.

Source: Su et al. (SparCode), SIGIR 2023, section 3.3.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Keys = npt.NDArray[np.int64]

# Distances worked out at a time, in numbers: 4 MiB.
_BLOCK = 2**20


class Codebook:
    """M codebooks that never change.

    Args:
        codebooks: [M, N, P] float32.

    Raises:
        ValueError: The shape or type is another, a number is not finite, or N ** M has no place in 63 bits.
    """

    def __init__(self, codebooks: Floats) -> None:
        """Checks the numbers and takes their squares."""
        if codebooks.ndim != 3 or not codebooks.size or codebooks.dtype != np.float32:
            raise ValueError(
                f"codebooks are {codebooks.dtype} of shape {list(codebooks.shape)}, expected float32 of shape "
                "[parts, codes, width of a part]"
            )
        finite = np.isfinite(codebooks).all(axis=2)
        if not finite.all():
            part, code = np.argwhere(~finite)[0]
            raise ValueError(f"row {code} of codebook {part} is not finite; look at the training of the quantizer")
        self.num_parts, self.num_codes, self._part_width = codebooks.shape
        if self.num_codes**self.num_parts >= 2**63:
            raise ValueError(
                f"{self.num_parts} parts of {self.num_codes} codes make {self.num_codes}^{self.num_parts} keys, "
                "expected fewer than 2^63; take fewer parts or codes"
            )
        self.codebooks: Floats = np.array(codebooks, order="C")
        self.codebooks.flags.writeable = False
        self._squares = np.square(self.codebooks).sum(axis=2)
        # -2 C^T: multiplying by a power of two changes no digit.
        self._minus_twice = np.ascontiguousarray(-2 * self.codebooks.transpose(0, 2, 1))
        self._powers = self.num_codes ** np.arange(self.num_parts, dtype=np.int64)

    @property
    def width(self) -> int:
        """D."""
        return int(self.num_parts * self._part_width)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of shape and numbers, in hexadecimal."""
        shape = str(self.codebooks.shape).encode()
        return hashlib.sha256(shape + self.codebooks.astype("<f4").tobytes()).hexdigest()

    def keys(self, tokens: Floats) -> Keys:
        """The codes of tokens, each as one integer.

        The distance is |c|^2 - 2 <t, c> in float32; of equally near rows the first one is taken.

        Args:
            tokens: [n, D] float32.

        Returns:
            [n] int64, 0 to N^M - 1.

        Raises:
            ValueError: The width is another, or a token is not finite.
        """
        self._check(tokens)
        found = np.empty(len(tokens), np.int64)
        rows = max(_BLOCK // (self.num_parts * self.num_codes), 1)
        for start in range(0, len(tokens), rows):
            nearest = self._distances(tokens[start : start + rows]).argmin(axis=2)
            found[start : start + rows] = self._powers @ nearest
        return found

    def distances(self, tokens: Floats) -> Floats:
        """From each part of tokens to all rows of its codebook: |c|^2 - 2 <t, c>, which is |t - c|^2 less |t|^2.

        Args:
            tokens: [n, D] float32, few: all is worked out at a time.

        Returns:
            [M, n, N] float32.

        Raises:
            ValueError: The width is another, or a token is not finite.
        """
        self._check(tokens)
        return self._distances(tokens)

    def codes(self, keys: Keys) -> npt.NDArray[np.int32]:
        """The row in each part's codebook: [n] int64 -> [n, M] int32.

        Raises:
            ValueError: A key is no sum of codes.
        """
        wrong = (keys < 0) | (keys >= self.num_codes**self.num_parts)
        if wrong.any():
            raise ValueError(
                f"key {int(keys[np.argmax(wrong)])} is not of this codebook, expected 0 to "
                f"{self.num_codes**self.num_parts - 1}"
            )
        return np.asarray(keys[:, None] // self._powers % self.num_codes, np.int32)

    def decode(self, keys: Keys) -> Floats:
        """The tokens that keys encode: [n] int64 -> [n, D] float32.

        Raises:
            ValueError: A key is no sum of codes.
        """
        codes = self.codes(keys)
        return np.asarray(self.codebooks[np.arange(self.num_parts), codes].reshape(len(keys), self.width))

    def _check(self, tokens: Floats) -> None:
        if tokens.ndim != 2 or tokens.shape[1] != self.width:
            raise ValueError(f"tokens have shape {list(tokens.shape)}, expected [n, {self.width}] as the codebook has")
        if not np.isfinite(tokens).all():
            row = int(np.argmin(np.isfinite(tokens).all(axis=1)))
            raise ValueError(f"token {row} of {len(tokens)} is not finite; look at the tower that made it")

    def _distances(self, tokens: Floats) -> Floats:
        parts = tokens.reshape(len(tokens), self.num_parts, self._part_width).transpose(1, 0, 2)
        distances: Floats = parts @ self._minus_twice
        distances += self._squares[:, None]
        return distances

    def save(self, path: Path) -> None:
        """Writes the codebooks as one plain array."""
        with path.open("wb") as file:
            np.save(file, self.codebooks, allow_pickle=False)

    @classmethod
    def load(cls, path: Path) -> Codebook:
        """Reads what `save` wrote.

        Raises:
            ValueError: The file is damaged, or holds no codebooks.
        """
        with path.open("rb") as file:
            try:
                codebooks = np.lib.format.read_array(file, allow_pickle=False)
                if file.read(1):
                    raise ValueError("more bytes than its header describes")
                return cls(codebooks)
            except ValueError as error:
                raise ValueError(f"{path}: holds no codebook: {error}; export it again") from error
