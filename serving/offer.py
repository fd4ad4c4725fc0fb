"""Which items may be answered with? A mask over the catalogue, the same for all users of a request.

N items of the catalogue.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from serving.denied import Items

Mask = npt.NDArray[np.bool_]
# Combinations of categories whose masks are kept; each takes a byte an item.
KEPT_MASKS = 64


class UnknownCategoryError(ValueError):
    """A category is asked for that no item has; the message names it."""


@dataclass(frozen=True, eq=False)
class Offer:
    """Items that may be answered with.

    Attributes:
        mask: [N], read-only.
    """

    mask: Mask

    @cached_property
    def num_items(self) -> int:
        """How many they are."""
        return int(np.count_nonzero(self.mask))

    def without(self, rows: npt.NDArray[np.integer]) -> Offer:
        """The same but for some catalogue rows."""
        mask = self.mask.copy()
        mask[rows] = False
        return Offer(mask)


def everything_but(rows: npt.NDArray[np.integer], *, num_items: int) -> Offer | None:
    """The whole catalogue without some rows; None where there are none."""
    return Offer(np.ones(num_items, np.bool_)).without(rows) if len(rows) else None


def less(offer: Offer | None, rows: npt.NDArray[np.integer], *, num_items: int) -> Offer | None:
    """An offer, or the whole catalogue where there is none, without some rows."""
    return everything_but(rows, num_items=num_items) if offer is None else offer.without(rows)


class Offers:
    """Offers over one catalogue.

    Args:
        categories: [N] name of each item's category, or None.
        kept_out: Catalogue rows that nobody gets now. Asked for every offer, and returns the same array as long as
            nothing has changed.
    """

    def __init__(self, categories: Sequence[str | None], kept_out: Callable[[], Items]) -> None:
        """Numbers the categories."""
        self._numbers: dict[str | None, int] = {None: 0}
        self._of_item = np.array([self._numbers.setdefault(name, len(self._numbers)) for name in categories], np.int32)
        self._kept_out = kept_out
        self._last: tuple[Items, Offer | None] | None = None
        self._of_categories = lru_cache(KEPT_MASKS)(self._mask_of)

    @property
    def category_names(self) -> list[str]:
        """Categories that an item has, in the order of the catalogue."""
        return [name for name in self._numbers if name is not None]

    def of(
        self, *, allow: Iterable[str] | None = None, deny: Iterable[str] = (), exclude: npt.NDArray[np.integer]
    ) -> Offer | None:
        """What may be answered with.

        Args:
            allow: Categories of which alone items come; None lets all come.
            deny: Categories of which none come; one that no item has changes nothing.
            exclude: Catalogue rows that do not come.

        Returns:
            None where everything may come.

        Raises:
            UnknownCategoryError: No item is of a category in `allow`.
        """
        allowed = None if allow is None else frozenset(allow)
        self._check(allowed or ())
        offer = self._standing()
        denied = frozenset(name for name in deny if name in self._numbers)
        if allowed is not None or denied:
            mask = self._of_categories(allowed, denied)
            offer = Offer(mask if offer is None else mask & offer.mask)
        if not len(exclude):
            return offer
        return less(offer, exclude, num_items=len(self._of_item))

    def _standing(self) -> Offer | None:
        """What may come whatever is asked; the same object until something changes."""
        kept_out, last = self._kept_out(), self._last
        if last is None or last[0] is not kept_out:
            last = (kept_out, everything_but(kept_out, num_items=len(self._of_item)))
            self._last = last
        return last[1]

    def _mask_of(self, allowed: frozenset[str] | None, denied: frozenset[str]) -> Mask:
        chosen = np.full(len(self._numbers), allowed is None)
        chosen[[self._numbers[name] for name in allowed or ()]] = True
        chosen[[self._numbers[name] for name in denied]] = False
        mask = chosen[self._of_item]
        mask.flags.writeable = False
        return mask

    def _check(self, names: Iterable[str]) -> None:
        for name in sorted(names):
            if name not in self._numbers:
                near = difflib.get_close_matches(name, self.category_names, n=1)
                meant = f"; did you mean {near[0]!r}?" if near else ""
                raise UnknownCategoryError(f"{name!r}, which no item of this catalogue is of{meant}")
