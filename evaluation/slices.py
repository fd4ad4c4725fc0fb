"""Slices: groups of users and items, and recall within each.

U users, N items of the catalogue, K places of a list, G groups of items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from evaluation.metrics import Hits, check_k
from evaluation.split import Split

NO_GROUP = -1
REST = "other categories"
_HISTORY_LENGTHS = {"0": 0, "1 to 9": 1, "10 to 99": 10, "100 to 999": 100, "1,000 and more": 1000}
"""Group of users -> the fewest items that put a user there."""


@dataclass(frozen=True)
class Groups:
    """A partition of users or of items.

    Attributes:
        about: What divides them.
        names: [G], one for each group.
        labels: [U] or [N] integer, 0..G-1: the group of each; -1 is in none.
    """

    about: str
    names: tuple[str, ...]
    labels: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        """Refuses a label without a name."""
        if self.labels.size and not (self.labels.min() >= NO_GROUP and self.labels.max() < len(self.names)):
            raise ValueError(
                f"labels of {self.about!r} run from {self.labels.min()} to {self.labels.max()}, expected -1 to "
                f"{len(self.names) - 1}: one for each of {list(self.names)}"
            )


def items_by_popularity(item_counts: npt.NDArray[np.integer]) -> Groups:
    """Head, middle and tail: three buckets of items with a third of the events each.

        share_i = events of the items before i in the order of popularity / all events
        head: share < 1/3    middle: share < 2/3    tail: the rest, with all items without an event

    Args:
        item_counts: [N] integer, events before the cut. Equal counts are ordered by the lower row.

    Returns:
        A partition of all items.
    """
    order = np.argsort(-item_counts.astype(np.int64), kind="stable")
    ordered = item_counts[order].astype(np.int64)
    before = np.cumsum(ordered) - ordered
    bucket = np.where(ordered > 0, np.minimum(3 * before // max(int(ordered.sum()), 1), 2), 2)
    labels = np.empty(len(order), np.int64)
    labels[order] = bucket
    return Groups("popularity", ("head", "middle", "tail"), labels)


def items_by_novelty(item_counts: npt.NDArray[np.integer]) -> Groups:
    """Cold items, which no user bought before the cut, and warm ones.

    Args:
        item_counts: [N] integer, events before the cut.

    Returns:
        A partition of all items.
    """
    return Groups("novelty", ("cold items", "warm items"), (item_counts > 0).astype(np.int64))


def items_by_hidden_past(are_hidden: npt.NDArray[np.bool_]) -> Groups:
    """Items whose past is hidden, so that they look like new ones, and the others.

    Args:
        are_hidden: [N] bool.

    Returns:
        A partition of all items.
    """
    return Groups("hidden past", ("hidden items", "other items"), (~are_hidden).astype(np.int64))


def items_by_category(
    categories: Sequence[str | None], item_counts: npt.NDArray[np.integer], *, num_largest: int
) -> Groups:
    """The categories with the most events before the cut, and all others pooled.

    Args:
        categories: [N], the category of each item; None counts among the others.
        item_counts: [N] integer, events before the cut.
        num_largest: Categories that keep their name; equal ones in the order of their names.

    Returns:
        A partition of all items; the last group is the others.

    Raises:
        ValueError: The two are not of the same length.
    """
    if len(categories) != len(item_counts):
        raise ValueError(f"{len(categories)} categories for {len(item_counts)} items; give one for each catalogue row")
    named = np.array(["" if category is None else category for category in categories], dtype=object)
    values, rows = np.unique(named, return_inverse=True)
    events = np.bincount(rows, weights=item_counts, minlength=len(values))
    largest = [row for row in np.argsort(-events, kind="stable") if values[row]][:num_largest]
    label_of = np.full(len(values), len(largest), np.int64)
    label_of[largest] = np.arange(len(largest))
    return Groups("category", (*(str(values[row]) for row in largest), REST), label_of[rows])


def users_by_past(split: Split) -> Groups:
    """Cold, middle and warm users: thirds by the number of items that they met before the cut.

    Only users with something new to find are divided; the others have no figures. Users with equally many items stay
    together, so that thirds are about equal.

    Args:
        split: Users, their history and what is relevant.

    Returns:
        A partition of those users.
    """
    num_items = np.diff(split.history.indptr)
    counted = np.diff(split.relevant_new.indptr) > 0
    labels = np.full(len(num_items), NO_GROUP, np.int64)
    if counted.any():
        low, high = np.quantile(num_items[counted], [1 / 3, 2 / 3], method="lower")
        labels[counted] = (num_items[counted] > low).astype(np.int64) + (num_items[counted] > high)
    return Groups("past of the user", ("cold users", "middle users", "warm users"), labels)


def users_new_and_returning(split: Split) -> Groups:
    """New users, of whom no event with a catalogue item is known before the cut, and returning ones.

    Args:
        split: Users and their history.

    Returns:
        A partition of all users.
    """
    returning = np.diff(split.history.indptr) > 0
    return Groups("newness of the user", ("new users", "returning users"), returning.astype(np.int64))


def users_by_history_length(split: Split) -> Groups:
    """Users by the number of distinct items that they met before the cut, in powers of ten.

    Unlike the thirds of `users_by_past` these are the same for every dataset and cut; some may be empty.

    Args:
        split: Users and their history.

    Returns:
        A partition of all users.
    """
    fewest = np.array(list(_HISTORY_LENGTHS.values()))
    labels = np.searchsorted(fewest, np.diff(split.history.indptr), side="right") - 1
    return Groups("history length", tuple(_HISTORY_LENGTHS), labels.astype(np.int64))


def recall_by_item_group(
    hits: Hits, ranked: npt.NDArray[np.integer], relevant: sp.csr_array, groups: Groups, *, k: int
) -> npt.NDArray[np.float64]:
    """Recall within each group of items: other items are neither relevant nor hits.

        recall@k of g = hits in the first k that are in g / relevant items that are in g

    Places are those of the whole list: k is not counted within the group.

    Args:
        hits: Of these lists.
        ranked: [U, K] integer, catalogue rows; -1 means no further result.
        relevant: [U, N] CSR; every stored entry is relevant.
        groups: A partition of the N items.
        k: Places that count, 1 <= k <= K.

    Returns:
        [U, G] float64; nan where the user has nothing relevant in the group.

    Raises:
        ValueError: The lists have fewer than k places, or the groups are not of these items.
    """
    check_k(ranked.shape[1], k)
    if len(groups.labels) != relevant.shape[1]:
        raise ValueError(f"groups of {len(groups.labels)} items for a catalogue of {relevant.shape[1]}")
    users, places = np.nonzero(hits.found[:, :k])
    found = _count(users, groups.labels[ranked[users, places]], (len(ranked), len(groups.names)))
    owners = np.repeat(np.arange(len(ranked)), np.diff(relevant.indptr))
    wanted = _count(owners, groups.labels[relevant.indices], found.shape)
    return _share(found, wanted)


def recall_by_day(
    hits: Hits, ranked: npt.NDArray[np.integer], split: Split, relevant: sp.csr_array, *, k: int
) -> npt.NDArray[np.float64]:
    """Do lists go stale? Recall within each day of the window: other days' purchases are neither relevant nor hits.

        recall@k of day d = hits in the first k first bought on day d / relevant items first bought on day d

    Args:
        hits: Of these lists.
        ranked: [U, K] integer, catalogue rows; -1 means no further result.
        split: Says on which day each pair was first bought.
        relevant: [U, N] CSR, `split.relevant` or a part of it, as `split.relevant_new`.
        k: Places that count, 1 <= k <= K.

    Returns:
        [U, window_days] float64, day 0 starts at the cut; nan where nothing relevant was first bought on the day.

    Raises:
        ValueError: The lists have fewer than k places, or a relevant pair was not bought in the window.
    """
    check_k(ranked.shape[1], k)
    shape = (len(ranked), split.window_days)
    owners = np.repeat(np.arange(len(ranked)), np.diff(relevant.indptr))
    wanted = _count(owners, _day_of(split, owners, relevant.indices), shape)
    users, places = np.nonzero(hits.found[:, :k])
    return _share(_count(users, _day_of(split, users, ranked[users, places]), shape), wanted)


def by_user_group(values: npt.NDArray[np.float64], groups: Groups) -> npt.NDArray[np.float64]:
    """A figure of each user, in the column of the user's group and nan in the others.

    Args:
        values: [U] float64.
        groups: A partition of the U users.

    Returns:
        [U, G] float64.

    Raises:
        ValueError: The groups are not of these users.
    """
    if values.shape != groups.labels.shape:
        raise ValueError(f"values of {len(values)} users and groups of {len(groups.labels)}; pair the same users")
    return np.where(groups.labels[:, None] == np.arange(len(groups.names)), values[:, None], np.nan)


def _count(
    users: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], shape: tuple[int, int]
) -> npt.NDArray[np.int64]:
    """How often each user has each label: [U, G]."""
    counted = labels >= 0
    pairs = users[counted] * shape[1] + labels[counted]
    return np.bincount(pairs, minlength=shape[0] * shape[1]).reshape(shape)


def _day_of(split: Split, users: npt.NDArray[np.int64], items: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """The day of the window on which each of these pairs was first bought."""
    # Looked up by place, not by value: a first day is a stored zero, which reads like a pair that is not stored.
    bought, num_items = split.days_until.tocoo(), split.days_until.shape[1]
    keys = bought.row.astype(np.int64) * num_items + bought.col
    order = np.argsort(keys)
    place = np.searchsorted(keys, users * num_items + items, sorter=order)
    unknown = np.append(keys[order], -1)[place] != users * num_items + items
    if unknown.any():
        at = int(unknown.argmax())
        raise ValueError(
            f"{unknown.sum()} relevant pairs were not bought in the window, the first of user row {users[at]} and item "
            f"row {items[at]}; pass the split's own relevant pairs or a part of them"
        )
    return bought.data[order][place].astype(np.int64)


def _share(found: npt.NDArray[np.int64], wanted: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    out = np.full(found.shape, np.nan)
    np.divide(found, wanted, out=out, where=wanted > 0)
    return out
