"""What does this user get now? From user ids to named items, stage by stage.

B users of a request, N items of the catalogue.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from serving.bundle import Bundle
from serving.denied import DeniedItems, Items
from serving.ranking import Rows, Scores
from serving.retrievers import Cascade, Fused, Popularity, Repeat, Retriever, TwoTower, UserQueries

FALLBACK = "popularity"
WARM_UP_USER = "(warm-up)"

ReadUsers = Callable[[list[str]], pa.Table]
"""User ids -> one row per id in the order asked: user_id and the fields of the user view, nulls where unknown."""


class RecommendedItem(TypedDict):
    """One candidate."""

    item_id: str
    item_name: str | None
    category: str | None
    score: float


@dataclass(frozen=True)
class Answer:
    """The candidates of one user."""

    user_id: str
    """As asked."""
    items: list[RecommendedItem]
    """Best first; fewer than k where no more exist."""
    unknown_user: bool
    """Whether the bundle has never heard of the user."""
    fallback: str | None
    """Retriever that stood in because the asked one had nothing to go by; None if it did not have to."""


@dataclass(frozen=True)
class Recommendations:
    """All answers of one call."""

    bundle_version: str
    """Bundle they come from."""
    retriever: str
    """Retriever that was asked."""
    answers: list[Answer]
    """One for each user id, in the order asked."""
    stage_microseconds: dict[str, float]
    """Wall-clock time of each stage, for all users together."""


class Recommender:
    """A bundle and the place where the users' features are read.

    Args:
        bundle: Everything that was learned.
        read_users: Reads the features of users, such as the online store's `read`.
        retrievers: Name -> retriever over this bundle; `popularity` must be among them.
        default_retriever: Name of the one that answers when none is asked for.
        denied: Items that nobody gets, by any retriever; None where there are none. Asked anew for every request.

    Raises:
        ValueError: A name that is needed is not among the retrievers.
    """

    def __init__(
        self,
        bundle: Bundle,
        read_users: ReadUsers,
        *,
        retrievers: Mapping[str, Retriever],
        default_retriever: str,
        denied: DeniedItems | None = None,
    ) -> None:
        """Checks the names."""
        for name in (default_retriever, FALLBACK):
            if name not in retrievers:
                raise ValueError(f"retriever {name!r} is not there; expected one of: {', '.join(retrievers)}")
        self.bundle = bundle
        self.retrievers = dict(retrievers)
        self.default_retriever = default_retriever
        self._read_users = read_users
        self._denied = denied
        midnight = dt.datetime.combine(bundle.manifest.facts.as_of, dt.time(), dt.UTC)
        self._as_of_seconds = int(midnight.timestamp())

    def recommend(
        self,
        user_ids: Sequence[str],
        *,
        k: int,
        retriever: str | None = None,
        exclude_known: bool = False,
        as_of: dt.datetime | None = None,
    ) -> Recommendations:
        """The best k candidates of each user.

        Users without any past get what is popular, and so do those for whom the retriever finds nothing.

        Args:
            user_ids: B ids, B >= 1; one may be asked for twice.
            k: Length of the lists, at least 1.
            retriever: Name of the retriever; None takes the default.
            exclude_known: Whether items that the user bought before are kept out.
            as_of: The moment of the question; None takes the moment that the bundle speaks of, 00:00 UTC of its day.

        Returns:
            Answers in the order asked.

        Raises:
            ValueError: There is no user, k is below 1, the retriever has no such name, or the moment has no time zone.
        """
        name = retriever or self.default_retriever
        as_of_seconds = self._check(user_ids, k, name, as_of)
        stages = _Stages()
        known_rows = self.bundle.encoder.user_ids.rows(user_ids)
        purchases = self.bundle.purchases.of(known_rows)
        moments = np.full(len(user_ids), as_of_seconds, np.int64)
        has_past = purchases.num_per_user > 0
        stages.end("users")
        asked, embeddings, tokens = self.retrievers[name], None, None
        if asked.needs_embeddings or asked.needs_tokens:
            raw = self._read_users(list(user_ids))
            has_past |= _num_events(raw) > 0
            stages.end("features")
            inputs = self.bundle.encoder.encode_users(raw, as_of_seconds=moments)
            stages.end("encoding")
            if asked.needs_embeddings:
                embeddings = self.bundle.user_tower.embed(inputs)
                stages.end("user_tower")
            if asked.needs_tokens and self.bundle.sparcode is not None:
                tokens = self.bundle.sparcode.tokenizer.embed(inputs)
                stages.end("tokenizer")
        denied = self._kept_out()
        users = UserQueries(purchases, moments, embeddings, exclude_known, tokens, denied)
        rows, scores, fell_back = self._retrieve(users, name, k=k, has_past=has_past)
        stages.end("retrieval")
        answers = [
            Answer(user_id, self._items(own_rows, own_scores), bool(known_row == 0), FALLBACK if fallen else None)
            for user_id, own_rows, own_scores, known_row, fallen in zip(
                user_ids, rows, scores, known_rows, fell_back, strict=True
            )
        ]
        stages.end("answer")
        return Recommendations(self.bundle.version, name, answers, stages.microseconds)

    def warm_up(self) -> None:
        """Asks every retriever once, so that the first real request does not pay for first calls."""
        for name in self.retrievers:
            self.recommend([WARM_UP_USER], k=1, retriever=name)

    def _kept_out(self) -> Items:
        """What nobody gets now: what left the catalogue, and what is denied."""
        withdrawn = self.bundle.withdrawn
        return withdrawn if self._denied is None else np.union1d(withdrawn, self._denied.rows())

    def _check(self, user_ids: Sequence[str], k: int, retriever: str, as_of: dt.datetime | None) -> int:
        if not user_ids:
            raise ValueError("user_ids is empty; ask for at least one user")
        if k < 1:
            raise ValueError(f"k is {k}, expected at least 1")
        if retriever not in self.retrievers:
            raise ValueError(f"retriever is {retriever!r}, expected one of: {', '.join(self.retrievers)}")
        if as_of is None:
            return self._as_of_seconds
        if as_of.tzinfo is None:
            raise ValueError(f"as_of is {as_of}, which has no time zone; expected such as {as_of}+00:00")
        return int(as_of.timestamp())

    def _retrieve(
        self, users: UserQueries, name: str, *, k: int, has_past: npt.NDArray[np.bool_]
    ) -> tuple[Rows, Scores, npt.NDArray[np.bool_]]:
        rows, scores = self.retrievers[name].retrieve(users, k)
        fell_back = np.zeros(len(users), np.bool_)
        if name != FALLBACK:
            fell_back = ~has_past | (rows[:, 0] < 0)
        if fell_back.any():
            fallen = np.flatnonzero(fell_back)
            others = UserQueries(
                users.purchases.of(fallen),
                users.as_of_seconds[fallen],
                exclude_known=users.exclude_known,
                denied=users.denied,
            )
            rows, scores = rows.copy(), scores.copy()
            rows[fallen], scores[fallen] = self.retrievers[FALLBACK].retrieve(others, k)
        return rows, scores, fell_back

    def _items(self, rows: Rows, scores: Scores) -> list[RecommendedItem]:
        found = rows[rows >= 0]
        item_ids = self.bundle.encoder.item_ids.ids(found + 1)
        names, categories = self.bundle.item_names, self.bundle.categories
        return [
            {"item_id": item_id, "item_name": names[row], "category": categories[row], "score": score}
            for item_id, row, score in zip(item_ids, found.tolist(), scores[: len(found)].tolist(), strict=True)
        ]


def build_retrievers(
    bundle: Bundle,
    *,
    ef: int,
    max_fetch: int,
    fusion_weights: Mapping[str, float],
    rank_constant: float,
    fusion_depth: int,
) -> dict[str, Retriever]:
    """All retrievers over a bundle, by name.

    Args:
        bundle: What they search.
        ef: Beam width of the index.
        max_fetch: Largest number of items to ask the index for; beyond it exact search takes over.
        fusion_weights: Retriever -> weight in the fused list.
        rank_constant: Of the fusion.
        fusion_depth: Length of the lists that are fused, and of the one that the second model of a cascade orders.

    Returns:
        `two_tower`, `repeat`, `popularity` and `fused`; `cascade` too where the vectors are of several models, and
        `sparcode` where the bundle has its tables.

    Raises:
        ValueError: A weight names no retriever.
    """
    towers = TwoTower(bundle.ranked, bundle.index, ef=ef, max_fetch=max_fetch)
    single: dict[str, Retriever] = {"two_tower": towers}
    if bundle.sparcode is not None:
        single["sparcode"] = bundle.sparcode.retriever()
    widths = bundle.manifest.facts.index_report.parts
    if len(widths) > 1:
        single["cascade"] = Cascade(towers, first_width=widths[0], depth=fusion_depth)
    single |= {"repeat": Repeat(), "popularity": Popularity(bundle.popularity)}
    if unknown := sorted(fusion_weights.keys() - single.keys()):
        raise ValueError(f"fusion_weights names {unknown[0]!r}, expected some of: {', '.join(single)}")
    parts = tuple((single[name], weight) for name, weight in fusion_weights.items())
    return {**single, "fused": Fused(parts, rank_constant=rank_constant, depth=fusion_depth)}


def _num_events(raw: pa.Table) -> npt.NDArray[Any]:
    counts: npt.NDArray[Any] = raw.column("user_num_events").fill_null(0).to_numpy()
    return counts


class _Stages:
    """Adds up the time between the ends of stages."""

    def __init__(self) -> None:
        self.microseconds: dict[str, float] = {}
        self._last = time.perf_counter_ns()

    def end(self, stage: str) -> None:
        now = time.perf_counter_ns()
        self.microseconds[stage] = (now - self._last) / 1000
        self._last = now
