"""Has the model collapsed? What it would serve to everybody, looked at once an epoch.

Shape letters: U users, N items, K places, D vector width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Diagnosis:
    """How varied the top lists and the vectors are.

    Attributes:
        distinct_items: Items in anybody's top list.
        num_lists: Users that were looked at.
        popular_share: Share of places in the lists that the most popular 1% of items take.
        item_variance: Mean squared distance of the item vectors from their mean; 0 where all are the same, 1 where
            they point everywhere alike.
        user_variance: Likewise for users.
    """

    distinct_items: int
    num_lists: int
    popular_share: float
    item_variance: float
    user_variance: float

    def warnings(self) -> list[str]:
        """What is wrong, in words; empty if nothing is."""
        found = []
        if self.num_lists > 1 and self.distinct_items < max(20, self.num_lists // 50):
            found.append(
                f"only {self.distinct_items} items in the top lists of {self.num_lists} users: nearly everybody "
                "gets the same list. Look at the history feature, raise training.num_uniform or lower the temperature"
            )
        if self.popular_share > 0.9:
            found.append(
                f"{self.popular_share:.0%} of the places go to the most popular 1% of items: popularity has taken "
                "over. Check that log q is corrected (training.log_q: yi2019)"
            )
        for name, variance in (("item", self.item_variance), ("user", self.user_variance)):
            if not variance > 0.01:
                found.append(
                    f"the {name} vectors have variance {variance:.4f} of at most 1: they have collapsed onto one "
                    "direction. Lower the learning rate"
                )
        return found


def diagnose(
    top_items: npt.NDArray[np.int32], popularity: npt.NDArray[np.float64], user_vectors: Floats, item_vectors: Floats
) -> Diagnosis:
    """Looks at the top lists of a sample of users.

    Args:
        top_items: [U, K] positions in the catalogue, -1 where a list ends early.
        popularity: [N] events of each item.
        user_vectors: [U, D] of length one.
        item_vectors: [N, D] of length one.
    """
    shown = top_items[top_items >= 0]
    head = np.argsort(-popularity, kind="stable")[: max(1, len(popularity) // 100)]
    return Diagnosis(
        distinct_items=len(np.unique(shown)),
        num_lists=len(top_items),
        popular_share=float(np.isin(shown, head).mean()) if len(shown) else 0.0,
        item_variance=_variance(item_vectors),
        user_variance=_variance(user_vectors),
    )


def _variance(vectors: Floats) -> float:
    return float(np.square(vectors - vectors.mean(axis=0)).sum(axis=1).mean())
