"""Recall of co-purchase factors alone, by width and powers, beside EASE, on the days before a cut.

    python benchmarks/co_purchase.py runs/my_shop/tables --cut 2024-05-24

The cut should be before the days that the product is tested on: settings are chosen by these figures. Recall is of
items that are new to the user, for users with a past. Results are in docs/methods.md.
"""

from __future__ import annotations

import datetime as dt
from itertools import product
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console
from rich.table import Table

from evaluation.baselines import BASELINES
from evaluation.baselines.baseline import Past
from evaluation.folds import make_folds
from evaluation.metrics import find_hits, recall_at_k
from evaluation.split import Split
from serving.retrieval import exact
from training.co_purchase import item_factors

USER_POWERS, ITEM_POWERS = (0.0, 0.25, 0.5), (0.0, 0.3, 0.5)


def main(
    tables: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Canonical tables of a run.")],
    cut: Annotated[dt.datetime, typer.Option(formats=["%Y-%m-%d"], help="First day of the window.")],
    window_days: Annotated[int, typer.Option(min=1, help="Length of the window.")] = 7,
    widths: Annotated[str, typer.Option(help="Numbers of factors, with commas.")] = "32,64,128",
    k: Annotated[int, typer.Option(min=1, help="Length of the lists.")] = 100,
    with_ease: Annotated[bool, typer.Option("--with-ease/--without-ease", help="Fit EASE too.")] = True,
) -> None:
    """Print a table of recall."""
    folds = make_folds(tables, protocol="after-cut", cuts=[cut.date()], window_days=window_days, item_category=None)
    split = folds.folds[0].split
    wanted = [int(width) for width in widths.split(",")]
    table = Table("a", "b", *(f"{width} factors" for width in wanted), title=f"recall@{k}, {tables}, {cut.date()}")
    for user_power, item_power in product(USER_POWERS, ITEM_POWERS):
        found = [_recall(split, width, user_power, item_power, k) for width in wanted]
        table.add_row(f"{user_power:g}", f"{item_power:g}", *(f"{recall:.4f}" for recall in found))
    console = Console()
    console.print(table)
    if with_ease:
        fitted = BASELINES["ease"].fit(Past(split, folds.events, folds.item_ids, seed=1, k=k))
        console.print(f"EASE {_mean(split, fitted.rank(k, True), k):.4f}: {fitted.note}")


def _recall(split: Split, num_factors: int, user_power: float, item_power: float, k: int) -> float:
    pairs = split.history.tocoo()
    num_users, num_items = split.history.shape
    factors = item_factors(
        pairs.row.astype(np.int64),
        pairs.col.astype(np.int64),
        num_user_rows=num_users,
        num_item_rows=num_items,
        num_factors=num_factors,
        user_power=user_power,
        item_power=item_power,
        seed=1,
    )
    has_met = split.history.astype(bool).astype(np.float32)
    users = np.asarray(has_met @ (factors.own * factors.weights[:, None]), dtype=np.float32)
    users /= np.maximum(np.linalg.norm(users, axis=1, keepdims=True), 1e-12)
    rows, _ = exact.search(users, factors.own, k=k, exclude=has_met.tocsr())
    return _mean(split, rows, k)


def _mean(split: Split, rows: npt.NDArray[np.int32], k: int) -> float:
    """Mean recall over the users with a past and something new."""
    recall = recall_at_k(find_hits(rows, split.relevant_new), k)
    has_past = np.diff(split.history.indptr) > 0
    return float(np.nanmean(recall[has_past]))


if __name__ == "__main__":
    typer.run(main)
