"""What retrieves over the vectors, graph and tables of a finished fit.

U users of a split, k places of a list.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from artefacts.paths import RunPaths
from evaluation.split import Split
from features import columns, encoding, hidden_past
from serving.retrieval import distinct, eligible, index, purchases, ranking, retrievers, vector_search, vectors, weights
from serving.served import settled
from serving.sparcode import all_to_all, files, interactions, postings, retriever
from serving.sparcode.codebook import Codebook
from twinspire import sparse_arm
from twinspire.ablation_config import AMONG_HIDDEN, WITH_SPARSE, WITH_TABLES, Lists
from twinspire.config import Config

# In a fused list two models count alike.
FUSED_WEIGHT = 1.0


def search(config: Config, paths: RunPaths, split: Split, *, how: Lists, k: int) -> ranking.Rows:
    """What a finished fit retrieves of what is offered and users have not met: [U, k] int32.

    Args:
        config: Of the arm.
        paths: Where its vectors and tables lie.
        split: Users and their history.
        how: One of the ways.
        k: Length of a list.
    """
    users = queries_of(paths, split, how=how)
    if how in AMONG_HIDDEN:
        assert config.ingest.hidden_past is not None
        hidden = hidden_past.HiddenPast(**dict(config.ingest.hidden_past))
        ids = encoding.Encoder.load(paths.model / "encoder").item_ids
        others = np.flatnonzero(~hidden.are_hidden(ids.ids(np.arange(1, len(ids)))))
        users = replace(users, eligible=eligible.less(users.eligible, others, num_items=len(ids) - 1))
    return retriever_of(how, config, paths).retrieve(users, k)[0]


def queries_of(paths: RunPaths, split: Split, *, how: Lists) -> retrievers.UserQueries:
    """The users of a split, with what a way needs of them."""
    users = vectors.read_vectors(paths.vectors / "users")
    encoder = encoding.Encoder.load(paths.model / "encoder")
    rows = encoder.user_ids.rows(split.user_ids) - 1
    moments = np.full(len(rows), columns.seconds_of(paths.as_of))
    tokens = vectors.read_vectors(paths.codes / "user_tokens")[rows] if how in WITH_TABLES else None
    items = eligible.everything_but(
        eligible.withdrawn_rows(paths.tables, paths.model / "encoder"), num_items=split.history.shape[1]
    )
    if how in WITH_SPARSE:
        # With moments: a sparse query fades.
        own = purchases.Purchases.from_pairs(paths.pairs, user_ids=encoder.user_ids, item_ids=encoder.item_ids)
        past = own.of(rows + 1)
    else:
        past = _purchases(split)
    return retrievers.UserQueries(past, moments, users[rows], exclude_known=True, user_tokens=tokens, eligible=items)


def _purchases(split: Split) -> purchases.Purchases:
    """What the users of a split know; without the moments, which the filter does not read."""
    history = split.history
    last = np.zeros(history.nnz, np.int64)
    return purchases.Purchases(
        history.indptr.astype(np.int64), history.indices, history.data.astype(np.int32), last, history.shape[1]
    )


@dataclass(frozen=True)
class AllScores:
    """Every item scored with SparCode's net, by codes or by the tokens themselves; the reference for its tables."""

    item_tokens: ranking.Scores
    interaction: interactions.Interaction
    bias: float
    codebook: Codebook | None
    needs_embeddings: bool = field(default=False, init=False)
    needs_tokens: bool = field(default=True, init=False)
    finds_all: bool = field(default=False, init=False)
    fills_up: bool = field(default=True, init=False)

    def retrieve(self, users: retrievers.UserQueries, k: int) -> tuple[ranking.Rows, ranking.Scores]:
        """See `serving.retrieval.retrievers.Retriever`."""
        assert users.user_tokens is not None
        return all_to_all.search(
            users.user_tokens,
            self.item_tokens,
            interaction=self.interaction,
            bias=self.bias,
            codebook=self.codebook,
            k=k,
            exclude=users.purchases.csr() if users.exclude_known else None,
            offered=users.offered,
        )


def retriever_of(how: Lists, config: Config, paths: RunPaths) -> retrievers.Retriever:
    """The retriever of one of the ways, over what a finished fit has left.

    Args:
        how: The way.
        config: Of the arm.
        paths: Where its vectors, graph and tables lie.
    """
    return _WAYS[AMONG_HIDDEN.get(how, how)](config, paths)


def _exact(config: Config, paths: RunPaths) -> vector_search.TwoTowerRetriever:
    return vector_search.TwoTowerRetriever(vectors.read_vectors(paths.vectors / "items"), None, ef=0, max_fetch=0)


def _hnsw(config: Config, paths: RunPaths) -> vector_search.TwoTowerRetriever:
    items, file = np.load(paths.index / index.VECTORS_FILE, allow_pickle=False), paths.index / weights.WEIGHTS_FILE
    if file.exists():
        items = weights.weighted(items, weights.load_weights(file, num_items=len(items)))
    report = index.IndexReport(**json.loads((paths.index / index.REPORT_FILE).read_text()))
    withdrawn = eligible.withdrawn_in(paths.index, num_items=len(items))
    graph = distinct.load_index(report.form, paths.index / index.INDEX_FILE, items, withdrawn)
    # The graph is what this arm is about, also where something is withdrawn and exact search would be cheaper.
    ef, max_fetch = config.index.ef_search or report.ef, config.serving.max_fetch
    return vector_search.TwoTowerRetriever(items, graph, ef=ef, max_fetch=max_fetch, beam_cost=0.0)


def _sparse(config: Config, paths: RunPaths) -> retrievers.Retriever:
    return sparse_arm.sparse_of(paths)


def _hybrid(config: Config, paths: RunPaths) -> retrievers.Retriever:
    return sparse_arm.hybrid_of(config, paths, _exact(config, paths))


def _cascade(config: Config, paths: RunPaths) -> vector_search.Cascade:
    first_width, *_ = vectors.read_parts(paths.model)
    return vector_search.Cascade(_exact(config, paths), first_width=first_width, depth=config.serving.fusion_depth)


def _sparcode(config: Config, paths: RunPaths) -> retriever.SparCode:
    folder = paths.codes / files.SERVED
    tables = postings.read_postings(folder / files.POSTINGS)
    return retriever.SparCode(
        Codebook.load(folder / files.CODEBOOK), tables, num_tokens=files.read_shape(paths.model).num_user_tokens
    )


def _both(config: Config, paths: RunPaths) -> retrievers.Fused:
    parts: tuple[tuple[retrievers.Retriever, float], ...] = (
        (_exact(config, paths), FUSED_WEIGHT),
        (_sparcode(config, paths), FUSED_WEIGHT),
    )
    serving = config.serving
    return retrievers.Fused(parts, rank_constant=settled(serving).fusion_rank_constant, depth=serving.fusion_depth)


def _all_scores(config: Config, paths: RunPaths, *, quantise: bool = True) -> AllScores:
    model = paths.model / files.FOLDER
    return AllScores(
        np.load(paths.codes / "item_tokens.npy", mmap_mode="r", allow_pickle=False),
        interactions.load_interaction(model / files.INTERACTION),
        files.read_shape(paths.model).bias,
        Codebook.load(model / files.CODEBOOK) if quantise else None,
    )


def _unquantised(config: Config, paths: RunPaths) -> AllScores:
    return _all_scores(config, paths, quantise=False)


_WAYS: Mapping[Lists, Callable[[Config, RunPaths], retrievers.Retriever]] = {
    "exact": _exact,
    "hnsw": _hnsw,
    "sparse": _sparse,
    "hybrid": _hybrid,
    "cascade": _cascade,
    "sparcode": _sparcode,
    "all_scores": _all_scores,
    "unquantised": _unquantised,
    "two_tower_and_sparcode": _both,
}
