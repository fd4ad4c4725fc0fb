"""Has the model collapsed? What it would serve to everybody, looked at once an epoch.

Shape letters: U users, N items, K places, D vector width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int32]

# Of the way from lists drawn evenly (0) to the same list for everybody, or to popularity's (1).
TOO_ALIKE = 0.8


@dataclass(frozen=True)
class Diagnosis:
    """How varied the top lists and the vectors are.

    Attributes:
        distinct_items: Items in anybody's top list.
        num_lists: Users that were looked at.
        common_share: Share of a user's list that another user's list has too, on average over pairs of users; 1 where
            everybody gets the same items.
        popular_share: Share of the places in the lists with items that popularity alone would show the same user; 1
            where the model adds nothing to popularity.
        chance_share: K / N, what both shares would be if lists were drawn evenly from the catalogue.
        item_variance: Mean squared distance of the item vectors from their mean; 0 where all are the same, 1 where
            they point everywhere alike.
        user_variance: Likewise for users.
    """

    distinct_items: int
    num_lists: int
    common_share: float
    popular_share: float
    chance_share: float
    item_variance: float
    user_variance: float

    def warnings(self) -> list[str]:
        """What is wrong, in words; empty if nothing is."""
        found = []
        if self._is_too_alike(self.common_share):
            found.append(
                f"two users have {self.common_share:.0%} of their top lists in common, {self.distinct_items} items "
                f"serve all {self.num_lists}: nearly everybody gets the same list. Look at the history feature, raise "
                "training.negatives.num_uniform or lower towers.temperature"
            )
        if self._is_too_alike(self.popular_share):
            found.append(
                f"{self.popular_share:.0%} of the places go to what popularity alone would show the same user: "
                "popularity has taken over. Check that log q is corrected (training.log_q: yi2019)"
            )
        for name, variance in (("item", self.item_variance), ("user", self.user_variance)):
            if not variance > 0.01:
                found.append(
                    f"the {name} vectors have variance {variance:.4f} of at most 1: they have collapsed onto one "
                    "direction. Lower training.learning_rate"
                )
        return found

    def _is_too_alike(self, share: float) -> bool:
        return share - self.chance_share > TOO_ALIKE * (1 - self.chance_share)


def diagnose(top_items: Rows, popular_items: Rows, user_vectors: Floats, item_vectors: Floats) -> Diagnosis:
    """Looks at the top lists of a sample of users.

    Args:
        top_items: [U, K] positions in the catalogue, distinct in a row, -1 where a list ends early.
        popular_items: [U, K] what popularity alone would show the same users, without what they know, likewise.
        user_vectors: [U, D] of length one, or [U, K D], K of each user side by side.
        item_vectors: [N, D] of length one.
    """
    num_items = len(item_vectors)
    shown = np.bincount(top_items[top_items >= 0], minlength=num_items)
    return Diagnosis(
        distinct_items=int(np.count_nonzero(shown)),
        num_lists=len(top_items),
        common_share=_share_in_common(shown, num_lists=len(top_items)),
        popular_share=_share_of_popular(top_items, popular_items),
        chance_share=min(1.0, top_items.shape[1] / num_items),
        item_variance=_variance(item_vectors),
        user_variance=_variance(user_vectors.reshape(-1, item_vectors.shape[1])),
    )


def _share_in_common(shown: npt.NDArray[np.int64], *, num_lists: int) -> float:
    """Chance that an item shown to one user is shown to another: an item in n of U lists is met by n - 1 of U - 1."""
    places = int(shown.sum())
    if num_lists < 2 or not places:
        return 0.0
    return float(shown @ (shown - 1) / (places * (num_lists - 1)))


def _share_of_popular(top_items: Rows, popular_items: Rows) -> float:
    hits = places = 0
    for own, popular in zip(top_items, popular_items, strict=True):
        listed = own[own >= 0]
        hits += int(np.isin(listed, popular).sum())
        places += len(listed)
    return hits / places if places else 0.0


def _variance(vectors: Floats) -> float:
    return float(np.square(vectors - vectors.mean(axis=0)).sum(axis=1).mean())
