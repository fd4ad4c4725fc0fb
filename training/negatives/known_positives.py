"""Known positives and repeats: which columns of a batch are not negatives of a row.

Shape letters: B rows, C candidates, P pairs of a user and an item.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
# Row of the unknown id and of padding: a column that holds it is no user's negative.
NO_ITEM = 0


@dataclass(frozen=True)
class UserItems:
    """A list of items for each user, as rows of the id maps (compressed by user).

    Attributes:
        starts: [num_user_rows + 1] int64, where each user's items begin.
        items: [P] int64 item rows.
    """

    starts: Ints
    items: Ints

    @classmethod
    def of(cls, user_rows: Ints, item_rows: Ints, *, num_user_rows: int) -> Self:
        """Compresses pairs given in any order; the items of a user keep theirs."""
        order = np.argsort(user_rows, kind="stable")
        counts = np.bincount(user_rows, minlength=num_user_rows)
        return cls(np.concatenate([[0], np.cumsum(counts)]), item_rows[order].astype(np.int64))

    @property
    def owners(self) -> Ints:
        """[P] user row of each pair."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))

    def counts_of(self, user_rows: Ints) -> Ints:
        """Number of items of each of some users."""
        return np.asarray(self.starts[user_rows + 1] - self.starts[user_rows])

    def pairs_of(self, user_rows: Ints) -> tuple[Ints, Ints]:
        """Position in `user_rows` and item row of every pair of those users."""
        counts = self.counts_of(user_rows)
        position = np.repeat(np.arange(len(user_rows)), counts)
        shift = self.starts[user_rows] - (np.cumsum(counts) - counts)
        return position, self.items[np.arange(len(position)) + shift[position]]


@dataclass(frozen=True)
class KnownPositives(UserItems):
    """Items that each user is known to have met."""

    @cached_property
    def users_of_items(self) -> UserItems:
        """The same pairs from the other side: `items` are the user rows of each item row."""
        return UserItems.of(self.items, self.owners, num_user_rows=int(self.items.max(initial=0)) + 1)

    @cached_property
    def _keys(self) -> Ints:
        return np.sort(_keys(self.owners, self.items))

    def contain(self, user_rows: Ints, item_rows: Ints) -> Mask:
        """Whether a user is known to have met an item, for arrays that broadcast."""
        return is_in(_keys(user_rows, item_rows), self._keys)

    def among(self, user_rows: Ints, item_rows: Ints) -> tuple[Ints, Ints]:
        """Positions in `user_rows` and in `item_rows`, both distinct and rising, of the known pairs between them.

        It walks the lists of the users or those of the items, whichever are shorter.
        """
        by_item = self.users_of_items
        item_rows = item_rows[: np.searchsorted(item_rows, len(by_item.starts) - 1)]
        if by_item.counts_of(item_rows).sum() < self.counts_of(user_rows).sum():
            column, user = by_item.pairs_of(item_rows)
            row = _places(user_rows, size=len(self.starts))[user]
        else:
            row, item = self.pairs_of(user_rows)
            column = _places(item_rows, size=len(by_item.starts))[item]
        found = np.flatnonzero((row >= 0) & (column >= 0))
        return row[found], column[found]


def counted_columns(candidate_rows: Ints, *, begin: int) -> tuple[Ints, Ints]:
    """Where each distinct item of a batch counts: its first column.

    Args:
        candidate_rows: [C] the columns' items, `NO_ITEM` where there is none.
        begin: Columns before this one do not count.

    Returns:
        The distinct items, rising, and the column of each.
    """
    items, columns = np.unique(candidate_rows[begin:], return_index=True)
    return items[items != NO_ITEM], columns[items != NO_ITEM] + begin


def false_negatives(user_rows: Ints, candidate_rows: Ints, known: KnownPositives, *, in_batch: bool) -> Mask:
    """Columns that must not count as negatives of a row.

    An item counts once in a row, so that what corrects it is the probability that it is there at all; a column that
    repeats it is masked for every row.

    Args:
        user_rows: [B] the rows' users.
        candidate_rows: [C] the columns' items, `NO_ITEM` where there is none; column i is row i's own.
        known: What each user is known to have met.
        in_batch: Whether a row's own item is a negative of the other rows.

    Returns:
        [B, C] bool, True where the column holds an item that an earlier one holds, or the row's own, or one that the
        user has met, or one that another row of the same user has as its own. A row's own column is False.
    """
    num_rows = len(user_rows)
    items, columns = counted_columns(candidate_rows, begin=0 if in_batch else num_rows)
    users, row_user = np.unique(user_rows, return_inverse=True)
    repeats = np.ones(len(candidate_rows), dtype=bool)
    repeats[columns] = False
    hit = np.tile(repeats, (len(users), 1))
    user, item = known.among(users, items)
    hit[user, columns[item]] = True
    own = _places(items, size=int(candidate_rows.max()) + 1)[candidate_rows[:num_rows]]
    hit[row_user[own >= 0], columns[own[own >= 0]]] = True
    mask = hit[row_user]
    mask[np.arange(num_rows), np.arange(num_rows)] = False
    return np.asarray(mask)


def is_in(values: Ints, rising: Ints) -> Mask:
    """Which values are among some in rising order."""
    if not len(rising):
        return np.zeros(values.shape, dtype=bool)
    order = np.argsort(values, axis=None)  # neighbours find their places in the same part of memory
    asked = values.ravel()[order]
    found = np.empty(values.size, dtype=bool)
    found[order] = rising[np.minimum(np.searchsorted(rising, asked), len(rising) - 1)] == asked
    return found.reshape(values.shape)


def _keys(user_rows: Ints, item_rows: Ints) -> Ints:
    """One number for each pair; rows are those of tables in memory, below 2^31."""
    return np.asarray((np.asarray(user_rows, np.int64) << 31) + item_rows)


def _places(values: Ints, *, size: int) -> Ints:
    """[size] place of each number below `size` among `values`, -1 where it is not."""
    places = np.full(size, -1, np.int64)
    places[values] = np.arange(len(values))
    return places
