"""The order in which the even draws of several days are taken."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from training.negatives.even_draws import rounds


@settings(max_examples=50)
@given(st.lists(st.integers(0, 8), max_size=30), st.integers(0, 100))
def test_each_place_comes_once_and_no_item_again_before_all_others_have_come(items: list[int], seed: int) -> None:
    rows = np.array(items, np.int64)
    order = rounds(rows, rng=np.random.default_rng(seed))
    assert sorted(order.tolist()) == list(range(len(items)))
    turns = [rows[order[:place]].tolist().count(rows[order[place]]) for place in range(len(items))]
    assert turns == sorted(turns)


def test_which_of_the_repeats_comes_first_is_left_to_chance() -> None:
    first = {int(rounds(np.zeros(3, np.int64), rng=np.random.default_rng(seed))[0]) for seed in range(30)}
    assert first == {0, 1, 2}
