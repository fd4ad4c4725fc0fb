"""Adapter of published splits in LightGCN's format: one line a user, its id, then its items.

The files know no times, and a daily job needs some. Pairs of test get the day `CUT`. Those of train have a day each
before it, in the order of the line or in a random one; the days of the latest `VALIDATION_DAYS` pairs of each user, the
last of the line or random ones, are there for validation.

Shape letters: U users, N items, P pairs.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features import columns
from features.computed import DAY_SECONDS
from features.schema import Schema
from features.sources.raw import Chunk, RawTable, Source, SourceError, refuse_columns, refuse_event_columns

Ints = npt.NDArray[np.int64]
TRAIN_FILE, TEST_FILE = "train.txt", "test.txt"
CUT = dt.date(2000, 1, 1)
_CUT_SECONDS = int(columns.midnight(CUT).timestamp())
VALIDATION_DAYS = 4
# Earlier ones of a long line share a day, in their order: each further day costs snapshots of all users and items.
MOST_DAYS = 120
LARGEST_ID = np.iinfo(np.int64).max
Order = Literal["line", "random"]
Part = Literal["last", "random"]


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
    """

    train: Pairs
    test: Pairs
    user_ids: Ints
    item_ids: Ints
    num_unseen_items: int
    num_unseen_users: int
    num_repeats: int
    num_overlap: int


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
    )


def open_lightgcn(
    *, schema: Schema, path: Path, order: Order = "line", held_out: Part = "last", seed: int = 0
) -> Source:
    """Opens a split as events; users and items are known from them alone.

    Args:
        schema: The declared columns: none, as the files have none.
        path: Folder with `train.txt` and `test.txt`.
        order: Whether a user's pairs are in the order of the line or in a random one.
        held_out: Which of them come last, in the days for validation: the last of the line, or random ones.
        seed: Of what is random.

    Raises:
        SourceError: The folder's files are not of that format, or a column is declared.
    """
    where = f"{path} (a split in LightGCN's format)"
    refuse_columns(schema, "user", where=where)
    refuse_columns(schema, "item", where=where)
    refuse_event_columns(schema, where=where)
    names = (columns.USER_ID, columns.ITEM_ID, columns.TIMESTAMP)

    def read(chunk_rows: int) -> Iterator[Chunk]:
        split = read_published_split(path)
        in_train = moments(split.train, order=order, held_out=held_out, seed=seed)
        in_test = np.full(len(split.test), _CUT_SECONDS)
        for file, pairs, seconds in ((TRAIN_FILE, split.train, in_train), (TEST_FILE, split.test, in_test)):
            rows = pa.table([split.user_ids[pairs.users], split.item_ids[pairs.items], seconds], names=names)
            numbers = pa.array(np.arange(1, len(pairs) + 1))
            none, no = pa.nulls(len(pairs), pa.string()), pa.array(np.zeros(len(pairs), bool))
            yield from Chunk(file, numbers, rows, none, no).slices(chunk_rows)

    return Source(events=RawTable({name: name for name in names}, (), read, kinds=dict.fromkeys(names, "int64")))


def moments(pairs: Pairs, *, order: Order, held_out: Part, seed: int) -> Ints:
    """When each pair of train is said to have happened: [P] int64, Unix seconds before `CUT`.

    Args:
        pairs: By user, in the order of their lines.
        order: As in `open_lightgcn`.
        held_out: Likewise.
        seed: Of what is random.
    """
    rng = np.random.default_rng(seed)
    lots = rng.random((3, len(pairs)))
    by_line = -pairs.from_last.astype(float)
    is_last = _from_last(pairs, by_line if held_out == "last" else lots[0]) < VALIDATION_DAYS
    place = _from_last(pairs, (by_line if order == "line" else lots[1]) + np.where(is_last, len(pairs), 0))
    # At no fixed time of day: what is always the same length of time ago would be taken for a law.
    age_days = np.where(place < MOST_DAYS, place + lots[2], MOST_DAYS + (place + 1) / (place.max() + 2))
    return _CUT_SECONDS - np.maximum(np.asarray(age_days * DAY_SECONDS, np.int64), 1)


def _from_last(pairs: Pairs, key: npt.NDArray[np.float64]) -> Ints:
    """How many of its user's pairs have a higher key than each: [P]."""
    ordered = np.lexsort((key, pairs.users))
    place = np.empty(len(pairs), np.int64)
    place[ordered] = Pairs(pairs.users[ordered], pairs.items[ordered]).from_last
    return place


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
