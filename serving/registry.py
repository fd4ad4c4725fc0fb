"""The retrievers by name, each with the function that builds it over a bundle.

Nothing heavy is imported before a retriever is built, so that configurations and command lines can name the retrievers.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from serving.config import RankingConfig, ServingConfig
from serving.served import AUTO, FUSED, HYBRID, SECOND_LOOK, SPARSE, Choice, settled

if TYPE_CHECKING:
    from serving.asked import ReadUsers
    from serving.bundles.bundle import Bundle
    from serving.recommender import Recommender
    from serving.retrieval.eligible import DeniedItems
    from serving.retrieval.retrievers import Retriever
    from serving.retrieval.spread import Spread
    from serving.retrieval.vector_search import TwoTowerRetriever
    from serving.sparse.hybrid import ColdLane
    from serving.sparse.retriever import Sparse

ALIASES: Mapping[str, str] = {"hnsw": "two_tower"}
"""Further names of retrievers; two_tower is also called after its index."""


class MissingPartError(ValueError):
    """A bundle lacks what a retriever needs; the message names it and how to get it."""


class Builder(Protocol):
    """Builds a retriever over a bundle."""

    def __call__(self, bundle: Bundle, ranking: RankingConfig, *, ef_search: int | None) -> Retriever:
        """Builds it.

        Args:
            bundle: What it searches.
            ranking: How retrievers are configured.
            ef_search: Beam width of the index; None takes the one that was chosen when it was built.

        Raises:
            MissingPartError: The bundle lacks what the retriever needs.
        """
        ...


def _of_catalogue(bundle: Bundle, ranking: RankingConfig, *, ef_search: int | None) -> TwoTowerRetriever:
    """The two towers over the catalogue, without what was added to it."""
    from serving.retrieval.vector_search import TwoTowerRetriever

    ef = bundle.manifest.facts.index_report.ef if ef_search is None else ef_search
    return TwoTowerRetriever(
        bundle.ranked, bundle.index, ef=ef, max_fetch=ranking.max_fetch, weights=bundle.item_weights
    )


def _two_tower(bundle: Bundle, ranking: RankingConfig, *, ef_search: int | None) -> Retriever:
    return _with_added(bundle, _of_catalogue(bundle, ranking, ef_search=ef_search))


def _exact(bundle: Bundle, ranking: RankingConfig, *, ef_search: int | None) -> Retriever:
    from serving.retrieval.vector_search import TwoTowerRetriever

    exact = TwoTowerRetriever(bundle.ranked, None, ef=0, max_fetch=0, weights=bundle.item_weights)
    return _with_added(bundle, exact)


def _sparcode(bundle: Bundle, ranking: RankingConfig, *, ef_search: int | None) -> Retriever:
    if bundle.sparcode is None:
        raise MissingPartError(
            "SparCode's tables, and this bundle has none; set sparcode: {} and make the bundle again, or choose "
            "another retriever"
        )
    return bundle.sparcode.retriever()


def _cascade(bundle: Bundle, ranking: RankingConfig, *, ef_search: int | None) -> Retriever:
    from serving.retrieval.vector_search import Cascade

    widths = bundle.manifest.facts.index_report.parts
    if len(widths) == 1:
        raise MissingPartError(
            f"vectors of several models side by side, and these are of 1 part, width {widths[0]}; fit a second model "
            "(with training.hard_model_weight), or choose another retriever"
        )
    first = _of_catalogue(bundle, ranking, ef_search=ef_search)
    return Cascade(first, first_width=widths[0], depth=ranking.fusion_depth)


def _sparse(bundle: Bundle, ranking: RankingConfig, *, ef_search: int | None) -> Sparse:
    from serving.sparse.retriever import Sparse

    if bundle.sparse is None:
        raise MissingPartError(
            "a sparse index, and this bundle has none; set sparse: {} and make the bundle again, or choose another "
            "retriever"
        )
    return Sparse(bundle.sparse)


def _hybrid(bundle: Bundle, ranking: RankingConfig, *, ef_search: int | None) -> Retriever:
    from serving.sparse.hybrid import Hybrid

    sparse = _sparse(bundle, ranking, ef_search=ef_search)
    return Hybrid(
        _of_catalogue(bundle, ranking, ef_search=ef_search),
        sparse,
        weights=choice_of(bundle, ranking).hybrid_weights,
        cold=bundle.num_events < ranking.cold_events,
        short_past=ranking.short_past,
        depth=ranking.fusion_depth,
    )


def cold_lane_of(bundle: Bundle, ranking: RankingConfig) -> ColdLane | None:
    """What keeps places for items with few events; None where none are kept.

    Raises:
        ValueError: Places are to be kept, and the bundle has no sparse index to fill them.
    """
    import numpy as np

    from serving.sparse.hybrid import ColdLane

    if not ranking.cold_share:
        return None
    try:
        sparse = _sparse(bundle, ranking, ef_search=None)
    except MissingPartError as error:
        raise ValueError(
            f"{bundle.folder}: serving.cold_share is {ranking.cold_share:g}, which needs {error}"
        ) from None
    spread = spread_of(bundle, ranking)
    limits = () if spread is None else spread.limits
    num_added = 0 if bundle.added is None else len(bundle.added.vectors)
    cold = np.append(bundle.num_events < ranking.cold_events, np.ones(num_added, np.bool_))
    return ColdLane(sparse, cold, ranking.cold_share, limits)


def _repeat(bundle: Bundle, ranking: RankingConfig, *, ef_search: int | None) -> Retriever:
    from serving.retrieval.retrievers import Repeat

    return Repeat()


def _popularity(bundle: Bundle, ranking: RankingConfig, *, ef_search: int | None) -> Retriever:
    from serving.retrieval.retrievers import Popularity

    return Popularity(bundle.popularity)


RETRIEVERS: dict[str, Builder] = {
    "two_tower": _two_tower,
    "exact": _exact,
    "sparcode": _sparcode,
    "cascade": _cascade,
    SPARSE: _sparse,
    HYBRID: _hybrid,
    "repeat": _repeat,
    "popularity": _popularity,
}
"""Name -> builder. The fused list is built last, of those that `serving.fusion_weights` names among these."""


def retriever_names() -> tuple[str, ...]:
    """All names that a request or a configuration may give."""
    return (*RETRIEVERS, *ALIASES, FUSED, SECOND_LOOK)


def check_retriever_names(serving: ServingConfig) -> None:
    """Validates every name of a retriever in the section `serving`.

    Raises:
        ValueError: There is no such retriever; the message has the key and the valid names.
    """
    named = {} if serving.retriever == AUTO else {"retriever": serving.retriever}
    named |= {f"arms.{place}.retriever": arm.retriever for place, arm in enumerate(serving.arms) if arm.retriever}
    for key, name in named.items():
        if name not in retriever_names():
            raise ValueError(f"serving.{key} is {name!r}, expected one of: {_valid(name, retriever_names())}")
    for name in () if serving.fusion_weights == AUTO else serving.fusion_weights:
        if name not in RETRIEVERS:
            raise ValueError(f"serving.fusion_weights names {name!r}, expected some of: {_valid(name, RETRIEVERS)}")


def choice_of(bundle: Bundle, ranking: RankingConfig) -> Choice:
    """What a bundle serves by default: what is configured, and where that is auto, what was chosen for the bundle."""
    return settled(ranking, bundle.manifest.facts.served.choice)


def retrievers_of(bundle: Bundle, ranking: RankingConfig, *, ef_search: int | None) -> dict[str, Retriever]:
    """All retrievers over a bundle for which it has what they need, by name.

    Raises:
        ValueError: A fused retriever, or the default one, is unknown, or the bundle lacks what it needs.
    """
    from serving.retrieval.retrievers import Fused

    built: dict[str, Retriever] = {}
    missing: dict[str, str] = {}
    for name, build in RETRIEVERS.items():
        try:
            built[name] = build(bundle, ranking, ef_search=ef_search)
        except MissingPartError as error:
            missing[name] = str(error)
    if bundle.second_look is None:
        missing[SECOND_LOOK] = (
            "a second look, and this bundle has none; set serving.second_look: {} and make the bundle again, or choose "
            "another retriever"
        )
    choice = choice_of(bundle, ranking)
    for name in choice.fusion_weights:
        if name in missing:
            raise ValueError(f"{bundle.folder}: serving.fusion_weights names {name!r}, which needs {missing[name]}")
        if name not in built:
            raise ValueError(f"serving.fusion_weights names {name!r}, expected some of: {_valid(name, RETRIEVERS)}")
    if choice.retriever in missing:
        raise ValueError(
            f"{bundle.folder}: serving.retriever is {choice.retriever!r}, which needs {missing[choice.retriever]}"
        )
    parts = tuple((built[name], weight) for name, weight in choice.fusion_weights.items())
    fused = Fused(parts, rank_constant=choice.fusion_rank_constant, depth=ranking.fusion_depth)
    found = {**built, **{alias: built[name] for alias, name in ALIASES.items()}, FUSED: fused}
    if bundle.second_look is not None:
        parts_of_vectors = tuple(bundle.manifest.facts.index_report.parts)
        found[SECOND_LOOK] = bundle.second_look.retriever(
            built, bundle.ranked, parts_of_vectors, weights=bundle.item_weights
        )
    return found


def recommender_of(
    bundle: Bundle,
    read_users: ReadUsers,
    ranking: RankingConfig,
    *,
    ef_search: int | None,
    denied: DeniedItems | None = None,
) -> Recommender:
    """The recommender over a bundle, as configured and chosen.

    Args:
        bundle: What it searches.
        read_users: Reads the features of users.
        ranking: How lists are made.
        ef_search: Beam width of the index; None takes the bundle's.
        denied: Items that no user gets; None where there are none.

    Raises:
        ValueError: The bundle lacks what a configured retriever needs.
    """
    from serving.recommender import Recommender

    choice = choice_of(bundle, ranking)
    return Recommender(
        bundle,
        read_users,
        retrievers=retrievers_of(bundle, ranking, ef_search=ef_search),
        default_retriever=choice.retriever,
        exclude_known=choice.exclude_known,
        denied=denied,
        cold_lane=cold_lane_of(bundle, ranking),
        spread=spread_of(bundle, ranking),
        second_look_ms=ranking.second_look_ms,
    )


def _with_added(bundle: Bundle, retriever: TwoTowerRetriever) -> Retriever:
    """A retriever that finds the items that were added to the bundle, too."""
    from serving.retrieval.added import WithAdded

    return retriever if bundle.added is None else WithAdded(retriever, bundle.added)


def spread_of(bundle: Bundle, ranking: RankingConfig) -> Spread | None:
    """What lists of a bundle must be like; None where they come as they are found."""
    import pyarrow as pa

    from features.lists import codes_of
    from serving.retrieval.spread import Limit, Spread

    limits = []
    if bundle.families is not None and ranking.max_per_family is not None:
        limits.append(Limit(bundle.families, ranking.max_per_family))
    if ranking.max_per_category is not None:
        categories = [bundle.category_of(row) for row in range(len(bundle.categories))]
        limits.append(Limit(codes_of(pa.array(categories, pa.string())), ranking.max_per_category))
    if not limits and not ranking.diversity:
        return None
    return Spread(tuple(limits), ranking.diversity, bundle.vectors_of)


def _valid(name: str, names: tuple[str, ...] | Mapping[str, object]) -> str:
    near = difflib.get_close_matches(name, [*names], n=1)
    return ", ".join(names) + (f"; did you mean {near[0]!r}?" if near else "")
