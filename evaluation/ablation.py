"""What does each part of the method bring? Arms that differ in one thing, on the same users, over seeds and cuts.

U users of a cut, V users of all cuts together, K places of a list, A arms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass

import numpy as np
import numpy.typing as npt

from evaluation.metrics import judge, ndcg_at_k, recall_at_k
from evaluation.slices import Groups, by_user_group, recall_by_item_group
from evaluation.split import Split
from evaluation.statistics import Interval, intervals

Floats = npt.NDArray[np.float64]
RECALL, NDCG = "recall", "ndcg"


@dataclass(frozen=True)
class Window:
    """The days after one cut, on which arms are judged.

    Attributes:
        split: Users and what is relevant to them; only what is new to the user counts.
        item_groups: Partitions of the catalogue, the same names in every window.
        user_groups: Partitions of the split's users, the same names in every window.
    """

    split: Split
    item_groups: tuple[Groups, ...]
    user_groups: tuple[Groups, ...]

    def figures(self, ranked: npt.NDArray[np.int32], k: int) -> dict[str, Floats]:
        """Recall and NDCG of each user, and recall in every group (`in_group`).

        Args:
            ranked: [U, K] int32, catalogue rows in the order of the split's users, -1 behind the last one.
            k: Places that count, 1 <= k <= K.

        Returns:
            Each [U] float64; nan where the user has nothing relevant (in the group).
        """
        relevant = self.split.relevant_new
        judged = judge(ranked, relevant)
        recall = recall_at_k(judged, k)
        found = {RECALL: recall, NDCG: ndcg_at_k(judged, k)}
        parts = [(groups, by_user_group(recall, groups)) for groups in self.user_groups]
        parts += [(groups, recall_by_item_group(judged, ranked, relevant, groups, k=k)) for groups in self.item_groups]
        for groups, columns in parts:
            found |= {in_group(groups.about, name): columns[:, at] for at, name in enumerate(groups.names)}
        return found


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
class Arm:
    """What one arm retrieved.

    Attributes:
        name: What the table calls it; distinct.
        note: What is different about it.
        against: Arm that it is compared with; None for the one that all others are compared with.
        ranked: Per window, then per seed, as many in each window: lists as `Window.figures` takes them.
        seconds: Wall clock of each fit; empty for what is not fitted.
        costs: Of each fit; empty where they were not measured.
    """

    name: str
    note: str
    against: str | None
    ranked: Sequence[Sequence[npt.NDArray[np.int32]]]
    seconds: tuple[float, ...]
    costs: tuple[Cost, ...] = ()


@dataclass(frozen=True)
class ArmRow:
    """The figures of an arm.

    Attributes:
        name: The arm.
        note: What is different about it.
        against: Arm that the differences are taken to; None if there is none.
        figures: `recall`, `ndcg` and the recalls by group (`in_group`) -> mean over users, each user's seeds and cuts
            averaged first.
        differences: The same keys -> paired difference to the other arm; empty without one.
        recall_by_seed: Recall with each seed; one for what has no seed.
        recall_by_cut: Recall after each cut.
        training_seconds: Mean wall clock of a fit; nan for what is not fitted.
        cost: Mean over fits; None where it was not measured.
    """

    name: str
    note: str
    against: str | None
    figures: dict[str, Interval]
    differences: dict[str, Interval]
    recall_by_seed: tuple[float, ...]
    recall_by_cut: tuple[float, ...]
    training_seconds: float
    cost: Cost | None = None


@dataclass(frozen=True)
class AblationReport:
    """All arms of a dataset, side by side.

    Attributes:
        dataset: Its name.
        cuts: Starts of the windows, ISO 8601.
        window_days: Length of each window.
        seeds: Of the fits.
        k: Length of the lists.
        num_users: Users with something new to find, in any window.
        num_items: Candidates.
        level: Share of the bootstrap distribution inside an interval.
        num_samples: Resamples behind each interval.
        slices: What divides users or items -> names of the groups.
        arms: In the order of the file, baselines first.
        failed: Arm -> why it has no figures.
    """

    dataset: str
    cuts: tuple[str, ...]
    window_days: int
    seeds: tuple[int, ...]
    k: int
    num_users: int
    num_items: int
    level: float
    num_samples: int
    slices: dict[str, tuple[str, ...]]
    arms: tuple[ArmRow, ...]
    failed: dict[str, str]


def in_group(about: str, name: str) -> str:
    """Key of the recall within a group; a category may have the name of a popularity bucket."""
    return f"{RECALL} by {about}: {name}"


def compare(
    windows: Sequence[Window], arms: Sequence[Arm], *, k: int, num_samples: int, seed: int, level: float
) -> tuple[ArmRow, ...]:
    """Judges all arms on the same users.

    A user counts once, however many seeds and cuts there are: a user's figure is the mean over cuts of the mean over
    seeds, and users are what the bootstrap draws. Seeds are no sample of users; their spread is given apart.

    Args:
        windows: The cuts, in the order of every arm's lists.
        arms: At least one.
        k: Places that count.
        num_samples: Bootstrap resamples.
        seed: Of the resamples.
        level: Share of the bootstrap distribution inside an interval.

    Returns:
        A row for each arm, in their order.

    Raises:
        ValueError: Names repeat, `against` names no arm, an arm lacks lists for a window or a seed, or a list is
            malformed (see `judge`).
    """
    _check(windows, arms)
    users = np.concatenate([window.split.user_ids for window in windows])
    values, rows = np.unique(users, return_inverse=True)
    places = np.split(rows, np.cumsum([len(window.split.user_ids) for window in windows])[:-1])
    found = [_figures(arm, windows, k) for arm in arms]
    at = {arm.name: place for place, arm in enumerate(arms)}
    by_user = {
        name: np.column_stack([_mean(_spread(of_arm, name, places, len(values))) for of_arm in found])
        for name in found[0][0][0]
    }
    other = [place if arm.against is None else at[arm.against] for place, arm in enumerate(arms)]
    draw = {"num_samples": num_samples, "seed": seed, "level": level}
    both = {
        # Which users have a figure is the same for all arms, so that all of them share users and resamples.
        name: intervals(np.column_stack([figure, figure - figure[:, other]]), **draw)  # type: ignore[arg-type]
        for name, figure in by_user.items()
    }
    return tuple(
        ArmRow(
            name=arm.name,
            note=arm.note,
            against=arm.against,
            figures={name: parts[place] for name, parts in both.items()},
            differences={name: parts[len(arms) + place] for name, parts in both.items()} if arm.against else {},
            recall_by_seed=_recall_by_seed(found[place], places, len(values)),
            recall_by_cut=tuple(_over_users(_mean([seed[RECALL] for seed in seeds])) for seeds in found[place]),
            training_seconds=float(np.mean(arm.seconds)) if arm.seconds else float("nan"),
            cost=_mean_cost(arm.costs),
        )
        for place, arm in enumerate(arms)
    )


def _mean_cost(costs: Sequence[Cost]) -> Cost | None:
    return Cost(*np.mean([astuple(cost) for cost in costs], axis=0).tolist()) if costs else None


_OfArm = Sequence[Sequence[Mapping[str, Floats]]]
"""Figures by window, seed and name."""


def _check(windows: Sequence[Window], arms: Sequence[Arm]) -> None:
    names = [arm.name for arm in arms]
    if not arms or not windows or len(set(names)) != len(names):
        raise ValueError(f"{len(windows)} windows and arms {names}; give at least one of each, and each arm its name")
    for arm in arms:
        if arm.against is not None and arm.against not in names:
            raise ValueError(f"arm {arm.name!r} is compared with {arm.against!r}; the arms are {names}")
        seeds = [len(lists) for lists in arm.ranked]
        if len(seeds) != len(windows) or len(set(seeds)) != 1 or not seeds[0]:
            raise ValueError(
                f"arm {arm.name!r} has lists of {seeds} seeds, expected as many in each of {len(windows)} windows"
            )


def _figures(arm: Arm, windows: Sequence[Window], k: int) -> _OfArm:
    pairs = zip(windows, arm.ranked, strict=True)
    return [[window.figures(ranked, k) for ranked in seeds] for window, seeds in pairs]


def _spread(of_arm: _OfArm, name: str, places: Sequence[npt.NDArray[np.int64]], num_users: int) -> list[Floats]:
    """Each window's mean over seeds, over the users of all windows: a list of [V]."""
    out = []
    for seeds, rows in zip(of_arm, places, strict=True):
        wide = np.full(num_users, np.nan)
        wide[rows] = _mean([figures[name] for figures in seeds])
        out.append(wide)
    return out


def _recall_by_seed(of_arm: _OfArm, places: Sequence[npt.NDArray[np.int64]], num_users: int) -> tuple[float, ...]:
    num_seeds = len(of_arm[0])
    alone = [[[seeds[number]] for seeds in of_arm] for number in range(num_seeds)]
    return tuple(_over_users(_mean(_spread(one, RECALL, places, num_users))) for one in alone)


def _mean(values: Sequence[Floats]) -> Floats:
    """Mean of the numbers that there are, nan where there is none: [n] arrays to one [n]."""
    stacked = np.stack(values)
    counted = ~np.isnan(stacked)
    out = np.full(stacked.shape[1], np.nan)
    np.divide(np.where(counted, stacked, 0.0).sum(axis=0), counted.sum(axis=0), out=out, where=counted.any(axis=0))
    return out


def _over_users(values: Floats) -> float:
    counted = values[~np.isnan(values)]
    return float(counted.mean()) if len(counted) else float("nan")
