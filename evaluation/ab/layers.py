"""Is what users get what the model means? One layer of an arm beside the next.

U users, K places of a list.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from evaluation.ab.report import Layer, LayerCheck
from evaluation.agreement import overlap_at_k
from evaluation.metrics import judge, recall_at_k
from evaluation.statistics import paired_difference

Rows = npt.NDArray[np.int32]
MIN_INDEX_RECALL = 0.95
"""Share of exact search below which an index is a finding."""


def check_layers(
    upper: Rows,
    lower: Rows,
    relevant: sp.csr_array,
    *,
    letter: str,
    layers: tuple[Layer, Layer],
    k: int,
    num_samples: int,
    seed: int,
    level: float,
) -> LayerCheck:
    """Compares the lists of two layers.

    An approximate index may miss some; where recall falls by it beyond doubt, that is a finding, and where it misses
    more than it may, nothing ships. Between the index and the server nothing may differ.

    Args:
        upper: [U, K] int32, the layer that is nearer to the model.
        lower: [U, K] int32, the other, for the same users.
        relevant: [U, N] CSR.
        letter: Of the arm.
        layers: Their names.
        k: Places that count.
        num_samples: Bootstrap resamples.
        seed: Of them.
        level: Share of the bootstrap distribution inside the interval.

    Returns:
        What they have in common; `finding` says what should not be.
    """
    same = (upper[:, :k] == lower[:, :k]).all(axis=1)
    shares = overlap_at_k(lower, upper, k)
    found_share = float(np.nanmean(shares)) if not np.isnan(shares).all() else 1.0
    recalls = [recall_at_k(judge(lists, relevant), k) for lists in (lower, upper)]
    recall = paired_difference(*recalls, num_samples=num_samples, seed=seed, level=level)
    finding, blocks = None, False
    if layers[1] == "server" and not same.all():
        blocks = True
        finding = (
            f"the server answers {int((~same).sum()):,} of {len(same):,} users with other lists than the same bundle "
            f"does in this process; recall@{k} differs by {recall.mean:+.4f}"
        )
    elif layers[1] == "index" and (found_share < MIN_INDEX_RECALL or recall.high < 0):
        blocks = found_share < MIN_INDEX_RECALL
        finding = (
            f"the index finds {found_share:.3f} of exact search's items, and recall@{k} is {recall.mean:+.4f} "
            f"[{recall.low:+.4f}, {recall.high:+.4f}] from it; raise index.ef_search"
        )
    return LayerCheck(letter, *layers, len(same), float(same.mean()), found_share, recall, finding, blocks)
