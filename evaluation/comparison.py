"""The comparison of arms: from ranked lists to a report with a difference, a p-value and a verdict for each arm.

U users of a fold, V users of all folds together, K places of a list, N items.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from typing import TypeVar

import numpy as np

from evaluation import agreement, metrics
from evaluation.catalogue import Catalogue
from evaluation.figures import SLICE, Floats, UserMeans, figures, mean_of, most_different
from evaluation.folds import Fold
from evaluation.report import ArmFigures, Comparison, Cost, Difference, Report, letter_of
from evaluation.settings import About, Arm, Settings
from evaluation.statistics import (
    Interval,
    Verdict,
    decide,
    holm,
    intervals,
    permutation_p_values,
    smallest_detectable_effect,
    users_needed,
)
from features.schema import in_words_of

SAME = 1e-12
"""Differences of a user below it are none: only the order of a sum makes them."""
T = TypeVar("T", Interval, Difference)


def compare_arms(
    folds: Sequence[Fold],
    arms: Sequence[Arm],
    *,
    settings: Settings,
    catalogue: Catalogue,
    about: About,
    reference: str | None = None,
) -> Report:
    """Scores all arms on the same users, and compares each with its reference arm.

    A user counts once, however many seeds and folds there are: a user's figure is the mean over folds of the mean over
    seeds, and users are what the bootstrap draws. Seeds are no sample of users; the spread over seeds is given apart.

    Args:
        folds: At least one.
        arms: At least two.
        settings: How they are scored.
        catalogue: Of the items.
        about: What the report holds besides.
        reference: Name of the arm that those are compared with which name none; None takes the first arm.

    Returns:
        The report.

    Raises:
        ValueError: There are too few arms, names repeat, an arm or reference is missing, an arm lacks lists of a fold
            or a seed, or a list is malformed (see `find_hits`) or shorter than the largest k.
    """
    # Of baselines alone: other arms are called as somebody chose.
    arms = [
        replace(arm, name=in_words_of(about.event_name, arm.name)) if arm.layer == "baseline" else arm for arm in arms
    ]
    references = _references(arms, None if reference is None else in_words_of(about.event_name, reference))
    _check_lists(folds, arms)
    users = UserMeans(folds)
    scored = [_score(arm, folds, users, settings, catalogue) for arm in arms]
    means, differences = _paired_intervals([one.by_user for one in scored], references, settings)
    found = _differences([one.by_user for one in scored], references, differences, settings)
    return Report(
        dataset=about.dataset,
        protocol=about.protocol,
        task=settings.task,
        cuts=tuple(fold.split.cut.isoformat() for fold in folds),
        window_days=folds[0].split.window_days,
        seeds=about.seeds,
        num_users=means[0][settings.metric].num_users,
        num_all_users=users.num_users,
        num_relevant=sum(fold.relevant(settings.task).nnz for fold in folds),
        num_items=len(catalogue.names),
        num_unknown_relevant=sum(fold.split.num_unknown_window_pairs for fold in folds),
        num_unknown_items=sum(fold.split.num_unknown_window_items for fold in folds),
        ks=settings.ks,
        metric=settings.metric,
        alpha=settings.alpha,
        margin=settings.margin,
        num_samples=settings.num_samples,
        seed=settings.seed,
        arms=tuple(
            _arm_figures(letter_of(place), arm, scored[place], means[place], arms, folds, settings)
            for place, arm in enumerate(arms)
        ),
        comparisons=tuple(
            _Pair(letter_of(place), letter_of(other), arms[place], arms[other], folds, settings, catalogue).compare(
                found[place],
                apart(scored[place].by_user[settings.metric], scored[other].by_user[settings.metric]),
                means[other][settings.metric].mean,
                about,
            )
            for place, other in enumerate(references)
            if place != other
        ),
        layers=about.layers,
        failed=dict(about.failed),
        notes=about.notes,
        event_name=about.event_name,
    )


def apart(values: Floats, of_reference: Floats) -> Floats:
    """Differences of users, without those that only the order of a sum makes."""
    found = values - of_reference
    return np.where(np.abs(found) < SAME, 0.0, found)


@dataclass(frozen=True)
class _Scored:
    """Every figure of an arm by user: name -> [V]; the mean of the deciding one with each seed and after each cut."""

    by_user: dict[str, Floats]
    by_seed: tuple[float, ...]
    by_cut: tuple[float, ...]


def _references(arms: Sequence[Arm], reference: str | None) -> list[int]:
    """Place of each arm's reference arm; its own where it has none."""
    names = [arm.name for arm in arms]
    if len(arms) < 2 or len(set(names)) != len(names):
        raise ValueError(f"arms are {names}; give at least 2 arms, each with a name of its own")
    first = names[0] if reference is None else reference
    for wanted in (first, *(name for arm in arms for name in (arm.reference, arm.exact) if name is not None)):
        if wanted not in names:
            raise ValueError(f"no arm is called {wanted!r}; the arms are {names}")
    return [names.index(arm.reference or first) for arm in arms]


def _check_lists(folds: Sequence[Fold], arms: Sequence[Arm]) -> None:
    most = max((arm.num_seeds for arm in arms if arm.ranked), default=1)
    for arm in arms:
        seeds = [len(of_fold) for of_fold in arm.ranked]
        if not folds or len(seeds) != len(folds) or len(set(seeds)) != 1 or seeds[0] not in (1, most):
            expected = f"{most} of each" if most == 1 else f"1 or {most} of each"
            raise ValueError(
                f"arm {arm.name!r} has {seeds} lists of its folds, expected {expected} of {len(folds)} folds"
            )


def _score(arm: Arm, folds: Sequence[Fold], users: UserMeans, settings: Settings, catalogue: Catalogue) -> _Scored:
    parts = [
        [figures(fold, lists, settings, catalogue) for lists in of_fold]
        for fold, of_fold in zip(folds, arm.ranked, strict=True)
    ]
    decides = [[{"": found[settings.metric]} for found in of_seeds] for of_seeds in parts]
    by_seed = (users.over([[of_seeds[seed]] for of_seeds in decides])[""] for seed in range(arm.num_seeds))
    by_cut = (UserMeans([fold]).over([of_seeds])[""] for fold, of_seeds in zip(folds, decides, strict=True))
    return _Scored(users.over(parts), tuple(map(mean_of, by_seed)), tuple(map(mean_of, by_cut)))


def _paired_intervals(
    by_arm: Sequence[Mapping[str, Floats]], references: Sequence[int], settings: Settings
) -> tuple[list[dict[str, Interval]], list[dict[str, Interval]]]:
    """Intervals of each arm, and of its differences to its reference: all arms by the same users and resamples."""
    means: list[dict[str, Interval]] = [{} for _ in by_arm]
    differences: list[dict[str, Interval]] = [{} for _ in by_arm]
    for name in by_arm[0]:
        values = np.column_stack([of_arm[name] for of_arm in by_arm])
        both = intervals(np.hstack([values, apart(values, values[:, references])]), **settings.draw)  # type: ignore[arg-type]
        for place in range(len(by_arm)):
            means[place][name], differences[place][name] = both[place], both[len(by_arm) + place]
    return means, differences


def _differences(
    by_arm: Sequence[Mapping[str, Floats]],
    references: Sequence[int],
    differences: Sequence[Mapping[str, Interval]],
    settings: Settings,
) -> dict[int, dict[str, Difference]]:
    """Of every arm with a reference: name -> difference with its p-value, corrected over its family."""
    names = list(by_arm[0])
    pairs = [(place, other) for place, other in enumerate(references) if place != other]
    if not pairs:
        return {}
    columns = np.column_stack(
        [apart(by_arm[place][name], by_arm[other][name]) for place, other in pairs for name in names]
    )
    families = np.array([_family(name, settings.metric) for _ in pairs for name in names])
    # The smallest p is one over the permutations: corrected over its family, it still has to be below alpha.
    needed = math.ceil(2 * int(np.bincount(families).max()) / settings.alpha)
    p_values = permutation_p_values(columns, num_samples=max(settings.num_samples, needed), seed=settings.seed)
    adjusted = np.full(len(p_values), np.nan)
    for family in range(3):
        adjusted[families == family] = holm(p_values[families == family])
    found: dict[int, dict[str, Difference]] = {}
    for number, (place, _) in enumerate(pairs):
        at = number * len(names)
        found[place] = {
            name: Difference(differences[place][name], float(p_values[at + n]), float(adjusted[at + n]))
            for n, name in enumerate(names)
        }
    return found


def _family(name: str, metric: str) -> int:
    """What a p-value is corrected together with: the deciding metric, the other metrics, or the slices."""
    return 0 if name == metric else 2 if SLICE in name else 1


def _arm_figures(
    letter: str,
    arm: Arm,
    scored: _Scored,
    means: Mapping[str, Interval],
    arms: Sequence[Arm],
    folds: Sequence[Fold],
    settings: Settings,
) -> ArmFigures:
    seeds = range(arm.num_seeds)
    everyone = [np.concatenate([of_fold[seed] for of_fold in arm.ranked]) for seed in seeds]
    curves = [
        metrics.recall_curve(metrics.find_hits(lists, fold.relevant(settings.task)))
        for fold, of_fold in zip(folds, arm.ranked, strict=True)
        for lists in of_fold
    ]
    num_items, last = folds[0].split.history.shape[1], max(settings.ks)
    of_lists = {
        f"coverage@{k}": [metrics.coverage_at_k(lists, num_items, k=k) for lists in everyone] for k in settings.ks
    } | {f"gini@{last}": [metrics.gini_at_k(lists, num_items, last) for lists in everyone]}
    exact = next((other for other in arms if other.name == arm.exact), None)
    return ArmFigures(
        letter=letter,
        name=arm.name,
        source=arm.source,
        metrics=_whole(means),
        lists={name: float(np.mean(values)) for name, values in of_lists.items()},
        recall_curve=tuple(np.mean(curves, axis=0).tolist()),
        slices=_nested(means),
        layer=arm.layer,
        index_recall={} if exact is None else _index_recall(arm, exact, settings.ks),
        by_seed=scored.by_seed,
        by_cut=scored.by_cut,
        training_seconds=float(np.mean(arm.training_seconds)) if arm.training_seconds else math.nan,
        cost=Cost(*np.mean([astuple(cost) for cost in arm.costs], axis=0).tolist()) if arm.costs else None,
        latency=arm.latency,
        problems=arm.problems,
    )


def _index_recall(arm: Arm, exact: Arm, ks: Sequence[int]) -> dict[int, float]:
    pairs = [
        (arm.lists(fold, seed), exact.lists(fold, seed))
        for fold in range(len(arm.ranked))
        for seed in range(arm.num_seeds)
    ]
    return {
        k: mean_of(np.concatenate([metrics.index_recall_at_k(own, other, k=k) for own, other in pairs])) for k in ks
    }


@dataclass(frozen=True)
class _Pair:
    """An arm and its reference arm, by letter and with their lists."""

    letter: str
    other: str
    arm: Arm
    reference: Arm
    folds: Sequence[Fold]
    settings: Settings
    catalogue: Catalogue

    def compare(self, found: Mapping[str, Difference], gained: Floats, of_reference: float, about: About) -> Comparison:
        """Makes the comparison.

        Args:
            found: Name -> difference.
            gained: [V] difference of the deciding metric by user.
            of_reference: Mean of the deciding metric of the reference arm.
            about: With the checks of layers.
        """
        settings, main, slices = self.settings, found[self.settings.metric], _nested(found)
        lost = tuple(
            f"{about_}: {name}"
            for about_, groups in slices.items()
            for name, at in groups.items()
            if at.interval.high < 0 and at.adjusted_p < settings.alpha
        )
        enough = int((~np.isnan(gained)).sum()) > 1
        smallest = smallest_detectable_effect(gained, alpha=settings.alpha) if enough else math.nan
        overlap, similarity = self._similarity()
        return Comparison(
            letter=self.letter,
            name=self.arm.name,
            reference=self.other,
            metrics=_whole(found),
            slices=slices,
            lost_slices=lost,
            overlap=overlap,
            rank_biased_overlap=similarity,
            smallest_detectable=smallest,
            users_needed=_users(gained, main.interval.mean, settings) if enough else None,
            users_for_one_percent=_users(gained, 0.01 * of_reference, settings) if enough else None,
            differing=most_different(self.arm, self.reference, self.folds, settings=settings, catalogue=self.catalogue),
            verdict=self._verdict(main, of_reference, lost, smallest, about),
        )

    def _verdict(
        self, main: Difference, of_reference: float, lost: Sequence[str], smallest: float, about: About
    ) -> Verdict:
        findings = [check for check in about.layers if check.letter == self.letter and check.finding]
        warnings = [f"significantly worse in {name}" for name in lost]
        warnings += [str(check.finding) for check in findings if not check.blocks]
        warnings += [f"{problem.count:,} of its input: {problem.kind}" for problem in self.arm.problems]
        margin = self.settings.margin
        verdict = decide(
            main.interval,
            metric=self.settings.metric,
            lowest=-margin * of_reference if margin and not math.isnan(of_reference) else 0.0,
            p_value=main.adjusted_p,
            alpha=self.settings.alpha,
            blockers=[str(check.finding) for check in findings if check.blocks],
            warnings=warnings,
        )
        if verdict.decision != "undecided" or not smallest > 0:
            return verdict
        first, *others = verdict.reasons
        detects = f"this many users show a difference of {smallest:.4f} four times in five"
        return replace(verdict, reasons=(first, detects, *others))

    def _similarity(self) -> tuple[float, float]:
        """Mean overlap and rank-biased overlap of the lists of users with something relevant."""
        overlaps, similarity = [], []
        k = self.settings.k
        for number, fold in enumerate(self.folds):
            scored = fold.has_relevant(self.settings.task)
            for seed in range(max(self.arm.num_seeds, self.reference.num_seeds) if scored.any() else 0):
                own, other = (side.lists(number, seed)[scored, :k] for side in (self.arm, self.reference))
                overlaps.append(agreement.overlap_at_k(own, other, k))
                similarity.append(agreement.rank_biased_overlap(own, other))
        return mean_of(np.concatenate([np.zeros(0), *overlaps])), mean_of(np.concatenate([np.zeros(0), *similarity]))


def _users(gained: Floats, effect: float, settings: Settings) -> int | None:
    return None if math.isnan(effect) or effect == 0 else users_needed(gained, effect, alpha=settings.alpha)


def _whole(found: Mapping[str, T]) -> dict[str, T]:
    """The figures that are no slice."""
    return {name: value for name, value in found.items() if SLICE not in name}


def _nested(found: Mapping[str, T]) -> dict[str, dict[str, T]]:
    """Partition -> group -> value, of the slices."""
    nested: dict[str, dict[str, T]] = {}
    for key, value in found.items():
        about, is_slice, name = key.partition(SLICE)
        if is_slice:
            nested.setdefault(about, {})[name] = value
    return nested
