"""The report of a comparison: every figure as a value, from which tables, pages and JSON are made.

Arms have letters in their order. Each is compared with its reference arm: A, unless it names another.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal
from typing import Protocol as TypingProtocol

from artefacts.files import json_text
from evaluation.statistics import Interval, Verdict
from features.schema import in_words_of, plural

Task = Literal["all purchases", "new to the user"]
Protocol = Literal["after-cut", "rolling", "leave-last-out", "given"]
Layer = Literal["exact", "index", "server", "baseline", "file"]

ALL_PURCHASES: Final[Task] = "all purchases"
NEW_TO_THE_USER: Final[Task] = "new to the user"
ORACLE: Final = "oracle"
"""Name of the arm that knows the truth of a world."""
TASKS: Final[tuple[Task, ...]] = (ALL_PURCHASES, NEW_TO_THE_USER)


@dataclass(frozen=True)
class Latency:
    """Wall clock of one user's list, users asked one by one.

    Attributes:
        median_ms: Milliseconds.
        p99_ms: The same, 99th percentile.
        num_asked: Users asked.
        over: What was asked.
    """

    median_ms: float
    p99_ms: float
    num_asked: int
    over: Literal["this process", "HTTP"]


@dataclass(frozen=True)
class Cost:
    """What it takes to retrieve as an arm does.

    Attributes:
        size_bytes: Of what is searched.
        build_seconds: Wall clock of making it from vectors or tokens.
        median_ms: Wall clock of one user's list, median over users asked one by one in one thread.
        p99_ms: The same, 99th percentile.
    """

    size_bytes: float
    build_seconds: float
    median_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Problem:
    """Something in an arm's input that could not be used, counted.

    Attributes:
        kind: What is wrong, such as `unknown item`.
        count: How often.
        rows: The first places of it in the input, counted from 1.
    """

    kind: str
    count: int
    rows: tuple[int, ...] = ()


@dataclass(frozen=True)
class ArmFigures:
    """The figures of one arm by itself.

    Attributes:
        letter: `A`, `B`, ..., `Z`, `AA`, ...
        name: What tables call it; distinct.
        source: What it is, in words: a bundle's version and retriever, a file, a baseline, what a trained arm changes.
        metrics: `recall@10`, ..., `mrr`, `novelty@100`, ... -> mean over users with something relevant.
        lists: `coverage@100`, `gini@100` -> one figure over all lists; the mean over seeds.
        recall_curve: Mean recall@k for k = 1..K.
        slices: Partition -> group -> recall in it.
        layer: Where the lists come from; None if unknown.
        index_recall: k -> mean share of exact search's first k that were found; empty without an exact twin.
        by_seed: Deciding metric with each seed; one for an arm without seeds.
        by_cut: Deciding metric after each cut.
        training_seconds: Mean wall clock of a fit; nan for what is not fitted.
        cost: Mean over fits; None where it was not measured.
        latency: None where it was not measured.
        problems: In the order met.
    """

    letter: str
    name: str
    source: str
    metrics: dict[str, Interval]
    lists: dict[str, float]
    recall_curve: tuple[float, ...]
    slices: dict[str, dict[str, Interval]]
    layer: Layer | None = None
    index_recall: dict[int, float] = field(default_factory=dict)
    by_seed: tuple[float, ...] = ()
    by_cut: tuple[float, ...] = ()
    training_seconds: float = math.nan
    cost: Cost | None = None
    latency: Latency | None = None
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class Difference:
    """Figure of an arm less that of its reference arm, on the same users.

    Attributes:
        interval: Mean paired difference, its bootstrap interval, and how many users there are.
        p_value: Of the paired permutation test, two-sided.
        adjusted_p: The same, corrected (Holm) over the arms for the deciding metric, over all metrics and arms for the
            others, and over all slices and arms for slices.
    """

    interval: Interval
    p_value: float
    adjusted_p: float


@dataclass(frozen=True)
class UserExample:
    """A user for whom two arms differ.

    Attributes:
        user_id: Who.
        recall: Of the arm.
        recall_of_reference: Of the reference arm.
        overlap: Share of the lists that both have.
        only_arm: Names of relevant items that the arm alone found, at most five.
        only_reference: Names of relevant items that the reference arm alone found, at most five.
        num_relevant: How many items were relevant.
    """

    user_id: str
    recall: float
    recall_of_reference: float
    overlap: float
    only_arm: tuple[str, ...]
    only_reference: tuple[str, ...]
    num_relevant: int


@dataclass(frozen=True)
class Comparison:
    """An arm compared with its reference arm.

    Attributes:
        letter: Of the arm.
        name: Of the arm.
        reference: Letter of the reference arm.
        metrics: As in `ArmFigures.metrics` -> difference.
        slices: As in `ArmFigures.slices` -> difference.
        lost_slices: `partition: group` of those where the arm is significantly worse.
        overlap: Mean share of the lists that both have.
        rank_biased_overlap: Mean similarity of the two orders, 1 for the same.
        smallest_detectable: Difference of the deciding metric that this many users show with a power of 80%.
        users_needed: How many users would show the observed difference; None where there is none.
        users_for_one_percent: How many would show one percent of the reference arm's figure; None where that is 0.
        differing: The users for whom the two differ most.
        verdict: Whether to ship the arm in place of the reference arm.
    """

    letter: str
    name: str
    reference: str
    metrics: dict[str, Difference]
    slices: dict[str, dict[str, Difference]]
    lost_slices: tuple[str, ...]
    overlap: float
    rank_biased_overlap: float
    smallest_detectable: float
    users_needed: int | None
    users_for_one_percent: int | None
    differing: tuple[UserExample, ...]
    verdict: Verdict


@dataclass(frozen=True)
class LayerCheck:
    """Two layers of one arm compared: exact search with the index, or the index with the server.

    Attributes:
        letter: Of the arm.
        upper: The layer that is nearer to the model.
        lower: The layer that is nearer to users.
        num_users: Users for whom both were asked.
        same_lists: Share of users whose lists are the same.
        found_share: Mean share of the upper layer's items that the lower one has: of an index, its recall.
        recall: Deciding metric of the lower layer less that of the upper, on the users with something relevant.
        finding: What is wrong, in words; None where nothing is.
        blocks: Whether the arm must not be shipped for that.
    """

    letter: str
    upper: Layer
    lower: Layer
    num_users: int
    same_lists: float
    found_share: float
    recall: Interval
    finding: str | None
    blocks: bool = False


@dataclass(frozen=True)
class Estimate:
    """What a policy would have earned a row.

    Attributes:
        value: Mean reward a row; nan where no weight is above 0 and the estimate is by weights alone.
        low: Lower end of its interval.
        high: Upper end.
        effective_sample_size: (sum of weights)^2 / sum of their squares: rows of equal weight that would be as precise.
        share_clipped: Of the rows, whose weight was above `max_weight`.
        num_logged: n.
    """

    value: float
    low: float
    high: float
    effective_sample_size: float
    share_clipped: float
    num_logged: int


@dataclass(frozen=True)
class OffPolicyRow:
    """What an arm would have earned, estimated from what was logged while other arms answered.

    Attributes:
        letter: Of the arm.
        estimator: Name of the estimator.
        estimate: Reward of a shown item, on average.
    """

    letter: str
    estimator: Literal["IPS", "SNIPS", "doubly robust"]
    estimate: Estimate


@dataclass(frozen=True)
class Report:
    """A comparison of arms on one task.

    Attributes:
        dataset: Name of the dataset.
        protocol: How past and future were divided.
        task: `new to the user`, or `all purchases`.
        cuts: Starts of the windows, ISO 8601.
        window_days: Length of each window.
        seeds: With which trained arms were fitted; empty where no seeds were compared.
        num_users: Users with something relevant in any window.
        num_all_users: Users of any window, with or without something relevant.
        num_relevant: Relevant pairs in all windows.
        num_items: Catalogue.
        num_unknown_relevant: Pairs in the windows of items outside the catalogue, which no arm can find.
        num_unknown_items: Distinct items among those, summed over windows.
        ks: List lengths.
        metric: What decides, such as `recall@100`.
        alpha: Significance level: the false alarm rate.
        margin: Share of the reference arm's figure that an arm may have less and still ship; 0 asks for more.
        num_samples: Resamples, and permutations at least; as many more as the correction for multiple tests needs.
        seed: Of both, and of samples of users.
        arms: In the order of their letters.
        comparisons: Of every arm that has a reference arm.
        layers: What was checked of the layers.
        off_policy: Empty without a log of exposures.
        off_policy_problems: What could not be used of that log.
        failed: Arm -> why it has no figures.
        notes: What a reader has to know besides, a sentence each.
        tried: What was compared to choose what is served, on days before the cut: a row of text each.
        event_name: What one event is, for people.
    """

    dataset: str
    protocol: Protocol
    task: Task
    cuts: tuple[str, ...]
    window_days: int
    num_users: int
    num_all_users: int
    num_relevant: int
    num_items: int
    num_unknown_relevant: int
    num_unknown_items: int
    ks: tuple[int, ...]
    metric: str
    alpha: float
    margin: float
    num_samples: int
    seed: int
    arms: tuple[ArmFigures, ...]
    comparisons: tuple[Comparison, ...]
    seeds: tuple[int, ...] = ()
    layers: tuple[LayerCheck, ...] = ()
    off_policy: tuple[OffPolicyRow, ...] = ()
    off_policy_problems: tuple[Problem, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    tried: tuple[tuple[str, ...], ...] = ()
    event_name: str = "purchase"

    @property
    def title(self) -> str:
        """The task in the data set's words, such as `all check-ins`."""
        return in_words_of(self.event_name, self.task)

    @property
    def events(self) -> str:
        """What several events are."""
        return plural(self.event_name)

    def arm(self, letter: str) -> ArmFigures:
        """The arm of a letter."""
        return next(arm for arm in self.arms if arm.letter == letter)

    def comparison(self, letter: str) -> Comparison | None:
        """An arm of a letter compared with its reference arm; None if it has none."""
        return next((found for found in self.comparisons if found.letter == letter), None)

    @property
    def references(self) -> tuple[str, ...]:
        """Letters of the arms that others are compared with."""
        return tuple(dict.fromkeys(found.reference for found in self.comparisons))

    @property
    def slice_metric(self) -> str:
        """What slices are scored by: recall, at as many places as the deciding metric."""
        _, _, k = self.metric.partition("@")
        return f"recall@{k or max(self.ks)}"


def letter_of(place: int) -> str:
    """Letter of the arm in a place, counted from 0: `A` to `Z`, then `AA`, `AB`, ..."""
    rest, last = divmod(place, 26)
    return (letter_of(rest - 1) if rest else "") + chr(ord("A") + last)


class DataClass(TypingProtocol):
    """Any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


def to_json(report: DataClass) -> str:
    """A report as JSON text; a figure that does not exist (no user to average over) is null."""
    return json_text(dataclasses.asdict(report), indent=1)
