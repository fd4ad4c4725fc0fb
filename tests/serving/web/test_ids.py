"""Ids of requests are written as those of the tables, whether they come as text or as numbers."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from serving.web.api import RecommendBody, SimilarItemsBody


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (12, "12"),
        (12.0, "12"),
        ("12.0", "12"),
        (" i1\n", "i1"),
        (2**53 - 1, str(2**53 - 1)),
        (str(2**60), str(2**60)),
        ("a\nb", "a\nb"),
    ],
)
def test_numbers_and_text_are_one_id(given: Any, read: str) -> None:
    body = RecommendBody(user_ids=(given,), exclude_items=(given,), recent_items=(given,), deny_categories=("1.0",))
    assert body.user_ids == body.exclude_items == body.recent_items == (read,)
    assert body.deny_categories == ("1.0",)
    assert SimilarItemsBody(item_id=given).item_id == read


@pytest.mark.parametrize("given", [1.5, True, 2.0**53, 2**53, -(2**53), float("nan"), [], "", "x" * 257])
def test_what_is_no_id_is_refused(given: Any) -> None:
    with pytest.raises(ValidationError, match=r"item_id"):
        SimilarItemsBody(item_id=given)
