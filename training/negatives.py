"""Which columns of a batch are not negatives of a row? Accidental hits and what the user is known to like.

Shape letters: B rows, C candidates, P known pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class KnownPositives:
    """Items that each user is known to have met, as rows of the id maps (compressed by user).

    Attributes:
        starts: [num_user_rows + 1] int64, where each user's items begin.
        items: [P] int64 item rows.
    """

    starts: Ints
    items: Ints

    @classmethod
    def of(cls, user_rows: Ints, item_rows: Ints, *, num_user_rows: int) -> KnownPositives:
        """Compresses pairs given in any order."""
        order = np.argsort(user_rows, kind="stable")
        counts = np.bincount(user_rows, minlength=num_user_rows)
        return cls(np.concatenate([[0], np.cumsum(counts)]), item_rows[order].astype(np.int64))

    @property
    def owners(self) -> Ints:
        """[P] user row of each pair."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))

    def pairs_of(self, user_rows: Ints) -> tuple[Ints, Ints]:
        """Position in `user_rows` and item row of every known pair of those users."""
        begins, counts = self.starts[user_rows], np.diff(self.starts)[user_rows]
        position = np.repeat(np.arange(len(user_rows)), counts)
        offset = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return position, self.items[begins[position] + offset]


def false_negatives(user_rows: Ints, candidate_rows: Ints, known: KnownPositives) -> npt.NDArray[np.bool_]:
    """Columns that must not count as negatives of a row.

    Args:
        user_rows: [B] the rows' users.
        candidate_rows: [C] the columns' items; column i is row i's own.
        known: What each user is known to have met.

    Returns:
        [B, C] bool, True where the column holds the row's own item again, or an item that the user has met, or one that
        another row of the same user has as its own. A row's own column is False.
    """
    num_rows = len(user_rows)
    distinct, column = np.unique(candidate_rows, return_inverse=True)
    users, row_user = np.unique(user_rows, return_inverse=True)
    hit = np.zeros((len(users), len(distinct)), dtype=bool)
    position, item = known.pairs_of(users)
    place = np.minimum(np.searchsorted(distinct, item), len(distinct) - 1)
    present = distinct[place] == item
    hit[position[present], place[present]] = True
    hit[row_user, column[:num_rows]] = True
    mask = hit[:, column][row_user]
    mask[np.arange(num_rows), np.arange(num_rows)] = False
    return np.asarray(mask)
