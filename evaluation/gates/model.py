"""Checks of a fit: held-out recall, vectors and lists, compared with the previous fit.

Shape letters: U users of a sample, K places of a list, N items, D vector width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from artefacts.paths import RunPaths
from evaluation.diagnosis import Diagnosis, diagnose
from evaluation.event_ranks import NO_EVENTS, ranks_by_events
from evaluation.gates.candidate import NEXT_NIGHT, NO_PARENT, Candidate, Look
from evaluation.gates.report import Check, Number
from evaluation.statistics import decide, paired_difference, smallest_detectable_effect
from features.encoding import Encoder
from serving.retrieval import exact
from serving.retrieval.vectors import read_vectors

HELD_OUT = "held_out.npz"
TOP = 10
Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int32]


def held_out_recall(candidate: Candidate) -> Check:
    """Recall of users held out, of the new fit less that of the one before, with its paired bootstrap interval.

    It is the verdict of an offline comparison in which the new fit may be worse by the margin: it fails only where the
    whole interval lies below. Undecided, the newer fit is published.
    """
    limits, path = candidate.limits, candidate.paths.model / HELD_OUT
    if candidate.parent is None or not path.exists():
        if candidate.parent is None:
            return Check.not_applicable("held_out_recall", NO_PARENT, NEXT_NIGHT)
        why = "no users were held out (daily.holdout_share)"
        return Check.not_applicable("held_out_recall", why, "set daily.holdout_share to null, or to a share above 0")
    with np.load(path, allow_pickle=False) as file:
        fit, parent, k = file["fit"], file["parent"], int(file["k"])
    if len(fit) < limits.min_held_out_users:
        return Check.not_applicable(
            "held_out_recall",
            f"{len(fit)} users held out met something new, expected at least {limits.min_held_out_users} to compare; "
            "nothing is known of the new fit's recall",
            "look at the recall in the report of twinspire evaluate; for good, raise daily.holdout_share, or run over "
            "several days at a time",
        )
    found = paired_difference(
        fit, parent, num_samples=candidate.sections.bootstrap_samples, seed=candidate.sections.seed
    )
    before, smallest = float(np.nanmean(parent)), smallest_detectable_effect(fit - parent)
    lowest = -(1.0 if limits.recall_margin is None else limits.recall_margin) * before
    verdict = decide(found, metric=f"recall@{k}", lowest=lowest)
    return Check.measured(
        "held_out_recall",
        verdict.decision != "do not ship",
        f"recall@{k} of {found.num_users:,} users held out is {np.nanmean(fit):.4f}, of the fit before {before:.4f}: "
        f"{found.mean:+.4f}, with 95% between {found.low:+.4f} and {found.high:+.4f}; expected to reach {lowest:+.4f}: "
        f"{verdict.decision}; this many users show a difference of {smallest:.4f} four times in five",
        "retrain fully with `twinspire daily --full`; if that is no better, look at the data of the new days",
        found={
            "difference": found.mean,
            "low": found.low,
            "high": found.high,
            "users": found.num_users,
            "smallest_detectable": smallest,
            "verdict": verdict.decision,
        },
        expected={"lowest": lowest, "parent_recall": before},
    )


def vectors(candidate: Candidate) -> Check:
    """Every user and item vector: finite, and of length one."""
    found: dict[str, Number] = {}
    limit = np.inf if candidate.limits.norm_tolerance is None else candidate.limits.norm_tolerance
    holds, problems = True, []
    by_tower = {name: read_vectors(candidate.paths.vectors / name) for name in ("users", "items")}
    # A user may have several vectors, side by side; an item has one.
    width = by_tower["items"].shape[1]
    for name, values in by_tower.items():
        bad = int((~np.isfinite(values).all(axis=1)).sum())
        lengths = np.linalg.norm(values.reshape(-1, width), axis=1)
        # Not finite ones are counted already.
        off = float(np.nan_to_num(np.abs(lengths - 1), posinf=0.0).max(initial=0.0))
        found |= {f"{name}_not_finite": bad, f"{name}_norm_off": off}
        holds &= not bad and off <= limit
        problems.append(
            f"{bad:,} of {len(values):,} {name}' vectors are not finite, lengths are up to {off:.4f} from 1"
        )
    return Check.measured(
        "vectors",
        holds,
        f"{'; '.join(problems)}; expected none, and at most {limit:g}",
        "lower training.learning_rate and retrain; look for extreme numbers in the features of the new days",
        found=found,
        expected={"not_finite": 0, "norm_off": candidate.limits.norm_tolerance},
    )


def collapse(candidate: Candidate) -> Check:
    """How varied the lists of a sample of users and the vectors are, and the lists compared with the previous night."""
    limits, sample = candidate.limits, _sample(candidate)
    diagnosis = sample.diagnosis
    chance = diagnosis.chance_share
    alike = (diagnosis.common_share - chance) / (1 - chance) if chance < 1 else 0.0
    # Of unit vectors: the squared length of their mean.
    cosine = {"users": 1 - diagnosis.user_variance, "items": 1 - diagnosis.item_variance}
    before = sample.parent_distinct_items
    ratio = None if not before else diagnosis.distinct_items / before
    too_high = [
        f"{value:.3f} {what} is above {limit:g}"
        for what, value, limit in (
            ("of the way to the same list for all users", alike, limits.max_common_share),
            ("mean cosine of two users", cosine["users"], limits.max_mean_cosine),
            ("mean cosine of two items", cosine["items"], limits.max_mean_cosine),
        )
        if limit is not None and not value <= limit
    ]
    if ratio is not None and limits.min_distinct_ratio is not None and ratio < limits.min_distinct_ratio:
        too_high.append(
            f"{diagnosis.distinct_items:,} distinct items are {ratio:.2f} of the {before:,} the previous night, below "
            f"{limits.min_distinct_ratio:g}"
        )
    fine = (
        f"{diagnosis.distinct_items:,} distinct items in the top {TOP} of {diagnosis.num_lists:,} users, lists are "
        f"{alike:.2f} of the way to the same for all users, mean cosines of users {cosine['users']:.2f} and of items "
        f"{cosine['items']:.2f}"
    )
    return Check.measured(
        "collapse",
        not too_high,
        "; ".join(too_high) or fine,
        "retrain fully; if it stays, raise training.negatives.num_uniform or lower training.learning_rate",
        found={"common": alike, "user_cosine": cosine["users"], "item_cosine": cosine["items"],
               "distinct_items": diagnosis.distinct_items, "distinct_ratio": ratio},
        expected={"max_common": limits.max_common_share, "max_cosine": limits.max_mean_cosine,
                  "min_distinct_ratio": limits.min_distinct_ratio},
    )  # fmt: skip


def changed_lists(candidate: Candidate) -> Check:
    """Share of users with the same list as on the previous night; a warning where all are, as nothing was learned."""
    same = _sample(candidate).same_lists
    if same is None:
        return Check.not_applicable("changed_lists", NO_PARENT, NEXT_NIGHT)
    sentence = f"{same:.1%} of the lists are those of the previous night; expected less than all"
    if same < 1:
        return Check("changed_lists", "passed", sentence, found={"same_share": same}, expected={"below": 1})
    return Check(
        "changed_lists",
        "warned",
        sentence,
        "look whether the new days had examples, and at daily.epochs and training.learning_rate",
        {"same_share": same},
        {"below": 1},
    )


def cold_items(candidate: Candidate) -> Check:
    """Where users have their best item without events among all items."""
    users, items = (np.nan_to_num(read_vectors(candidate.paths.vectors / name)) for name in ("users", "items"))
    path = candidate.paths.catalogue(candidate.paths.as_of) / "items.parquet"
    counts = pq.read_table(path, columns=["item_num_events"]).column(0).fill_null(0).to_numpy()
    groups = ranks_by_events(users, items, counts, seed=candidate.sections.seed)
    if not groups or groups[0].events != NO_EVENTS:
        return Check.not_applicable("cold_items", "every item has events")
    highest, cold = candidate.limits.max_cold_rank, groups[0]
    share = cold.best_rank / len(items)
    return Check.measured(
        "cold_items",
        highest is None or share <= highest,
        f"{cold.sentence(len(items))}" + ("" if highest is None else f"; expected at most {highest * len(items):,.0f}"),
        "set training.item_dropout, 0.3 for instance, and run with --full; or raise gates.max_cold_rank",
        found={"best_rank": cold.best_rank, "share": share, "mean_score": cold.mean_score},
        expected={"max_share": highest},
    )


@dataclass(frozen=True)
class _Sample:
    """The top lists of some users, and what there is to compare with."""

    diagnosis: Diagnosis
    parent_distinct_items: int | None
    same_lists: float | None


def _sample(candidate: Candidate) -> _Sample:
    users, items = (read_vectors(candidate.paths.vectors / name) for name in ("users", "items"))
    finite = [np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0) for values in (users, items)]
    parent = candidate.parent_encoder
    rows = _users(candidate, parent, len(users))
    lists, _ = exact.search(finite[0][rows], finite[1], k=TOP)
    popular = _popular(candidate, len(rows))
    diagnosis = diagnose(lists, popular, finite[0], finite[1])
    before = None if parent is None or not len(rows) else _parent_lists(candidate, parent, rows)
    if before is None:
        return _Sample(diagnosis, None, None)
    ids = _ids(candidate.encoder.item_ids.ids(lists[lists >= 0] + 1), lists)
    same = float((ids == before).all(axis=1).mean())
    return _Sample(diagnosis, len(np.unique(before[before != ""])), same)


def _users(candidate: Candidate, parent: Encoder | None, num_users: int) -> npt.NDArray[np.int64]:
    """Rows of a sample of users, of those whom the previous night knew, too."""
    rows = np.arange(num_users)
    if parent is not None:
        rows = rows[parent.user_ids.rows(_user_ids(candidate.encoder, rows)) > 0]
    rng = np.random.default_rng(candidate.sections.seed)
    return np.sort(rng.permutation(rows)[: candidate.limits.sample_users])


def _parent_lists(candidate: Candidate, parent: Encoder, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.str_] | None:
    """Ids in the lists of the same users the previous night: [U, K]; None where its vectors are gone."""
    folder = (candidate.before or RunPaths(candidate.paths.root, candidate.paths.as_of)).vectors
    if not folder.is_dir():
        return None
    users, items = read_vectors(folder / "users"), read_vectors(folder / "items")
    own = parent.user_ids.rows(_user_ids(candidate.encoder, rows)) - 1
    lists, _ = exact.search(users[own], items, k=TOP)
    return _ids(parent.item_ids.ids(lists[lists >= 0] + 1), lists)


def _user_ids(encoder: Encoder, rows: npt.NDArray[np.int64]) -> list[str]:
    return encoder.user_ids.ids(rows + 1)


def _ids(found: list[str], lists: Rows) -> npt.NDArray[np.str_]:
    """Ids in the places of their rows: [U, K], empty where a list ends early."""
    named = np.full(lists.shape, "", dtype=object)
    named[lists >= 0] = found
    return named.astype(str)


def _popular(candidate: Candidate, num_users: int) -> Rows:
    """The most popular items, the same for all users: [U, K]."""
    popularity = np.load(candidate.folder / "popularity.npy", allow_pickle=False)
    return np.tile(np.argsort(-popularity, kind="stable")[:TOP].astype(np.int32), (num_users, 1))


CHECKS: dict[str, Look] = {
    "held_out_recall": held_out_recall,
    "vectors": vectors,
    "collapse": collapse,
    "changed_lists": changed_lists,
    "cold_items": cold_items,
}
