"""Folds of a comparison: what was known before each cut, what came after it, and the protocols that divide the two.

N items of the catalogue, U users of a fold.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp

from evaluation import foreign_tables, slices
from evaluation.report import NEW_TO_THE_USER, Problem, Protocol, Task
from evaluation.split import Split, make_split
from features import columns, lists
from features import tables as stored

NUM_CATEGORIES = 10


class NoEventsError(ValueError):
    """There is nothing to find: no event with an item of the catalogue in the window of a cut."""


UserPartition = Callable[[Split], slices.Groups]
ItemPartition = Callable[[npt.NDArray[np.object_]], slices.Groups]
USER_PARTITIONS: tuple[UserPartition, ...] = (slices.users_new_and_returning, slices.users_by_history_length)


@dataclass(frozen=True)
class Fold:
    """One cut: what was known before, and what came after.

    Attributes:
        split: Users and what is relevant to them.
        item_groups: Partitions of the catalogue; `about` is the same in every fold.
        user_groups: Partitions of the split's users; `about` is the same in every fold.
        item_counts: [N] integer, events before the cut.
        is_head: [N] bool, the most popular items, which have a third of these events.
    """

    split: Split
    item_groups: tuple[slices.Groups, ...]
    user_groups: tuple[slices.Groups, ...]
    item_counts: npt.NDArray[np.int64]
    is_head: npt.NDArray[np.bool_]

    def relevant(self, task: Task) -> sp.csr_array:
        """[U, N] what an arm has to find."""
        return self.split.relevant_new if task == NEW_TO_THE_USER else self.split.relevant

    def has_relevant(self, task: Task) -> npt.NDArray[np.bool_]:
        """[U] whether the user has something relevant."""
        return np.asarray(np.diff(self.relevant(task).indptr) > 0)


@dataclass(frozen=True)
class Folds:
    """All folds of a comparison.

    Attributes:
        cuts: Day of each.
        folds: As many.
        item_ids: [N] object, in the order of the catalogue.
        events: All events that a fold may look at, by time: of the kinds that are positives.
        histories: Likewise of the kinds that make histories, by which leakage of features is checked.
        problems: In a file of relevant pairs.
    """

    cuts: tuple[dt.date, ...]
    folds: tuple[Fold, ...]
    item_ids: npt.NDArray[np.object_]
    events: pa.Table
    histories: pa.Table
    problems: tuple[Problem, ...] = ()


def make_folds(
    tables: Path,
    *,
    protocol: Protocol,
    cuts: Sequence[dt.date],
    window_days: int,
    item_category: str | None,
    relevant: Path | None = None,
    user_partitions: Sequence[UserPartition] = USER_PARTITIONS,
    item_partitions: Sequence[ItemPartition] = (),
    num_categories: int = NUM_CATEGORIES,
) -> Folds:
    """Divides past and future.

        after-cut, rolling   what users do in the days after each cut
        leave-last-out       the last thing that each user does from the cut on
        given                the pairs of a file

    Args:
        tables: Folder of the canonical tables.
        protocol: How to divide.
        cuts: Days; everything before each is known. One for leave-last-out and given.
        window_days: Length of a window; not read for leave-last-out and given.
        item_category: Column of the items' category; None divides no items by it.
        relevant: File of pairs, for given.
        user_partitions: How users are divided into slices.
        item_partitions: How items are divided besides by popularity, novelty and category.
        num_categories: Categories that are slices of their own: the largest before the first cut, for all folds.

    Returns:
        The folds.

    Raises:
        ValueError: There are no events after a cut, there are several cuts where one is expected, or the file cannot be
            read.
    """
    items = stored.read_items(tables)
    item_ids = items.column(columns.ITEM_ID).to_numpy(zero_copy_only=False)
    last = max(cuts)
    end = last + dt.timedelta(days=window_days)
    if protocol in ("leave-last-out", "given") and len(cuts) > 1:
        raise ValueError(f"cuts are {', '.join(map(str, cuts))}, and protocol is {protocol}; give one cut")
    if protocol == "leave-last-out":
        end = stored.event_days(tables)[-1] + dt.timedelta(days=1)
        window_days = max((end - last).days, 1)
    until = last if protocol == "given" else end
    events = histories = stored.read_events(tables, first_day=dt.date.min, end_day=until)
    if stored.has_other_histories(tables):
        histories = stored.read_events(tables, first_day=dt.date.min, end_day=until, purpose="histories")
    problems: tuple[Problem, ...] = ()
    if protocol == "leave-last-out":
        events = _with_last_alone(events, last)
    elif protocol == "given":
        if relevant is None:
            raise ValueError("protocol is given, and no file of pairs; name one with --relevant")
        pairs, problems = read_pairs(relevant, item_ids, last)
        events, window_days = pa.concat_tables([events.select(pairs.column_names), pairs]), 1
    names = lists.as_text(items.column(item_category)).cast(pa.string()).to_pylist() if item_category else None
    by_category: slices.Groups | None = None
    folds = []
    for cut in cuts:
        split = _split(events, item_ids, cut, window_days)
        counts = np.asarray(split.history.sum(axis=0)).ravel().astype(np.int64)
        if names is not None and by_category is None:
            by_category = slices.items_by_category(names, counts, num_largest=num_categories)
        popularity = slices.items_by_popularity(counts)
        more = [by_category] if by_category else []
        more += [divide(item_ids) for divide in item_partitions]
        item_groups = (popularity, slices.items_by_novelty(counts), *more)
        user_groups = tuple(divide(split) for divide in user_partitions)
        folds.append(Fold(split, item_groups, user_groups, counts, popularity.labels == 0))
    return Folds(tuple(cuts), tuple(folds), item_ids, events, histories, problems)


def _split(events: pa.Table, item_ids: npt.NDArray[np.object_], cut: dt.date, window_days: int) -> Split:
    split = make_split(events, item_ids, cut=columns.midnight(cut), window_days=window_days)
    if not split.relevant.nnz:
        raise NoEventsError(
            f"no event with an item of the catalogue in the {window_days} days from {cut} on; choose an earlier cut"
        )
    return split


def read_pairs(path: Path, item_ids: npt.NDArray[np.object_], cut: dt.date) -> tuple[pa.Table, tuple[Problem, ...]]:
    """Relevant pairs of a file, as events at the cut.

    Args:
        path: Parquet or CSV with `user_id` and `item_id`.
        item_ids: [N] of the catalogue; pairs of other items stay, as relevant and not to be found.
        cut: The moment that they get.

    Returns:
        `user_id`, `item_id`, `timestamp` of each distinct pair, and what could not be used.

    Raises:
        ValueError: The file cannot be read, lacks a column, or has events from before the cut.
    """
    table = foreign_tables.read_table(
        path, {columns.USER_ID: ("user",), columns.ITEM_ID: ("item",)}, optional=("timestamp",)
    )
    if "timestamp" in table.column_names:
        moments = foreign_tables.moments_of(path, table)
        early = np.flatnonzero((moments < foreign_tables.microseconds_of(cut)) & (moments > np.iinfo(np.int64).min))
        if len(early):
            raise ValueError(
                f"{path}: {len(early):,} pairs are of before the cut {cut}, the first in row {early[0] + 1}; what was "
                "known to the arms cannot score them: cut where the file begins"
            )
    users, items = (foreign_tables.ids_of(path, table, name) for name in (columns.USER_ID, columns.ITEM_ID))
    empty = np.flatnonzero(pc.or_(pc.is_null(users), pc.is_null(items)).to_numpy(zero_copy_only=False))
    pairs = pa.table({columns.USER_ID: users, columns.ITEM_ID: items}).filter(
        pc.and_(users.is_valid(), items.is_valid())
    )
    distinct = pairs.group_by([columns.USER_ID, columns.ITEM_ID], use_threads=False).aggregate([])
    unknown = foreign_tables.rows_of(distinct.column(columns.ITEM_ID), pa.array(item_ids, pa.string())) < 0
    counts: dict[str, tuple[int, Sequence[int]]] = {
        "no user or no item": (len(empty), empty.tolist()),
        "pair given more than once": (pairs.num_rows - distinct.num_rows, ()),
        "item outside the catalogue": (int(unknown.sum()), ()),
    }
    problems = tuple(
        Problem(kind, count, tuple(int(row) + 1 for row in rows[:5])) for kind, (count, rows) in counts.items() if count
    )
    moment = pa.array([columns.midnight(cut)] * distinct.num_rows, pa.timestamp("us", "UTC"))
    return distinct.append_column(columns.TIMESTAMP, moment), problems


def _with_last_alone(events: pa.Table, cut: dt.date) -> pa.Table:
    """Events before the cut, and of those from it on each user's last one; of one moment the last item by id."""
    moments = events.column(columns.TIMESTAMP)
    before = pc.less(moments, pa.scalar(columns.midnight(cut), moments.type))
    later = events.filter(pc.invert(before))
    users = later.column(columns.USER_ID).combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    # Events are in order of time, user and item.
    _, from_end = np.unique(users[::-1], return_index=True)
    return pa.concat_tables([events.filter(before), later.take(pa.array(np.sort(len(users) - 1 - from_end)))])
