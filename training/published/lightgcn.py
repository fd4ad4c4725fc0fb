"""Benchmark: id-only towers on a published split, with everything chosen on a part of its train pairs.

Vectors are scored by the rules of the split's table. Shape letters: U users, N items, D vector width.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import sparse

from artefacts.console import console, progress
from evaluation.metrics import find_hits, ndcg_at_k, recall_at_k
from features.sources.lightgcn import Pairs, PublishedSplit, read_published_split
from serving.retrieval import exact
from training.published import id_towers, sparcode

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Model = Literal["two-tower", "sparcode"]
Vectors = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]
K = 20
HELD_OUT_SHARE = 0.15
# Fits on the way to a choice see about this many pairs; then longer ones follow while they help.
PAIRS_TO_COMPARE = 6_000_000
MORE_EPOCHS = (3, 2)
# What the query adds to the towers is chosen on this many users: it takes a search over all items for each try.
NUM_USERS_TO_COMPARE = 5_000


@dataclass(frozen=True)
class Score:
    """Means over the users with something to find.

    Attributes:
        recall: Hits among the first k / all that the user has in the judged pairs.
        ndcg: Ideal cut at min(k, what the user has).
        num_users: Users counted.
    """

    recall: float
    ndcg: float
    num_users: int


def score(user_vectors: Floats, item_vectors: Floats, *, fitted: Pairs, judged: Pairs, k: int) -> Score:
    """Exact search over all items that the user does not have among the fitted pairs.

    Args:
        user_vectors: [U, D] float32.
        item_vectors: [N, D] float32.
        fitted: Masked.
        judged: To be found; every one counts in the denominator.
        k: Length of the lists.
    """
    shape = (len(user_vectors), len(item_vectors))
    users = np.unique(judged.users)
    ranked, _ = exact.search(user_vectors[users], item_vectors, k=k, exclude=_matrix(fitted, shape, np.float32)[users])
    found = find_hits(ranked, _matrix(judged, shape, bool)[users])
    return Score(float(recall_at_k(found, k).mean()), float(ndcg_at_k(found, k).mean()), len(users))


def hold_out(pairs: Pairs, share: float, *, seed: int | None) -> tuple[Pairs, Pairs]:
    """Splits each user's pairs; who has few keeps at least one.

    Args:
        pairs: By user, in the order of their lines.
        share: Of a user's pairs that are held out, rounded down.
        seed: Of a choice at random; None holds out the last ones of each line.

    Returns:
        What is kept and what is held out, both in order.
    """
    counts = np.bincount(pairs.users)
    place = pairs.from_last
    if seed is not None:
        order = np.lexsort((np.random.default_rng(seed).random(len(pairs)), pairs.users))
        place = np.empty(len(pairs), np.int64)
        place[order] = np.arange(len(pairs)) - (np.cumsum(counts) - counts)[pairs.users[order]]
    out = place < np.floor(counts * share)[pairs.users]
    return Pairs(pairs.users[~out], pairs.items[~out]), Pairs(pairs.users[out], pairs.items[out])


@dataclass(frozen=True)
class SeedSettings:
    """What is added.

    Attributes:
        weight: a, what the latest items count next to the user's own vector; 0 leaves them out.
        decay_items: h, after how many items one counts 1/e.
        adjacent: c, what the items next to an item count compared with its own vector; 0 leaves them out.
        popularity: b, in units of the temperature; 0 leaves popularity out.
    """

    weight: float
    decay_items: float
    adjacent: float
    popularity: float


NOTHING = SeedSettings(weight=0.0, decay_items=1.0, adjacent=0.0, popularity=0.0)
WEIGHTS, DECAYS = (0.5, 1.0, 2.0), (0.3, 1.0, 3.0, 10.0)
ADJACENT, POPULARITIES = (0.5, 1.0, 2.0), (0.0, 0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Trial:
    """One fit on a part of train, and how good it is on the rest of train.

    Attributes:
        towers: How the towers were fitted.
        query: What was added to them.
        score: On the pairs held out.
        vectors: Of users and items, with what was added.
    """

    towers: id_towers.IdTowerSettings
    query: SeedSettings
    score: Score
    vectors: Vectors


@dataclass(frozen=True)
class _Parts:
    """Train, and the parts that it is cut into for choosing."""

    split: PublishedSplit
    kept: Pairs
    held_out: Pairs
    some: Pairs
    seed: int

    @property
    def decays(self) -> tuple[float, ...]:
        """Decays to try; none where the lines have no order, so that nothing is latest."""
        return DECAYS if self.split.has_order else ()

    @property
    def adjacent(self) -> tuple[float, ...]:
        """Weights of adjacent items to try, likewise."""
        return ADJACENT if self.split.has_order else ()


def benchmark(folder: Path, *, embedding_dim: int, seed: int, model: Model = "two-tower") -> dict[str, Any]:
    """Chooses on a part of train, fits on all of it, and evaluates once on test.

    Args:
        folder: With `train.txt` and `test.txt` in LightGCN's format.
        embedding_dim: Width of the vectors; one coordinate is for popularity.
        seed: Of every choice at random.
        model: `sparcode` fits SparCode over the towers, and compares it with them.

    Returns:
        What the JSON file holds.

    Raises:
        SourceError: The folder's files are not of that format; names the line.
    """
    begin = time.perf_counter()
    split = read_published_split(folder)
    _say_split(split)
    parts = _cut(split, seed)
    trials = _search(parts, _first_guess(split, embedding_dim - 1))
    best = max(trials, key=lambda trial: trial.score.recall)
    fit_begin = time.perf_counter()
    fitted = _fit(split, split.train, best.towers, seed=seed, title="all of train")
    seconds = time.perf_counter() - fit_begin
    vectors = _query(fitted, split.train, best.towers, best.query)
    found = score(*vectors, fitted=split.train, judged=split.test, k=K)
    speed = len(split.train) * best.towers.epochs / seconds
    total = time.perf_counter() - begin
    console().print(
        f"recall@{K} {found.recall:.4f}, NDCG@{K} {found.ndcg:.4f} of {found.num_users:,} users; "
        f"{speed:,.0f} examples/s, {seconds:.0f} s of {total:.0f} s in all"
    )
    more: dict[str, Any] = {}
    if model == "sparcode":
        of_part = sparcode.IdTowers(*best.vectors, parts.kept, best.towers.temperature)
        of_all = sparcode.IdTowers(*vectors, split.train, best.towers.temperature)
        more = sparcode.benchmark_sparcode(of_part, of_all, held_out=parts.some, test=split.test, seed=seed)
    return {
        f"recall@{K}": found.recall,
        f"ndcg@{K}": found.ndcg,
        "num_test_users": found.num_users,
        "training_examples_per_second": speed,
        "training_seconds": seconds,
        "total_seconds": total,
        "vector_width": embedding_dim,
        "towers": asdict(best.towers),
        "query": asdict(best.query),
        "seed": seed,
        "num_users": len(split.user_ids),
        "num_items": len(split.item_ids),
        "num_train_pairs": len(split.train),
        "num_test_pairs": len(split.test),
        "num_test_items_unseen": split.num_unseen_items,
        "num_test_users_unseen": split.num_unseen_users,
        "num_repeats_dropped": split.num_repeats,
        "num_test_pairs_in_train": split.num_overlap,
        "chosen_on": f"{HELD_OUT_SHARE:.0%} of each user's train pairs, {_which(split)}",
        "trials": [
            {**asdict(trial.towers), **asdict(trial.query), f"recall@{K}": trial.score.recall} for trial in trials
        ],
        **more,
    }


def _which(split: PublishedSplit) -> str:
    return "the last of the line" if split.has_order else "at random, as lines are sorted by id"


def _cut(split: PublishedSplit, seed: int) -> _Parts:
    """Holds out what is nearest to a test: the last pairs of each line, which are a random part where order is none."""
    kept, held_out = hold_out(split.train, HELD_OUT_SHARE, seed=None if split.has_order else seed)
    users = np.unique(held_out.users)
    chosen = np.random.default_rng(seed).permutation(users)[:NUM_USERS_TO_COMPARE]
    is_some = np.isin(held_out.users, chosen)
    return _Parts(split, kept, held_out, Pairs(held_out.users[is_some], held_out.items[is_some]), seed)


def _first_guess(split: PublishedSplit, width: int) -> id_towers.IdTowerSettings:
    """Where the search begins: an epoch has at least some fifteen steps, a short fit sees some million pairs."""
    return id_towers.IdTowerSettings(
        embedding_dim=width,
        num_hops=2,
        temperature=0.1,
        epochs=min(max(round(PAIRS_TO_COMPARE / len(split.train)), 2), 8),
        batch_users=min(max(len(split.user_ids) // 15, 16), 2048),
        num_uniform=4096,
        learning_rate=0.02,
    )


def _search(parts: _Parts, guess: id_towers.IdTowerSettings) -> list[Trial]:
    """Temperature, then hops, then epochs: each moves on while that helps; the query is chosen for each fit."""
    trials: list[Trial] = []

    def attempt(towers: id_towers.IdTowerSettings) -> float:
        begin = time.perf_counter()
        vectors = _fit(parts.split, parts.kept, towers, seed=parts.seed, title="a part of train")
        query = _best_query(parts, vectors, towers)
        asked = _query(vectors, parts.kept, towers, query)
        found = score(*asked, fitted=parts.kept, judged=parts.held_out, k=K)
        trials.append(Trial(towers, query, found, asked))
        seconds = time.perf_counter() - begin
        console().print(
            f"  {towers.num_hops} hops, temperature {towers.temperature:.3f}, {towers.epochs} epochs; latest items "
            f"{query.weight:g} within {query.decay_items:g}, adjacent {query.adjacent:g}, popularity "
            f"{query.popularity:g}: recall@{K} {found.recall:.4f} on held-out train pairs ({seconds:.0f} s)"
        )
        return found.recall

    best, recall = guess, attempt(guess)
    for directions in _moves():
        for name, change in directions:
            moved = False
            while (following := _moved(best, name, change)) is not None:
                reached = attempt(following)
                if reached <= recall:
                    break
                best, recall, moved = following, reached, True
            if moved:
                break
    for times in MORE_EPOCHS:
        best = replace(best, epochs=best.epochs * times)
        reached = attempt(best)
        if reached <= recall:
            break
        recall = reached
    return trials


def _moves() -> Iterator[list[tuple[str, float]]]:
    yield [("temperature", 0.8), ("temperature", 1.25)]
    yield [("num_hops", 1), ("num_hops", -1)]


def _moved(settings: id_towers.IdTowerSettings, name: str, change: float) -> id_towers.IdTowerSettings | None:
    if name == "temperature":
        return replace(settings, temperature=settings.temperature * change)
    hops = settings.num_hops + int(change)
    return replace(settings, num_hops=hops) if 0 <= hops <= 4 else None


def _best_query(parts: _Parts, vectors: Vectors, towers: id_towers.IdTowerSettings) -> SeedSettings:
    """The best of a small grid, one coordinate after the other, on some users."""

    @cache
    def recall(query: SeedSettings) -> float:
        asked = _query(vectors, parts.kept, towers, query)
        return score(*asked, fitted=parts.kept, judged=parts.some, k=K).recall

    def better(query: SeedSettings, tries: list[SeedSettings]) -> SeedSettings:
        return max([query, *tries], key=recall)

    best = better(NOTHING, [replace(NOTHING, popularity=popularity) for popularity in POPULARITIES])
    latest = [(weight, decay) for decay in parts.decays for weight in WEIGHTS]
    best = better(best, [replace(best, weight=weight, decay_items=decay) for weight, decay in latest])
    best = better(best, [replace(best, adjacent=adjacent) for adjacent in parts.adjacent])
    return better(best, [replace(best, popularity=popularity) for popularity in POPULARITIES])


def _query(vectors: Vectors, pairs: Pairs, towers: id_towers.IdTowerSettings, query: SeedSettings) -> Vectors:
    return with_seed_items(*vectors, pairs.users, pairs.items, pairs.from_last, query, temperature=towers.temperature)


def _fit(
    split: PublishedSplit, fitted: Pairs, settings: id_towers.IdTowerSettings, *, seed: int, title: str
) -> Vectors:
    total = settings.epochs * id_towers.num_batches(fitted.users, settings.batch_users)
    with progress(f"towers of ids on {title}", total=total) as advance:
        return id_towers.fit_id_towers(
            fitted.users,
            fitted.items,
            settings,
            num_users=len(split.user_ids),
            num_items=len(split.item_ids),
            seed=seed,
            on_step=lambda loss: advance(1),
        )


def _say_split(split: PublishedSplit) -> None:
    console().print(
        f"{len(split.user_ids):,} users, {len(split.item_ids):,} items, {len(split.train):,} train and "
        f"{len(split.test):,} test pairs; held out for choosing: {HELD_OUT_SHARE:.0%}, {_which(split)}"
    )
    notes = {
        "items of test that train lacks; they count as missed": split.num_unseen_items,
        "users of test that train lacks; they get the mean user's list": split.num_unseen_users,
        "repeats of an item in its line; dropped": split.num_repeats,
        "test pairs that train has too; masked, they count as missed": split.num_overlap,
    }
    for meaning, count in notes.items():
        if count:
            console().print(f"  {count:,} {meaning}")


def with_seed_items(
    user_vectors: Floats,
    item_vectors: Floats,
    users: Ints,
    items: Ints,
    from_last: Ints,
    settings: SeedSettings,
    *,
    temperature: float,
) -> tuple[Floats, Floats]:
    """Adds what is next to an item, a user's latest items and the items' popularity to vectors.

    Args:
        user_vectors: [U, D] float32, of length one.
        item_vectors: [N, D] float32, of length one.
        users: [P] int64 user rows of distinct pairs, by user, oldest first.
        items: [P] int64 item rows.
        from_last: [P] int64, how many of its user's pairs come after each.
        settings: What is added.
        temperature: tau, what the vectors' cosines were divided by.

    Returns:
        [U, D + 1] and [N, D + 1] float32.
    """
    if settings.adjacent:
        means = _adjacency(users, items, num_items=len(item_vectors)) @ item_vectors
        item_vectors = _unit(item_vectors + settings.adjacent * means)
    queries = user_vectors
    if settings.weight:
        weights = np.exp(-from_last / settings.decay_items).astype(np.float32)
        latest = sparse.csr_array((weights, (users, items)), shape=(len(user_vectors), len(item_vectors)))
        queries = _unit(user_vectors + settings.weight * _unit(latest @ item_vectors))
    counts = np.bincount(items, minlength=len(item_vectors))
    prior = settings.popularity * temperature * np.log(np.maximum(counts, 1))
    return (
        np.concatenate([queries, np.ones((len(queries), 1))], axis=1).astype(np.float32),
        np.concatenate([item_vectors, prior[:, None]], axis=1).astype(np.float32),
    )


def _adjacency(users: Ints, items: Ints, *, num_items: int) -> sparse.csr_array:
    """How often items are next to each other, as shares of all that are next to an item: [N, N]."""
    together = users[1:] == users[:-1]
    before, after = items[:-1][together], items[1:][together]
    ones = np.ones(2 * len(before), np.float32)
    both = (np.concatenate([before, after]), np.concatenate([after, before]))
    counts = sparse.csr_array((ones, both), shape=(num_items, num_items))
    return sparse.csr_array(sparse.diags_array(1.0 / np.maximum(counts.sum(axis=1), 1.0)) @ counts)


def _unit(vectors: npt.NDArray[np.floating]) -> Floats:
    lengths = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return np.asarray(vectors / lengths, dtype=np.float32)


def _matrix(pairs: Pairs, shape: tuple[int, int], dtype: type) -> sparse.csr_array:
    return sparse.csr_array((np.ones(len(pairs), dtype), (pairs.users, pairs.items)), shape=shape)
