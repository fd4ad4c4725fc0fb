"""Which negatives does a row have for itself? Mined for its user, shown and not clicked, or drawn at random.

Shape letters: B rows, C shared candidates and items of the queue, E' rows of a span that describe items, H private
negatives of a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.negatives.known_positives import NO_ITEM, KnownPositives, Mask, UserItems, counted_columns, is_in

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


@dataclass(frozen=True)
class PrivateNegatives:
    """Drawn private negatives.

    Attributes:
        items: [B, H] int64 item rows, `NO_ITEM` where there is none; the hard ones first.
        rows: [B, H] int64, which description of the item to take; some row where there is none.
        num_hard: How many of H are from the user's lists, that is not drawn evenly.
    """

    items: Ints
    rows: Ints
    num_hard: int


@dataclass(frozen=True)
class PrivateSampler:
    """Where the private negatives of a span's rows come from.

    Attributes:
        hard: Lists of negatives of each user, and how many a row gets of each.
        num_random: Drawn evenly for each row.
        item_of_row: [E'] int64, the items that the span describes, whatever the day: those drawn evenly last.
        num_described: How many of those rows are not drawn evenly.
        rows_of_items: `item_of_row` by item.
    """

    hard: tuple[tuple[UserNegatives, int], ...]
    num_random: int
    item_of_row: Ints
    num_described: int
    rows_of_items: UserItems

    @classmethod
    def of(
        cls, hard: tuple[tuple[UserNegatives, int], ...], num_random: int, *, described: Ints, uniform: Ints,
        num_item_rows: int, rng: np.random.Generator,
    ) -> PrivateSampler:  # fmt: skip
        """Shuffles the lists and sorts the span's descriptions by item.

        Args:
            hard: As the attribute.
            num_random: As the attribute.
            described: Items of the span's examples.
            uniform: Items drawn evenly.
            num_item_rows: Rows of the item table.
            rng: Of the order of the lists.
        """
        item_of_row = np.concatenate([described, uniform]).astype(np.int64)
        return cls(
            hard=tuple((lists.shuffled(rng), number) for lists, number in hard),
            num_random=num_random,
            item_of_row=item_of_row,
            num_described=len(described),
            rows_of_items=UserItems.of(item_of_row, np.arange(len(item_of_row)), num_user_rows=num_item_rows),
        )

    def draw(self, user_rows: Ints, *, rng: np.random.Generator) -> PrivateNegatives:
        """Private negatives of some rows.

        An item from a user's list is described by a random one of the span's rows that have it, so that its features
        do not tell that it is a negative; without such a row it is left out.

        Args:
            user_rows: [B] the rows' users.
            rng: Of the choice.
        """
        lists = [negatives.draw(user_rows, number, rng=rng) for negatives, number in self.hard]
        hard = np.concatenate([np.empty((len(user_rows), 0), np.int64), *lists], axis=1)
        counts = self.rows_of_items.counts_of(hard)
        there = (hard != NO_ITEM) & (counts > 0)
        index = self.rows_of_items.starts[hard] + rng.integers(np.maximum(counts, 1))
        hard_rows = self.rows_of_items.items[np.where(there, index, 0)]
        shape = (len(user_rows), self.num_random)
        drawn = rng.integers(self.num_described, len(self.item_of_row), shape) if self.num_random else np.zeros(shape)
        random_rows = drawn.astype(np.int64)
        items = np.concatenate([np.where(there, hard, NO_ITEM), self.item_of_row[random_rows]], axis=1)
        return PrivateNegatives(items, np.concatenate([hard_rows, random_rows], axis=1), num_hard=hard.shape[1])


def mask_private(
    mask: Mask, private: PrivateNegatives, user_rows: Ints, candidate_rows: Ints, known: KnownPositives, *,
    in_batch: bool,
) -> Mask:  # fmt: skip
    """The mask of shared columns, followed by that of private ones, such that each item counts once in a row.

    A hard negative takes the place of the same item among the shared columns: it is there for sure and needs no
    correction, where the shared one stands for all the batches that it is not in. A random one gives way.

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
    users, items, num_hard = user_rows[:, None], private.items, private.num_hard
    hidden = (items == NO_ITEM) | _repeats(items) | known.contain(users, items) | own.contain(users, items)
    shared_items, columns = counted_columns(candidate_rows, begin=0 if in_batch else num_rows)
    there = is_in(items, shared_items)
    hidden[:, num_hard:] |= there[:, num_hard:]
    row, place = np.nonzero(there[:, :num_hard] & ~hidden[:, :num_hard])
    shared = mask.copy()
    shared[row, columns[np.searchsorted(shared_items, items[row, place])]] = True
    return np.concatenate([shared, hidden], axis=1)


def _repeats(items: Ints) -> Mask:
    """[B, H] whether an earlier place of the row holds the same item."""
    order = np.argsort(items, axis=1, kind="stable")
    rising = np.take_along_axis(items, order, axis=1)
    repeats = np.zeros(items.shape, dtype=bool)
    np.put_along_axis(repeats, order[:, 1:], rising[:, 1:] == rising[:, :-1], axis=1)
    return repeats
