"""Scores and ranks of items by how many events they have: whether what is new can be found among what is known.

Shape letters: U users, N items, K interests, D vector width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serving.retrieval.interests import by_interest

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

NO_EVENTS = "0"
FEWEST = {NO_EVENTS: 0, "1 to 9": 1, "10 to 99": 10, "100 to 999": 100, "1,000 and more": 1000}
"""Group of items -> the fewest events that put an item there."""
MOST_USERS = 200


@dataclass(frozen=True)
class EventGroup:
    """The items with about as many events, as users rank them among all items.

    Attributes:
        events: How many events, in words.
        num_items: Items.
        mean_score: Inner product with a user's vector, on average over items and users.
        median_rank: Rank among all items, from 1, median over items and users.
        best_rank: That of a user's best item of the group, median over users.
    """

    events: str
    num_items: int
    mean_score: float
    median_rank: float
    best_rank: float

    def sentence(self, num_items: int) -> str:
        """One line for people, of a catalogue of so many items."""
        return (
            f"{self.num_items:,} items with {self.events} events: mean score {self.mean_score:+.3f}, median rank "
            f"{self.median_rank:,.0f} of {num_items:,}, the best of a user {self.best_rank:,.0f}"
        )


def ranks_by_events(user_vectors: Floats, item_vectors: Floats, item_counts: Ints, *, seed: int) -> list[EventGroup]:
    """Scores and ranks of all items for some users, by the items' number of events; nothing is left out of the ranking.

    Args:
        user_vectors: [U, K D] float32, K vectors of each side by side; at most `MOST_USERS` users are drawn.
        item_vectors: [N, D] float32.
        item_counts: [N] events before the cut.
        seed: Of the draw.

    Returns:
        The groups that have items, those with the fewest events first; none without users.
    """
    drawn = np.sort(np.random.default_rng(seed).permutation(len(user_vectors))[:MOST_USERS])
    if not len(drawn):
        return []
    interests = by_interest(np.asarray(user_vectors[drawn]), width=item_vectors.shape[1])
    scores = np.stack([(item_vectors @ vectors.T).max(axis=1) for vectors in interests])
    ranks = np.empty(scores.shape, np.int64)
    order = np.argsort(-scores, axis=1, kind="stable")
    np.put_along_axis(ranks, order, np.arange(1, scores.shape[1] + 1), axis=1)
    labels = np.searchsorted(list(FEWEST.values()), item_counts, side="right") - 1
    found = []
    for label, events in enumerate(FEWEST):
        those = labels == label
        if those.any():
            own = ranks[:, those]
            best = float(np.median(own.min(axis=1)))
            mean = float(scores[:, those].mean())
            found.append(EventGroup(events, int(those.sum()), mean, float(np.median(own)), best))
    return found
