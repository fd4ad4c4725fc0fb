"""The SparCode retriever: posting lists of a user's codes, fetched and summed up.

    score(u, i) = sum_t relu( S(code_t, i) + bias )

Shape letters: B users, K_u tokens of a user, D width of a token, N items of the catalogue, K codes that were built.

Source: Su et al. (SparCode), SIGIR 2023, section 3.5. Departs from it: a code that was not built is replaced by the
nearest one that was.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from serving.retrieval.ranking import Rows, Scores, padding
from serving.retrieval.retrievers import UserQueries
from serving.sparcode.codebook import Codebook
from serving.sparcode.postings import Postings

_ITEM_BITS, _LAST_ITEM = np.uint64(32), np.uint64(2**32 - 1)


@dataclass(frozen=True)
class SparCodeCounts:
    """What a retriever has met since it was made."""

    num_users: int = 0
    """Users asked for."""
    num_tokens: int = 0
    """Their tokens."""
    num_substituted: int = 0
    """Tokens whose code was not built, so that the nearest built one was taken."""
    num_empty: int = 0
    """Users left without a single item."""


class SparCode:
    """Items on the posting lists of a user's codes, by the sum of their scores there.

    Several threads may ask at the same time.

    Args:
        codebook: What the postings were built with.
        postings: Items of each code.
        num_tokens: K_u.

    Raises:
        ValueError: No code was built, or the postings are of another codebook.
    """

    needs_embeddings: ClassVar[bool] = False
    needs_tokens: ClassVar[bool] = True
    finds_all: ClassVar[bool] = False
    fills_up: ClassVar[bool] = True

    def __init__(self, codebook: Codebook, postings: Postings, *, num_tokens: int) -> None:
        """Takes apart the codes that were built, to find the nearest of them."""
        if not len(postings.keys):
            raise ValueError(f"{postings.folder}: holds no code; sweep the tokens of users and score their codes")
        if postings.about.codebook != codebook.digest:
            raise ValueError(
                f"{postings.folder}: made with codebook {postings.about.codebook[:12]}, expected "
                f"{codebook.digest[:12]}; score the codes again"
            )
        self._codebook, self._postings, self._num_tokens = codebook, postings, num_tokens
        # [M, K]: the distance to a code is the sum of its parts', which are looked up, so that nothing is decoded.
        self._built = np.ascontiguousarray(codebook.codes(postings.keys).T.astype(np.intp))
        # Sums of a user by item, all zero while unused; one array for each call at the same time.
        self._free: deque[Scores] = deque()
        self._counts, self._lock = SparCodeCounts(), threading.Lock()

    def retrieve(self, users: UserQueries, k: int) -> tuple[Rows, Scores]:
        """See `Retriever`; equal scores by the lower row, and nothing but padding where no list has an item.

        Raises:
            ValueError: The tokens are missing, of another width or not finite, or the catalogue is another.
        """
        tokens = self._tokens_of(users)
        rows, scores = padding(len(users), k)
        sums = self._take_sums()
        num_substituted = num_empty = 0
        kept_out, offered, scale = users.kept_out, users.offered, users.scale
        bounds = [] if kept_out is None else kept_out.indptr.tolist()
        for user, own_tokens in enumerate(tokens):
            codes, num_missing = self._codes(own_tokens)
            items, item_scores = self._postings.joined(codes)
            if offered is not None:
                stays = offered[items]
                items, item_scores = items[stays], item_scores[stays]
            if scale is not None:
                item_scores = item_scores * scale[items]
            np.add.at(sums, items, item_scores)
            if kept_out is not None:
                sums[kept_out.indices[bounds[user] : bounds[user + 1]]] = 0
            found, found_scores = _best(items, sums[items], k=k, most=self._num_tokens)
            sums[items] = 0
            rows[user, : len(found)], scores[user, : len(found)] = found, found_scores
            num_substituted += num_missing
            num_empty += not len(found)
        # An exception leaves sums behind, which are then not used again.
        self._free.append(sums)
        self._count(len(users), num_substituted, num_empty)
        return rows, scores

    def counts(self) -> SparCodeCounts:
        """What was met so far, all numbers of the same moment."""
        with self._lock:
            return self._counts

    def _tokens_of(self, users: UserQueries) -> Scores:
        if users.user_tokens is None:
            raise ValueError("user_tokens is None; this retriever needs the users' tokens")
        width = self._num_tokens * self._codebook.width
        if users.user_tokens.shape != (len(users), width):
            raise ValueError(
                f"user_tokens have shape {list(users.user_tokens.shape)}, expected [{len(users)}, {width}]: "
                f"{self._num_tokens} tokens of width {self._codebook.width}"
            )
        if users.purchases.num_items != self._postings.num_items:
            raise ValueError(
                f"purchases are of {users.purchases.num_items} items, the postings of {self._postings.num_items}; "
                "expected those of one catalogue"
            )
        return users.user_tokens.reshape(len(users), self._num_tokens, self._codebook.width)

    def _take_sums(self) -> Scores:
        try:
            return self._free.pop()
        except IndexError:
            return np.zeros(self._postings.num_items, np.float32)

    def _codes(self, tokens: Scores) -> tuple[npt.NDArray[np.int64], int]:
        """Rows of the postings for a user's tokens, and how many of them are not the token's own code."""
        # One user at a time: a product's rounding depends on its size, and so would the code between two rows.
        rows = self._postings.find(self._codebook.keys(tokens))
        missing = (rows < 0).nonzero()[0]
        if len(missing):
            distances = self._codebook.distances(tokens[missing])
            totals = sum(of_part[:, codes] for of_part, codes in zip(distances, self._built, strict=True))
            rows[missing] = np.argmin(totals, axis=1)
        return rows, len(missing)

    def _count(self, num_users: int, num_substituted: int, num_empty: int) -> None:
        with self._lock:
            old = self._counts
            self._counts = SparCodeCounts(
                num_users=old.num_users + num_users,
                num_tokens=old.num_tokens + num_users * self._num_tokens,
                num_substituted=old.num_substituted + num_substituted,
                num_empty=old.num_empty + num_empty,
            )


def _best(items: npt.NDArray[np.int64], scores: Scores, *, k: int, most: int) -> tuple[Rows, Scores]:
    """The k largest scores above 0, best first, equal ones by the lower item.

    Args:
        items: [p] int64; an item may be there several times, with the same score.
        scores: [p] float32, at least 0.
        k: How many items at most.
        most: How often an item is there at most.

    Returns:
        Items and scores, of one length.
    """
    # Floats above 0 are ordered as their bits are, so that score and item sort as one integer, and repeats meet.
    keys = scores.view(np.uint32).astype(np.uint64)
    keys <<= _ITEM_BITS
    keys |= _LAST_ITEM - items.view(np.uint64)
    if len(keys) > k * most:
        # That many hold k different items.
        keys = np.partition(keys, -k * most)[-k * most :]
    keys.sort()
    is_last = np.ones(len(keys), np.bool_)
    np.not_equal(keys[1:], keys[:-1], out=is_last[:-1])
    keys = keys[is_last][::-1][:k]
    best = (keys >> _ITEM_BITS).astype(np.uint32).view(np.float32)
    num_best = np.count_nonzero(best)
    return (_LAST_ITEM - (keys & _LAST_ITEM)).astype(np.int32)[:num_best], best[:num_best]
