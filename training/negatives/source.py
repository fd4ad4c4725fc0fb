"""The seam of negative sources: what one is given of a span, and what it brings into the batches.

A source is a function from the descriptions of a span to what it draws for the batches of that span. What it brings is
masked and corrected like everything else in the batch: repeats and known positives never count, and an item has one q
whichever sources can bring it.

Shape letters: B rows of a batch, E' rows of a span that describe items, H private negatives of a row, S shared ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from training.negatives.known_positives import UserItems

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Descriptions:
    """The rows of a span that describe items: those of its examples, then those that were drawn evenly.

    Attributes:
        items: [E'] int64 item row of each.
        num_of_examples: How many are those of examples.
        num_item_rows: Rows of the item table.
        catalogue_size: Items that even draws are made from (N).
    """

    items: Ints
    num_of_examples: int
    num_item_rows: int
    catalogue_size: int

    @property
    def even_items(self) -> Ints:
        """Items of the rows that were drawn evenly; these rows are counted from `num_of_examples` on."""
        return self.items[self.num_of_examples :]

    @cached_property
    def rows_of_items(self) -> UserItems:
        """The rows that describe each item."""
        return UserItems.of(self.items, np.arange(len(self.items)), num_user_rows=self.num_item_rows)


@dataclass(frozen=True)
class Draws:
    """What a source brings into the batches of a span, one batch after the other.

    Attributes:
        shared: () -> [S] rows of the descriptions, candidates of all rows of the next batch; None brings none.
        private: Users of the rows [B] -> [B, H] rows of the descriptions, drawn by chance for each row alone; None
            brings none.
        certain: Users of the rows [B] -> [B, H] item rows that are negatives of that user for sure, 0 where there is
            none; they need no correction, and are described by a random row that has them. None brings none.
        absence: Item rows [n], and the items [S] of its shared draw for this batch -> [n] probability that none of its
            draws is the item, or one probability for all; for log q.
    """

    shared: Callable[[], Ints] | None = None
    private: Callable[[Ints], Ints] | None = None
    certain: Callable[[Ints], Ints] | None = None
    absence: Callable[[Ints, Ints], Floats | float] = lambda item_rows, shared_items: 1.0


Source = Callable[[Descriptions, np.random.Generator], Draws]
"""Begins a span; all that is drawn at random is drawn with the generator."""
