"""How far are arms apart, and how sure is that? Intervals, and p values corrected for how many were looked at.

V users of all windows together, A arms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from evaluation.ab.figures import Floats
from evaluation.ab.report import Difference
from evaluation.ab.settings import Settings
from evaluation.statistics import Interval, holm, intervals, permutation_p_values

SAME = 1e-12
"""Differences of a user below it are none."""
_SLICE = "\0"
T = TypeVar("T", Interval, Difference)


def flat(parts: Mapping[str, Mapping[str, Floats]]) -> dict[str, Floats]:
    """Slices among the other figures, by a name that no metric has."""
    return {f"{about}{_SLICE}{name}": values for about, groups in parts.items() for name, values in groups.items()}


def paired_intervals(
    by_arm: Sequence[Mapping[str, Floats]], settings: Settings
) -> tuple[list[dict[str, Interval]], list[dict[str, Interval]]]:
    """Intervals of each arm, and of its differences to the first: all arms by the same users and resamples."""
    means: list[dict[str, Interval]] = [{} for _ in by_arm]
    differences: list[dict[str, Interval]] = [{} for _ in by_arm]
    for name in by_arm[0]:
        values = np.column_stack([of_arm[name] for of_arm in by_arm])
        both = intervals(
            np.hstack([values, apart(values, values[:, :1])]),
            num_samples=settings.num_samples,
            seed=settings.seed,
            level=1 - settings.alpha,
        )
        for place in range(len(by_arm)):
            means[place][name], differences[place][name] = both[place], both[len(by_arm) + place]
    return means, differences


def differences_to_first(
    by_arm: Sequence[Mapping[str, Floats]], differences: Sequence[Mapping[str, Interval]], settings: Settings
) -> list[dict[str, Difference]]:
    """Of every arm but the first: name -> difference with its p value."""
    names, others = list(by_arm[0]), range(1, len(by_arm))
    columns = np.column_stack([apart(by_arm[place][name], by_arm[0][name]) for place in others for name in names])
    kinds = np.array([_family(name, settings.metric) for _ in others for name in names])
    # The smallest p is one over the permutations: corrected over its family, it still has to be below alpha.
    needed = math.ceil(2 * int(np.bincount(kinds).max()) / settings.alpha)
    p_values = permutation_p_values(columns, num_samples=max(settings.num_samples, needed), seed=settings.seed)
    adjusted = np.full(len(p_values), np.nan)
    for kind in range(3):
        adjusted[kinds == kind] = holm(p_values[kinds == kind])
    found: list[dict[str, Difference]] = []
    for number, place in enumerate(others):
        at = number * len(names)
        found.append(
            {
                name: Difference(differences[place][name], float(p_values[at + n]), float(adjusted[at + n]))
                for n, name in enumerate(names)
            }
        )
    return found


def apart(values: Floats, of_a: Floats) -> Floats:
    """Differences of users, without those that only the order of a sum makes."""
    apart = values - of_a
    return np.where(np.abs(apart) < SAME, 0.0, apart)


def _family(name: str, metric: str) -> int:
    """What a p value is corrected together with: the deciding metric, the other metrics, or the slices."""
    return 0 if name == metric else 2 if _SLICE in name else 1


def whole(flat: Mapping[str, T]) -> dict[str, T]:
    """What is no slice."""
    return {name: value for name, value in flat.items() if _SLICE not in name}


def nested(flat: Mapping[str, T]) -> dict[str, dict[str, T]]:
    """What divides -> group -> value, of what is a slice."""
    nested: dict[str, dict[str, T]] = {}
    for key, value in flat.items():
        about, divides, name = key.partition(_SLICE)
        if divides:
            nested.setdefault(about, {})[name] = value
    return nested
