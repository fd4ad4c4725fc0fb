"""Which retrievers does a bundle offer?"""

from __future__ import annotations

from collections.abc import Mapping

from serving.bundle import Bundle
from serving.retrievers import Cascade, Fused, Popularity, Repeat, Retriever, TwoTower


def build_retrievers(
    bundle: Bundle,
    *,
    ef: int,
    max_fetch: int,
    fusion_weights: Mapping[str, float],
    rank_constant: float,
    fusion_depth: int,
) -> dict[str, Retriever]:
    """All retrievers over a bundle, by name.

    Args:
        bundle: What they search.
        ef: Beam width of the index.
        max_fetch: Largest number of items to ask the index for; beyond it exact search takes over.
        fusion_weights: Retriever -> weight in the fused list.
        rank_constant: Of the fusion.
        fusion_depth: Length of the lists that are fused, and of the one that the second model of a cascade orders.

    Returns:
        `two_tower`, which is also called `hnsw` after its index, `exact` without one, `repeat`, `popularity` and
        `fused`; `cascade` too where the vectors are of several models, and `sparcode` where the bundle has its tables.

    Raises:
        ValueError: A weight names no retriever.
    """
    towers = TwoTower(bundle.ranked, bundle.index, ef=ef, max_fetch=max_fetch, weights=bundle.item_weights)
    exact = TwoTower(bundle.ranked, None, ef=0, max_fetch=0, weights=bundle.item_weights)
    single: dict[str, Retriever] = {"two_tower": towers, "exact": exact}
    if bundle.sparcode is not None:
        single["sparcode"] = bundle.sparcode.retriever()
    widths = bundle.manifest.facts.index_report.parts
    if len(widths) > 1:
        single["cascade"] = Cascade(towers, first_width=widths[0], depth=fusion_depth)
    single |= {"repeat": Repeat(), "popularity": Popularity(bundle.popularity)}
    if unknown := sorted(fusion_weights.keys() - single.keys()):
        raise ValueError(f"fusion_weights names {unknown[0]!r}, expected some of: {', '.join(single)}")
    parts = tuple((single[name], weight) for name, weight in fusion_weights.items())
    return {**single, "hnsw": towers, "fused": Fused(parts, rank_constant=rank_constant, depth=fusion_depth)}
