"""Eligible items: a mask over the catalogue, without withdrawn, denied and filtered items.

N items of the catalogue.
"""

from __future__ import annotations

import difflib
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from artefacts.files import signature_of
from features.forgotten import ids_in
from features.ids import IdMap
from features.tables import withdrawn_items

WITHDRAWN_FILE = "withdrawn.npy"


def withdrawn_in(folder: Path, *, num_items: int) -> Items:
    """Reads the rows of a folder, which has the file only where something was withdrawn: [W] int32.

    Raises:
        ValueError: See `load_withdrawn`.
    """
    path = folder / WITHDRAWN_FILE
    return load_withdrawn(path, num_items=num_items) if path.exists() else NO_ITEMS


def load_withdrawn(path: Path, *, num_items: int) -> Items:
    """Reads the rows of a file: [W] int32.

    Raises:
        ValueError: It holds anything else than int32 rows that ascend within the catalogue.
    """
    rows: Items = np.load(path, allow_pickle=False)
    if rows.dtype != np.int32 or rows.ndim != 1 or not _ascend(rows, num_items):
        raise ValueError(
            f"{path}: holds {rows.dtype} {_shown(rows)}, expected int32 rows that ascend from 0 to {num_items - 1} at "
            "most; run the index step again"
        )
    return rows


def eligible_rows(withdrawn: npt.NDArray[np.integer], *, num_items: int) -> npt.NDArray[np.int64]:
    """The other rows: [N - W] int64, ascending.

    Args:
        withdrawn: [W] rows, ascending.
        num_items: N.

    Raises:
        ValueError: The rows do not ascend within the catalogue, or nothing is left.
    """
    if not _ascend(withdrawn, num_items):
        raise ValueError(
            f"rows that are left out are {_shown(withdrawn)}, expected them to ascend within 0 to {num_items - 1}"
        )
    if len(withdrawn) == num_items:
        raise ValueError(
            f"all {num_items:,} items of the catalogue are withdrawn, expected at least one that is offered; look at "
            "the source's table of items, which has none of those that events know"
        )
    return np.delete(np.arange(num_items), withdrawn)


def _ascend(rows: npt.NDArray[np.integer], num_items: int) -> bool:
    return bool((np.diff(rows, prepend=-1) > 0).all()) and int(rows.max(initial=-1)) < num_items


def _shown(rows: npt.NDArray[np.generic]) -> str:
    return np.array2string(rows, threshold=6, edgeitems=2)


LOOK_SECONDS = 1.0
Items = npt.NDArray[np.int32]
NO_ITEMS: Items = np.empty(0, np.int32)

_Signature = tuple[int, int, int]
_log = logging.getLogger(__name__)
# The libraries' silence is not ours: people must see that an id was misspelled.
_log.setLevel(logging.INFO)


class DenyList:
    """Ids of the denied items; one list serves all bundles of a process, so that a new bundle denies what the last did.

    Args:
        path: The file; where there is none, nothing is denied.
        clock: Monotonic seconds; given only by tests.

    Raises:
        ValueError: The file cannot be read: what it denies would be answered with.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Reads the file."""
        self.path, self._clock = path, clock
        self._next_look = -np.inf
        self._signature: _Signature | None = None
        self.item_ids: tuple[str, ...] = ()
        """Distinct, ascending; another object whenever the file has changed."""
        self.problem: str | None = None
        """Why the file cannot be read now, which leaves the items denied that were; None where it can."""
        self.look()
        if self.problem is not None:
            raise ValueError(
                f"{path}: {self.problem}; nothing is answered while it is not known what is denied: expected UTF-8 "
                "text with an item id a line. Make it readable, or remove it where nothing is denied"
            )

    def look(self) -> None:
        """Reads the file again if it has changed, at most once a second.

        One that cannot be read changes nothing: what was denied before stays denied, and a line is logged.
        """
        now = self._clock()
        if now < self._next_look:
            return
        self._next_look = now + LOOK_SECONDS
        try:
            found = signature_of(self.path)
            if found is None and self._signature is not None:
                # A folder that is gone, as one that is no longer mounted, allows nothing.
                self.path.parent.stat()
            if found != self._signature:
                text = "" if found is None else self.path.read_text(encoding="utf-8")
                self.item_ids, self._signature = tuple(sorted(set(ids_in(text)))), found
            problem = None
        except (OSError, ValueError) as error:
            problem = f"cannot be read ({error.strerror if isinstance(error, OSError) else error})"
        if problem is not None and problem != self.problem:
            _log.error("%s: %s; what was denied before stays denied", self.path, problem)
        self.problem = problem


class DeniedItems:
    """The denied items of a catalogue. Several threads may ask at the same time.

    Args:
        denied: The list.
        item_ids: Of the catalogue.
    """

    def __init__(self, denied: DenyList, item_ids: IdMap) -> None:
        """Looks nothing up yet."""
        self._denied, self._item_ids = denied, item_ids
        self._of: tuple[tuple[str, ...], Items] = ((), NO_ITEMS)

    def rows(self) -> Items:
        """Catalogue rows of the denied items, ascending and distinct; the same array as long as nothing has changed."""
        self._denied.look()
        names, (of, rows) = self._denied.item_ids, self._of
        if names is not of:
            found = self._item_ids.rows(names)
            rows = np.sort(found[found > 0] - 1).astype(np.int32)
            rows.flags.writeable = False
            self._of = names, rows
            num_unknown = len(names) - len(rows)
            level = logging.WARNING if num_unknown else logging.INFO
            message = "%s: %d items denied, %d more not in this bundle"
            _log.log(level, message, self._denied.path, len(rows), num_unknown)
        return rows


Mask = npt.NDArray[np.bool_]
# Combinations of categories whose masks are kept; each takes a byte an item.
KEPT_MASKS = 64


Categories = str | tuple[str, ...] | None
"""What an item is of: a category, several, or none."""


def names_of(categories: Categories) -> tuple[str, ...]:
    """The names of an item's categories."""
    return (categories,) if isinstance(categories, str) else categories or ()


class UnknownCategoryError(ValueError):
    """A category is asked for that no item has; the message names it."""


@dataclass(frozen=True, eq=False)
class EligibleItems:
    """Items that may be answered with.

    Attributes:
        whole: [N + A] of the catalogue, and of what was added to it; read-only.
        num_added: A.
    """

    whole: Mask
    num_added: int = 0

    @cached_property
    def mask(self) -> Mask:
        """[N] of the catalogue."""
        return self.whole[: len(self.whole) - self.num_added]

    @property
    def added(self) -> Mask:
        """[A] of what was added."""
        return self.whole[len(self.whole) - self.num_added :]

    @cached_property
    def num_items(self) -> int:
        """How many of the catalogue they are."""
        return int(np.count_nonzero(self.mask))

    def without(self, rows: npt.NDArray[np.integer]) -> EligibleItems:
        """The same but for some rows."""
        whole = self.whole.copy()
        whole[rows] = False
        return replace(self, whole=whole)


def everything_but(rows: npt.NDArray[np.integer], *, num_items: int, num_added: int = 0) -> EligibleItems | None:
    """Everything without some rows, the last `num_added` of `num_items` being added ones; None without rows."""
    return EligibleItems(np.ones(num_items, np.bool_), num_added).without(rows) if len(rows) else None


def less(
    eligible: EligibleItems | None, rows: npt.NDArray[np.integer], *, num_items: int, num_added: int = 0
) -> EligibleItems | None:
    """Eligible items, or everything where all are, without some rows."""
    if eligible is None:
        return everything_but(rows, num_items=num_items, num_added=num_added)
    return eligible.without(rows)


@dataclass
class KeptOut:
    """What no user gets now: withdrawn and denied items; the same array as long as nothing changes."""

    withdrawn: Items
    denied: DeniedItems | None
    _last: tuple[Items, Items] | None = field(default=None, init=False)

    def __call__(self) -> Items:
        """Catalogue rows, ascending and distinct."""
        if self.denied is None:
            return self.withdrawn
        rows, last = self.denied.rows(), self._last
        if last is None or last[0] is not rows:
            self._last = last = (rows, np.union1d(self.withdrawn, rows).astype(np.int32))
        return last[1]


class Eligibility:
    """Which items of a catalogue may be answered with: not withdrawn, not denied, of the categories asked for.

    Args:
        categories: [N + A] name of each item's category, or of several, or None; those of added items last.
        kept_out: Catalogue rows that no user gets now. Called for every request, and returns the same array as long as
            nothing has changed.
        num_added: A.
    """

    def __init__(self, categories: Sequence[Categories], kept_out: Callable[[], Items], *, num_added: int = 0) -> None:
        """Numbers what items are of, each combination of categories alike."""
        self._num_added = num_added
        numbers: dict[Categories, int] = {None: 0}
        self._of_item = np.array([numbers.setdefault(found, len(numbers)) for found in categories], np.int32)
        self._names = [names_of(found) for found in numbers]
        self._known = dict.fromkeys(name for names in self._names for name in names)
        self._kept_out = kept_out
        self._last: tuple[Items, EligibleItems | None] | None = None
        self._of_categories = lru_cache(KEPT_MASKS)(self._mask_of)

    @property
    def category_names(self) -> list[str]:
        """Categories that an item has, in the order of the catalogue."""
        return list(self._known)

    def of(
        self, *, allow: Iterable[str] | None = None, deny: Iterable[str] = (), exclude: npt.NDArray[np.integer]
    ) -> EligibleItems | None:
        """What may be answered with.

        Args:
            allow: Categories of which alone items come, those that have any of them; None lets all come.
            deny: Categories of which none come; one that no item has changes nothing.
            exclude: Catalogue rows that do not come.

        Returns:
            None where everything may come.

        Raises:
            UnknownCategoryError: No item is of a category in `allow`.
        """
        allowed = None if allow is None else frozenset(allow)
        self._check(allowed or ())
        eligible = self._unfiltered()
        denied = frozenset(name for name in deny if name in self._known)
        if allowed is not None or denied:
            mask = self._of_categories(allowed, denied)
            eligible = EligibleItems(mask if eligible is None else mask & eligible.whole, self._num_added)
        if not len(exclude):
            return eligible
        return less(eligible, exclude, num_items=len(self._of_item), num_added=self._num_added)

    def _unfiltered(self) -> EligibleItems | None:
        """What may come without filters; the same object until something changes."""
        kept_out, last = self._kept_out(), self._last
        if last is None or last[0] is not kept_out:
            eligible = everything_but(kept_out, num_items=len(self._of_item), num_added=self._num_added)
            last = (kept_out, eligible)
            self._last = last
        return last[1]

    def _mask_of(self, allowed: frozenset[str] | None, denied: frozenset[str]) -> Mask:
        chosen = [
            (allowed is None or not allowed.isdisjoint(names)) and denied.isdisjoint(names) for names in self._names
        ]
        mask = np.array(chosen)[self._of_item]
        mask.flags.writeable = False
        return mask

    def _check(self, names: Iterable[str]) -> None:
        for name in sorted(names):
            if name not in self._known:
                near = difflib.get_close_matches(name, self.category_names, n=1)
                meant = f"; did you mean {near[0]!r}?" if near else ""
                raise UnknownCategoryError(f"{name!r}, which no item of this catalogue is of{meant}")


def withdrawn_rows(tables: Path, encoder: Path) -> Items:
    """Catalogue rows of a fit whose items are withdrawn by the tables of now: [W] int32, ascending."""
    names = withdrawn_items(tables)
    if not names:
        return NO_ITEMS
    rows = IdMap.load(encoder / "item_ids.parquet").rows(names)
    return np.sort(rows[rows > 0] - 1).astype(np.int32)


def write_withdrawn(tables: Path, encoder: Path, folder: Path) -> Path | None:
    """Writes these rows into a folder, for jobs and for later readers of the folder; None where there are none."""
    rows = withdrawn_rows(tables, encoder)
    if not len(rows):
        return None
    np.save(folder / WITHDRAWN_FILE, rows, allow_pickle=False)
    return folder / WITHDRAWN_FILE
