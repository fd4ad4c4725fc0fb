"""Ablate, the lists of one fit: what does an arm retrieve, by which of the ways there are?

U users of a split, k places of a list.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from beam_jobs.embed import read_vectors
from evaluation.split import Split
from features.days import seconds_of
from features.encoding import Encoder
from serving import all_to_all
from serving.codebook import Codebook
from serving.interactions import load_interaction
from serving.postings import read_postings
from serving.purchases import Purchases
from serving.ranking import Rows
from serving.retrievers import Cascade, Fused, Retriever, TwoTower, UserQueries
from serving.sparcode import SparCode
from serving.sparcode_parts import CODEBOOK, POSTINGS
from twinspire.ablation_config import Lists
from twinspire.config import Config
from twinspire.paths import RunPaths
from twinspire.pipeline.codes import SERVED
from twinspire.pipeline.embed import read_parts
from twinspire.pipeline.sparcode_files import FOLDER, INTERACTION, read_shape

# In a fused list two models count alike.
FUSED_WEIGHT = 1.0


def search(config: Config, paths: RunPaths, split: Split, *, how: Lists, k: int) -> Rows:
    """What a finished fit retrieves of what users have not met: [U, k] int32.

    Args:
        config: Of the arm.
        paths: Where its vectors and tables lie.
        split: Users and their history.
        how: One of the ways.
        k: Length of a list.
    """
    return _WAYS[how](config, paths, _queries(paths, split, with_tokens=how in WITH_TABLES), k)


WITH_TABLES: frozenset[Lists] = frozenset({"sparcode", "all_scores", "unquantised", "two_tower_and_sparcode"})
"""Ways that need SparCode's tables."""


def _queries(paths: RunPaths, split: Split, *, with_tokens: bool) -> UserQueries:
    users = read_vectors(paths.vectors / "users")
    rows = Encoder.load(paths.model / "encoder").user_ids.rows(split.user_ids) - 1
    moments = np.full(len(rows), seconds_of(paths.as_of))
    tokens = read_vectors(paths.codes / "user_tokens")[rows] if with_tokens else None
    return UserQueries(_purchases(split), moments, users[rows], exclude_known=True, user_tokens=tokens)


def _purchases(split: Split) -> Purchases:
    """What the users of a split know; without the moments, which the filter does not read."""
    history = split.history
    last = np.zeros(history.nnz, np.int64)
    return Purchases(
        history.indptr.astype(np.int64), history.indices, history.data.astype(np.int32), last, history.shape[1]
    )


def _towers(paths: RunPaths) -> TwoTower:
    return TwoTower(read_vectors(paths.vectors / "items"), None, ef=0, max_fetch=0)


def _tables(paths: RunPaths) -> SparCode:
    folder = paths.codes / SERVED
    postings = read_postings(folder / POSTINGS)
    return SparCode(Codebook.load(folder / CODEBOOK), postings, num_tokens=read_shape(paths.model).num_user_tokens)


def _exact(config: Config, paths: RunPaths, users: UserQueries, k: int) -> Rows:
    return _towers(paths).retrieve(users, k)[0]


def _cascade(config: Config, paths: RunPaths, users: UserQueries, k: int) -> Rows:
    first_width, *_ = read_parts(paths.model)
    cascade = Cascade(_towers(paths), first_width=first_width, depth=config.serving.fusion_depth)
    return cascade.retrieve(users, k)[0]


def _sparcode(config: Config, paths: RunPaths, users: UserQueries, k: int) -> Rows:
    return _tables(paths).retrieve(users, k)[0]


def _both(config: Config, paths: RunPaths, users: UserQueries, k: int) -> Rows:
    parts: tuple[tuple[Retriever, float], ...] = ((_towers(paths), FUSED_WEIGHT), (_tables(paths), FUSED_WEIGHT))
    serving = config.serving
    fused = Fused(parts, rank_constant=serving.fusion_rank_constant, depth=serving.fusion_depth)
    return fused.retrieve(users, k)[0]


def _all_scores(config: Config, paths: RunPaths, users: UserQueries, k: int, *, quantise: bool = True) -> Rows:
    model = paths.model / FOLDER
    assert users.user_tokens is not None
    rows, _ = all_to_all.search(
        users.user_tokens,
        np.load(paths.codes / "item_tokens.npy", mmap_mode="r", allow_pickle=False),
        interaction=load_interaction(model / INTERACTION),
        bias=read_shape(paths.model).bias,
        codebook=Codebook.load(model / CODEBOOK) if quantise else None,
        k=k,
        exclude=users.purchases.csr(),
    )
    return rows


def _unquantised(config: Config, paths: RunPaths, users: UserQueries, k: int) -> Rows:
    return _all_scores(config, paths, users, k, quantise=False)


_WAYS: Mapping[Lists, Callable[[Config, RunPaths, UserQueries, int], Rows]] = {
    "exact": _exact,
    "cascade": _cascade,
    "sparcode": _sparcode,
    "all_scores": _all_scores,
    "unquantised": _unquantised,
    "two_tower_and_sparcode": _both,
}
