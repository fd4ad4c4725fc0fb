"""The arm of a file: ranked lists of another system, with everything that cannot be used counted by row.

U users of a fold, N items of the catalogue, k places of a list.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp

from evaluation.foreign_tables import (
    ids_of,
    microseconds_of,
    moments_of,
    numbers_of,
    problem_of,
    read_table,
    refuse_useless,
    rows_of,
    set_aside,
)
from evaluation.leakage import LeakageError
from evaluation.report import Problem
from evaluation.split import Split
from features import columns
from features.sources.values import to_text
from serving.retrieval.ranking import Rows, best_of_each


def read_lists(
    path: Path, split: Split, item_ids: npt.NDArray[np.object_], *, k: int, relevant: sp.csr_array, exclude_known: bool
) -> tuple[Rows, tuple[Problem, ...]]:
    """Ranked lists of a file.

    Args:
        path: Parquet or CSV: `user_id` (or `user`), `item_id` (or `item`) and `score`, the higher the better; equal
            scores stay in the order of the file. With `timestamp` no row may be of after the cut; with `day` only the
            rows of the cut's own day are read, for lists that change daily.
        split: Users of the fold.
        item_ids: [N] of the catalogue.
        k: Length of a list.
        relevant: [U, N] what has to be found: users with something relevant and no list are counted.
        exclude_known: Whether items that the user has met are left out.

    Returns:
        [U, k] int32, -1 behind the last one, and what could not be used: kind, count and first rows, counted from 1.

    Raises:
        ValueError: The file cannot be read, or lacks a column.
        LeakageError: A row is of after the cut.
    """
    table = read_table(
        path,
        {columns.USER_ID: ("user",), columns.ITEM_ID: ("item",), "score": ()},
        optional=("timestamp", "day"),
    )
    cut = split.cut.date()
    numbers = np.arange(1, table.num_rows + 1)
    if "day" in table.column_names:
        of_day = (
            pc.equal(to_text(table.column("day"), f"{path}, column 'day'"), str(cut))
            .fill_null(False)
            .to_numpy(zero_copy_only=False)
        )
        if not of_day.any():
            raise ValueError(f"{path}: has no row with day {cut}; give the lists of each cut's day")
        table, numbers = table.filter(pa.array(of_day)), numbers[of_day]
    _check_moments(path, table, numbers, cut)
    user_names, item_names = (ids_of(path, table, name) for name in (columns.USER_ID, columns.ITEM_ID))
    own_users, own_items = pa.array(split.user_ids, pa.string()), pa.array(item_ids, pa.string())
    users, items = rows_of(user_names, own_users), rows_of(item_names, own_items)
    scores = numbers_of(path, table, "score")
    missing = pc.or_(pc.is_null(user_names), pc.is_null(item_names)).to_numpy(zero_copy_only=False)
    bad = {
        "no user or no item": missing,
        "score is no number": np.isnan(scores),
        "unknown item": items < 0,
        "user who is not in this comparison": users < 0,
    }
    problems, usable = set_aside(bad, numbers)
    if not usable.any():
        refuse_useless(
            path, table.num_rows, problems, {"users": (user_names, own_users), "items": (item_names, own_items)}
        )
    at = np.flatnonzero(usable)
    # Best first, then by the order of the file: what comes later of a pair is a repetition.
    at = at[np.lexsort((at, -scores[at]))]
    _, first = np.unique(users[at] * len(item_ids) + items[at], return_index=True)
    kept = np.zeros(len(at), np.bool_)
    kept[first] = True
    problems += problem_of("item given to the user more than once, the best is kept", numbers[np.sort(at[~kept])])
    at = at[kept]
    if exclude_known:
        met = np.asarray(split.history[users[at], items[at]]).ravel() > 0
        problems += problem_of("item that the user had met before the cut, left out", numbers[np.sort(at[met])])
        at = at[~met]
    num_users = len(split.user_ids)
    ranked, _ = best_of_each(
        users[at],
        items[at],
        scores=scores[at],
        num_users=num_users,
        k=k,
        ascending_keys=(np.arange(len(at)),),
    )
    without = (np.diff(relevant.indptr) > 0) & (ranked[:, 0] < 0)
    if without.any():
        problems += (Problem("user without a list, who counts as nothing found", int(without.sum())),)
    return ranked, problems


def _check_moments(path: Path, table: pa.Table, numbers: npt.NDArray[np.int64], cut: dt.date) -> None:
    if "timestamp" not in table.column_names:
        return
    late = moments_of(path, table) > microseconds_of(cut)
    if late.any():
        raise LeakageError(
            f"{path}: {int(late.sum()):,} rows are of after the cut {cut}, first row {numbers[late][0]}; give the "
            "lists as they were at the cut"
        )
