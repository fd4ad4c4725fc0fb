"""Tables for the terminal fit and show names, including unusual ones."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from features.ids import IdMap
from serving.answers import Answer, Recommendations
from serving.retrieval.purchases import Purchases
from serving.search import SearchAnswer
from twinspire.show import print_answers, print_found, shown_name, some_users

LONG = "a very long name " * 20


@pytest.fixture
def recommender() -> Any:
    """Three items: one named with markup, one without a name, one with a long name; ann bought the first two."""
    purchases = Purchases(
        indptr=np.array([0, 0, 2, 2], np.int64),
        indices=np.array([0, 1], np.int32),
        counts=np.array([1, 1], np.int32),
        last_seconds=np.array([10, 20], np.int64),
        num_items=3,
    )
    encoder = SimpleNamespace(user_ids=IdMap(["ann", "[/bob]"]), item_ids=IdMap(["7", "5978656", "9"]))
    bundle = SimpleNamespace(purchases=purchases, encoder=encoder, item_names=["tea [/] [bold]hot", None, LONG])
    return SimpleNamespace(bundle=bundle)


def answer(
    user_id: str, *items: tuple[str, str | None], unknown_user: bool = False, fallback: str | None = None
) -> Any:
    found = [{"item_id": item_id, "item_name": name, "category": LONG, "score": 0.5} for item_id, name in items]
    return Answer(user_id, found, unknown_user, fallback)  # type: ignore[arg-type]


def test_names_are_shown_as_they_are_cut_to_80_columns(recommender: Any, capsys: pytest.CaptureFixture[str]) -> None:
    answers = [
        answer("ann", ("7", "tea [/] [bold]hot"), ("5978656", None), ("9", LONG)),
        answer("[/bob]", unknown_user=True, fallback="popularity"),
    ]
    print_answers(recommender, Recommendations("2024-01-01-00000000", "fused", answers, {}))
    shown = capsys.readouterr().out
    assert "tea [/] [bold]hot" in shown
    assert "a very long name a very long name a very lo…" in shown
    assert max(map(len, shown.splitlines())) <= 80
    # Latest first; an item without a name by its id.
    assert shown.index("last bought  item 5978656") < shown.index("tea [/]")
    assert "User [/bob] (unknown user) (fallback: popularity)" in shown
    assert "nothing to offer" in shown


def test_an_item_without_a_name_is_shown_by_its_id() -> None:
    assert shown_name(None, "5978656") == "item 5978656"
    assert shown_name("tea", "7") == "tea"


def test_users_without_purchases_are_no_examples(recommender: Any) -> None:
    assert some_users(recommender, 3) == ["ann"]


def test_a_search_shows_what_was_understood_and_found(capsys: pytest.CaptureFixture[str]) -> None:
    items = answer("ann", ("7", "coffee [/] [bold]hot"), ("9", LONG)).items
    print_found(SearchAnswer("2024-01-01-00000000", {"cofee": "coffee", "[/]": "tea"}, items, (), {}))
    shown = capsys.readouterr().out
    assert "cofee: looked for coffee" in shown
    assert "[/]: looked for tea" in shown
    assert "coffee [/] [bold]hot" in shown
    assert max(map(len, shown.splitlines())) <= 80
    print_found(SearchAnswer("2024-01-01-00000000", {}, [], ("nothing_found",), {}))
    assert capsys.readouterr().out == "no item has any of these words\n"
