"""Adapter of published splits in LightGCN's format: one line a user, its id, then its items.

Shape letters: U users, N items, P pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from features.sources.raw import SourceError

Ints = npt.NDArray[np.int64]
TRAIN_FILE, TEST_FILE = "train.txt", "test.txt"
# Above it lines are taken for sorted by id, which carries no information about time.
MOST_ASCENDING = 0.95
LARGEST_ID = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Pairs:
    """Who has met what: distinct pairs, by user and in the order of the user's line.

    Attributes:
        users: [P] int64 rows of users.
        items: [P] int64 rows of items.
    """

    users: Ints
    items: Ints

    @property
    def from_last(self) -> Ints:
        """[P] int64, how many of its user's pairs come after each: 0 for the last one."""
        counts = np.bincount(self.users)
        return (np.cumsum(counts)[self.users] - 1) - np.arange(len(self))

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.users)


@dataclass(frozen=True)
class PublishedSplit:
    """A split as published: every pair is either for training or for test.

    Attributes:
        train, test: Pairs as rows of `user_ids` and `item_ids`.
        user_ids: [U] int64, ids of the files, ascending.
        item_ids: [N] int64, likewise; items of either file.
        num_unseen_items: Items of test that train lacks; they cannot be found and count as missed.
        num_unseen_users: Users of test that train lacks.
        num_repeats: Repeats of an item in its line, dropped.
        num_overlap: Pairs of test that train has too; they are masked and count as missed.
        has_order: Whether the lines of train may be in order of time: most of them are not in that of the ids.
    """

    train: Pairs
    test: Pairs
    user_ids: Ints
    item_ids: Ints
    num_unseen_items: int
    num_unseen_users: int
    num_repeats: int
    num_overlap: int
    has_order: bool


def read_published_split(folder: Path) -> PublishedSplit:
    """Reads `train.txt` and `test.txt`.

    Raises:
        SourceError: A file is missing or has no pairs, a line is not made of ids, or a user has two lines; names the
            line.
    """
    (train_users, train_items), (test_users, test_items) = (_read(folder / name) for name in (TRAIN_FILE, TEST_FILE))
    user_ids, user_rows = np.unique(np.concatenate([train_users, test_users]), return_inverse=True)
    item_ids, item_rows = np.unique(np.concatenate([train_items, test_items]), return_inverse=True)
    cut = len(train_users)
    train = _distinct(user_rows[:cut], item_rows[:cut], num_items=len(item_ids))
    test = _distinct(user_rows[cut:], item_rows[cut:], num_items=len(item_ids))
    both = np.isin(test.users * len(item_ids) + test.items, train.users * len(item_ids) + train.items)
    return PublishedSplit(
        train=train,
        test=test,
        user_ids=user_ids,
        item_ids=item_ids,
        num_unseen_items=len(np.setdiff1d(test.items, train.items)),
        num_unseen_users=len(np.setdiff1d(test.users, train.users)),
        num_repeats=len(user_rows) - len(train) - len(test),
        num_overlap=int(both.sum()),
        has_order=_share_ascending(train_users, train_items) < MOST_ASCENDING,
    )


def _read(path: Path) -> tuple[Ints, Ints]:
    if not path.is_file():
        raise SourceError(
            f"{path}: no such file; expected {TRAIN_FILE} and {TEST_FILE}, one line a user: id, then items"
        )
    users, items, seen = [], [], dict[int, int]()
    for number, ids in _lines(path):
        user = int(ids[0])
        if user in seen:
            raise SourceError(f"{path}, line {number}: user {user} has line {seen[user]} too; give each user one line")
        seen[user] = number
        users.append(np.full(len(ids) - 1, user, np.int64))
        items.append(ids[1:])
    if not sum(map(len, users)):
        raise SourceError(f"{path}: no user has an item; expected one line a user: id, then items")
    return np.concatenate(users), np.concatenate(items)


def _lines(path: Path) -> Iterator[tuple[int, Ints]]:
    """Line numbers, from 1, and the ids of each line; a user without items is allowed, an empty line is not."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            words = line.split()
            if not words:
                raise SourceError(f"{path}, line {number}: the line is empty; expected a user id, then its items")
            for word in words:
                # Digits only: int() also takes signs, underscores and other alphabets' digits.
                if not word.isdigit() or int(word) > LARGEST_ID:
                    found = word.decode("utf-8", "replace")
                    raise SourceError(f"{path}, line {number}: found {found!r}, expected ids from 0 to {LARGEST_ID}")
            yield number, np.array(words, dtype=np.int64)


def _distinct(users: Ints, items: Ints, *, num_items: int) -> Pairs:
    """Each pair where it comes first; a user's pairs stay together in their order."""
    _, first = np.unique(users * num_items + items, return_index=True)
    first = np.sort(first)
    order = first[np.argsort(users[first], kind="stable")]
    return Pairs(users[order], items[order])


def _share_ascending(users: Ints, items: Ints) -> float:
    """Share of the steps within lines that go to a higher id: half of them where the order is not that of ids."""
    inside = users[1:] == users[:-1]
    return float((items[1:] > items[:-1])[inside].mean()) if inside.any() else 1.0
