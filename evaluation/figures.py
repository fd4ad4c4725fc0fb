"""Figures of each user's list, averaged over seeds and folds, and examples of users for whom two arms differ.

U users of a fold, V users of all folds together, K places of a list, N items.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from evaluation.agreement import overlap_at_k
from evaluation.catalogue import Catalogue
from evaluation.folds import Fold
from evaluation.metrics import (
    Hits,
    distinct_groups_at_k,
    find_hits,
    head_share_at_k,
    hit_rate_at_k,
    intra_list_diversity_at_k,
    ndcg_at_k,
    novelty_at_k,
    precision_at_k,
    recall_at_k,
    reciprocal_rank,
    value_weighted_recall_at_k,
)
from evaluation.report import UserExample
from evaluation.settings import Arm, Settings
from evaluation.slices import by_user_group, recall_by_day, recall_by_item_group
from serving.retrieval.ranking import Rows

Floats = npt.NDArray[np.float64]
BY_DAY = "day"
SLICE = "\0"
"""Divides partition and group in the name of a slice; no metric has it."""
NUM_EXAMPLES, NUM_NAMES = 10, 5
_AT_K = {"recall": recall_at_k, "ndcg": ndcg_at_k, "hit_rate": hit_rate_at_k, "precision": precision_at_k}


def figures(fold: Fold, ranked: Rows, settings: Settings, catalogue: Catalogue) -> dict[str, Floats]:
    """Every metric of each user, and recall within every slice.

    Args:
        fold: Users and what is relevant to them.
        ranked: [U, K] int32, catalogue rows, -1 behind the last one; K is at least the largest k.
        settings: Task, list lengths and the places that slices are scored by.
        catalogue: Of the items.

    Returns:
        Name -> [U] float64, nan where the user has nothing relevant (in the slice); slices are named
        `partition` + `SLICE` + `group`.
    """
    relevant, last = fold.relevant(settings.task), max(settings.ks)
    hits = find_hits(ranked, relevant)
    found = {f"{name}@{k}": metric(hits, k) for name, metric in _AT_K.items() for k in settings.ks}
    found["mrr"] = reciprocal_rank(hits)
    if catalogue.values is not None:
        found[f"value_recall@{last}"] = value_weighted_recall_at_k(hits, ranked, relevant, catalogue.values, last)
    describing = {
        f"novelty@{last}": novelty_at_k(ranked, fold.item_counts, last),
        f"diversity@{last}": intra_list_diversity_at_k(ranked, catalogue.categories, last),
        f"head_share@{last}": head_share_at_k(ranked, fold.is_head, last),
    }
    if catalogue.families is not None:
        first = min(settings.ks)
        describing[f"families@{first}"] = distinct_groups_at_k(ranked, catalogue.families, first)
    found |= {name: np.where(hits.num_relevant > 0, values, np.nan) for name, values in describing.items()}
    return found | _slices(fold, ranked, hits, relevant, settings)


def _slices(fold: Fold, ranked: Rows, hits: Hits, relevant: sp.csr_array, settings: Settings) -> dict[str, Floats]:
    recall = recall_at_k(hits, settings.k)
    parts = [(groups.about, groups.names, by_user_group(recall, groups)) for groups in fold.user_groups]
    parts += [
        (groups.about, groups.names, recall_by_item_group(hits, ranked, relevant, groups, k=settings.k))
        for groups in fold.item_groups
    ]
    if settings.by_day:
        by_day = recall_by_day(hits, ranked, fold.split, relevant, k=settings.k)
        first = fold.split.cut.date()
        days = tuple(str(first + dt.timedelta(days=day)) for day in range(by_day.shape[1]))
        parts.append((BY_DAY, days, by_day))
    return {
        f"{about}{SLICE}{name}": columns[:, place]
        for about, names, columns in parts
        for place, name in enumerate(names)
    }


class UserMeans:
    """Averages figures by user: a user counts once, however many folds and seeds there are.

        figure of a user = mean over the folds that have one of the mean over seeds

    Args:
        folds: At least one.
    """

    def __init__(self, folds: Sequence[Fold]) -> None:
        """Gives every user of any fold a row, in the order of their ids."""
        users, rows = np.unique(np.concatenate([fold.split.user_ids for fold in folds]), return_inverse=True)
        self.num_users = len(users)
        self._rows = np.split(rows, np.cumsum([len(fold.split.user_ids) for fold in folds])[:-1])

    def over(self, parts: Sequence[Sequence[Mapping[str, Floats]]]) -> dict[str, Floats]:
        """Means of every figure.

        Args:
            parts: Of each fold, of each seed: name -> [U], nan where a user has no figure.

        Returns:
            Every name that a fold has -> [V].
        """
        names = dict.fromkeys(name for of_seeds in parts for name in of_seeds[0])
        found = {}
        for name in names:
            wide = np.full((len(parts), self.num_users), np.nan)
            for place, (of_seeds, rows) in enumerate(zip(parts, self._rows, strict=True)):
                if name in of_seeds[0]:
                    wide[place, rows] = _mean(np.stack([figures[name] for figures in of_seeds]))
            found[name] = _mean(wide)
        return found


def _mean(stacked: Floats) -> Floats:
    """Mean over the rows that have a number, nan where none has: [n, m] to [m]."""
    counted = ~np.isnan(stacked)
    out = np.full(stacked.shape[1], np.nan)
    np.divide(np.where(counted, stacked, 0.0).sum(axis=0), counted.sum(axis=0), out=out, where=counted.any(axis=0))
    return out


def mean_of(values: Floats) -> float:
    """Mean of the numbers that there are; nan where there is none."""
    counted = values[~np.isnan(values)]
    return float(counted.mean()) if len(counted) else float("nan")


def most_different(
    arm: Arm, reference: Arm, folds: Sequence[Fold], *, settings: Settings, catalogue: Catalogue
) -> tuple[UserExample, ...]:
    """The users with the largest difference in recall@k, those with less similar lists first among equal ones.

    Args:
        arm: With lists of each fold; those of its first seed count.
        reference: The arm that it is compared with.
        folds: As many as the arms have lists of.
        settings: Task and places that count.
        catalogue: Names of the items.

    Returns:
        At most ten, of those who differ at all; a user of two folds may come twice.
    """
    found: list[tuple[float, float, int, int, UserExample]] = []
    for number, fold in enumerate(folds):
        own, others = (side.lists(number, 0)[:, : settings.k] for side in (arm, reference))
        relevant = fold.relevant(settings.task)
        recall, recall_of_reference = (recall_at_k(find_hits(lists, relevant), settings.k) for lists in (own, others))
        overlap = overlap_at_k(own, others, settings.k)
        gap = np.nan_to_num(np.abs(recall - recall_of_reference))
        order = np.lexsort((np.nan_to_num(overlap), -gap))[:NUM_EXAMPLES]
        for user in order[gap[order] > 0].tolist():
            wanted = relevant.indices[relevant.indptr[user] : relevant.indptr[user + 1]]
            example = UserExample(
                str(fold.split.user_ids[user]),
                float(recall[user]),
                float(recall_of_reference[user]),
                float(overlap[user]),
                _names(own[user], others[user], wanted, catalogue),
                _names(others[user], own[user], wanted, catalogue),
                num_relevant=len(wanted),
            )
            found.append((-gap[user], float(np.nan_to_num(overlap[user])), number, user, example))
    return tuple(example for *_, example in sorted(found, key=lambda entry: entry[:4])[:NUM_EXAMPLES])


def _names(own: Rows, other: Rows, wanted: npt.NDArray[np.int32], catalogue: Catalogue) -> tuple[str, ...]:
    """Relevant items of one list that are not in the other, best first."""
    hits = own[np.isin(own, wanted) & ~np.isin(own, other)]
    return tuple(catalogue.names[row] for row in hits[:NUM_NAMES].tolist())
