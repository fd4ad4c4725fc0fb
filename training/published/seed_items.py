"""What do the order of a user's items and their popularity add to fitted vectors? More parts, still one index.

    w_i = (v_i + c m_i) / |v_i + c m_i|,      m_i  mean of the vectors of the items next to i in users' orders
    u'_u = [ (u + a s) / |u + a s| ; 1 ],     s = sum_t e^(-t / h) w_t  brought to length one, t items ago
    v'_i = [ w_i ; b tau log n_i ],           n_i  pairs of item i

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
        adjacent: c, what the items next to an item count beside its own vector; 0 leaves them out.
        popularity: b, in units of the temperature; 0 leaves popularity out.
    """

    weight: float
    decay_items: float
    adjacent: float
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
    """Adds what is next to an item, a user's latest items and the items' popularity to vectors.

    Args:
        user_vectors: [U, D] float32, of length one.
        item_vectors: [N, D] float32, of length one.
        users: [P] int64 user rows of distinct pairs, by user, oldest first.
        items: [P] int64 item rows.
        from_last: [P] int64, how many of its user's pairs come after each.
        settings: What is added.
        temperature: tau, what the vectors' cosines were divided by.

    Returns:
        [U, D + 1] and [N, D + 1] float32.
    """
    if settings.adjacent:
        means = _adjacency(users, items, num_items=len(item_vectors)) @ item_vectors
        item_vectors = _unit(item_vectors + settings.adjacent * means)
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


def _adjacency(users: Ints, items: Ints, *, num_items: int) -> sparse.csr_array:
    """How often items stand next to each other, as shares of all that stand next to an item: [N, N]."""
    together = users[1:] == users[:-1]
    before, after = items[:-1][together], items[1:][together]
    ones = np.ones(2 * len(before), np.float32)
    both = (np.concatenate([before, after]), np.concatenate([after, before]))
    counts = sparse.csr_array((ones, both), shape=(num_items, num_items))
    return sparse.csr_array(sparse.diags_array(1.0 / np.maximum(counts.sum(axis=1), 1.0)) @ counts)


def _unit(vectors: npt.NDArray[np.floating]) -> Floats:
    lengths = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return np.asarray(vectors / lengths, dtype=np.float32)
