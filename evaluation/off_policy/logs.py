"""Logged feedback for off-policy estimates: lists that our servers have shown, and logs of other systems.

Users are shared out among arms by a salted hash, so that an arm's list is shown to any user with a probability: the
arm's share. That is the propensity of all its items. Logs of other systems bring their propensities; every bad row of
them is counted.

n rows: of our lists, one for each item shown; of another log, those that can be used.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from evaluation.foreign_tables import ids_of, read_table, rows_of, set_aside
from evaluation.report import Problem
from features import columns
from features.sources.values import to_microseconds, to_numbers
from features.tables import read_events
from serving.exposures.files import ITEM_IDS, read_exposures

Ints = npt.NDArray[np.int64]
MOMENT, ARM = "moment", "arm"
DAY_MICROSECONDS = 86_400_000_000
PROPENSITY = "propensity"


@dataclass(frozen=True)
class ExposureFeedback:
    """Items that were shown, and whether they were bought.

    Attributes:
        users: [n] int64, place in the list of users.
        items: [n] int64, place in the list of items.
        rewards: [n] float64, 1 where the user bought the item within the days after it was shown, else 0.
        propensities: [n] float64, share of the list's arm.
        moments: [n] int64, when it was shown, microseconds since 1970 UTC.
        num_lists: Lists of the days.
        other_arms: Arm without a share -> its lists, which are left out.
        num_unknown_users: Lists that are left out, as their user is unknown.
        num_unknown_items: Items of the other lists that are left out as unknown.
    """

    users: Ints
    items: Ints
    rewards: npt.NDArray[np.float64]
    propensities: npt.NDArray[np.float64]
    moments: Ints
    num_lists: int
    other_arms: Mapping[str, int]
    num_unknown_users: int
    num_unknown_items: int


def read_exposure_feedback(
    exposures: Path,
    tables: Path,
    *,
    first_day: dt.date,
    end_day: dt.date,
    reward_days: int,
    shares: Mapping[str, float],
    user_ids: Sequence[str],
    item_ids: Sequence[str],
) -> ExposureFeedback:
    """Joins exposures with what was bought after them.

    Args:
        exposures: Folder of exposures.
        tables: Canonical tables; they should reach `reward_days` beyond the last day, or its lists earn too little.
        first_day: Of the exposures, UTC.
        end_day: The day after the last one.
        reward_days: A purchase counts if it comes after the moment of the list, and at most so many days after it.
        shares: Arm -> its share of the users, above 0 up to 1. Lists of other arms are left out and counted.
        user_ids: Users that are known, each once.
        item_ids: Items that are known, each once.

    Returns:
        A row for each item shown, in the order of the log.

    Raises:
        ValueError: A share is outside its range, `reward_days` is below 1, or exposures cannot be read.
        FileNotFoundError: There are no tables.
    """
    wrong = [f"{arm} {share:g}" for arm, share in shares.items() if not 0 < share <= 1]
    if wrong or not shares or reward_days < 1:
        raise ValueError(
            f"shares are {dict(shares)} and reward_days {reward_days}, expected shares above 0 up to 1 of at least one "
            "arm, and at least 1 day"
        )
    end = end_day + dt.timedelta(days=reward_days + 1)
    users, items = pa.array(user_ids, pa.string()), pa.array(item_ids, pa.string())
    bought = _Bought(read_events(tables, first_day=first_day, end_day=end), users, items)
    parts, counts = [], np.zeros(3, np.int64)
    others: dict[str, int] = {}
    for batch in read_exposures(exposures, first_day, end_day, columns=[MOMENT, columns.USER_ID, ARM, ITEM_IDS]):
        arms = rows_of(batch.column(ARM), pa.array(list(shares), pa.string()))
        for counted in pc.value_counts(batch.column(ARM).filter(pa.array(arms < 0))).to_pylist():
            others[counted["values"]] = others.get(counted["values"], 0) + counted["counts"]
        shown, unknown = _shown(batch, arms, users, items)
        counts += [batch.num_rows, *unknown]
        parts.append(shown)
    owners, found, moments, arms = (np.concatenate([np.zeros(0, np.int64), *part]) for part in _columns(parts))
    rewards = bought.within(owners, found, moments, reward_days * DAY_MICROSECONDS)
    propensities = np.array(list(shares.values()), np.float64)[arms]
    return ExposureFeedback(
        owners, found, rewards, propensities, moments, int(counts[0]), others, int(counts[1]), int(counts[2])
    )


class _Bought:
    """Purchases by user and item, then time."""

    def __init__(self, events: pa.Table, users: pa.Array, items: pa.Array) -> None:
        self._num_items = len(items)
        owners, found = rows_of(events.column(columns.USER_ID), users), rows_of(events.column(columns.ITEM_ID), items)
        moments = _microseconds(events.column(columns.TIMESTAMP).combine_chunks())
        known = (owners >= 0) & (found >= 0)
        self._pairs, self._moments = owners[known] * self._num_items + found[known], moments[known]

    def within(self, users: Ints, items: Ints, moments: Ints, window: int) -> npt.NDArray[np.float64]:
        """1 where the pair's first event after a moment is at most `window` microseconds after it: [n] float64."""
        rewards = np.zeros(len(users))
        pairs = users * self._num_items + items
        asked = np.flatnonzero(np.isin(pairs, self._pairs))
        # Events and questions in one order; at the same moment the event comes first, and so is not after it.
        all_pairs = np.concatenate([self._pairs, pairs[asked]])
        all_moments = np.concatenate([self._moments, moments[asked]])
        is_question = np.arange(len(all_pairs)) >= len(self._pairs)
        order = np.lexsort((is_question, all_moments, all_pairs))
        # Place of the next event, from each place on.
        places = np.where(is_question[order], len(order), np.arange(len(order)))
        following = np.minimum.accumulate(places[::-1])[::-1]
        at = np.flatnonzero(is_question[order] & (following < len(order)))
        question, event = order[at], order[following[at]]
        in_time = (all_pairs[question] == all_pairs[event]) & (all_moments[event] - all_moments[question] <= window)
        rewards[asked[question[in_time] - len(self._pairs)]] = 1
        return rewards


def _shown(
    batch: pa.RecordBatch, arms: Ints, users: pa.Array, items: pa.Array
) -> tuple[tuple[Ints, Ints, Ints, Ints], tuple[int, int]]:
    """User, item, moment and arm of each item shown, and how many users and items are unknown."""
    owners = rows_of(batch.column(columns.USER_ID), users)
    lists = batch.column(ITEM_IDS)
    of_list = pc.list_parent_indices(lists).to_numpy()
    found = rows_of(pc.list_flatten(lists), items)
    of_known_list = ((arms >= 0) & (owners >= 0))[of_list]
    kept = of_known_list & (found >= 0)
    at = of_list[kept]
    moments = _microseconds(batch.column(MOMENT))
    unknown = (int(((arms >= 0) & (owners < 0)).sum()), int((of_known_list & (found < 0)).sum()))
    return (owners[at], found[kept], moments[at], arms[at]), unknown


def _columns(parts: list[tuple[Ints, Ints, Ints, Ints]]) -> list[tuple[Ints, ...]]:
    return list(zip(*parts, strict=True)) if parts else [()] * 4


def _microseconds(moments: pa.Array) -> Ints:
    return np.asarray(moments.cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy(zero_copy_only=False), np.int64)


@dataclass(frozen=True)
class FeedbackRows:
    """Rows of a log that can be used, in its order, and why the others cannot.

    Attributes:
        users: [n] int64, place in the list of users.
        items: [n] int64, place in the list of items.
        rewards: [n] float64, finite.
        propensities: [n] float64 in (0, 1].
        moments: [n] int64, microseconds since 1970 UTC; None where the log has no timestamps.
        num_read: Rows of the file.
        problems: What could not be used: each row once, by the first thing that is wrong with it.
    """

    users: npt.NDArray[np.int64]
    items: npt.NDArray[np.int64]
    rewards: npt.NDArray[np.float64]
    propensities: npt.NDArray[np.float64]
    moments: npt.NDArray[np.int64] | None
    num_read: int
    problems: tuple[Problem, ...]


def read_logged_feedback(path: Path, *, user_ids: Sequence[str], item_ids: Sequence[str]) -> FeedbackRows:
    """Reads a log.

    Args:
        path: Parquet, or CSV with a header: `user_id` (or `user`), `item_id` (or `item`), `reward` and `propensity`,
            the probability with which the system showed the item; `timestamp` where there is one.
        user_ids: Users that are known, each once.
        item_ids: Items that are known, each once.

    Returns:
        The rows as places in these lists.

    Raises:
        ValueError: The file cannot be read, or lacks a column.
    """
    names = {columns.USER_ID: ("user",), columns.ITEM_ID: ("item",), columns.REWARD: (), PROPENSITY: ()}
    table = read_table(path, names, optional=(columns.TIMESTAMP,))
    users, items = (
        rows_of(ids_of(path, table, name), pa.array(ids, pa.string()))
        for name, ids in ((columns.USER_ID, user_ids), (columns.ITEM_ID, item_ids))
    )
    rewards, propensities = (_numbers(path, table, name) for name in (columns.REWARD, PROPENSITY))
    has_null = np.zeros(table.num_rows, np.bool_)
    for name in names:
        has_null |= table.column(name).is_null().to_numpy()
    bad = {
        "user, item, reward or propensity is missing": has_null,
        "reward is no number": ~np.isfinite(rewards),
        "propensity is not above 0 up to 1": ~((propensities > 0) & (propensities <= 1)),
        "unknown user": users < 0,
        "unknown item": items < 0,
    }
    moments = None
    if columns.TIMESTAMP in table.column_names:
        found = to_microseconds(table.column(columns.TIMESTAMP), "s")
        bad["timestamp is no moment"] = found.is_null().to_numpy(zero_copy_only=False)
        moments = np.asarray(found.fill_null(0).to_numpy(zero_copy_only=False), np.int64)
    problems, usable = set_aside(bad, np.arange(1, table.num_rows + 1))
    return FeedbackRows(
        users[usable],
        items[usable],
        rewards[usable],
        propensities[usable],
        None if moments is None else moments[usable],
        table.num_rows,
        problems,
    )


def _numbers(path: Path, table: pa.Table, name: str) -> npt.NDArray[np.float64]:
    """[rows] float64, nan where there is no number."""
    found, _ = to_numbers(table.column(name), f"{path}: column {name!r}")
    return np.asarray(found.fill_null(np.nan).to_numpy(zero_copy_only=False), np.float64)
