"""The lists of a bundle for the users of a comparison, and how long it takes to answer.

U users of a fold, k places of a list, N items of the catalogue.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import threadpoolctl

from evaluation.arms.bundle_arm import Asked
from evaluation.foreign_tables import rows_of
from evaluation.report import Latency
from serving.answers import RequestError
from serving.recommender import Recommender
from serving.retrieval.ranking import NO_ROW, Rows

USER_BLOCK = 256
TIMED_USERS = 200


def ask(
    recommender: Recommender, asked: Asked, user_ids: npt.NDArray[np.object_], item_ids: npt.NDArray[np.object_]
) -> Rows:
    """The lists of a bundle in the rows of the comparison's catalogue: [U, k] int32.

    Raises:
        ValueError: The bundle cannot be asked so.
    """
    own_ids = recommender.bundle.encoder.item_ids.ids(np.arange(1, recommender.bundle.manifest.num_items + 1))
    rows = rows_of(pa.array(own_ids, pa.string()), pa.array(item_ids, pa.string())).astype(np.int32)
    # One more, so that what is behind the end of a list stays there.
    row_of = np.append(rows, np.int32(NO_ROW))
    parts = [np.zeros((0, asked.k), np.int32)]
    try:
        for begin in range(0, len(user_ids), USER_BLOCK):
            block = [str(user_id) for user_id in user_ids[begin : begin + USER_BLOCK]]
            parts.append(row_of[recommender.rank(asked.request(block)).rows])
    except RequestError as error:
        raise ValueError(f"{recommender.bundle.version}: {error}") from None
    return without_holes(np.concatenate(parts))


def without_holes(lists: Rows) -> Rows:
    """Closes the gaps that items outside the catalogue leave in lists."""
    order = np.argsort(lists < 0, axis=1, kind="stable")
    return np.take_along_axis(lists, order, axis=1)


def measure(answer: Callable[[str], object], user_ids: npt.NDArray[np.object_], *, seed: int) -> Latency:
    """Wall clock of one user's list in this process, asked one by one with one thread."""
    rng = np.random.default_rng(seed)
    some = rng.permutation(user_ids)[:TIMED_USERS]
    taken = []
    with threadpoolctl.threadpool_limits(1, "blas"):
        answer(str(some[0]))
        for user_id in some:
            begun = time.perf_counter()
            answer(str(user_id))
            taken.append(time.perf_counter() - begun)
    median, p99 = np.quantile(np.array(taken) * 1000, [0.5, 0.99])
    return Latency(float(median), float(p99), len(taken), "this process")
