"""Serve: a published bundle and the feature store as one recommender, for the server and for the shell."""

from __future__ import annotations

from features.store import Store
from serving import bundle as layout
from serving.bundle import Bundle
from serving.denied import DeniedItems
from serving.recommender import Recommender, build_retrievers
from serving.retrievers import Retriever
from twinspire.config import Config
from twinspire.paths import RunPaths


def retrievers_of(bundle: Bundle, config: Config) -> dict[str, Retriever]:
    """The retrievers of a bundle as configured.

    Raises:
        ValueError: The configured one needs vectors of several models, and the bundle's are of one.
    """
    retrievers = build_retrievers(
        bundle,
        ef=config.index.ef_search,
        max_fetch=config.serving.max_fetch,
        fusion_weights={str(name): weight for name, weight in config.serving.fusion_weights.items()},
        rank_constant=config.serving.fusion_rank_constant,
        fusion_depth=config.serving.fusion_depth,
    )
    if config.serving.retriever not in retrievers:
        widths = bundle.manifest.facts.index_report.parts
        raise ValueError(
            f"{bundle.folder}: serving.retriever is {config.serving.retriever!r}, which needs vectors of several "
            f"models side by side, and these are of {len(widths)} part, width {widths[0]}; fit a second model (with "
            "training.hard_model_weight), or choose another retriever"
        )
    return retrievers


def open_recommender(config: Config, paths: RunPaths) -> Recommender:
    """Opens the published bundle and the feature store that it was made with; denied items are kept out of answers."""
    bundle = Bundle.open(paths.bundles / layout.CURRENT)
    store = Store.open(paths.features)
    return Recommender(
        bundle,
        store.read_online,
        retrievers=retrievers_of(bundle, config),
        default_retriever=config.serving.retriever,
        denied=DeniedItems(paths.denied_items, bundle.encoder.item_ids),
    )
