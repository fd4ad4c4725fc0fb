"""Serve: a published bundle and the feature store as one recommender, for the server and for the shell."""

from __future__ import annotations

from features.store import Store
from serving import bundle as layout
from serving.bundle import Bundle
from serving.recommender import Recommender, build_retrievers
from serving.retrievers import Retriever
from twinspire.config import Config
from twinspire.paths import RunPaths


def retrievers_of(bundle: Bundle, config: Config) -> dict[str, Retriever]:
    """The retrievers of a bundle as configured."""
    return build_retrievers(
        bundle,
        ef=config.index.ef_search,
        max_fetch=config.serving.max_fetch,
        fusion_weights={str(name): weight for name, weight in config.serving.fusion_weights.items()},
        rank_constant=config.serving.fusion_rank_constant,
        fusion_depth=config.serving.fusion_depth,
    )


def open_recommender(config: Config, paths: RunPaths) -> Recommender:
    """Opens the published bundle and the feature store that it was made with."""
    bundle = Bundle.open(paths.bundles / layout.CURRENT)
    store = Store.open(paths.features)
    return Recommender(
        bundle,
        store.read_online,
        retrievers=retrievers_of(bundle, config),
        default_retriever=config.serving.retriever,
    )
