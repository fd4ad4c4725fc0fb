"""A phase of a fit: which days are fitted, and how the towers are evaluated after an epoch and at its end."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import sparse

from artefacts import console
from artefacts.paths import RunPaths
from evaluation.diagnosis import diagnose
from evaluation.interests import interest_use
from evaluation.metrics import find_hits, recall_at_k
from features.encoding import Encoder, Inputs
from serving.retrieval import exact
from serving.retrieval.vectors import ValidationVectors
from serving.sparcode import all_to_all
from serving.sparcode.codebook import Codebook
from towers.sparcode import SparCode
from towers.two_tower import TwoTower
from training.co_purchase import POWERS, UNCHOSEN_POWERS, WEIGHTS, recall_by_weight, with_factors_of, with_weight
from training.config import TowerConfig, TrainSections
from training.data.training_data import (
    catalogue_inputs,
    first_meetings,
    seen_items,
    split_validation_days,
)
from training.epochs import EpochMetrics
from training.fit import Fitted
from training.fit_sparcode import interaction_of
from training.items_as_new import items_as_new
from training.negatives.known_positives import KnownPositives
from training.trainer import embed

TOP = 10
SPARCODE_USERS = 1000


@dataclass(frozen=True)
class Phase:
    """One fit: which days, and what it is evaluated on.

    Attributes:
        name: `validation` or `final`.
        days: Days whose examples are fitted, in time order.
        moment: The day as of whose start users and items are embedded.
        relevant: [users, items] what each user met first in the days after; None where they are fitted too.
    """

    name: str
    days: Sequence[dt.date]
    moment: dt.date
    relevant: sparse.csr_array | None


def validation_phase(encoder: Encoder, paths: RunPaths, days: Sequence[dt.date], *, num_days: int) -> Phase | None:
    """The fit of the earlier of some days, which is evaluated on the last ones.

    Args:
        encoder: Of the fit.
        paths: Where the pairs that have met are.
        days: All days, in time order.
        num_days: How many are held out.

    Returns:
        The phase; None where no day is held out, or none is left to fit.
    """
    earlier, held_out = split_validation_days(days, as_of=paths.as_of, num_days=num_days)
    return Phase("validation", earlier, held_out, first_meetings(encoder, paths, since=held_out)) if earlier else None


@dataclass(frozen=True)
class Evaluation:
    """What a fit is evaluated with after an epoch: all users and items at the phase's moment.

    Attributes:
        users: Encoded users.
        items: Encoded items.
        known: What each user had met.
        seen: [users, items] the same as a matrix: what lists leave out.
        popular_items: [users, TOP] int32, what popularity alone would show.
        relevant: [users, items] what is to be found; None where there is nothing to measure recall by.
        ks: List lengths.
        seed: Of the users that SparCode is evaluated on.
        learned_width: Learned coordinates of a vector, by which interests are compared.
    """

    users: Inputs
    items: Inputs
    known: KnownPositives
    seen: sparse.csr_array
    popular_items: npt.NDArray[np.int32]
    relevant: sparse.csr_array | None
    ks: tuple[int, ...]
    seed: int
    learned_width: int

    def of_towers(self, towers: TwoTower) -> EpochMetrics:
        """Recall of exact lists, and how varied lists and vectors are."""
        user_vectors, item_vectors = embed(towers.user, self.users), embed(towers.item, self.items)
        rows, _ = exact.search(user_vectors, item_vectors, k=max(*self.ks, TOP), exclude=self.seen)
        found = diagnose(rows[:, :TOP], self.popular_items, user_vectors, item_vectors)
        metrics, warnings = {name: float(value) for name, value in asdict(found).items()}, found.warnings()
        if user_vectors.shape[1] > item_vectors.shape[1]:
            pairs = self.seen if self.relevant is None or not self.relevant.nnz else self.relevant
            use = interest_use(user_vectors, item_vectors, pairs, learned_width=self.learned_width, seed=self.seed)
            metrics, warnings = metrics | use.metrics(), warnings + use.warnings()
        for warning in warnings:
            console.console().print(f"[yellow]warning[/] {warning}")
        return metrics | self._recall(rows, slice(None))

    def of_sparcode(self, sparcode: SparCode) -> EpochMetrics:
        """Recall of the lists by all scores of the codes, on some users: it takes a net for each pair."""
        assert self.relevant is not None
        with_relevant = np.flatnonzero(np.diff(self.relevant.indptr))
        rng = np.random.default_rng(self.seed)
        some = np.sort(rng.permutation(with_relevant)[:SPARCODE_USERS])
        rows, _ = all_to_all.search(
            embed(sparcode.user_tokenizer, {name: values[some] for name, values in self.users.items()}),
            embed(sparcode.item_tokenizer, self.items),
            interaction=interaction_of(sparcode),
            bias=float(sparcode.bias),
            codebook=Codebook(sparcode.quantizer.codebooks.numpy()),
            k=max(*self.ks, TOP),
            exclude=self.seen[some],
        )
        return self._recall(rows, some)

    def recall_by_user(self, towers: TwoTower, k: int) -> npt.NDArray[np.float64]:
        """Recall of exact lists, [users] float64; nan for who has nothing to find."""
        assert self.relevant is not None
        user_vectors, item_vectors = embed(towers.user, self.users), embed(towers.item, self.items)
        rows, _ = exact.search(user_vectors, item_vectors, k=k, exclude=self.seen)
        return recall_at_k(find_hits(rows, self.relevant), k)

    def _recall(self, rows: npt.NDArray[np.int32], users: slice | npt.NDArray[np.int64]) -> EpochMetrics:
        if self.relevant is None:
            return {}
        found = find_hits(rows, self.relevant[users])
        return {f"recall_at_{k}": float(np.nanmean(recall_at_k(found, k))) for k in self.ks}


def evaluation_of(
    sections: TrainSections, paths: RunPaths, encoder: Encoder, phase: Phase, known: KnownPositives
) -> Evaluation:
    """Reads what the fit of a phase is evaluated with.

    Args:
        sections: What the step reads of the configuration.
        paths: Where the catalogue of the phase's moment lies.
        encoder: Of the fit.
        phase: Which fit.
        known: What each user had met at the moment.
    """
    users, items = catalogue_inputs(encoder, paths.catalogue(phase.moment))
    seen = seen_items(encoder, known)
    popularity = np.asarray(seen.sum(axis=0), np.float32).reshape(-1, 1)
    # What popularity alone would show: with vectors of width one the inner product is the number of buyers.
    popular_items, _ = exact.search(np.ones((seen.shape[0], 1), np.float32), popularity, k=TOP, exclude=seen)
    ks = sections.ks if phase.relevant is not None else (TOP,)
    width = sections.towers.embedding_dim
    return Evaluation(users, items, known, seen, popular_items, phase.relevant, ks, sections.seed, width)


def validation_vectors(
    sections: TrainSections, encoder: Encoder, phase: Phase, fitted: Fitted, evaluation: Evaluation
) -> tuple[ValidationVectors, float, TrainSections]:
    """What is served is chosen by these vectors, as those of the final fit know the days already.

    How the co-purchase factors are made and what they count is chosen first, unless it is given.

    Args:
        sections: What the step reads of the configuration.
        encoder: Of the fit.
        phase: The fit, which ends before the days held out for validation.
        fitted: Its towers, with factors as configured.
        evaluation: What it is evaluated with.

    Returns:
        The vectors, their recall at the largest k, and the sections with what was chosen.
    """
    towers = sections.towers
    if not towers.factor_dim or (towers.factor_weight and towers.factor_powers):
        users, items = embed(fitted.towers.user, evaluation.users), embed(fitted.towers.item, evaluation.items)
        recall = fitted.reports[fitted.best - 1].metrics[f"recall_at_{max(sections.ks)}"]
        as_new = items_as_new(sections, encoder, fitted, evaluation.items, evaluation.known)
        return ValidationVectors(phase.moment, users, items, as_new), recall, sections
    assert phase.relevant is not None
    first, k = int(fitted.learned.item.output.shape[-1]), max(sections.ks)
    best: tuple[float, ValidationVectors, TowerConfig] | None = None
    for powers in [towers.factor_powers] if towers.factor_powers else POWERS:
        tried = towers.model_copy(update={"factor_powers": powers, "factor_weight": None})
        if towers.factor_weight is None and powers == (towers.factor_powers or UNCHOSEN_POWERS):
            joined = fitted.towers
        else:
            join = with_factors_of(encoder, evaluation.known, towers=tried, seed=sections.seed, suggest=fitted.suggest)
            joined = join(fitted.learned)
        users, items = embed(joined.user, evaluation.users), embed(joined.item, evaluation.items)
        found = recall_by_weight(
            users, items, learned_width=first, seen=evaluation.seen, relevant=phase.relevant, k=k,
            weights=[towers.factor_weight] if towers.factor_weight else WEIGHTS,
        )  # fmt: skip
        weight = max(found, key=lambda weight: found[weight])
        listed = ", ".join(f"{weight:g}: {recall:.4f}" for weight, recall in found.items())
        shown = ", ".join(f"{power:g}" for power in powers)
        console.console().print(f"  factors of powers {shown}: recall@{k} by weight: {listed}")
        if best is None or found[weight] > best[0]:
            users = with_weight(users, weight, learned_width=first, width=items.shape[1])
            vectors = ValidationVectors(phase.moment, users, items)
            best = found[weight], vectors, tried.model_copy(update={"factor_weight": weight})
    assert best is not None
    sections = replace(sections, towers=best[2])
    as_new = items_as_new(sections, encoder, fitted, evaluation.items, evaluation.known)
    return replace(best[1], as_new=as_new), best[0], sections
