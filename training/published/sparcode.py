"""Benchmark: SparCode over fitted id-only towers, chosen on a part of train's pairs and compared with those towers."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from scipy import sparse

from artefacts.console import console
from evaluation.metrics import find_hits, ndcg_at_k, recall_at_k
from features.sources.lightgcn import Pairs
from serving.retrieval.ranking import Rows
from towers.sparcode import SparCode
from training.published.sparcode_over_ids import Choice, IdTowers, fit_over, search_sparcode, search_towers
from training.trainer import EpochMetrics

Figures = dict[str, float]
K, LONGEST = 20, 50
MOST_EPOCHS = 2
FIRST = Choice(parts=4, codes=256, interest_tokens=0, scale=1.0, epochs=0)
# One after the other, each on top of the best so far. Eight parts of 256 codes would have no number of 63 bits.
CHANGES: tuple[dict[str, Any], ...] = (
    {"parts": 8, "codes": 128},
    {"interest_tokens": 3},
    {"scale": 0.5},
    {"scale": 2.0},
)


@dataclass(frozen=True)
class Trial:
    """A choice, and how good it is on held-out pairs of train.

    Attributes:
        choice: With the number of epochs after which it was measured.
        recall: At `K`.
    """

    choice: Choice
    recall: float


def benchmark_sparcode(
    of_part: IdTowers, of_all: IdTowers, *, held_out: Pairs, test: Pairs, seed: int
) -> dict[str, Any]:
    """Chooses over towers of a part of train, fits over those of all of it, and evaluates both models once on test.

    Args:
        of_part: Towers fitted on a part of train.
        of_all: Towers fitted on all of train in the same way.
        held_out: Pairs of the rest of train.
        test: Pairs to be found.
        seed: Of every fit.

    Returns:
        What the JSON file holds in addition to the figures of towers alone.
    """
    begin = time.perf_counter()
    trials = choose(of_part, held_out, seed=seed)
    best = max(trials, key=lambda trial: trial.recall).choice
    sparcode = fit_over(of_all, best, seed=seed, title="all of train")
    users = np.unique(test.users)
    ranked = {
        "two-tower": search_towers(of_all, users, k=LONGEST),
        "SparCode": search_sparcode(sparcode, of_all, users, k=LONGEST),
    }
    found = {name: figures(lists, test, num_items=len(of_all.items)) for name, lists in ranked.items()}
    for name, numbers in found.items():
        console().print(f"{name:<9}  " + "  ".join(f"{figure} {number:.4f}" for figure, number in numbers.items()))
    return {
        f"recall@{LONGEST}": found["two-tower"][f"recall@{LONGEST}"],
        "sparcode": {
            **found["SparCode"],
            "choice": asdict(best),
            "total_seconds": time.perf_counter() - begin,
            "trials": [{**asdict(trial.choice), f"recall@{K}": trial.recall} for trial in trials],
        },
    }


def choose(towers: IdTowers, held_out: Pairs, *, seed: int) -> list[Trial]:
    """Fits one choice after the other, and measures each after every number of epochs.

    Args:
        towers: Fitted on pairs that are not held out.
        held_out: Pairs that decide.
        seed: Of every fit.
    """
    trials: list[Trial] = []
    users = np.unique(held_out.users)

    def attempt(choice: Choice) -> None:
        begin = time.perf_counter()
        recalls: list[float] = []

        def evaluate(fitted: SparCode) -> EpochMetrics:
            ranked = search_sparcode(fitted, towers, users, k=LONGEST)
            found = figures(ranked, held_out, num_items=len(towers.items))
            recalls.append(found[f"recall@{K}"])
            return found

        fit_over(towers, replace(choice, epochs=MOST_EPOCHS), seed=seed, title="a part of train", evaluate=evaluate)
        trials.extend(Trial(replace(choice, epochs=epochs), recall) for epochs, recall in enumerate(recalls))
        console().print(
            f"  SparCode: {choice.parts} parts of {choice.codes} codes, {choice.interest_tokens} interest tokens, "
            f"scale {choice.scale:g}: recall@{K} {', '.join(f'{recall:.4f}' for recall in recalls)} on held-out train "
            f"pairs after 0 to {MOST_EPOCHS} epochs ({time.perf_counter() - begin:.0f} s)"
        )

    attempt(FIRST)
    for change in CHANGES:
        attempt(replace(max(trials, key=lambda trial: trial.recall).choice, **change))
    return trials


def figures(ranked: Rows, relevant: Pairs, *, num_items: int) -> Figures:
    """Means over the users with relevant pairs.

    Args:
        ranked: [n, LONGEST] int32, a list for each of those users, in the order of their rows.
        relevant: To be found; every one counts in the denominator.
        num_items: N.
    """
    users = np.unique(relevant.users)
    shape = (int(users[-1]) + 1, num_items)
    wanted = sparse.csr_array((np.ones(len(relevant), bool), (relevant.users, relevant.items)), shape=shape)
    found = find_hits(ranked, wanted[users])
    return {
        f"recall@{K}": float(recall_at_k(found, K).mean()),
        f"ndcg@{K}": float(ndcg_at_k(found, K).mean()),
        f"recall@{LONGEST}": float(recall_at_k(found, LONGEST).mean()),
    }
