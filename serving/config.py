"""Configuration of serving: retrievers, bundles and the server."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_network
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from artefacts.config import Section, read
from serving.arms import Arm, Arms

VERSION_PATTERN = r"^\d{4}-\d{2}-\d{2}-[0-9a-f]{8}$"
"""Name of a bundle: its day, and the beginning of a hash over its contents."""


class SparCodeRecallConfig(Section):
    """What SparCode's tables must reach."""

    target_recall: float | None = Field(None, gt=0, le=1)
    """Take the lowest bias whose lists find this share of the best items by all scores of the codes."""


class SparseConfig(Section):
    """The sparse index: an inverted index over the terms of items, which finds items without events too."""

    fields: dict[str, Annotated[float, Field(ge=0)]] | None = None
    """What each field counts in the query of a history: a categorical column by its name, the words of a text column
    with `_text` behind it, those of the items' names as `item_name`. Null weighs all alike but the names, which only
    typed words are looked up in; a field that is left out counts 0."""
    k1: float = Field(1.2, ge=0)
    """BM25: how slowly further occurrences of a word stop counting."""
    b: float = Field(0.75, ge=0, le=1)
    """BM25: how much long texts count less."""
    half_life_days: float | None = Field(60.0, gt=0)
    """Days in which an item of a history counts half as much; null counts all ages alike."""
    saturation: float = Field(0.01, gt=0)
    """Share of a history from which on more of a term adds little."""
    learned_weights: bool = False
    """Whether a term is weighed by the share of its buyers who have it by another item too."""
    expansion_terms: int = Field(0, ge=0)
    """Terms that an item gets of those its buyers are likely to have, at most; 0 adds none."""
    expansion_weight: float = Field(0.05, gt=0)
    """What such a term counts in one of the item's own."""


class SecondLookConfig(Section):
    """A small net that ranks the candidates of the other lists again, and is served where it finds more."""

    depth: int = Field(100, ge=1)
    """Length of the lists whose candidates it ranks; at least as many as are asked for."""
    history: int = Field(20, ge=1)
    """Latest distinct items of a user that a candidate attends to."""
    codes: int = Field(2, ge=0)
    """Ways in which a candidate attends to these; 0 merges the lists without a look at the history."""
    hidden_units: int = Field(64, ge=1)
    """Of the net's one hidden layer."""
    epochs: int = Field(20, ge=1)
    """Passes over its lists."""
    learning_rate: float = Field(0.003, gt=0)
    """Of Adam, at the beginning; it falls to nothing."""
    negatives: int = Field(50, ge=1)
    """Candidates of a list that the user did not meet, drawn from it to train on."""
    most_users: int = Field(10_000, ge=1)
    """Users of the days held out whose lists it is trained on, drawn at random."""
    nights: int = Field(7, ge=1)
    """Nights whose lists a warm start keeps and trains on, too."""


class BundlesConfig(Section):
    """Which bundles stay after the daily run; the published one and the one before it always do."""

    keep: int | None = Field(14, ge=1)
    """Bundles that stay, the latest written; null keeps any number."""
    max_age_days: int | None = Field(None, ge=0)
    """Days after which a bundle goes; null keeps them at any age. What either limit excludes goes."""


class ArmConfig(Section):
    """One way of answering."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    """What answers, exposures and reports call it."""
    share: float = Field(gt=0, le=1)
    """Of the users."""
    bundle: str | None = Field(None, pattern=VERSION_PATTERN)
    """Version that it answers from; null takes the one that is published."""
    retriever: str | None = None
    """What answers where a request names none; null takes `serving.retriever`."""
    weight_exponent: float | None = Field(None, ge=0)
    """Power of the business values where a request names none; null takes the index's."""

    def arm(self) -> Arm:
        """The same for the server."""
        return Arm(self.name, self.share, self.bundle, self.retriever, self.weight_exponent)


class RankingConfig(Section):
    """How the items of a list are found and merged; the part of `serving` that decides what is served."""

    retriever: str = "auto"
    """What answers when the request names none: a name in `serving.registry`, or `auto`: what finds most on the days
    before the cut that are held out of a fit."""
    max_fetch: int = Field(2000, ge=1)
    """Most items that the index is asked for; beyond it exact search is cheaper."""
    fusion_weights: Literal["auto"] | Annotated[dict[str, Annotated[float, Field(gt=0)]], Field(min_length=1)] = "auto"
    """Weight of each retriever in the fused list; `auto` as above."""
    fusion_rank_constant: Literal["auto"] | Annotated[float, Field(gt=0)] = "auto"
    """The larger, the less the first places of a list weigh; `auto` as above."""
    exclude_known: Literal["auto"] | bool = "auto"
    """Whether items that the user has met are kept out when the request does not say; `auto` as above."""
    choice_metric: Literal["ndcg", "recall", "mrr"] = "ndcg"
    """What `auto` compares, over all events of the days held out, at the longest of evaluation.ks."""
    fusion_depth: int = Field(200, ge=1)
    """Length of the lists that are fused; at least the longest list that is evaluated."""
    hybrid_weight: Literal["auto"] | Annotated[float, Field(ge=0)] = "auto"
    """What a score of the sparse list counts in `hybrid`, in one of the two towers'; `auto` as above, for users with a
    short and a long past; that for items with few events, which orders these in their places, on items that are
    described as if they had none."""
    short_past: int = Field(5, ge=0)
    """Users who have met fewer distinct items have a short past."""
    cold_events: int = Field(1, ge=1)
    """Items with fewer events are cold."""
    cold_share: float = Field(0.0, ge=0, lt=1)
    """Share of the places of a list that cold items get, which are found by content (`sparse`), where the request names
    no retriever; 0 keeps no place."""
    second_look: SecondLookConfig | None = SecondLookConfig()
    """A second look at the candidates, which is compared with the lists themselves; null fits none."""
    second_look_ms: float | None = Field(100.0, gt=0)
    """What a request may have taken when its candidates are ranked again, in milliseconds; later ones get the fused
    list. Null sets no limit."""
    max_per_family: int | None = Field(1, ge=1)
    """Most items of a family (`dataset.item_family`) in a list, which comes where its best item is; null sets no
    limit."""
    max_per_category: int | None = Field(None, ge=1)
    """Most items of a category (`dataset.item_category`) in a list; null sets no limit."""
    diversity: float = Field(0.0, ge=0, lt=1)
    """How much the order of a list favours items unlike those before them, by their vectors, over the score (1 - lambda
    of maximal marginal relevance); 0 leaves it to the score."""


class ServingConfig(RankingConfig):
    """The server."""

    host: str = "127.0.0.1"
    """Address to listen on; loopback by default."""
    port: int = Field(8100, ge=0, le=65535)
    """Port to listen on; 0 picks a free one."""
    workers: int = Field(1, ge=1, le=256)
    """Processes that answer; several share one copy of the bundle."""
    max_k: int = Field(1000, ge=1)
    """Largest k that a request may ask for."""
    max_items: int = Field(51_200, ge=12_800)
    """Most items that a request may ask for: users, rounded up to a power of two, times k; explained ones count five
    times. At least 256 users can ask for explained lists of 10."""
    arms: tuple[ArmConfig, ...] = ()
    """Ways of answering that share out the users; none listed, all users get the published bundle."""
    arm_salt: str = "twinspire"
    """Another salt assigns users again, independently."""
    log_exposures: bool = False
    """Whether the lists that users get by their arms are written to `runs/<name>/exposures`."""
    exposure_flush_seconds: float = Field(60.0, gt=0)
    """How often they are written; a killed server loses those of that many seconds."""
    exposure_rows: int = Field(10_000, ge=1)
    """Exposures that are written at once when that many wait."""
    feature_deadline_ms: float = Field(200.0, gt=0)
    """What a read of the online store may take, in milliseconds; after it users are answered without it."""
    requests_per_second: float | None = Field(None, gt=0)
    """Most requests that one address may make; one counts for each user and each 100 items of its list, five times if
    they are explained. Null sets no limit."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses and networks of proxies whose `X-Forwarded-For` says which address asks; of others it is ignored."""
    body_seconds: float = Field(10.0, gt=0)
    """What the body of a request may take to arrive."""

    @field_validator("trusted_proxies")
    @classmethod
    def _proxies_are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            ip_network(network)  # ValueError: names it.
        return value

    @model_validator(mode="after")
    def _arms_share_out_everybody(self) -> ServingConfig:
        """Refuses arms that do not."""
        if self.arms:
            Arms([arm.arm() for arm in self.arms], salt=self.arm_salt)
        return self


@dataclass(frozen=True)
class BundleSections:
    """What the step `bundle` reads of the configuration."""

    name: str = read("name")
    seed: int = read("seed")
    ks: tuple[int, ...] = read("evaluation.ks")
    item_category: str | None = read("dataset.item_category")
    item_family: str | None = read("dataset.item_family")
    weight: Literal["none", "value", "margin"] = read("index.weight")
    weight_power: float = read("index.weight_power")
    ef_search: int | None = read("index.ef_search")
    sparcode: Section | None = read("sparcode")
    """Without any of its fields: whether there are tables."""
    ranking: RankingConfig = read("serving")


@dataclass(frozen=True)
class SecondLookSections:
    """What the step `second_look` reads of the configuration."""

    seed: int = read("seed")
    ks: tuple[int, ...] = read("evaluation.ks")
    item_category: str | None = read("dataset.item_category")
    look: SecondLookConfig = read("serving.second_look")


@dataclass(frozen=True)
class PublishSections:
    """What the step `publish` reads of the configuration."""

    bundles: BundlesConfig = read("bundles")
    arms: tuple[ArmConfig, ...] = read("serving.arms")
    """Their bundles stay."""


@dataclass(frozen=True)
class ServeSections:
    """What a server reads of the configuration."""

    serving: ServingConfig = read("serving")
    ef_search: int | None = read("index.ef_search")
    online_store: Literal["sqlite", "redis"] = read("features.online_store")
