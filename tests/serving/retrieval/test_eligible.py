"""Which items may be answered with, and when does it change?"""

from __future__ import annotations

import numpy as np

from serving.retrieval.eligible import Offers, everything_but

CATEGORIES = ["fish", None, "fruit", "fish"]
NOTHING = np.empty(0, np.int32)


def rows(offers: Offers, **asked: object) -> list[int] | None:
    offer = offers.of(exclude=np.array(asked.pop("exclude", []), np.int64), **asked)  # type: ignore[arg-type]
    if offer is None:
        return None
    assert offer.num_items == int(offer.mask.sum())
    return np.flatnonzero(offer.mask).tolist()


def test_without_a_wish_everything_may_come() -> None:
    assert rows(Offers(CATEGORIES, lambda: NOTHING)) is None
    assert everything_but(NOTHING, num_items=4) is None


def test_wishes_come_together() -> None:
    offers = Offers(CATEGORIES, lambda: np.array([3], np.int32))
    assert rows(offers) == [0, 1, 2]
    assert rows(offers, allow=["fish"]) == [0]
    assert rows(offers, allow=["fish", "fruit"], deny=["fruit"]) == [0]
    assert rows(offers, deny=["fish", "nowhere"]) == [1, 2]
    assert rows(offers, exclude=[1]) == [0, 2]
    assert rows(offers, allow=[]) == []
    assert rows(offers) == [0, 1, 2], "no wish outlives its request"


def test_what_is_kept_out_later_is_kept_out_of_categories_that_were_asked_before() -> None:
    kept_out = [NOTHING]
    offers = Offers(CATEGORIES, lambda: kept_out[-1])
    assert rows(offers, allow=["fish"]) == [0, 3]
    kept_out.append(np.array([0], np.int32))
    assert rows(offers, allow=["fish"]) == [3]
    assert rows(offers) == [1, 2, 3]
