"""Typed words: what they mean in a catalogue's vocabulary, and the items that have them, re-ordered for a user.

    score_i = n_i + (w_i / max w + TOWER_SHARE t_i) / (1 + TOWER_SHARE)

w_i is the item's BM25 score. t_i is its score by the two towers, scaled to 0 to 1 over the first `REORDERED` items by
words, and 0 without a user: towers decide between items whose words fit about equally well. n_i is the similarity of
the item's name with what was typed, by letter trigrams, spaces and signs left out, where it is at least `NEARLY`, and 0
elsewhere: such items are in front of all others. For a slip in a number, or between two words, gives other words, but
nearly the same name.

N items of the catalogue, V words.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from serving.retrieval.eligible import EligibleItems
from serving.retrieval.ranking import Rows, Scores, padding
from serving.retrieval.retrievers import Retriever, UserQueries
from serving.sparse.index import Query, SparseIndex
from serving.sparse.retriever import best_rows
from serving.sparse.spelling import Spelling, similarities
from serving.sparse.terms import words

MOST_MEANT = 3
"""Words of the vocabulary that one unknown word may mean."""
REORDERED = 1_000
"""Items, the best by words, that the towers re-order."""
TOWER_SHARE = 0.1
"""What the towers can make up for, in the best item's score by words."""


NEARLY = 0.8
"""Similarity from which on a name is what was typed."""


@dataclass(frozen=True)
class Understood:
    """What was typed, in words of the catalogue."""

    query: Query
    """The terms, each with the similarity of the typed word."""
    typed: tuple[str, ...]
    """The words as they were typed."""
    words: tuple[str, ...]
    """What each most likely means; an unknown word like none stays."""
    corrected: dict[str, str]
    """Typed word -> what was looked for in its place."""


@dataclass(frozen=True)
class TypedWords:
    """Understands what is typed, over one index. Several threads may ask at the same time."""

    index: SparseIndex
    """Over all items that are searched."""
    item_names: Sequence[str | None]
    """[N] by row."""

    @cached_property
    def spelling(self) -> Spelling:
        """The words of the index."""
        own = sorted(self._terms_of)
        # A word of several fields is in about as many items as in the field that has it most.
        num_items = np.diff(self.index.impacts.indptr)
        counts = [max(int(num_items[number]) for number in self._terms_of[word]) for word in own]
        return Spelling.of(own, np.array(counts, np.int64))

    def prepare(self) -> None:
        """Makes what all searches share, so that the first one need not."""
        _ = self.spelling, self._names

    def understand(self, text: str) -> Understood:
        """Known words are meant as they are; an unknown one is what it is like, or the beginning of, if it is the last.

        Args:
            text: As typed. A last word that nothing follows may be unfinished.
        """
        weights: dict[int, float] = defaultdict(float)
        meant, corrected = [], {}
        typed = words(text)
        for place, word in enumerate(typed):
            is_open = place == len(typed) - 1 and text.lower().endswith(word)
            found = self._meanings(word, is_open=is_open)
            for other, similarity in found.items():
                for number in self._terms_of[other]:
                    weights[number] = max(weights[number], similarity)
            best = next(iter(found), word)
            meant.append(best)
            if best != word:
                corrected[word] = best
        terms = np.array(sorted(weights), np.int64)
        query = Query(terms, np.array([weights[number] for number in terms.tolist()], np.float32))
        return Understood(query, tuple(typed), tuple(meant), corrected)

    def _meanings(self, word: str, *, is_open: bool) -> dict[str, float]:
        if word in self._terms_of:
            return {word: 1.0}
        found = dict.fromkeys(self.spelling.beginning_with(word, most=MOST_MEANT) if is_open else (), 1.0)
        return found or self.spelling.alike(word, most=MOST_MEANT)

    @property
    def _terms_of(self) -> Mapping[str, list[int]]:
        return self.index.vocabulary.of_word

    @cached_property
    def _names(self) -> pa.Array:
        """[N] the words of the items' names, with nothing between them."""
        return pa.array(["".join(words(name or "")) for name in self.item_names], pa.string())

    def nearness(self, rows: Rows, understood: Understood) -> npt.NDArray[np.float64]:
        """[n] n_i of some items: the higher of the similarities with what was typed and with what it means."""
        texts = dict.fromkeys("".join(one) for one in (understood.typed, understood.words))
        found = similarities([*texts], self._names.take(pa.array(rows))).max(axis=0)
        return np.where(found >= NEARLY, found, 0.0)


@dataclass(frozen=True)
class ByWords:
    """The items that have typed words, as a retriever: every user gets the same items, in an own order."""

    typed: TypedWords
    """Of the catalogue."""
    understood: Understood
    """What is looked for."""
    towers: Retriever | None = field(default=None)
    """By the users' vectors; None leaves the order of the words."""
    needs_tokens: ClassVar[bool] = False
    finds_all: ClassVar[bool] = False
    fills_up: ClassVar[bool] = False

    @property
    def needs_embeddings(self) -> bool:
        """Whether the towers are asked."""
        return self.towers is not None

    def retrieve(self, users: UserQueries, k: int) -> tuple[Rows, Scores]:
        """See `Retriever`; equal scores by the lower row. Items that have none of the words are not found."""
        rows, scores = padding(len(users), k)
        for user in range(len(users)):
            found, own = self._list_of(users.of(np.array([user])), k)
            rows[user, : len(found)], scores[user, : len(found)] = found[:k], own[:k]
        return rows, scores

    def _list_of(self, user: UserQueries, k: int) -> tuple[Rows, Scores]:
        by_words = self.typed.index.scores(self.understood.query)
        if user.eligible is not None:
            by_words[~user.eligible.whole] = 0
        if user.kept_out is not None:
            by_words[user.kept_out.indices] = 0
        found = best_rows(by_words, max(k, REORDERED))
        if not len(found):
            return found, by_words[found]
        value = by_words[found].astype(np.float64) / by_words[found[0]]
        first = found[:REORDERED]
        if self.towers is not None:
            value[: len(first)] += TOWER_SHARE * self._scaled(user, first, len(by_words))
        value /= 1 + TOWER_SHARE
        value[: len(first)] += self.typed.nearness(first, self.understood)
        order = np.lexsort((found, -value))[:k]
        return found[order], value[order].astype(np.float32)

    def _scaled(self, user: UserQueries, rows: Rows, num_items: int) -> npt.NDArray[np.float64]:
        """[n] the towers' scores of some items, from 0 to 1; 0 where all are equal."""
        assert self.towers is not None
        mask = np.zeros(num_items, np.bool_)
        mask[rows] = True
        eligible = EligibleItems(mask, num_added=num_items - user.purchases.num_items)
        found, scores = self.towers.retrieve(replace(user, eligible=eligible), len(rows))
        of_row = dict(zip(found[0].tolist(), scores[0].tolist(), strict=True))
        own = np.array([of_row.get(row, np.nan) for row in rows.tolist()])
        low, high = np.nanmin(own, initial=np.inf), np.nanmax(own, initial=-np.inf)
        return np.nan_to_num((own - low) / (high - low)) if high > low else np.zeros(len(rows))
