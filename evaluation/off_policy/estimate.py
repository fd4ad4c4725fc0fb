"""Off-policy estimates of a comparison: what each arm would have earned, from a log of what was shown.

The unit is a place of a list. Whoever logged has filled a place with an item with a probability, its propensity; an arm
fills any place of its list of k with each of these items, 1 / k. The place of an item in a list does not count.

U users of the last fold, k places of a list, n rows of the log: one for each item shown.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from evaluation.folds import Folds
from evaluation.off_policy import estimators, logs
from evaluation.report import OffPolicyRow, Problem, letter_of
from evaluation.settings import Settings
from serving.exposures.files import are_exposures
from serving.retrieval.ranking import Rows

NUM_FOLDS, PRIOR_ROWS = 5, 20.0
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Log:
    """Items that were shown, in rows of the last fold's users and of the catalogue.

    Attributes:
        users: [n] int64.
        items: [n] int64.
        rewards: [n] float64.
        propensities: [n] float64, in (0, 1], with which a place showed the item.
        problems: What could not be used.
    """

    users: Ints
    items: Ints
    rewards: Floats
    propensities: Floats
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class OffPolicy:
    """Estimates for the arms.

    Attributes:
        rows: Three estimates of each arm.
        problems: What could not be used of the log.
        notes: How much of each arm's lists the log has seen.
    """

    rows: tuple[OffPolicyRow, ...]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]


def read_log(path: Path, shares: Mapping[str, float], tables: Path, folds: Folds, *, reward_days: int) -> Log:
    """Reads a log of exposures: the folder that our servers write, or a file of any other system.

    Args:
        path: A folder of exposures, of which the days of the last window are read: a list of an arm is shown with the
            arm's configured share, and any of its places has any of its items. Or Parquet or CSV with `user_id`,
            `item_id`, `reward`, and `propensity` of the item in the place that it was shown in.
        shares: Arm of the servers -> its share of the users.
        tables: Folder of the canonical tables, whose events rewards come from.
        folds: Users and items.
        reward_days: Days after an exposure in which a purchase counts; not read for a file.

    Returns:
        What can be used, and what could not.

    Raises:
        ValueError: It cannot be read.
    """
    user_ids, item_ids = folds.folds[-1].split.user_ids.tolist(), folds.item_ids.tolist()
    if not are_exposures(path):
        found = logs.read_logged_feedback(path, user_ids=user_ids, item_ids=item_ids)
        return Log(found.users, found.items, found.rewards, found.propensities, found.problems)
    first = folds.cuts[-1]
    shown = logs.read_exposure_feedback(
        path,
        tables,
        first_day=first,
        end_day=first + dt.timedelta(days=folds.folds[-1].split.window_days),
        reward_days=reward_days,
        shares=shares,
        user_ids=user_ids,
        item_ids=item_ids,
    )
    counts = {f"list of arm {arm}, which has no share now": number for arm, number in shown.other_arms.items()}
    counts |= {"list of an unknown user": shown.num_unknown_users, "unknown item": shown.num_unknown_items}
    problems = tuple(Problem(kind, count) for kind, count in counts.items() if count)
    _, lists, lengths = np.unique(
        np.stack([shown.users, shown.moments]), axis=1, return_inverse=True, return_counts=True
    )
    return Log(shown.users, shown.items, shown.rewards, shown.propensities / lengths[lists], problems)


def estimate(log: Log, ranked: Sequence[Rows], names: Sequence[str], settings: Settings) -> OffPolicy:
    """What a place of each arm's lists would have earned.

    Args:
        log: What was shown.
        ranked: [U, K] int32 of each arm, in the last fold.
        names: Of the arms.
        settings: Resamples, seed, level, and the places that count.

    Returns:
        The estimates; none where the log has nothing of these users.
    """
    if len(np.unique(log.users)) < NUM_FOLDS:
        said = f"the log shows something to {len(np.unique(log.users))} of the users that are compared: no estimate"
        return OffPolicy((), log.problems, (said,))
    num_items = max(int(max(lists.max(initial=0) for lists in ranked)), int(log.items.max())) + 1
    model = estimators.cross_fitted_rewards(
        log.users,
        log.items,
        log.rewards,
        num_items=num_items,
        num_folds=NUM_FOLDS,
        seed=settings.seed,
        prior_rows=PRIOR_ROWS,
    )
    rows, notes = [], []
    draw: dict[str, Any] = settings.draw
    for place, (name, lists) in enumerate(zip(names, ranked, strict=True)):
        letter = letter_of(place)
        feedback = _feedback(log, lists[:, : settings.k], model, num_items)
        found = {
            "IPS": estimators.ips(feedback, **draw),
            "SNIPS": estimators.snips(feedback, **draw),
            "doubly robust": estimators.doubly_robust(feedback, **draw),
        }
        rows += [OffPolicyRow(letter, how, value) for how, value in found.items()]  # type: ignore[arg-type]
        seen = _share_seen(log, lists[:, : settings.k])
        notes.append(
            f"arm {letter} ({name}): the log has shown {seen:.1%} of its items to their users; the others do not enter "
            "IPS, and enter the doubly robust estimate by what other users did"
        )
    return OffPolicy(tuple(rows), log.problems, tuple(notes))


def _feedback(log: Log, lists: Rows, model: estimators.CrossFitted, num_items: int) -> estimators.LoggedFeedback:
    per_place = _places(lists, num_items)
    lengths = np.maximum((lists >= 0).sum(axis=1), 1)
    return estimators.LoggedFeedback(
        log.users,
        log.rewards,
        log.propensities,
        estimators.target_in_list(lists, log.users, log.items) / lengths[log.users],
        predicted=model.of(log.items),
        predicted_target=model.expected(per_place, log.users),
    )


def _places(lists: Rows, num_items: int) -> sp.csr_array:
    """[U, N], one over the length of the list where an item is listed."""
    lengths = (lists >= 0).sum(axis=1)
    owners = np.repeat(np.arange(len(lists)), lengths)
    values = 1.0 / lengths[owners]
    return sp.csr_array((values, (owners, lists[lists >= 0])), shape=(len(lists), num_items))


def _share_seen(log: Log, lists: Rows) -> float:
    """Share of the items in logged users' lists that were shown to them."""
    users = np.unique(log.users)
    width = int(max(lists.max(initial=0), log.items.max(initial=0))) + 1
    own = lists[users]
    keys = (users[:, None] * width + own)[own >= 0]
    return float(np.isin(keys, log.users * width + log.items).mean()) if len(keys) else 0.0
