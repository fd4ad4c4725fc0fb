"""What did a comparison of arms find? All figures as values, which tables, pages and programs are made of.

Arms have letters: A is what is there, the others are what might take its place.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from evaluation.off_policy import Estimate
from evaluation.statistics import Interval
from evaluation.verdict import Verdict

Protocol = Literal["after-cut", "rolling", "leave-last-out", "given"]
Layer = Literal["exact", "index", "server"]


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
    """What an arm is worth by itself.

    Attributes:
        letter: `A` to `H`.
        name: What tables call it; distinct.
        source: What it is, in words: a bundle's version and retriever, a file, a baseline.
        metrics: `recall@10`, ..., `mrr`, `novelty@100`, ... -> mean over users with something relevant.
        lists: `coverage@100`, `gini@100` -> one figure over all lists.
        recall_curve: Mean recall@k for k = 1..K.
        slices: What divides -> group -> recall in it.
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
    latency: Latency | None = None
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class Difference:
    """How much more an arm has than A, on the same users.

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
    """A user on whom two arms differ.

    Attributes:
        user_id: Who.
        recall: Of the arm.
        recall_of_a: Of A.
        overlap: Share of the lists that both have.
        only_arm: Names of relevant items that the arm alone found, at most five.
        only_a: Names of relevant items that A alone found, at most five.
        num_relevant: How many items were relevant.
    """

    user_id: str
    recall: float
    recall_of_a: float
    overlap: float
    only_arm: tuple[str, ...]
    only_a: tuple[str, ...]
    num_relevant: int


@dataclass(frozen=True)
class Comparison:
    """An arm beside A.

    Attributes:
        letter: Of the arm.
        name: Of the arm.
        metrics: As in `ArmFigures.metrics` -> difference.
        slices: As in `ArmFigures.slices` -> difference.
        lost_slices: `about: group` of those where the arm is worse beyond doubt.
        overlap: Mean share of the lists that both have.
        rank_biased_overlap: Mean likeness of the two orders, 1 for the same.
        smallest_detectable: Difference of the deciding metric that so many users show with a power of 80%.
        users_needed: How many would show the difference that was seen; None where there is none.
        users_for_one_percent: How many would show one percent of A's figure; None where that is 0.
        differing: The users on whom the two differ most.
        verdict: Whether to ship the arm in A's place.
    """

    letter: str
    name: str
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
    """Two layers of one arm beside each other: exact search and the index, or the index and the server.

    Attributes:
        letter: Of the arm.
        upper: The layer that is nearer to the model.
        lower: The layer that is nearer to users.
        num_users: Users of whom both were asked.
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
class OffPolicyRow:
    """What an arm would have earned, by what was logged while others answered.

    Attributes:
        letter: Of the arm.
        estimator: Name of the estimator.
        estimate: Reward of a shown item, on average.
    """

    letter: str
    estimator: Literal["IPS", "SNIPS", "doubly robust"]
    estimate: Estimate


@dataclass(frozen=True)
class ABReport:
    """A whole comparison.

    Attributes:
        dataset: Name of the dataset.
        protocol: How past and future were divided.
        task: `new to the user`, or `all purchases`.
        cuts: Starts of the windows, ISO 8601.
        window_days: Length of each window.
        num_users: Users with something relevant in any window.
        num_relevant: Relevant pairs in all windows.
        num_items: Catalogue.
        num_unknown_relevant: Pairs in the windows of items outside the catalogue, which no arm can find.
        ks: List lengths.
        metric: What decides, such as `recall@100`.
        alpha: Rate of false alarms.
        margin: Part of A's figure that an arm may have less and still ship; 0 asks for more.
        num_samples: Resamples, and permutations at least; as many more as the correction for many tests asks for.
        seed: Of both, and of samples of users.
        arms: In the order of their letters.
        comparisons: Of every arm but A.
        layers: What was checked of the layers.
        off_policy: Empty without a log of exposures.
        off_policy_problems: What could not be used of that log.
        notes: What a reader has to know besides, a sentence each.
    """

    dataset: str
    protocol: Protocol
    task: str
    cuts: tuple[str, ...]
    window_days: int
    num_users: int
    num_relevant: int
    num_items: int
    num_unknown_relevant: int
    ks: tuple[int, ...]
    metric: str
    alpha: float
    margin: float
    num_samples: int
    seed: int
    arms: tuple[ArmFigures, ...]
    comparisons: tuple[Comparison, ...]
    layers: tuple[LayerCheck, ...] = ()
    off_policy: tuple[OffPolicyRow, ...] = ()
    off_policy_problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = field(default=())
