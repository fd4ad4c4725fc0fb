"""Masks of eligible items, and when they change."""

from __future__ import annotations

import numpy as np

from serving.retrieval.eligible import Eligibility, everything_but

CATEGORIES = ["fish", None, "fruit", "fish"]
NOTHING = np.empty(0, np.int32)


def rows(eligibility: Eligibility, **asked: object) -> list[int] | None:
    eligible = eligibility.of(exclude=np.array(asked.pop("exclude", []), np.int64), **asked)  # type: ignore[arg-type]
    if eligible is None:
        return None
    assert eligible.num_items == int(eligible.mask.sum())
    return np.flatnonzero(eligible.mask).tolist()


def test_without_filters_every_item_is_eligible() -> None:
    assert rows(Eligibility(CATEGORIES, lambda: NOTHING)) is None
    assert everything_but(NOTHING, num_items=4) is None


def test_filters_are_combined() -> None:
    eligibility = Eligibility(CATEGORIES, lambda: np.array([3], np.int32))
    assert rows(eligibility) == [0, 1, 2]
    assert rows(eligibility, allow=["fish"]) == [0]
    assert rows(eligibility, allow=["fish", "fruit"], deny=["fruit"]) == [0]
    assert rows(eligibility, deny=["fish", "nowhere"]) == [1, 2]
    assert rows(eligibility, exclude=[1]) == [0, 2]
    assert rows(eligibility, allow=[]) == []
    assert rows(eligibility) == [0, 1, 2], "no wish outlives its request"


def test_items_denied_later_are_left_out_of_cached_categories() -> None:
    kept_out = [NOTHING]
    eligibility = Eligibility(CATEGORIES, lambda: kept_out[-1])
    assert rows(eligibility, allow=["fish"]) == [0, 3]
    kept_out.append(np.array([0], np.int32))
    assert rows(eligibility, allow=["fish"]) == [3]
    assert rows(eligibility) == [1, 2, 3]


def test_an_item_of_several_categories_is_of_each_of_them() -> None:
    eligibility = Eligibility([("fish", "fresh"), None, ("fruit",), "fish", ("fish", "fresh"), ()], lambda: NOTHING)
    assert eligibility.category_names == ["fish", "fresh", "fruit"]
    assert rows(eligibility, allow=["fresh", "fruit"]) == [0, 2, 4]
    assert rows(eligibility, allow=["fish"], deny=["fresh"]) == [3]
    assert rows(eligibility, deny=["fish"]) == [1, 2, 5]
