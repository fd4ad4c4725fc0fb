"""What do a user's latest items and the items' popularity add to fitted vectors? A query of more parts, one index.

    u'_u = [ (u + a s) / |u + a s| ; 1 ],   s = sum_t e^(-t / h) v_t  brought to length one, t items ago
    v'_i = [ v_i ; b tau log n_i ],         n_i pairs of item i

Shape letters: U users, N items, P pairs, D vector width.

Source: Yi et al., RecSys 2019, section 5.1 (the latest item as the seed of the query).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class SeedSettings:
    """What is added.

    Attributes:
        weight: a, what the latest items count beside the user's own vector; 0 leaves them out.
        decay_items: h, after how many items one counts 1/e.
        popularity: b, in units of the temperature; 0 leaves popularity out.
    """

    weight: float
    decay_items: float
    popularity: float


def with_seed_items(
    user_vectors: Floats,
    item_vectors: Floats,
    users: Ints,
    items: Ints,
    from_last: Ints,
    settings: SeedSettings,
    *,
    temperature: float,
) -> tuple[Floats, Floats]:
    """Adds a user's latest items and the items' popularity to vectors.

    Args:
        user_vectors: [U, D] float32, of length one.
        item_vectors: [N, D] float32, of length one.
        users: [P] int64 user rows of distinct pairs.
        items: [P] int64 item rows.
        from_last: [P] int64, how many of its user's pairs come after each.
        settings: What is added.
        temperature: tau, what the vectors' cosines were divided by.

    Returns:
        [U, D + 1] and [N, D + 1] float32.
    """
    queries = user_vectors
    if settings.weight:
        weights = np.exp(-from_last / settings.decay_items).astype(np.float32)
        latest = sparse.csr_array((weights, (users, items)), shape=(len(user_vectors), len(item_vectors)))
        queries = _unit(user_vectors + settings.weight * _unit(latest @ item_vectors))
    counts = np.bincount(items, minlength=len(item_vectors))
    prior = settings.popularity * temperature * np.log(np.maximum(counts, 1))
    return (
        np.concatenate([queries, np.ones((len(queries), 1))], axis=1).astype(np.float32),
        np.concatenate([item_vectors, prior[:, None]], axis=1).astype(np.float32),
    )


def _unit(vectors: Floats) -> Floats:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))
