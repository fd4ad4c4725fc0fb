"""Benchmark: id-only towers on a published split, with everything chosen on a part of its train pairs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from evaluation.published import Score, hold_out, score
from features.sources.lightgcn import Pairs, PublishedSplit, read_published_split
from training.id_towers import IdTowerSettings, fit_id_towers, num_batches
from twinspire.console import console, progress

K = 20
HELD_OUT_SHARE = 0.1
# Fits on the way to a choice see about this many pairs, the last one three times as many.
PAIRS_TO_COMPARE = 6_000_000
MORE_EPOCHS = 3


@dataclass(frozen=True)
class Trial:
    """One fit on a part of train, and how good it is on the rest of train."""

    settings: IdTowerSettings
    score: Score


def benchmark(folder: Path, *, embedding_dim: int, seed: int) -> dict[str, Any]:
    """Chooses on a part of train, fits on all of it, and judges once on test.

    Args:
        folder: With `train.txt` and `test.txt` in LightGCN's format.
        embedding_dim: Width of the vectors.
        seed: Of the held-out part and of every fit.

    Returns:
        What the JSON file says.

    Raises:
        SourceError: The folder's files are not of that format; names the line.
    """
    begin = time.perf_counter()
    split = read_published_split(folder)
    _say_split(split)
    trials = _search(split, _first_guess(split, embedding_dim), seed=seed)
    best = max(trials, key=lambda trial: trial.score.recall)
    seconds, found = _fit(split, split.train, split.test, best.settings, seed=seed, title="all of train")
    examples = len(split.train) * best.settings.epochs
    console().print(
        f"recall@{K} {found.recall:.4f}, NDCG@{K} {found.ndcg:.4f} of {found.num_users:,} users; "
        f"{examples / seconds:,.0f} examples/s, {seconds:.0f} s of {time.perf_counter() - begin:.0f} s in all"
    )
    return {
        f"recall@{K}": found.recall,
        f"ndcg@{K}": found.ndcg,
        "num_test_users": found.num_users,
        "training_examples_per_second": examples / seconds,
        "training_seconds": seconds,
        "total_seconds": time.perf_counter() - begin,
        "settings": asdict(best.settings),
        "seed": seed,
        "num_users": len(split.user_ids),
        "num_items": len(split.item_ids),
        "num_train_pairs": len(split.train),
        "num_test_pairs": len(split.test),
        "num_test_items_unseen": split.num_unseen_items,
        "num_test_users_unseen": split.num_unseen_users,
        "num_repeats_dropped": split.num_repeats,
        "num_test_pairs_in_train": split.num_overlap,
        "chosen_on": f"{HELD_OUT_SHARE:.0%} of each user's train pairs",
        "trials": [{**asdict(trial.settings), f"recall@{K}": trial.score.recall} for trial in trials],
    }


def _first_guess(split: PublishedSplit, embedding_dim: int) -> IdTowerSettings:
    """Where the search begins: an epoch has at least some fifteen steps, a short fit sees some million pairs."""
    return IdTowerSettings(
        embedding_dim=embedding_dim,
        num_hops=2,
        temperature=0.1,
        epochs=min(max(round(PAIRS_TO_COMPARE / len(split.train)), 2), 8),
        batch_users=min(max(len(split.user_ids) // 15, 16), 2048),
        num_uniform=4096,
        learning_rate=0.02,
    )


def _search(split: PublishedSplit, guess: IdTowerSettings, *, seed: int) -> list[Trial]:
    """Temperature, then hops, then epochs: each moves on while that helps."""
    kept, held_out = hold_out(split.train, HELD_OUT_SHARE, seed=seed)
    trials: list[Trial] = []

    def attempt(settings: IdTowerSettings) -> float:
        seconds, found = _fit(split, kept, held_out, settings, seed=seed, title="a part of train")
        trials.append(Trial(settings, found))
        console().print(
            f"  {settings.num_hops} hops, temperature {settings.temperature:.3f}, {settings.epochs} epochs: "
            f"recall@{K} {found.recall:.4f} on held-out train pairs ({seconds:.0f} s)"
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
    attempt(replace(best, epochs=best.epochs * MORE_EPOCHS))
    return trials


def _moves() -> Iterator[list[tuple[str, float]]]:
    yield [("temperature", 0.8), ("temperature", 1.25)]
    yield [("num_hops", 1), ("num_hops", -1)]


def _moved(settings: IdTowerSettings, name: str, change: float) -> IdTowerSettings | None:
    if name == "temperature":
        return replace(settings, temperature=settings.temperature * change)
    hops = settings.num_hops + int(change)
    return replace(settings, num_hops=hops) if 0 <= hops <= 4 else None


def _fit(
    split: PublishedSplit, fitted: Pairs, judged: Pairs, settings: IdTowerSettings, *, seed: int, title: str
) -> tuple[float, Score]:
    begin = time.perf_counter()
    with progress(
        f"towers of ids on {title}", total=settings.epochs * num_batches(fitted.users, settings.batch_users)
    ) as advance:
        vectors = fit_id_towers(
            fitted.users,
            fitted.items,
            settings,
            num_users=len(split.user_ids),
            num_items=len(split.item_ids),
            seed=seed,
            on_step=lambda loss: advance(1),
        )
    seconds = time.perf_counter() - begin
    return seconds, score(*vectors, fitted=fitted, judged=judged, k=K)


def _say_split(split: PublishedSplit) -> None:
    console().print(
        f"{len(split.user_ids):,} users, {len(split.item_ids):,} items, {len(split.train):,} train and "
        f"{len(split.test):,} test pairs"
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
