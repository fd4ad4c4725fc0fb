"""Smoke checks: the bundle is asked through the code of the server before it is published."""

from __future__ import annotations

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from evaluation.gates.candidate import Candidate, Look
from evaluation.gates.report import Check
from features import columns
from features.schema import plural
from serving.answers import Answer, Recommendations
from serving.bundles.bundle import Bundle
from serving.bundles.manifest import BundleError
from serving.recommender import Recommender
from serving.registry import recommender_of, retrievers_of
from serving.user_features import features_of

UNKNOWN = "(unknown: a user whom the bundle does not know)"
TO_DO = (
    "run the bundle step again with --force; if it stays, this is a fault of the code: keep the bundle and report it"
)


def opens(candidate: Candidate) -> Check:
    """Whether the server would accept the bundle: every checksum, and every part against the others."""
    try:
        bundle = Bundle.open(candidate.folder)
        names = ", ".join(retrievers_of(bundle, candidate.sections.ranking, ef_search=candidate.sections.ef_search))
    except BundleError as error:
        return Check.measured("opens", False, f"the server refuses the bundle: {error}", "make the bundle again")
    return Check.measured(
        "opens", True, f"{len(bundle.manifest.files)} files as in the manifest; answers by {names}", ""
    )


def answers(candidate: Candidate) -> Check:
    """Lists of a few users and an unknown one, by every retriever."""
    recommender, users, k = _asked(candidate)
    bundle, problems, count = recommender.bundle, [], 0
    for name, retriever in recommender.retrievers.items():
        full = min(k, bundle.manifest.num_items - len(bundle.withdrawn)) if retriever.finds_all else 0
        found = recommender.recommend(users, k=k, retriever=name)
        problems += [f"{name}: {problem}" for problem in wrong(found, bundle, num_items=full)]
        problems += [f"{name}: {UNKNOWN} counts as known" for answer in found.answers[-1:] if not answer.unknown_user]
        count += len(found.answers)
    return Check.measured(
        "answers",
        not problems,
        problems[0] if problems else f"{count} lists of up to {k} items of the catalogue, none twice, scores finite",
        TO_DO,
        found={"wrong": len(problems)},
        expected={"wrong": 0},
    )


def exclude_bought(candidate: Candidate) -> Check:
    """Whether lists without what was bought hold none of it, by the pairs that the bundle was made from."""
    recommender, users, k = _asked(candidate)
    bought = _bought(candidate, users)
    events = plural(recommender.bundle.manifest.dataset_schema.event_name)
    problems = []
    for name in recommender.retrievers:
        found = recommender.recommend(users, k=k, retriever=name, exclude_known=True)
        for answer in found.answers:
            again = bought[answer.user_id] & {item["item_id"] for item in answer.items}
            if again:
                problems.append(f"{name}: {answer.user_id} is offered {len(again)} items of earlier {events}")
    return Check.measured(
        "exclude_bought",
        not problems,
        problems[0] if problems else f"{len(users)} users are offered nothing of their earlier {events}",
        TO_DO,
        found={"wrong": len(problems)},
        expected={"wrong": 0},
    )


def wrong(found: Recommendations, bundle: Bundle, *, num_items: int) -> list[str]:
    """What is wrong with some lists, in words.

    Args:
        found: The answers.
        bundle: That gave them.
        num_items: Items that every list must have at least.
    """
    return [problem for answer in found.answers for problem in _wrong(answer, bundle, num_items)]


def _wrong(answer: Answer, bundle: Bundle, num_items: int) -> list[str]:
    ids, scores = [item["item_id"] for item in answer.items], [item["score"] for item in answer.items]
    problems = []
    if len(ids) < num_items:
        problems.append(f"{answer.user_id} gets {len(ids)} items, expected {num_items}")
    if len(set(ids)) < len(ids):
        problems.append(f"{answer.user_id} gets {len(ids) - len(set(ids))} items twice")
    if unknown := [item_id for item_id in ids if not bundle.encoder.item_ids.rows([item_id])[0]]:
        problems.append(f"{answer.user_id} gets {unknown[0]!r}, which is not in the catalogue")
    if not np.isfinite(scores).all():
        problems.append(f"{answer.user_id} gets a score that is not finite")
    return problems


def _asked(candidate: Candidate) -> tuple[Recommender, list[str], int]:
    """The candidate as a server would have it, and whom it is asked for; the unknown user last."""
    recommender = _recommender(candidate)
    active = pc.unique(pq.read_table(candidate.paths.pairs, columns=[columns.USER_ID]).column(0)).sort().to_pylist()
    spread = np.linspace(0, len(active) - 1, min(candidate.limits.smoke_users, len(active))).astype(int)
    users = [active[place] for place in np.unique(spread)]
    return recommender, [*users, UNKNOWN], candidate.limits.smoke_k or 1


def _bought(candidate: Candidate, users: list[str]) -> dict[str, set[str]]:
    """What each user has met."""
    pairs = pq.read_table(
        candidate.paths.pairs, columns=[columns.USER_ID, columns.ITEM_ID], filters=[(columns.USER_ID, "in", users)]
    )
    found: dict[str, set[str]] = {user: set() for user in users}
    for user, item in zip(*(pairs.column(name).to_pylist() for name in pairs.column_names), strict=True):
        found[user].add(item)
    return found


def _recommender(candidate: Candidate) -> Recommender:
    """The bundle, which is not published yet, with the feature store that it was made with."""
    bundle, sections = Bundle.open(candidate.folder), candidate.sections
    read_users = features_of(bundle, candidate.paths.features).read_online
    return recommender_of(bundle, read_users, sections.ranking, ef_search=sections.ef_search)


CHECKS: dict[str, Look] = {"opens": opens, "answers": answers, "exclude_bought": exclude_bought}
