"""BM25 over fields: what a term of an item counts, learned term weights, and terms that an item's buyers would have.

    impact(t, i) = idf_t tf (k1 + 1) / (tf + k1 (1 - b + b L / mean L)),  idf_t = log(1 + (N - n_t + 1/2) / (n_t + 1/2))

tf occurrences of the term in its field of the item, L terms in that field, n_t items that have the term. U users, N
items, T terms.

Source: Robertson and Zaragoza, 2009, section 3.1, each field by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

Floats = npt.NDArray[np.float64]
Matrix = sp.csr_array

LEAST_USERS = 5
"""Users who must share two terms for one to stand for the other."""
RIDGE = 5.0
"""Purchases of a term that weigh as much as its field does."""


@dataclass(frozen=True)
class Scoring:
    """How terms are weighed.

    Attributes:
        k1: How slowly further occurrences of a term stop counting.
        b: How much long fields count less, 0 to 1.
        learned_weights: Whether a term is weighed by how often its buyers have it again.
        expansion_terms: Terms that an item gets of those its buyers have; 0 adds none.
        expansion_weight: What such a term counts in one of the item's own.
    """

    k1: float = 1.2
    b: float = 0.75
    learned_weights: bool = False
    expansion_terms: int = 0
    expansion_weight: float = 0.05

    @property
    def needs_buyers(self) -> bool:
        """Whether anything is learned from purchases."""
        return self.learned_weights or self.expansion_terms > 0


@dataclass(frozen=True)
class BuyerCounts:
    """How users have terms; the counts of several groups of users add up.

    Attributes:
        num_users: U.
        bought: [T] purchases (of a user, of an item) that have the term.
        bought_again: [T] those of them whose user has the term by another item too.
        having: [T] users who have the term.
        together: [T, T] users who have both terms; empty where no terms are expanded.
    """

    num_users: int
    bought: Floats
    bought_again: Floats
    having: Floats
    together: Matrix

    def __add__(self, other: BuyerCounts) -> BuyerCounts:
        """Of both groups."""
        return BuyerCounts(
            self.num_users + other.num_users,
            self.bought + other.bought,
            self.bought_again + other.bought_again,
            self.having + other.having,
            self.together + other.together,
        )


def count_buyers(met: Matrix, counts: Matrix, scoring: Scoring, *, expands: npt.NDArray[np.bool_]) -> BuyerCounts:
    """Counts for some users.

    Args:
        met: [U, N], not zero where a user has met an item.
        counts: [N, T] terms of items.
        scoring: What is counted for.
        expands: [T] which terms may stand for others, and be added to items.
    """
    has = _ones(counts)
    items = (_ones(met) @ has).tocsr()
    num_terms = counts.shape[1]

    def total(values: Floats) -> Floats:
        return np.asarray(np.bincount(items.indices, weights=values, minlength=num_terms), np.float64)

    together = sp.csr_array((num_terms, num_terms))
    if scoring.expansion_terms:
        users = (_ones(items) @ sp.diags_array(expands.astype(np.float64))).tocsr()
        users.eliminate_zeros()
        together = (users.T @ users).tocsr()
    again = items.data * (items.data > 1)
    return BuyerCounts(met.shape[0], total(items.data), total(again), total(np.ones(items.nnz)), together)


def impacts_of(
    counts: Matrix, field_of: npt.NDArray[np.integer], scoring: Scoring, buyers: BuyerCounts | None
) -> Matrix:
    """What each term of each item counts.

    Args:
        counts: [N, T] occurrences.
        field_of: [T] field of each term.
        scoring: How they are weighed.
        buyers: Of which users; needed where anything is learned from them.

    Returns:
        [N, T] float64; with expansion, an item has terms that are not its own.

    Raises:
        ValueError: Buyers are needed and not there.
    """
    if buyers is None and scoring.needs_buyers:
        raise ValueError("weights and expansion are learned from purchases, and none are given")
    idf = inverse_document_frequency(counts)
    saturated = _saturated(counts, field_of, scoring, _mean_lengths(counts, field_of))
    scale = idf
    if buyers is not None and scoring.learned_weights:
        scale = idf * learned_weights(buyers, field_of)
    found = (saturated @ sp.diags_array(scale)).tocsr()
    if buyers is None or not scoring.expansion_terms:
        return found
    further = expansion(counts, buyers, most=scoring.expansion_terms)
    further.data *= scoring.expansion_weight * scale[further.indices]
    both: Matrix = (found + further).tocsr()
    both.sort_indices()
    return both


def impacts_of_more(
    more: Matrix, field_of: npt.NDArray[np.integer], scoring: Scoring, *, counts: Matrix, impacts: Matrix
) -> Matrix:
    """What each term counts of items that come later, by the statistics of the catalogue.

    Args:
        more: [A, T] occurrences in them.
        field_of: [T] field of each term.
        scoring: How the catalogue's terms were weighed.
        counts: [N, T] occurrences in the catalogue; terms that no item of it has are the rarest.
        impacts: [N, T] what they count there.

    Returns:
        [A, T] float64, without expansion.
    """
    means = _mean_lengths(counts, field_of)
    own = _saturated(counts, field_of, scoring, means)
    # All own terms of the catalogue have been multiplied by the same number for each term.
    totals, scaled = own.sum(axis=0), impacts.multiply(_ones(counts)).sum(axis=0)
    scale = np.where(totals > 0, scaled / np.where(totals > 0, totals, 1), inverse_document_frequency(counts))
    found: Matrix = (_saturated(more, field_of, scoring, means) @ sp.diags_array(scale)).tocsr()
    found.sort_indices()
    return found


def _mean_lengths(counts: Matrix, field_of: npt.NDArray[np.integer]) -> Floats:
    """Mean number of terms of each field, over the items that have some."""
    lengths = _lengths(counts, field_of)
    return np.asarray(lengths.sum(axis=0) / np.maximum((lengths > 0).sum(axis=0), 1))


def _lengths(counts: Matrix, field_of: npt.NDArray[np.integer]) -> Floats:
    """[N, fields] number of terms."""
    lengths = np.zeros((counts.shape[0], int(field_of.max(initial=-1)) + 1))
    np.add.at(
        lengths, (np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr)), field_of[counts.indices]), counts.data
    )
    return lengths


def _saturated(counts: Matrix, field_of: npt.NDArray[np.integer], scoring: Scoring, means: Floats) -> Matrix:
    """[N, T] occurrences, which count less the more there are and the longer the field is: impact / idf."""
    owners, fields = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr)), field_of[counts.indices]
    relative = _lengths(counts, field_of)[owners, fields] / np.where(means > 0, means, 1)[fields]
    values = counts.data * (scoring.k1 + 1) / (counts.data + scoring.k1 * (1 - scoring.b + scoring.b * relative))
    return sp.csr_array((values, counts.indices, counts.indptr), shape=counts.shape)


def inverse_document_frequency(counts: Matrix) -> Floats:
    """How rare each term is among items: [T], above 0."""
    num_items = np.bincount(counts.indices, minlength=counts.shape[1])
    return np.asarray(np.log1p((counts.shape[0] - num_items + 0.5) / (num_items + 0.5)))


def learned_weights(buyers: BuyerCounts, field_of: npt.NDArray[np.integer]) -> Floats:
    """How much a term is a reason to buy: the share of its buyers who have it by another item too, [T] within 0 to 1.

        y(t, i) = share of the buyers of item i whose other items have t,   w_t = m + (y_t - m) n_t / (n_t + RIDGE)

    with m the mean of t's field and y_t, n_t the mean and the number over the purchases of items that have t: the ridge
    regression of y on field and term. It is a property of the term, so that items without events get it too.

    Source: Dai and Callan (DeepCT), 2019, section 3.2, for items and their buyers in place of passages and queries.
    """
    num_fields = int(field_of.max(initial=-1)) + 1
    totals, again = (
        np.bincount(field_of, weights=values, minlength=num_fields) for values in (buyers.bought, buyers.bought_again)
    )
    mean = (again / np.maximum(totals, 1))[field_of]
    return np.asarray((buyers.bought_again + RIDGE * mean) / (buyers.bought + RIDGE))


def expansion(counts: Matrix, buyers: BuyerCounts, *, most: int) -> Matrix:
    """Terms that the buyers of an item are likely to have, by its own terms: [N, T], at most `most` of an item.

        association(t, t') = max(0, P(user has t' | user has t) - P(user has t')),  score(i, t') = its mean over t of i

    Each term has its `most` strongest associations, among those that enough users share.

    Source: Nogueira et al. (doc2query), 2019: here without a language model, from what buyers have.
    """
    pairs = buyers.together.tocoo()
    common = (pairs.row != pairs.col) & (pairs.data >= LEAST_USERS)
    term, other, shared = pairs.row[common], pairs.col[common], pairs.data[common]
    strength = shared / buyers.having[term] - buyers.having[other] / max(buyers.num_users, 1)
    num_terms = counts.shape[1]
    associations = _strongest(
        sp.csr_array((np.maximum(strength, 0), (term, other)), shape=(num_terms, num_terms)), most
    )
    own = _ones(counts)
    found = (sp.diags_array(1 / np.maximum(np.diff(own.indptr), 1)) @ own @ associations).tocsr()
    return _strongest((found - found.multiply(own)).tocsr(), most)


def _ones(matrix: Matrix) -> Matrix:
    return sp.csr_array((np.ones(len(matrix.indices)), matrix.indices, matrix.indptr), shape=matrix.shape)


def _strongest(matrix: Matrix, most: int) -> Matrix:
    """The largest values of each row that are above 0, equal ones by the lower column."""
    entries = matrix.tocoo()
    row, column, value = (part[entries.data > 0] for part in (entries.row, entries.col, entries.data))
    order = np.lexsort((column, -value, row))
    row, column, value = row[order], column[order], value[order]
    kept = np.arange(len(row)) - np.searchsorted(row, row) < most
    found = sp.csr_array((value[kept], (row[kept], column[kept])), shape=matrix.shape)
    found.sort_indices()
    return found
