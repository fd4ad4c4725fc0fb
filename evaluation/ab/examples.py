"""On whom do two arms differ most? Users with what each arm found for them and the other did not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from evaluation.ab.figures import Catalogue, Fold, Rows
from evaluation.ab.report import UserExample
from evaluation.agreement import overlap_at_k
from evaluation.metrics import judge, recall_at_k
from evaluation.report import Task

NUM_USERS, NUM_NAMES = 10, 5


def most_different(
    ranked: Sequence[Rows], of_a: Sequence[Rows], folds: Sequence[Fold], *, task: Task, k: int, catalogue: Catalogue
) -> tuple[UserExample, ...]:
    """The users with the largest difference in recall@k, those with less alike lists first among equal ones.

    Args:
        ranked: [U, K] int32 of each fold, of the arm.
        of_a: The same of A.
        folds: As many.
        task: What counts as relevant.
        k: Places that count.
        catalogue: Names of the items.

    Returns:
        At most ten, of those who differ at all; a user of two folds may come twice.
    """
    found: list[tuple[float, float, int, int, UserExample]] = []
    for number, (mine, other, fold) in enumerate(zip(ranked, of_a, folds, strict=True)):
        relevant = fold.relevant(task)
        recall, recall_of_a = (recall_at_k(judge(lists, relevant), k) for lists in (mine, other))
        overlap = overlap_at_k(mine, other, k)
        gap = np.nan_to_num(np.abs(recall - recall_of_a))
        order = np.lexsort((np.nan_to_num(overlap), -gap))[:NUM_USERS]
        for user in order[gap[order] > 0].tolist():
            own, others = mine[user, :k], other[user, :k]
            example = UserExample(
                str(fold.split.user_ids[user]),
                float(recall[user]),
                float(recall_of_a[user]),
                float(overlap[user]),
                _names(own, others, relevant, user, catalogue),
                _names(others, own, relevant, user, catalogue),
                num_relevant=int(relevant.indptr[user + 1] - relevant.indptr[user]),
            )
            found.append((-gap[user], float(np.nan_to_num(overlap[user])), number, user, example))
    return tuple(example for *_, example in sorted(found, key=lambda entry: entry[:4])[:NUM_USERS])


def _names(
    own: npt.NDArray[np.int32], other: npt.NDArray[np.int32], relevant: sp.csr_array, user: int, catalogue: Catalogue
) -> tuple[str, ...]:
    """Relevant items of one list that are not in the other, best first."""
    wanted = relevant.indices[relevant.indptr[user] : relevant.indptr[user + 1]]
    hits = own[np.isin(own, wanted) & ~np.isin(own, other)]
    return tuple(catalogue.names[row] for row in hits[:NUM_NAMES].tolist())
