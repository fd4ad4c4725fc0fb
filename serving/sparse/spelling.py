"""Spelling: the words of a vocabulary that are like a typed one, by their letter trigrams, or that begin with it.

    dice(a, b) = 2 |T(a) & T(b)| / (|T(a)| + |T(b)|),   T(a): the distinct letter trigrams of #a#
    similarity(a, b) = (1 + dice) / 2 where one slip makes b of a, dice elsewhere

A slip is one letter more, less, another, or two neighbours swapped: in a short word it leaves few trigrams as they are.
V words. Sources: Dice, Ecology 1945, over the word hashing of DSSM (`features.text`); Damerau, CACM 1964.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
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
MOST_COMPARED = 200
"""Words, the most similar by trigrams, in which slips are looked for."""


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


def is_slip(typed: str, meant: str) -> bool:
    """Whether the words differ by one letter that is more, less or another, or by two neighbours that are swapped."""
    begin = _num_common(typed, meant)
    typed, meant = typed[begin:], meant[begin:]
    end = _num_common(typed[::-1], meant[::-1])
    typed, meant = typed[: len(typed) - end], meant[: len(meant) - end]
    return max(len(typed), len(meant)) == 1 or (len(typed) == 2 and typed == meant[::-1])


def _num_common(one: str, other: str) -> int:
    """How many letters both begin with."""
    shorter = min(len(one), len(other))
    return next((place for place in range(shorter) if one[place] != other[place]), shorter)


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
        dice = 2 * shared / (len(lists) + np.maximum(self._num_trigrams, 1))
        some = np.flatnonzero(shared)
        some = some[np.lexsort((some, -dice[some]))][:MOST_COMPARED]
        # Two letters swapped may leave no trigram of a short word.
        swapped = {word[:place] + word[place + 1] + word[place] + word[place + 2 :] for place in range(len(word) - 1)}
        near = np.union1d(some, np.array([*self._places(swapped)], np.int64))
        slips = np.array([is_slip(word, self.words[place]) for place in near.tolist()], np.bool_)
        similarity = np.where(slips, (1 + dice[near]) / 2, dice[near])
        order = np.lexsort((near, -self.num_items[near], -similarity))
        order = order[similarity[order] >= LEAST_SIMILARITY][:most]
        return {self.words[near[place]]: float(similarity[place]) for place in order.tolist()}

    def _places(self, words: Iterable[str]) -> Iterator[int]:
        for word in words:
            place = bisect_left(self.words, word)
            if self.words[place : place + 1] == (word,):
                yield place

    def beginning_with(self, start: str, *, most: int) -> list[str]:
        """The words that begin with some letters, those of the most items first."""
        places = np.arange(bisect_left(self.words, start), bisect_left(self.words, start + chr(0x10FFFF)))
        order = places[np.lexsort((places, -self.num_items[places]))][:most]
        return [self.words[place] for place in order.tolist()]

    @property
    def _num_trigrams(self) -> npt.NDArray[np.int64]:
        return np.bincount(self.by_trigram.indices, minlength=len(self.words))
