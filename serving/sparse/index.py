"""The sparse index: for each term the items that have it, with what it counts; and the terms of each item.

    about.json                                     catalogue, fields, and how terms are weighed
    terms.parquet                                  field and term by number
    impacts_indptr.npy _indices.npy _data.npy      [T, N] float32 in compressed rows: the posting list of each term
    counts_indptr.npy _indices.npy _data.npy       [N, T] float32 likewise: how often an item has a term

The query of a history has the terms of its items. Items that have them need no events of their own to be found.

    share_t = sum of w_h over items h with t / sum of w_h,   w_h = log(1 + events) 2^(-age / half-life)
    query_t = weight of t's field * share_t / (share_t + saturation),   score_i = sum_t query_t impact(t, i)

N items, T terms, B users.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse as sp

from artefacts.files import json_text
from serving.retrieval import purchases, ranking
from serving.sparcode.postings import catalogue_digest
from serving.sparse import bm25, fields
from serving.sparse.terms import FIELD, TERM, Vocabulary

ABOUT, TERMS = "about.json", "terms.parquet"
SECONDS_PER_DAY = 86_400
_PARTS = ("indptr", "indices", "data")


@dataclass(frozen=True)
class SparseReport:
    """What a sparse index holds."""

    num_terms: int
    """Terms."""
    num_postings: int
    """Items on all lists."""
    num_empty: int
    """Items of the catalogue without a term."""
    size_bytes: int
    """Of its files."""


@dataclass(frozen=True)
class About:
    """What an index was made from, and how it is asked.

    Attributes:
        catalogue: Digest of the ids of its items (`serving.sparcode.postings.catalogue_digest`).
        fields: What gives terms, and what each counts.
        scoring: How terms are weighed.
        half_life_days: Days in which an item of a history counts half as much; None counts all ages alike.
        saturation: Share of a history from which on more of a term adds little.
    """

    catalogue: str
    fields: tuple[fields.Field, ...]
    scoring: bm25.Scoring
    half_life_days: float | None
    saturation: float


@dataclass(frozen=True)
class Query:
    """Terms that are looked for.

    Attributes:
        terms: [t] int64 numbers of terms, ascending.
        weights: [t] float32, above 0.
    """

    terms: npt.NDArray[np.int64]
    weights: ranking.Scores


@dataclass(frozen=True)
class SparseIndex:
    """An index in memory. Several threads may ask at the same time."""

    about: About
    """What it was made from."""
    vocabulary: Vocabulary
    """Its terms."""
    impacts: bm25.Matrix
    """[T, N] float32 posting lists."""
    counts: bm25.Matrix
    """[N, T] float32 terms of each item."""

    @classmethod
    def build(
        cls, about: About, vocabulary: Vocabulary, counts: bm25.Matrix, buyers: bm25.BuyerCounts | None
    ) -> SparseIndex:
        """Weighs the terms.

        Args:
            about: How.
            vocabulary: T terms.
            counts: [N, T].
            buyers: What weights and expansion are learned from; None where neither is asked for.
        """
        impacts = bm25.impacts_of(counts.astype(np.float64), vocabulary.field_of, about.scoring, buyers)
        lists = impacts.T.tocsr().astype(np.float32)
        lists.sort_indices()
        return cls(about, vocabulary, lists, counts.astype(np.float32))

    @property
    def num_items(self) -> int:
        """N."""
        return int(self.counts.shape[0])

    def learned_from(self, past: purchases.Purchases) -> SparseIndex:
        """The same, with what is learned from purchases learned from these: [U, N], of the same items."""
        scoring = self.about.scoring
        if not scoring.needs_buyers:
            return self
        buyers = bm25.count_buyers(past.csr(), self.counts, scoring, expands=self.vocabulary.weights > 0)
        return SparseIndex.build(self.about, self.vocabulary, self.counts, buyers)

    def of_items(self, rows: npt.NDArray[np.integer]) -> SparseIndex:
        """Over other items: those of some rows, in their order; -1 is one without terms. Weights stay."""
        empty = sp.csr_array((1, len(self.vocabulary)), dtype=np.float32)
        by_item = sp.vstack([self.impacts.T.tocsr(), empty], format="csr")[rows]
        counts = sp.vstack([self.counts, empty], format="csr")[rows]
        return SparseIndex(self.about, self.vocabulary, by_item.T.tocsr(), counts)

    def of_histories(self, histories: purchases.Purchases, as_of_seconds: npt.NDArray[np.int64]) -> list[Query]:
        """The queries of B users, each of all the terms of what the user has met; empty without a history.

        Args:
            histories: B rows.
            as_of_seconds: [B] the moments they are asked for.
        """
        if histories.num_items != self.num_items:
            raise ValueError(
                f"purchases are of {histories.num_items} items, the sparse index of {self.num_items}; expected those "
                "of one catalogue"
            )
        owners = histories.owners
        weights = np.log1p(histories.counts.astype(np.float64))
        if self.about.half_life_days is not None:
            age = np.maximum(as_of_seconds[owners] - histories.last_seconds, 0) / SECONDS_PER_DAY
            weights = weights * np.exp2(-age / self.about.half_life_days)
        field_weights, queries = self.vocabulary.weights, []
        for begin, end in zip(histories.indptr[:-1], histories.indptr[1:], strict=True):
            own = weights[begin:end]
            has = self.counts[histories.indices[begin:end]]
            of_term = np.bincount(
                has.indices, weights=np.repeat(own, np.diff(has.indptr)), minlength=len(field_weights)
            )
            share = of_term / max(own.sum(), np.finfo(np.float64).tiny)
            found = field_weights * share / (share + self.about.saturation)
            terms = np.flatnonzero(found > 0)
            queries.append(Query(terms, found[terms].astype(np.float32)))
        return queries

    def scores(self, query: Query) -> ranking.Scores:
        """What each item of the catalogue scores: [N] float32, 0 for one that has no term of the query."""
        found: ranking.Scores = self.impacts[query.terms].T @ query.weights
        return found

    def matches(self, query: Query, rows: ranking.Rows, *, most: int) -> list[list[str]]:
        """The terms that make the most of some items' scores, the strongest first; a word in two fields comes once.

        Args:
            query: What was asked.
            rows: [n] catalogue rows.
            most: Terms of an item.
        """
        shares = (self.impacts[query.terms][:, rows]).toarray() * query.weights[:, None]
        found = []
        for own in shares.T:
            order = np.lexsort((np.arange(len(own)), -own))
            texts = [self.vocabulary.terms[query.terms[place]] for place in order.tolist() if own[place] > 0]
            distinct = {text.lower(): text for text in reversed(texts)}
            found.append([distinct[text] for text in dict.fromkeys(text.lower() for text in texts)][:most])
        return found

    def report(self, folder: Path) -> SparseReport:
        """What it holds, its files being in a folder."""
        size = sum(path.stat().st_size for path in folder.iterdir())
        num_empty = int((np.diff(self.counts.indptr) == 0).sum())
        return SparseReport(len(self.vocabulary), int(self.impacts.nnz), num_empty, size)

    def save(self, folder: Path) -> None:
        """Writes a new folder."""
        folder.mkdir(parents=True)
        (folder / ABOUT).write_text(json_text(asdict(self.about), indent=2), encoding="utf-8")
        columns = [pa.array(self.vocabulary.field_of), pa.array(self.vocabulary.terms, pa.string())]
        pq.write_table(pa.table(columns, [FIELD, TERM]), folder / TERMS)
        for name, matrix in (("impacts", self.impacts), ("counts", self.counts)):
            for part in _PARTS:
                np.save(folder / f"{name}_{part}.npy", getattr(matrix, part), allow_pickle=False)

    @classmethod
    def load(cls, folder: Path, item_ids: Sequence[str]) -> SparseIndex:
        """Reads what `save` wrote.

        Args:
            folder: Its files.
            item_ids: [N] the items that it must be of, by row of the catalogue.

        Raises:
            ValueError: It is of another catalogue, or its parts do not fit each other.
        """
        about, catalogue, num_items = _read_about(folder / ABOUT), catalogue_digest(item_ids), len(item_ids)
        if about.catalogue != catalogue:
            raise ValueError(
                f"{folder}: is of catalogue {about.catalogue[:12]}, expected {catalogue[:12]}; run the index step again"
            )
        terms = pq.read_table(folder / TERMS)
        vocabulary = Vocabulary(
            about.fields, terms.column(FIELD).to_numpy().astype(np.int16), tuple(terms.column(TERM).to_pylist())
        )
        impacts = _read_matrix(folder, "impacts", (len(vocabulary), num_items))
        return cls(about, vocabulary, impacts, _read_matrix(folder, "counts", (num_items, len(vocabulary))))


def _read_about(path: Path) -> About:
    plain = json.loads(path.read_text(encoding="utf-8"))
    of_file = tuple(fields.Field(**field) for field in plain["fields"])
    return About(**{**plain, "fields": of_file, "scoring": bm25.Scoring(**plain["scoring"])})


def _read_matrix(folder: Path, name: str, shape: tuple[int, int]) -> bm25.Matrix:
    indptr, indices, data = (np.load(folder / f"{name}_{part}.npy", allow_pickle=False) for part in _PARTS)
    num_entries, (num_rows, num_columns) = len(data), shape
    if (
        len(indptr) != num_rows + 1
        or indptr[0] != 0
        or indptr[-1] != num_entries
        or len(indices) != num_entries
        or (np.diff(indptr) < 0).any()
        or (num_entries and not 0 <= indices.min() <= indices.max() < num_columns)
        or not np.isfinite(data).all()
    ):
        raise ValueError(
            f"{folder}: {name} have {len(indptr) - 1} rows and {num_entries} entries that do not fit, expected "
            f"{num_rows} rows of finite entries in {num_columns} columns; run the index step again"
        )
    return sp.csr_array((data, indices, indptr), shape=shape)
