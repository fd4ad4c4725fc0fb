"""Use of several interests: which of a user's vectors find items, and how alike the vectors are, once an epoch.

Shape letters: U users, N items, K interests, D vector width, P pairs of a user and an item.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from serving.retrieval.interests import by_interest

Floats = npt.NDArray[np.float32]
MOST_PAIRS = 20_000
# A share below a tenth of an even one, and a cosine at which the lists of two vectors are nearly the same.
TOO_RARE, TOO_ALIKE = 0.1, 0.95


@dataclass(frozen=True)
class InterestUse:
    """How the vectors of users are used.

    Attributes:
        shares: [K] share of the pairs whose item the k-th vector of the user is nearest to; equal ones count in parts.
        cosine: Mean cosine of two vectors of one user.
    """

    shares: npt.NDArray[np.float64]
    cosine: float

    def metrics(self) -> dict[str, float]:
        """By name, as an epoch reports them; interests are counted from 1."""
        found = {f"interest_{number}_share": float(share) for number, share in enumerate(self.shares, start=1)}
        return {**found, "interest_cosine": self.cosine}

    def warnings(self) -> list[str]:
        """What is wrong, in words; empty if nothing is."""
        found = []
        if self.cosine > TOO_ALIKE:
            found.append(
                f"two vectors of a user have a cosine of {self.cosine:.3f} on average: interests have collapsed onto "
                "one. Raise towers.interests.local_weight, or set towers.interests: null"
            )
        rare = np.flatnonzero(self.shares < TOO_RARE / len(self.shares)) + 1
        if len(rare):
            listed = ", ".join(map(str, rare.tolist()))
            found.append(
                f"of {len(self.shares)} interests, hardly any item picks {listed}: they are not used. Lower "
                "towers.interests.num"
            )
        return found


def interest_use(
    user_vectors: Floats, item_vectors: Floats, pairs: sparse.csr_array, *, learned_width: int, seed: int
) -> InterestUse:
    """Looks at pairs of users and what they met.

    Args:
        user_vectors: [U, K D] float32, K vectors of one length side by side.
        item_vectors: [N, D] float32.
        pairs: [U, N], an entry for each pair; at most `MOST_PAIRS` are drawn.
        learned_width: First coordinates of a vector, which were learned; the rest is the same in all of a user's.
        seed: Of the draw.
    """
    interests = by_interest(user_vectors, width=item_vectors.shape[1])[..., :learned_width]
    num = interests.shape[1]
    length = np.maximum(np.linalg.norm(interests, axis=2, keepdims=True), 1e-12)
    total = (interests / length).sum(axis=1)
    # |sum_k u_k|^2 = K + sum over ordered pairs of their cosines
    cosines = (np.square(total).sum(axis=1) - num) / (num * (num - 1))
    owners = np.repeat(np.arange(pairs.shape[0]), np.diff(pairs.indptr))
    some = np.random.default_rng(seed).permutation(len(owners))[:MOST_PAIRS]
    scores = np.einsum("pkd,pd->pk", interests[owners[some]], item_vectors[pairs.indices[some], :learned_width])
    is_best = scores >= scores.max(axis=1, keepdims=True)
    shares = (is_best / is_best.sum(axis=1, keepdims=True)).sum(axis=0) / max(len(some), 1)
    return InterestUse(shares, float(cosines.mean()))
