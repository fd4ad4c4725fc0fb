"""What is each user's list worth? Every figure of an arm by user, over all windows of a comparison.

U users of a window, V users of all windows together, K places of a list, N items.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from evaluation.diversity import head_share_at_k, intra_list_diversity_at_k, novelty_at_k
from evaluation.metrics import (
    Judged,
    hit_rate_at_k,
    ndcg_at_k,
    precision_at_k,
    recall_at_k,
    reciprocal_rank,
    value_weighted_recall_at_k,
)
from evaluation.report import NEW_TO_THE_USER, Task
from evaluation.slices import Groups, by_user_group, recall_by_day, recall_by_item_group
from evaluation.split import Split

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int32]
BY_DAY = "day"
_AT_K = {"recall": recall_at_k, "ndcg": ndcg_at_k, "hit_rate": hit_rate_at_k, "precision": precision_at_k}


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
    item_groups: tuple[Groups, ...]
    user_groups: tuple[Groups, ...]
    item_counts: npt.NDArray[np.int64]
    is_head: npt.NDArray[np.bool_]

    def relevant(self, task: Task) -> sp.csr_array:
        """[U, N] what an arm has to find."""
        return self.split.relevant_new if task == NEW_TO_THE_USER else self.split.relevant

    def are_judged(self, task: Task) -> npt.NDArray[np.bool_]:
        """[U] who has something relevant."""
        return np.asarray(np.diff(self.relevant(task).indptr) > 0)


@dataclass(frozen=True)
class Catalogue:
    """What is known of the items, the same in every fold.

    Attributes:
        names: [N] what people call them.
        categories: [N] int64, number of the category; -1 for none.
        values: [N] float64, what a sale is worth, at least 0; None where nothing tells.
    """

    names: Sequence[str]
    categories: npt.NDArray[np.int64]
    values: Floats | None = None


def figures(
    fold: Fold, ranked: Rows, judged: Judged, *, task: Task, ks: Sequence[int], catalogue: Catalogue
) -> dict[str, Floats]:
    """Every figure of each user, of those with something relevant.

    Args:
        fold: Users and what is relevant to them.
        ranked: [U, K] int32, catalogue rows, -1 behind the last one; K is at least the largest k.
        judged: These lists, judged by what is relevant.
        task: What counts as relevant.
        ks: List lengths.
        catalogue: Of the items.

    Returns:
        Name -> [U] float64, nan where the user has nothing relevant.
    """
    relevant, last = fold.relevant(task), max(ks)
    found = {f"{name}@{k}": metric(judged, k) for name, metric in _AT_K.items() for k in ks}
    found["mrr"] = reciprocal_rank(judged)
    if catalogue.values is not None:
        found[f"value_recall@{last}"] = value_weighted_recall_at_k(judged, ranked, relevant, catalogue.values, last)
    beside = {
        f"novelty@{last}": novelty_at_k(ranked, fold.item_counts, last),
        f"diversity@{last}": intra_list_diversity_at_k(ranked, catalogue.categories, last),
        f"head_share@{last}": head_share_at_k(ranked, fold.is_head, last),
    }
    return found | {name: np.where(judged.num_relevant > 0, values, np.nan) for name, values in beside.items()}


def slices(fold: Fold, ranked: Rows, judged: Judged, *, task: Task, k: int) -> dict[str, dict[str, Floats]]:
    """Recall@k of each user in every group.

    Returns:
        What divides -> group -> [U] float64, nan where the user has nothing relevant in it.
    """
    relevant = fold.relevant(task)
    recall = recall_at_k(judged, k)
    found = {groups.about: _columns(groups.names, by_user_group(recall, groups)) for groups in fold.user_groups}
    for groups in fold.item_groups:
        found[groups.about] = _columns(groups.names, recall_by_item_group(judged, ranked, relevant, groups, k=k))
    return found | {BY_DAY: _by_day(fold, judged, ranked, relevant, k)}


def over_users(parts: Sequence[Mapping[str, Floats]], folds: Sequence[Fold]) -> dict[str, Floats]:
    """Figures of several windows by user: a user counts once, with the mean over the windows that have a figure.

    Args:
        parts: Of each fold: name -> [U].
        folds: As many.

    Returns:
        Every name that a fold has -> [V], users in the order of their ids.
    """
    users, rows = np.unique(np.concatenate([fold.split.user_ids for fold in folds]), return_inverse=True)
    places = np.split(rows, np.cumsum([len(fold.split.user_ids) for fold in folds])[:-1])
    names = dict.fromkeys(name for part in parts for name in part)
    out = {}
    for name in names:
        total, times = np.zeros(len(users)), np.zeros(len(users))
        for part, at in zip(parts, places, strict=True):
            if name in part:
                counted = ~np.isnan(part[name])
                # A user stands once in a fold, so that no place is written twice.
                total[at[counted]] += part[name][counted]
                times[at[counted]] += 1
        out[name] = np.divide(total, times, out=np.full(len(users), np.nan), where=times > 0)
    return out


def _by_day(fold: Fold, judged: Judged, ranked: Rows, relevant: sp.csr_array, k: int) -> dict[str, Floats]:
    days = recall_by_day(judged, ranked, fold.split, relevant, k=k)
    first = fold.split.cut.date()
    return _columns([str(first + dt.timedelta(days=day)) for day in range(days.shape[1])], days)


def _columns(names: Sequence[str], values: Floats) -> dict[str, Floats]:
    return {name: values[:, at] for at, name in enumerate(names)}
