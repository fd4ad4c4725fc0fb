"""Private negatives of a row: mined for its user, shown and not clicked, or drawn at random.

Shape letters: B rows, C shared candidates and items of the queue, E' rows of a span that describe items, H private
negatives of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.negatives.known_positives import NO_ITEM, KnownPositives, Mask, UserItems, counted_columns, is_in
from training.negatives.source import Descriptions, Draws, Source

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class UserNegatives(UserItems):
    """Items that are negatives of one user alone: mined near the user's vector, or shown and not clicked."""

    def shuffled(self, rng: np.random.Generator) -> UserNegatives:
        """The same lists, each in random order."""
        return UserNegatives(self.starts, self.items[np.lexsort((rng.random(len(self.items)), self.owners))])

    def draw(self, user_rows: Ints, num_items: int, *, rng: np.random.Generator) -> Ints:
        """Items of each user's list, none twice unless the list repeats it: a stretch of it from a random place on.

        Args:
            user_rows: [B] users.
            num_items: Items for each.
            rng: Of the places.

        Returns:
            [B, num_items] item rows, `NO_ITEM` at the end where the list is shorter.
        """
        counts = self.counts_of(user_rows)[:, None]
        begin = rng.integers(np.maximum(counts, 1))
        place = np.arange(num_items)
        inside = place < counts
        index = self.starts[user_rows][:, None] + (begin + place) % np.maximum(counts, 1)
        return np.where(inside, np.append(self.items, NO_ITEM)[np.where(inside, index, -1)], NO_ITEM)


def hard_per_row(num_easy: int, *, easy_per_hard: float) -> int:
    """Mined negatives of a row that has so many easy ones, at least one.

    Source: Huang et al., KDD 2020, section 6.1: up to a hundred easy ones for each hard one.
    """
    return max(1, round(num_easy / easy_per_hard))


def listed(lists: UserNegatives, *, num: int) -> Source:
    """Negatives of users, known beforehand: mined near the user's vector, or shown and not clicked.

    Args:
        lists: Those of each user.
        num: Of them for each row.
    """

    def begin(descriptions: Descriptions, rng: np.random.Generator) -> Draws:
        shuffled = lists.shuffled(rng)
        return Draws(certain=lambda user_rows: shuffled.draw(user_rows, num, rng=rng))

    return begin


@dataclass(frozen=True)
class PrivateNegatives:
    """Drawn private negatives.

    Attributes:
        items: [B, H] int64 item rows, `NO_ITEM` where there is none; the certain ones first.
        rows: [B, H] int64, which description of the item to take; some row where there is none.
        num_certain: How many of H are certain, that is not drawn by chance.
    """

    items: Ints
    rows: Ints
    num_certain: int


def draw_private(
    draws: Sequence[Draws], user_rows: Ints, descriptions: Descriptions, *, rng: np.random.Generator
) -> PrivateNegatives | None:
    """Private negatives of some rows, from all sources that have any.

    A certain item is described by a random one of the span's rows that have it, so that its features do not give away
    that it is a negative; without such a row it is left out.

    Args:
        draws: What the sources draw in the span.
        user_rows: [B] the rows' users.
        descriptions: Of the span.
        rng: Of the choice of descriptions.

    Returns:
        None where no source has private negatives.
    """
    certain = [source.certain(user_rows) for source in draws if source.certain is not None]
    none = np.empty((len(user_rows), 0), np.int64)
    items, rows = none, none
    if certain:
        items, rows = described(np.concatenate(certain, axis=1), descriptions, rng)
    by_chance = [source.private(user_rows) for source in draws if source.private is not None]
    if not certain and not by_chance:
        return None
    drawn = np.concatenate([none, *by_chance], axis=1)
    return PrivateNegatives(
        np.concatenate([items, descriptions.items[drawn]], axis=1),
        np.concatenate([rows, drawn], axis=1),
        num_certain=items.shape[1],
    )


def described(items: Ints, descriptions: Descriptions, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Items of any shape, `NO_ITEM` where nothing describes them, and a random description of each."""
    by_item = descriptions.rows_of_items
    counts = by_item.counts_of(items)
    there = (items != NO_ITEM) & (counts > 0)
    index = by_item.starts[items] + rng.integers(np.maximum(counts, 1))
    return np.where(there, items, NO_ITEM), by_item.items[np.where(there, index, 0)]


def mask_private(
    mask: Mask, private: PrivateNegatives, user_rows: Ints, candidate_rows: Ints, known: KnownPositives, *,
    in_batch: bool,
) -> Mask:  # fmt: skip
    """The mask of shared columns, followed by that of private ones, such that each item counts once in a row.

    A certain negative takes the place of the same item among the shared columns: it is there for sure and needs no
    correction, where the shared one represents all the batches that it is not in. One drawn by chance gives way.

    Args:
        mask: [B, C] bool, that of the shared columns.
        private: The private negatives.
        user_rows: [B] the rows' users.
        candidate_rows: [C] the shared columns' items; column i is row i's own.
        known: What each user is known to have met.
        in_batch: As in `training.negatives.known_positives.false_negatives`.

    Returns:
        [B, C + H] bool.
    """
    num_rows = len(user_rows)
    own = KnownPositives.of(user_rows, candidate_rows[:num_rows], num_user_rows=len(known.starts) - 1)
    users, items, num_certain = user_rows[:, None], private.items, private.num_certain
    hidden = (items == NO_ITEM) | _repeats(items) | known.contain(users, items) | own.contain(users, items)
    shared_items, columns = counted_columns(candidate_rows, begin=0 if in_batch else num_rows)
    there = is_in(items, shared_items)
    hidden[:, num_certain:] |= there[:, num_certain:]
    row, place = np.nonzero(there[:, :num_certain] & ~hidden[:, :num_certain])
    shared = mask.copy()
    shared[row, columns[np.searchsorted(shared_items, items[row, place])]] = True
    return np.concatenate([shared, hidden], axis=1)


def log_q_of_hard(log_q: npt.NDArray[np.float32], mask: Mask, *, weight: float) -> npt.NDArray[np.float32]:
    """What is subtracted from the scores of a row's hard negatives, so that each counts as so many easy ones.

        log q_i = -log( weight * mean_{j not masked in row i} 1 / q_j )

    A column stands for 1 / q_j items of the catalogue in the sum of the softmax: one of a few hundred even draws for
    hundreds, an item that was mined, and is there for sure, only for itself. With this log q, a hundred easy ones for
    each hard one is a ratio of weights and not only of numbers. The sum is then not that of the softmax over the
    catalogue: what is hard counts more, as it is meant to.

    Args:
        log_q: [C + Q] float32, of the shared columns.
        mask: [B, C + Q] bool, which of them do not count in a row; column i, row i's own item, never does.
        weight: Easy ones, on average, that a hard one counts as.

    Returns:
        [B] float32; 0 for a row without easy ones.
    """
    counts = ~mask
    np.fill_diagonal(counts, val=False)
    easy = counts @ np.exp(-log_q)
    num_easy = counts.sum(axis=1)
    mean = np.where(num_easy > 0, easy / np.maximum(num_easy, 1), 1 / weight)
    return -np.log(weight * mean).astype(np.float32)


def _repeats(items: Ints) -> Mask:
    """[B, H] whether an earlier place of the row holds the same item."""
    order = np.argsort(items, axis=1, kind="stable")
    rising = np.take_along_axis(items, order, axis=1)
    repeats = np.zeros(items.shape, dtype=bool)
    np.put_along_axis(repeats, order[:, 1:], rising[:, 1:] == rising[:, :-1], axis=1)
    return repeats
