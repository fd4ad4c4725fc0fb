"""Spelling: the words of a vocabulary that are like a typed one, by their letter trigrams, or that begin with it.

    similarity(a, b) = 2 |T(a) & T(b)| / (|T(a)| + |T(b)|),   T(a): the distinct letter trigrams of #a#

V words. Source: Dice, Ecology 1945, over the word hashing of DSSM (`features.text`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import scipy.sparse as sp

from features.text import trigrams

NUM_BUCKETS, LONGEST, LONGEST_TEXT = 1 << 18, 64, 128
"""Buckets of trigrams, of which a shop's words have some thousands; trigrams of a word, and of a name, that count."""
LEAST_SIMILARITY = 0.3
"""Below it, words have nothing to do with each other."""


def similarities(texts: Sequence[str], others: pa.Array) -> npt.NDArray[np.float64]:
    """The similarity of each text with each other one, of B others: [texts, B]; repeated trigrams count each time."""
    found = trigrams(others, length=LONGEST_TEXT, num_buckets=NUM_BUCKETS)
    lengths = (found > 0).sum(axis=1)
    rows = []
    for text in texts:
        own = trigrams(pa.array([text], pa.string()), length=LONGEST_TEXT, num_buckets=NUM_BUCKETS)[0]
        own = own[own > 0]
        has = np.zeros(NUM_BUCKETS + 1, np.bool_)
        has[own] = True
        shared = np.minimum(has[found].sum(axis=1), len(own))
        rows.append(2 * shared / np.maximum(len(own) + lengths, 1))
    return np.array(rows)


@dataclass(frozen=True)
class Spelling:
    """The words of a vocabulary.

    Attributes:
        words: [V] distinct, in the order of their code points.
        num_items: [V] how many items have each.
        by_trigram: [trigrams, V] the words that have each trigram, as ones.
    """

    words: tuple[str, ...]
    num_items: npt.NDArray[np.int64]
    by_trigram: sp.csr_array[np.bool_]

    @classmethod
    def of(cls, words: Sequence[str], num_items: npt.NDArray[np.int64]) -> Spelling:
        """Of words in the order of their code points, and how many items have each: [V]."""
        found = trigrams(pa.array(words, pa.string()), length=LONGEST, num_buckets=NUM_BUCKETS)
        owners, places = np.nonzero(found)
        keys = np.unique(found[owners, places].astype(np.int64) * max(len(words), 1) + owners)
        rows, columns = np.divmod(keys, max(len(words), 1))
        shape = (NUM_BUCKETS + 1, len(words))
        return cls(tuple(words), num_items, sp.csr_array((np.ones(len(keys), np.bool_), (rows, columns)), shape=shape))

    def alike(self, word: str, *, most: int) -> dict[str, float]:
        """The words most like one, with their similarity, the most similar first; equal ones by the number of items."""
        own = np.unique(trigrams(pa.array([word]), length=LONGEST, num_buckets=NUM_BUCKETS))
        indptr, indices = self.by_trigram.indptr, self.by_trigram.indices
        lists = [indices[indptr[trigram] : indptr[trigram + 1]] for trigram in own[own > 0]]
        shared = np.bincount(np.concatenate([np.empty(0, np.int64), *lists]), minlength=len(self.words))
        similarity = 2 * shared / (len(lists) + np.maximum(self._num_trigrams, 1))
        near = np.flatnonzero(similarity >= LEAST_SIMILARITY)
        order = near[np.lexsort((near, -self.num_items[near], -similarity[near]))][:most]
        return {self.words[place]: float(similarity[place]) for place in order.tolist()}

    def beginning_with(self, start: str, *, most: int) -> list[str]:
        """The words that begin with some letters, those of the most items first."""
        places = np.arange(bisect_left(self.words, start), bisect_left(self.words, start + chr(0x10FFFF)))
        order = places[np.lexsort((places, -self.num_items[places]))][:most]
        return [self.words[place] for place in order.tolist()]

    @property
    def _num_trigrams(self) -> npt.NDArray[np.int64]:
        return np.bincount(self.by_trigram.indices, minlength=len(self.words))
