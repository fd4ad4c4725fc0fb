"""Logs of other systems: what was shown, with which probability, and what it earned; every bad row counted.

n rows that can be used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from evaluation.foreign_tables import ids_of, read_table, rows_of, set_aside
from evaluation.report import Problem
from features import columns
from features.sources.values import to_microseconds, to_numbers

PROPENSITY = "propensity"


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
