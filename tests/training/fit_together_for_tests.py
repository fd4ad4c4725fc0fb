"""Fits small towers with others: `python fit_together_for_tests.py FOLDER OUT` under TF_CONFIG writes OUT/<fit>.npz."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from features.encoding import Encoder
from towers.counterpart import generated_fields
from towers.dual_augmented import AugmentedTable, augmented, refresh_fallbacks
from towers.two_tower import TwoTower, build_two_tower
from training.distribution import PROCESSES, Distribute, workers
from training.epochs import EarlyStopping
from training.losses.counterpart import counterpart_term
from training.losses.dual_augmented import category_alignment_term, mimic_term
from training.losses.fused_softmax import fused_softmax
from training.losses.objective import DecayingWeight
from training.losses.softmax import softmax_term
from training.trainer import RetrievalModel

SMALL = runpy.run_path(str(Path(__file__).with_name("fit_for_tests.py")))
EPOCHS = 3


def fused(encoder: Encoder) -> RetrievalModel:
    """The softmax as it is fitted, with a temperature that is learned."""
    towers = build_two_tower(encoder.input_specs("user"), encoder.input_specs("item"), embedding_dim=8)
    terms = [(1.0, softmax_term("yi2019", kernel=fused_softmax))]
    return RetrievalModel(towers, terms=terms, temperature=0.2, learn_temperature=True)


def composed(encoder: Encoder, *, dropout: float = 0.0) -> RetrievalModel:
    """Methods that read more of the towers than their vectors: DAT with category alignment, generated fields."""

    def table(num_rows: int) -> AugmentedTable:
        trained, groups = np.arange(num_rows) > 0, np.zeros(num_rows, np.int32)
        return AugmentedTable(num_rows=num_rows, width=8, trained=trained, groups=groups, dropout=dropout)

    towers = build_two_tower(
        encoder.input_specs("user"),
        encoder.input_specs("item"),
        embedding_dim=8,
        hidden_units=(6,),
        user_adds=[augmented(table(len(encoder.user_ids)), id_name="user_id"), generated_fields(["aisle"])],
        item_adds=[augmented(table(len(encoder.item_ids)), id_name="item_id"), generated_fields(["age"])],
    )
    guesses = counterpart_term(user_fields=["age"], item_fields=["aisle"])
    terms = [(1.0, softmax_term("khrylchenko2025")), (0.5, mimic_term("user")), (0.5, mimic_term("item"))]
    terms += [(1.0, category_alignment_term("aisle")), (DecayingWeight(0.1, decay=0.5), guesses)]
    return RetrievalModel(towers, terms=terms, temperature=0.2, learn_temperature=False)


FITS: dict[str, tuple[Callable[[Encoder], RetrievalModel], dict[str, int]]] = {
    "fused": (fused, {}),
    "composed, with private negatives": (composed, {"num_random": 3, "num_uniform": 7}),
}


def fit_together(name: str, folder: Path, out: Path, *, distribute: Distribute) -> dict[str, Any]:
    """A fit of `FITS` on `folder`: its loss in each step, as `losses`, and its weights."""
    make, negatives = FITS[name]
    losses: list[float] = []
    model, _ = SMALL["fit_small"](
        folder,
        out,
        seed=1,
        epochs=EPOCHS,
        make=make,
        negatives=negatives,
        processes=PROCESSES[distribute](),
        on_step=losses.append,
        after_steps=lambda: None,
    )
    refresh_fallbacks(model.fitted)
    # Keras numbers layers of one name by how many the process has made before.
    weights = {
        re.sub(r"(augmented_table)_\d+", r"\1", name).replace("/", "|"): values
        for name, values in SMALL["weights_of"](model).items()
    }
    return {"losses": np.array(losses), "temperature": np.array(model.temperature), **weights}


def stop_together(folder: Path, out: Path) -> dict[str, Any]:
    """A fit that ends early by what the chief alone measures: its recalls, its weights then and after each epoch."""
    recalls, after_epoch = iter([0.1, 0.3, 0.2, 0.25, 0.9]), list[Any]()

    def evaluate(towers: TwoTower) -> dict[str, float]:
        after_epoch.append(np.concatenate([values.ravel() for values in towers.user.get_weights()]))
        return {"recall": next(recalls)} if workers().cluster.is_chief else {}

    model, reports = SMALL["fit_small"](
        folder, out, seed=1, epochs=6, make=lambda encoder: composed(encoder, dropout=0.3), processes=workers(),
        of_chief=workers().of_chief, stopping=EarlyStopping("recall", patience=2), evaluate=evaluate,
    )  # fmt: skip
    kept = np.concatenate([values.ravel() for values in model.user_tower.get_weights()])
    return {
        "recalls": np.array([report.metrics["recall"] for report in reports]),
        "after_epoch": np.array(after_epoch),
        "kept": kept,
    }


if __name__ == "__main__":
    folder_of_examples, folder_of_results = map(Path, sys.argv[1:])
    for number, fit_name in enumerate(FITS):
        found = fit_together(fit_name, folder_of_examples, folder_of_results / str(number), distribute="multi_worker")
        np.savez(folder_of_results / f"{fit_name}.npz", **found)
    np.savez(folder_of_results / "stopped.npz", **stop_together(folder_of_examples, folder_of_results / "stopped"))
    workers().wait()
