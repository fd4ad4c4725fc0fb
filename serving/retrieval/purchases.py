"""Purchases: which user has met which item, how often and when last, in compressed rows.

U user rows (row 0 is the unknown user and stays empty), N items of the catalogue, E distinct (user, item) pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import sparse

from features import columns
from features.ids import IdMap

FILES = ("indptr.npy", "indices.npy", "counts.npy", "last_seconds.npy")


@dataclass(frozen=True)
class Purchases:
    """Past events per (user, item) pair in compressed rows; within a row the items ascend.

    Raises:
        ValueError: Lengths, order or item rows do not fit each other.
    """

    indptr: npt.NDArray[np.int64]
    """[U + 1]: row u owns the pairs `indptr[u]` to `indptr[u + 1]`."""
    indices: npt.NDArray[np.int32]
    """[E]: catalogue row of the item, 0 to N - 1."""
    counts: npt.NDArray[np.int32]
    """[E]: number of events of the pair, at least 1."""
    last_seconds: npt.NDArray[np.int64]
    """[E]: latest event of the pair, Unix seconds."""
    num_items: int
    """N."""

    def __post_init__(self) -> None:
        """Checks what every reader relies on."""
        num_pairs = len(self.indices)
        if len(self.counts) != num_pairs or len(self.last_seconds) != num_pairs:
            raise ValueError(
                f"indices, counts and last_seconds have {num_pairs}, {len(self.counts)} and {len(self.last_seconds)} "
                "entries, expected the same number"
            )
        if not len(self.indptr) or self.indptr[0] != 0 or self.indptr[-1] != num_pairs or np.any(self.num_per_user < 0):
            raise ValueError(f"indptr must rise from 0 to {num_pairs}, the number of pairs")
        if not num_pairs:
            return
        if self.indices.min() < 0 or self.indices.max() >= self.num_items:
            raise ValueError(
                f"item rows run from {self.indices.min()} to {self.indices.max()}, expected 0 to {self.num_items - 1}"
            )
        if np.any(np.diff(self.keys) <= 0):
            raise ValueError("the items of a user must ascend without repeats")

    @property
    def num_users(self) -> int:
        """U, the unknown user included."""
        return len(self.indptr) - 1

    @property
    def num_per_user(self) -> npt.NDArray[np.int64]:
        """[U] distinct items of each user."""
        return np.diff(self.indptr)

    @property
    def owners(self) -> npt.NDArray[np.int64]:
        """[E] user row of each pair."""
        return np.repeat(np.arange(self.num_users, dtype=np.int64), self.num_per_user)

    @property
    def keys(self) -> npt.NDArray[np.int64]:
        """[E] `user row * N + item row`, ascending."""
        return self.owners * self.num_items + self.indices

    def of(self, user_rows: npt.NDArray[np.integer]) -> Purchases:
        """The rows of some users, in the order asked; a row may be asked for more than once."""
        if len(user_rows) == 1:  # Views, in a fifth of the time.
            begin, end = self.indptr[user_rows[0]], self.indptr[user_rows[0] + 1]
            return self._unchecked(np.array([0, end - begin]), slice(begin, end))
        starts = self.indptr[user_rows]
        lengths = self.indptr[np.asarray(user_rows) + 1] - starts
        indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        pairs = np.arange(indptr[-1]) + np.repeat(starts - indptr[:-1], lengths)
        return self._unchecked(indptr, pairs)

    def _unchecked(self, indptr: npt.NDArray[np.int64], pairs: npt.NDArray[np.int64] | slice) -> Purchases:
        """Some pairs; rows of what was checked need no check, which costs more than the rows."""
        rows = object.__new__(Purchases)
        rows.__dict__.update(
            indptr=indptr,
            indices=self.indices[pairs],
            counts=self.counts[pairs],
            last_seconds=self.last_seconds[pairs],
            num_items=self.num_items,
        )
        return rows

    def csr(self) -> sparse.csr_array:
        """[U, N] with the number of events of each pair."""
        shape = (self.num_users, self.num_items)
        return sparse.csr_array((self.counts, self.indices, self.indptr), shape=shape)

    def save(self, folder: Path) -> None:
        """Writes one plain array a file, all in a new folder."""
        folder.mkdir()
        for name in FILES:
            np.save(folder / name, getattr(self, name.removesuffix(".npy")), allow_pickle=False)

    @classmethod
    def load(cls, folder: Path, *, num_items: int) -> Purchases:
        """Reads what `save` wrote."""
        indptr, indices, counts, last_seconds = (np.load(folder / name, allow_pickle=False) for name in FILES)
        return cls(indptr, indices, counts, last_seconds, num_items)

    @classmethod
    def from_pairs(cls, pairs: Path, *, user_ids: IdMap, item_ids: IdMap) -> Purchases:
        """Reads the pairs of users and items that features are made with.

        Args:
            pairs: Parquet with user_id, item_id, num_events and last_seconds, one row for each pair.
            user_ids: Users of the rows; row 0 is the unknown user.
            item_ids: Items of the catalogue, whose rows begin with 1.
        """
        return cls.from_table(pq.read_table(pairs), user_ids=user_ids, item_ids=item_ids)

    @classmethod
    def from_table(cls, table: pa.Table, *, user_ids: IdMap, item_ids: IdMap) -> Purchases:
        """The same of a table that is read already."""
        users = user_ids.rows(table.column(columns.USER_ID).to_numpy(zero_copy_only=False)).astype(np.int64)
        items = item_ids.rows(table.column(columns.ITEM_ID).to_numpy(zero_copy_only=False)) - 1
        order = np.lexsort((items, users))
        counts = np.bincount(users, minlength=len(user_ids))
        return cls(
            indptr=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            indices=items[order].astype(np.int32),
            counts=table.column("num_events").to_numpy()[order].astype(np.int32),
            last_seconds=table.column("last_seconds").to_numpy()[order],
            num_items=len(item_ids) - 1,
        )

    @classmethod
    def from_events(
        cls,
        user_rows: npt.NDArray[np.integer],
        item_rows: npt.NDArray[np.integer],
        *,
        seconds: npt.NDArray[np.integer],
        num_users: int,
        num_items: int,
    ) -> Purchases:
        """Counts events.

        Args:
            user_rows: User row of each event; events of row 0, the unknown user, are left out.
            item_rows: Catalogue row of each event's item, 0 to N - 1; negative ones are left out.
            seconds: Moment of each event, Unix seconds.
            num_users: U, the unknown user included.
            num_items: N.

        Returns:
            One row for each of the U users.
        """
        known = (user_rows > 0) & (item_rows >= 0)
        keys = user_rows[known].astype(np.int64) * num_items + item_rows[known]
        pairs, pair_of_event, counts = np.unique(keys, return_inverse=True, return_counts=True)
        last_seconds = np.full(len(pairs), np.iinfo(np.int64).min)
        np.maximum.at(last_seconds, pair_of_event, seconds[known].astype(np.int64))
        indptr = np.searchsorted(pairs, np.arange(num_users + 1, dtype=np.int64) * num_items).astype(np.int64)
        indices = (pairs % num_items).astype(np.int32)
        return cls(indptr, indices, counts.astype(np.int32), last_seconds, num_items)
