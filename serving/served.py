"""What is served by default: the retriever, how lists are fused, and whether known items come back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serving.config import RankingConfig

AUTO = "auto"
"""Value of a key of the configuration that leaves it to what was chosen for the bundle."""
FUSED = "fused"
SPARSE, HYBRID = "sparse", "hybrid"
SECOND_LOOK = "second_look"
SEGMENTS = ("short_past_warm", "short_past_cold", "long_past_warm", "long_past_cold")
"""Users with a short or a long past times items with many or few events."""
HYBRID_WEIGHT = 0.3
"""What the sparse list counts in the hybrid one where nothing is configured and nothing could be compared."""


@dataclass(frozen=True)
class Choice:
    """How a request is answered that does not say it itself."""

    retriever: str
    """Name of the retriever."""
    fusion_weights: Mapping[str, float]
    """Weight of each retriever in the fused list, which a request may ask for whatever is served."""
    fusion_rank_constant: float
    """Rank constant of the fused list."""
    exclude_known: bool
    """Whether items that the user has met are kept out."""
    hybrid_weights: Mapping[str, float] = field(
        default_factory=lambda: dict.fromkeys(SEGMENTS, HYBRID_WEIGHT), kw_only=True
    )
    """Segment -> weight of the sparse list in the hybrid one, which a request may ask for, too."""

    @property
    def lists(self) -> str:
        """What is served, in words: such as `repeat 1 + two_tower 0.3, rank constant 5`."""
        if self.retriever != FUSED:
            return self._named(self.retriever)
        if len(self.fusion_weights) == 1:
            return f"{self._named(next(iter(self.fusion_weights)))}, filled up with popular items"
        weights = " + ".join(f"{self._named(name)} {weight:g}" for name, weight in self.fusion_weights.items())
        return f"{weights}, rank constant {self.fusion_rank_constant:g}"

    def _named(self, name: str) -> str:
        """A list by its name; the hybrid one with its weights, one where all are alike."""
        if name != HYBRID:
            return name
        weights = list(dict.fromkeys(f"{self.hybrid_weights[segment]:g}" for segment in SEGMENTS))
        alike = len(weights) == 1
        shown = weights if alike else [f"{self.hybrid_weights[segment]:g}" for segment in SEGMENTS]
        return f"{name} ({'/'.join(shown)})"

    def __str__(self) -> str:
        """The same, and whether known items may come."""
        return f"{self.lists}; known items {'are kept out' if self.exclude_known else 'may come back'}"


@dataclass(frozen=True)
class Tried(Choice):
    """A choice that was compared on the days before the cut: the best of its kind."""

    value: float
    """Its metric, mean over users."""
    behind: float
    """By how much it is behind the best, mean over users."""
    behind_low: float
    """Lower end of the paired interval of that; at most 0 where chance may explain it."""
    behind_high: float
    """Upper end."""


@dataclass(frozen=True)
class Served(Choice):
    """What a bundle serves by default, and why."""

    why: str
    """One sentence."""
    metric: str
    """What was compared, such as `ndcg@100`."""
    num_users: int
    """Users who were compared; 0 where nothing was."""
    tried: tuple[Tried, ...] = ()
    """The best of each kind, the best of all first; empty where nothing was compared."""

    def __post_init__(self) -> None:
        """Takes what was tried as JSON gives it, too."""
        object.__setattr__(self, "tried", tuple(self.tried))

    @property
    def choice(self) -> Choice:
        """What is served, without why."""
        return Choice(**{name: getattr(self, name) for name in Choice.__dataclass_fields__})

    @property
    def table(self) -> Iterator[tuple[str, ...]]:
        """A row of text for each that was tried: what, known items, the metric, and how far behind the best."""
        for one in self.tried:
            known = "kept out" if one.exclude_known else "may come"
            behind = f"{one.behind:.4f} [{one.behind_low:+.4f}, {one.behind_high:+.4f}]"
            yield one.lists, known, f"{one.value:.4f}", behind


DEFAULT = Choice(FUSED, {"repeat": 1.0, "two_tower": 0.3}, 5.0, exclude_known=False)
"""Where nothing is configured and nothing could be compared."""
NO_REPEATS = Choice("two_tower", {"two_tower": 1.0, "popularity": 0.3}, 5.0, exclude_known=True)
"""The same where nobody meets an item twice."""


_CONFIGURED = ("retriever", "fusion_weights", "fusion_rank_constant", "exclude_known")


def settled(ranking: RankingConfig, chosen: Choice = DEFAULT) -> Choice:
    """What is served: what the configuration says, and where it says auto, what was chosen.

    Weights that are configured are meant to be served: with them, `serving.retriever: auto` is the fused list.
    """
    values: dict[str, Any] = {name: getattr(ranking, name) for name in _CONFIGURED if getattr(ranking, name) != AUTO}
    if ranking.hybrid_weight != AUTO:
        values["hybrid_weights"] = dict.fromkeys(SEGMENTS, ranking.hybrid_weight)
    if "fusion_weights" in values:
        values.setdefault("retriever", FUSED)
    return replace(chosen, **values)
