"""Negatives drawn evenly from the catalogue: shared by the rows of a batch, or for each row alone.

Shape letters: B rows of a batch, N items of the catalogue.
"""

from __future__ import annotations

from itertools import count

import numpy as np
import numpy.typing as npt

from training.negatives.source import Descriptions, Draws, Source

Ints = npt.NDArray[np.int64]


def uniform(*, num: int) -> Source:
    """Distinct items for each batch, shared by its rows.

    Args:
        num: B', items for each batch.

    Returns:
        A source; it raises ValueError for a span without even draws, unless `num` is 0.
    """

    def begin(descriptions: Descriptions, rng: np.random.Generator) -> Draws:
        _check(descriptions, num, f"{num} uniform negatives for each batch")
        pool = rounds(descriptions.even_items, rng=rng)
        numbers = count()

        def shared() -> Ints:
            place = next(numbers) * num + np.arange(num)
            return descriptions.num_of_examples + pool[place % max(len(pool), 1)]

        def absence(item_rows: Ints, shared_items: Ints) -> float:
            return 1 - min(len(np.unique(shared_items)) / max(descriptions.catalogue_size, 1), 1.0)

        return Draws(shared=shared, absence=absence)

    return begin


def per_row(*, num: int) -> Source:
    """Items for each row alone, perhaps some of them twice.

    Args:
        num: R, items for each row.

    Returns:
        A source; it raises ValueError for a span without even draws, unless `num` is 0.
    """

    def begin(descriptions: Descriptions, rng: np.random.Generator) -> Draws:
        _check(descriptions, num, f"{num} random negatives for each row")
        if not num:
            return Draws()

        def private(user_rows: Ints) -> Ints:
            first, end = descriptions.num_of_examples, len(descriptions.items)
            return rng.integers(first, end, (len(user_rows), num))

        absent = (1 - 1 / max(descriptions.catalogue_size, 1)) ** num
        return Draws(private=private, absence=lambda item_rows, shared_items: absent)

    return begin


def rounds(item_rows: Ints, *, rng: np.random.Generator) -> Ints:
    """Random order in which no item comes a second time before all have come once, and so on.

    Even draws of several days repeat items. In this order a batch's share of them holds none twice.
    """
    order = rng.permutation(len(item_rows))
    by_item = np.argsort(item_rows[order], kind="stable")
    rising = item_rows[order][by_item]
    turn = np.empty(len(order), np.int64)
    turn[by_item] = np.arange(len(order)) - np.searchsorted(rising, rising)
    return order[np.argsort(turn, kind="stable")]


def _check(descriptions: Descriptions, num: int, asked: str) -> None:
    if num and not len(descriptions.even_items):
        raise ValueError(
            f"{asked} are asked for, but the span has no even draws, only {descriptions.num_of_examples} descriptions "
            "of its examples' items; join examples that have even draws, or set num_uniform and num_random to 0"
        )
