"""SparCode's interaction of tokens and items in NumPy: what `towers/sparcode.py` fits, over many pairs at once.

    h = relu( sum_k W_k (q * t_k) + c ),   S = sum_k <a_k, q * t_k> + <w, h>

W_k diag(t_k) summed over an item's tokens is one matrix [H, D] of the item alone, worked out once for a block of items.
Products are always of one size, padded at the ends: a library's rounding depends on the size, so that a
pair would else score a last digit more or less by what else is asked. With the kernels for AVX-512 scores are then the
same to the last digit however tokens and items are cut; those for AVX2 round by the place in the product, too.

Shape letters: Q tokens of users, n items of a block, D width of a token, K_c tokens of an item, H hidden units.

Source: Su et al. (SparCode), SIGIR 2023, section 3.4; see `towers/sparcode.py` for what departs from it.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

_KIND = "kind"
# Pairs worked out at a time: with 16 hidden units half a megabyte, which a core's second cache holds.
_TILE_TOKENS, _TILE_ITEMS = 128, 64


class Interaction(Protocol):
    """Any net that scores tokens of users against items."""

    @property
    def width(self) -> int:
        """D."""
        ...

    @property
    def num_item_tokens(self) -> int:
        """K_c."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 of kind, shapes and numbers, in hexadecimal."""
        ...

    def prepare(self, items: Floats) -> Any:
        """What can be worked out of a block of items alone.

        Args:
            items: [n, K_c, D] float32.

        Returns:
            What `scores` takes.
        """
        ...

    def scores(self, tokens: Floats, prepared: Any) -> Floats:
        """Scores of all pairs, before the bias of the ReLU.

        Args:
            tokens: [Q, D] float32.
            prepared: What `prepare` made of n items.

        Returns:
            [Q, n] float32.
        """
        ...


@dataclass(frozen=True, eq=False)
class PreparedItems:
    """What an interaction knows of n items, with empty ones behind them: n' in all."""

    num_items: int
    """n."""
    products: Floats
    """[n', D]: sum_k a_k * t_k."""
    hidden: Floats | None
    """[n' H, D + 1]: sum_k W_k diag(t_k), and the bias c for a token's further coordinate, which is 1."""


@dataclass(frozen=True, eq=False)
class ProductInteraction:
    """Weighted inner products alone.

    Raises:
        ValueError: Shapes do not fit, or a number is not a finite float32.
    """

    kind: ClassVar[str] = "product"

    products: Floats
    """[K_c, D]: a_k."""

    def __post_init__(self) -> None:
        """Checks shape and numbers."""
        _check(self, {"products": self.products.shape[:1] + self.products.shape[-1:]})

    @property
    def width(self) -> int:
        """See `Interaction`."""
        return int(self.products.shape[1])

    @property
    def num_item_tokens(self) -> int:
        """See `Interaction`."""
        return len(self.products)

    @property
    def digest(self) -> str:
        """See `Interaction`."""
        return _digest(self)

    def prepare(self, items: Floats) -> PreparedItems:
        """See `Interaction`: 4 n D bytes."""
        return PreparedItems(len(items), _products(_padded(items, _TILE_ITEMS), self.products), None)

    def scores(self, tokens: Floats, prepared: PreparedItems) -> Floats:
        """See `Interaction`."""

        def of_tile(block: Floats, items: slice) -> Floats:
            return block @ prepared.products[items].T

        return _in_tiles(tokens, prepared.num_items, of_tile)


@dataclass(frozen=True, eq=False)
class MlpInteraction:
    """Inner products and a hidden layer over Hadamard products.

    Raises:
        ValueError: Shapes do not fit, or a number is not a finite float32.
    """

    kind: ClassVar[str] = "mlp"

    products: Floats
    """[K_c, D]: a_k."""
    hidden: Floats
    """[K_c, H, D]: W_k."""
    hidden_bias: Floats
    """[H]: c."""
    output: Floats
    """[H]: w."""

    def __post_init__(self) -> None:
        """Checks shapes and numbers."""
        num_tokens, width = self.products.shape[:1], self.products.shape[-1:]
        units = self.hidden.shape[1:2]
        _check(
            self,
            {
                "products": num_tokens + width,
                "hidden": num_tokens + units + width,
                "hidden_bias": units,
                "output": units,
            },
        )

    @property
    def width(self) -> int:
        """See `Interaction`."""
        return int(self.products.shape[1])

    @property
    def num_item_tokens(self) -> int:
        """See `Interaction`."""
        return len(self.products)

    @property
    def digest(self) -> str:
        """See `Interaction`."""
        return _digest(self)

    def prepare(self, items: Floats) -> PreparedItems:
        """See `Interaction`: 4 n (H + 1) (D + 1) bytes."""
        num_items, units = len(items), len(self.output)
        items = _padded(items, _TILE_ITEMS)
        hidden = np.empty((len(items), units, self.width + 1), np.float32)
        np.einsum("nkd,khd->nhd", items, self.hidden, out=hidden[..., :-1])
        hidden[..., -1] = self.hidden_bias
        return PreparedItems(num_items, _products(items, self.products), hidden.reshape(-1, self.width + 1))

    def scores(self, tokens: Floats, prepared: PreparedItems) -> Floats:
        """See `Interaction`."""
        if prepared.hidden is None:
            raise ValueError("the items were prepared for inner products alone; prepare them with this interaction")
        factors, units = prepared.hidden, len(self.output)
        longer = np.hstack([tokens, np.ones((len(tokens), 1), np.float32)])
        hidden = np.empty((_TILE_TOKENS, _TILE_ITEMS * units), np.float32)

        def of_tile(block: Floats, items: slice) -> Floats:
            np.matmul(block, factors[items.start * units : items.stop * units].T, out=hidden)
            np.maximum(hidden, 0, out=hidden)
            found = block[:, :-1] @ prepared.products[items].T
            found += (hidden.reshape(-1, units) @ self.output).reshape(found.shape)
            return found

        return _in_tiles(longer, prepared.num_items, of_tile)


INTERACTIONS: dict[str, type[MlpInteraction] | type[ProductInteraction]] = {
    interaction.kind: interaction for interaction in (MlpInteraction, ProductInteraction)
}


def save_interaction(path: Path, kind: str, arrays: Mapping[str, Floats]) -> None:
    """Writes an interaction as one file.

    Args:
        path: File to write, `.npz`.
        kind: One of `INTERACTIONS`.
        arrays: By name, as `arrays()` of the fitted net gives them.

    Raises:
        ValueError: There is no such kind, or the arrays are not what it is made of.
    """
    _make(kind, arrays)
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **{_KIND: np.array(kind)}, **arrays)


def load_interaction(path: Path) -> MlpInteraction | ProductInteraction:
    """Reads what `save_interaction` wrote.

    Raises:
        ValueError: The file is damaged, or holds no interaction.
    """
    with path.open("rb") as file:
        try:
            with np.load(file, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files if name != _KIND}
                return _make(str(archive[_KIND]), arrays)
        except (ValueError, KeyError, AttributeError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path}: holds no interaction: {error}; export it again") from error


def _padded(rows: Floats, multiple: int) -> Floats:
    missing = -len(rows) % multiple
    return np.concatenate([rows, np.zeros((missing, *rows.shape[1:]), np.float32)]) if missing else rows


def _in_tiles(tokens: Floats, num_items: int, of_tile: Callable[[Floats, slice], Floats]) -> Floats:
    rows = _padded(tokens, _TILE_TOKENS)
    found = np.empty((len(tokens), num_items), np.float32)
    for first in range(0, num_items, _TILE_ITEMS):
        items = slice(first, first + _TILE_ITEMS)
        for start in range(0, len(rows), _TILE_TOKENS):
            own = found[start : start + _TILE_TOKENS, items]
            own[:] = of_tile(rows[start : start + _TILE_TOKENS], items)[: own.shape[0], : own.shape[1]]
    return found


def _products(items: Floats, factors: Floats) -> Floats:
    return np.asarray(np.einsum("nkd,kd->nd", items, factors), np.float32)


def _make(kind: str, arrays: Mapping[str, Floats]) -> MlpInteraction | ProductInteraction:
    if kind not in INTERACTIONS:
        raise ValueError(f"interaction is of kind {kind!r}, expected one of: {', '.join(INTERACTIONS)}")
    expected = [field.name for field in fields(INTERACTIONS[kind])]
    if sorted(arrays) != sorted(expected):
        raise ValueError(f"arrays of {kind!r} are {', '.join(sorted(arrays))}, expected {', '.join(expected)}")
    return INTERACTIONS[kind](**arrays)


def _check(interaction: MlpInteraction | ProductInteraction, shapes: Mapping[str, tuple[int, ...]]) -> None:
    for name, shape in shapes.items():
        array: npt.NDArray[Any] = getattr(interaction, name)
        if array.shape != shape or array.dtype != np.float32 or not (array.ndim and array.size):
            raise ValueError(
                f"{name} is {array.dtype} of shape {list(array.shape)}, expected float32 of shape {list(shape)}"
            )
        if not np.isfinite(array).all():
            raise ValueError(f"{name} holds nan or infinity; look at the training of the scorer")


def _digest(interaction: MlpInteraction | ProductInteraction) -> str:
    made = hashlib.sha256(interaction.kind.encode())
    for field in fields(interaction):
        array: Floats = getattr(interaction, field.name)
        made.update(f"{field.name}{array.shape}".encode() + array.astype("<f4").tobytes())
    return made.hexdigest()
