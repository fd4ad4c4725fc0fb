"""Choice of what is served by default: lists and their fusion, compared on days before the cut.

B users who are compared, N items of the catalogue, C candidates, W distinct items of all lists of a user.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from artefacts.paths import RunPaths
from evaluation import hybrid_choice, metrics, second_looks
from evaluation.validation_days import Window, held_out_window, repeated_share, window_since
from serving import served
from serving.bundles.manifest import BundleError, read_manifest
from serving.config import RankingConfig
from serving.retrieval import retrievers

LEAST_USERS = 20
# Share of the events that meet an item again, below which repeats are chance.
LEAST_REPEATED = 0.01
# A level at which the best of some hundred tries seldom differs by chance from what is nearly as good.
LEVEL = 0.99
RATIOS = (0.1, 0.3, 1.0, 3.0, 10.0)
RANK_CONSTANTS = (1.0, 5.0, 20.0, 60.0)
POPULARITY, REPEAT, TWO_TOWER = "popularity", "repeat", "two_tower"
SPARSE, HYBRID, SECOND_LOOK = served.SPARSE, served.HYBRID, served.SECOND_LOOK
# What a retriever counts in lists, where fewer are preferred.
LISTS_OF = {HYBRID: 2, SECOND_LOOK: 3}

Floats = npt.NDArray[np.float64]
Measure = hybrid_choice.Measure
_MEASURES: Mapping[str, Callable[[metrics.Hits, int], Floats]] = {
    "ndcg": metrics.ndcg_at_k,
    "recall": metrics.recall_at_k,
    "mrr": lambda hits, k: metrics.reciprocal_rank(hits),
}


def choose(
    ranking: RankingConfig,
    paths: RunPaths,
    *,
    k: int,
    seed: int,
    earlier: RunPaths | None = None,
    before: served.Choice | None = None,
) -> served.Served:
    """Chooses what the configuration leaves to `auto`.

    The best by `choice_metric` is served, unless chance may explain the difference to something else: then what was
    served before stays, or else a single retriever is preferred to a fused list, and lists of the user's own to popular
    items: these fill up what is short anyway. Known items are kept out where users meet no item twice.

    Args:
        ranking: What is configured.
        paths: Of the day.
        k: Places of a list that count.
        seed: Of the draw of users.
        earlier: The fit that the day's is a warm start from; None where the day's own fit held days out.
        before: What the previous night's bundle serves; None where there is none.
    """
    nobody_repeats = repeated_share(paths) < LEAST_REPEATED
    default = served.NO_REPEATS if nobody_repeats else served.DEFAULT
    fallback = served.settled(ranking, default if before is None else before)

    name = ranking.choice_metric if ranking.choice_metric == "mrr" else f"{ranking.choice_metric}@{k}"

    def without_comparison(why: str, num_users: int = 0) -> served.Served:
        return served.Served(**vars(fallback), why=why, metric=name, num_users=num_users)

    looks = None if ranking.second_look is None else second_looks.SecondLooks.load(paths)

    def compared(weights: Mapping[bool, Mapping[str, float]] | None = None) -> list[served.Choice]:
        found = list(candidates_of(ranking, weights, has_second_look=looks is not None))
        return [one for one in found if one.exclude_known] or found if nobody_repeats else found

    candidates = compared()
    if len(candidates) < 2 and not paths.sparse.exists():
        return without_comparison("as configured")
    window = held_out_window(paths, seed=seed) if earlier is None else window_since(earlier, paths, seed=seed)
    kept = "the fixed default" if before is None else "as the night before"
    if window is None:
        return without_comparison(f"{kept}: no days are held out (training.validation_days)")
    if len(window.users) < LEAST_USERS:
        return without_comparison(
            f"{kept}: {len(window.users)} users with a history met something from {window.first_day} up to "
            f"{window.end_day}, and fewer than {LEAST_USERS} show nothing",
            len(window.users),
        )
    measure = measure_of(ranking, k)
    if window.sparse is not None:
        weights = {
            exclude_known: hybrid_choice.hybrid_weights(
                window, measure, ranking, exclude_known=exclude_known, before=fallback.hybrid_weights
            )
            for exclude_known in (False, True)
        }
        candidates = compared(weights)
    if not candidates:
        return without_comparison("as configured")
    values = evaluate(candidates, window, measure, k=k, ranking=ranking, looks=looks)
    found = pick(candidates, values, metric=name, before=None if before is None else fallback)
    return replace(found, why=f"{found.why}, on {window.first_day} up to {window.end_day}")


def measure_of(ranking: RankingConfig, k: int) -> Measure:
    """What choices compare, from hits among the first k."""
    of_metric = _MEASURES[ranking.choice_metric]
    return lambda hits: of_metric(hits, k)


def served_by(bundle: Path) -> served.Choice | None:
    """What a bundle serves by default; None where it is gone, or of another format."""
    try:
        return read_manifest(bundle).facts.served.choice
    except BundleError:
        return None


def candidates_of(
    ranking: RankingConfig,
    weights: Mapping[bool, Mapping[str, float]] | None = None,
    *,
    has_second_look: bool = False,
) -> Iterator[served.Choice]:
    """What is compared: each retriever alone and some two fused, with known items and without, as far as it is open.

    Repeat purchases alone are a fused list of one part, which popular items fill up. With a sparse index, the two
    towers' list is fused with the sparse one too, and the hybrid one with repeat purchases, or with popular items.

    Args:
        ranking: What is configured.
        weights: Whether known items are kept out -> segment -> weight of the sparse list in the hybrid one; None where
            there is no sparse index.
        has_second_look: Whether there is one, which is compared alone.
    """
    names = (POPULARITY, TWO_TOWER) if weights is None else (POPULARITY, TWO_TOWER, SPARSE, HYBRID)
    fixed = served.settled(ranking)
    is_open = ranking.retriever == served.AUTO and ranking.fusion_weights == served.AUTO
    constants = RANK_CONSTANTS if ranking.fusion_rank_constant == served.AUTO else (fixed.fusion_rank_constant,)
    for exclude_known in (False, True) if ranking.exclude_known == served.AUTO else (bool(ranking.exclude_known),):
        plain = replace(fixed, exclude_known=exclude_known)
        if weights is not None:
            plain = replace(plain, hybrid_weights=weights[exclude_known])
        if not is_open and fixed.retriever != served.FUSED:
            if fixed.retriever in names or (has_second_look and fixed.retriever == SECOND_LOOK):
                yield plain
            continue
        if is_open:
            alone = (*names, SECOND_LOOK) if has_second_look else names
            yield from (replace(plain, retriever=name) for name in alone)
        for fusion_weights in _weights(ranking, names, exclude_known=exclude_known):
            # A list of one part is the same by any constant.
            for constant in constants if len(fusion_weights) > 1 else (fixed.fusion_rank_constant,):
                yield replace(
                    plain, retriever=served.FUSED, fusion_weights=fusion_weights, fusion_rank_constant=constant
                )


def _weights(ranking: RankingConfig, names: Sequence[str], *, exclude_known: bool) -> Iterator[Mapping[str, float]]:
    if isinstance(ranking.fusion_weights, dict):
        if {REPEAT, *names} >= ranking.fusion_weights.keys():
            yield ranking.fusion_weights
        return
    own = [TWO_TOWER, POPULARITY] if exclude_known else [REPEAT, TWO_TOWER, POPULARITY]
    if REPEAT in own:
        yield {REPEAT: 1.0}
    pairs = [*combinations(own, 2)]
    if HYBRID in names:
        pairs += [(TWO_TOWER, SPARSE), (HYBRID, POPULARITY) if exclude_known else (REPEAT, HYBRID)]
    for first, second in pairs:
        for ratio in RATIOS:
            yield {first: 1.0, second: ratio} if ratio <= 1 else {first: round(1 / ratio, 1), second: 1.0}


def evaluate(
    candidates: Sequence[served.Choice],
    window: Window,
    measure: Measure,
    *,
    k: int,
    ranking: RankingConfig,
    looks: second_looks.SecondLooks | None = None,
) -> Floats:
    """The metric of each candidate and user: [C, B] float64.

    Args:
        candidates: C of them.
        window: B users.
        measure: The metric, from hits among the first k.
        k: Places of a list that count.
        ranking: How lists are made.
        looks: Lists of the second look, those of these users among them; None where there is none.
    """
    found = np.zeros((len(candidates), len(window.users)))
    for exclude_known in sorted({candidate.exclude_known for candidate in candidates}):
        weights = next(one.hybrid_weights for one in candidates if one.exclude_known == exclude_known)
        lists = FusedLists.of(replace(window.users, exclude_known=exclude_known), window, ranking, weights, looks)
        for number, candidate in enumerate(candidates):
            if candidate.exclude_known == exclude_known:
                found[number] = measure(lists.hits(candidate, k))
    return found


@dataclass(frozen=True)
class FusedLists:
    """The lists of some retrievers, from which any fusion of them is made without asking them again.

    Attributes:
        items: [B, W] int64 catalogue rows of all lists of a user, ascending, N behind the last one.
        ranks: Retriever -> [B, W] float64 place of each in its list, from 1; infinite where it is not in it.
        relevant: [R, 2] int64: user and column of each that is relevant.
        num_relevant: [B] int64, found by a retriever or not.
    """

    items: npt.NDArray[np.int64]
    ranks: Mapping[str, Floats]
    relevant: npt.NDArray[np.int64]
    num_relevant: npt.NDArray[np.int64]

    @classmethod
    def of(
        cls,
        users: retrievers.UserQueries,
        window: Window,
        ranking: RankingConfig,
        weights: Mapping[str, float],
        looks: second_looks.SecondLooks | None = None,
    ) -> FusedLists:
        """Asks the retrievers once.

        Args:
            users: Those of the window, with or without known items.
            window: What is searched.
            ranking: How lists are made.
            weights: Of the hybrid list.
            looks: Lists of the second look, those of these users among them; None where there is none.
        """
        asked = hybrid_choice.searched(window, ranking, weights)
        depth = ranking.fusion_depth
        lists = {name: retriever.retrieve(users, depth)[0].astype(np.int64) for name, retriever in asked.items()}
        if looks is not None:
            of_users = looks.rows(window.user_rows, exclude_known=users.exclude_known)
            lists[SECOND_LOOK] = of_users[:, :depth].astype(np.int64)
        num_users, num_items = window.relevant.shape
        owners = np.arange(num_users)[:, None] * num_items
        keys = np.unique(np.concatenate([(owners + rows)[rows >= 0] for rows in lists.values()]))
        of_user = keys // num_items
        column = np.arange(len(keys)) - np.searchsorted(of_user, of_user)
        items = np.full((num_users, int(column.max(initial=0)) + 1), num_items)
        items[of_user, column] = keys % num_items
        ranks = {}
        for name, rows in lists.items():
            user, rank = np.nonzero(rows >= 0)
            entry = np.searchsorted(keys, user * num_items + rows[user, rank])
            ranks[name] = np.full(items.shape, np.inf)
            ranks[name][user, column[entry]] = rank + 1.0
        pairs = window.relevant.tocoo()
        entry = np.flatnonzero(np.isin(keys, pairs.row.astype(np.int64) * num_items + pairs.col))
        return cls(items, ranks, np.stack([of_user[entry], column[entry]], axis=1), np.diff(window.relevant.indptr))

    def scores(self, choice: served.Choice) -> Floats:
        """[B, W] what the list of a choice is ordered by, higher first, equal ones by item; -inf is not in it."""
        if choice.retriever == POPULARITY:
            return -self.ranks[POPULARITY]
        constant, lists = choice.fusion_rank_constant, choice.fusion_weights
        if choice.retriever != served.FUSED:
            constant, lists = 0.0, {choice.retriever: 1.0}
        found: Floats = sum(weight / (constant + self.ranks[name]) for name, weight in lists.items())  # type: ignore[assignment]
        # Popular items fill up what is shorter, as the recommender does.
        return np.where(found > 0, found, -self.ranks[POPULARITY])

    def hits(self, choice: served.Choice, k: int) -> metrics.Hits:
        """Which of the first k places of a choice's lists hold something relevant."""
        scores = self.scores(choice)
        found = np.zeros((len(scores), k), bool)
        # A block of users at a time: each relevant item is compared with all items of its user.
        for block in np.array_split(self.relevant, len(self.relevant) // 4096 + 1):
            users, place = block.T
            own = scores[users, place][:, None]
            others = scores[users]
            before = (others > own).sum(axis=1)
            before += ((others == own) & (np.arange(scores.shape[1]) < place[:, None])).sum(axis=1)
            is_listed = (before < k) & np.isfinite(own[:, 0])
            found[users[is_listed], before[is_listed]] = True
        return metrics.Hits(found=found, num_relevant=self.num_relevant.astype(np.int64))


def pick(
    candidates: Sequence[served.Choice],
    values: Floats,
    *,
    metric: str,
    before: served.Choice | None,
) -> served.Served:
    """The choice among candidates that were compared, and what was tried.

    Args:
        candidates: C of them.
        values: [C, B] the metric of each and every user.
        metric: Its name.
        before: What was served so far.
    """
    means, num_users = values.mean(axis=1), values.shape[1]
    best = int(means.argmax())
    behind = values[best] - values
    error = behind.std(axis=1, ddof=1) / np.sqrt(num_users)
    margin = NormalDist().inv_cdf((1 + LEVEL) / 2) * error
    low, high = behind.mean(axis=1) - margin, behind.mean(axis=1) + margin
    as_good = np.flatnonzero(low <= 0)
    same = [number for number in as_good.tolist() if before is not None and _kind(candidates[number]) == _kind(before)]
    chosen = same[0] if same else min(as_good.tolist(), key=lambda number: (_order(candidates[number]), -means[number]))
    why = f"{metric} {means[chosen]:.4f} of {num_users:,} users"
    if chosen != best:
        fewer = _num_parts(candidates[chosen]) < _num_parts(candidates[best])
        how = "served before" if same else "simpler" if fewer else "of the user's own"
        why += f"; {how}, and chance may explain the {means[best]:.4f} of {candidates[best]}"
    tried = [
        served.Tried(
            **vars(candidates[number]),
            value=float(means[number]),
            behind=float(behind[number].mean()),
            behind_low=float(low[number]),
            behind_high=float(high[number]),
        )
        for number in _best_of_each_kind(candidates, means, chosen)
    ]
    choice = _with_fusion(chosen, candidates, means)
    return served.Served(**vars(choice), why=why, metric=metric, num_users=num_users, tried=tuple(tried))


def _kind(choice: served.Choice) -> tuple[object, ...]:
    """What of a choice decides on its lists."""
    if choice.retriever != served.FUSED:
        return choice.exclude_known, choice.retriever
    constant = choice.fusion_rank_constant if len(choice.fusion_weights) > 1 else None
    return choice.exclude_known, constant, *sorted(choice.fusion_weights.items())


def _order(choice: served.Choice) -> tuple[int, bool]:
    """What is preferred where chance may explain a difference: fewer lists, and none that is the same for everybody."""
    fused = choice.retriever == served.FUSED
    return _num_parts(choice), POPULARITY in (choice.fusion_weights if fused else (choice.retriever,))


def _num_parts(choice: served.Choice) -> int:
    lists = choice.fusion_weights if choice.retriever == served.FUSED else (choice.retriever,)
    return sum(LISTS_OF.get(name, 1) for name in lists)


def _best_of_each_kind(candidates: Sequence[served.Choice], means: Floats, chosen: int) -> list[int]:
    """The best weights of each set of retrievers and constant, the best first; what was chosen is one of them."""
    kept: dict[tuple[object, ...], int] = {}
    for number in [chosen, *np.argsort(-means, kind="stable").tolist()]:
        one = candidates[number]
        fusion = (one.fusion_rank_constant, *one.fusion_weights) if one.retriever == served.FUSED else ()
        kind = (one.exclude_known, one.retriever, *fusion)
        kept.setdefault(kind, number)
    return sorted(kept.values(), key=lambda number: (-means[number], number))


def _with_fusion(chosen: int, candidates: Sequence[served.Choice], means: Floats) -> served.Choice:
    """What was chosen, with the best fusion of several lists where it is none: a request may ask for that by name."""
    choice = candidates[chosen]
    if choice.retriever == served.FUSED:
        return choice
    fused = [
        number
        for number, one in enumerate(candidates)
        if one.exclude_known == choice.exclude_known and one.retriever == served.FUSED and _num_parts(one) > 1
    ]
    if not fused:
        return choice
    best = candidates[max(fused, key=lambda number: means[number])]
    return replace(best, retriever=choice.retriever)
