"""`twinspire benchmark lightgcn`: the daily job on a published split of pairs, evaluated by the rules of its table.

The files have no times. Whether a user's pairs are taken in the order of the line or in a random one is chosen by
validation, on the last part of each line, on a random part, or on both, by what is known of the test.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from artefacts import console, locks
from artefacts.config import pick
from artefacts.files import json_text, json_value, replace_text
from artefacts.paths import EPOCHS, RunPaths
from artefacts.steps import Step, digest_of
from evaluation.published_split import Score, score
from features.sources.lightgcn import (
    CUT,
    VALIDATION_DAYS,
    Order,
    Part,
    PublishedSplit,
    read_published_split,
)
from serving.retrieval.vectors import read_vectors
from training.config import TrainSections
from twinspire import job, load_config, trained_arm
from twinspire.config import Config

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
K = 20
Test = Literal["later", "random", "unknown"]
ORDERS: tuple[Order, ...] = ("line", "random")
HELD_OUT: dict[Test, tuple[Part, ...]] = {"later": ("last",), "random": ("random",), "unknown": ("last", "random")}
ORDER_NAMES: dict[Order, str] = {"line": "pairs in the order of the lines", "random": "pairs in a random order"}
DECAY_DAYS: dict[Order, list[float | None]] = {"line": [None, 60, 7, 1], "random": [None]}
"""`towers.history_decay_days` by order. A day is one pair of a user's: the fastest mean is nearly its last item."""
TRAINING: dict[Order, dict[str, Any]] = {
    "line": {"epochs": 100},
    "random": {
        "epochs": 20,
        "learning_rate_decay": 0.8,
        "user_balance": 0.5,
        "log_q": "khrylchenko2025",
        "negatives": {"num_uniform": 2048},
    },
}
"""What is fitted differently by order, as chosen on parts of Gowalla's train (docs/published_splits.md)."""
OWN_PART: dict[Order, Part] = {"line": "last", "random": "random"}
"""The part of each user that the final fits of an order hold out first, to choose epochs and factors."""


@dataclass(frozen=True)
class Choice:
    """Which order of a user's pairs holds.

    Attributes:
        order: The chosen one.
        recalls: Validation recall by order and part held out.
        agree: Whether both parts prefer it, where both were asked.
    """

    order: Order
    recalls: dict[tuple[Order, Part], float]
    agree: bool


def benchmark(
    data: Path,
    runs: Path,
    run: trained_arm.Invocation,
    *,
    test: Test,
    dim: int,
    changes: Sequence[str],
    out: Path | None,
) -> dict[str, Any]:
    """Fits what is not fitted yet, and evaluates on test once, with and without the order of the lines.

    Args:
        data: Folder with `train.txt` and `test.txt`.
        runs: Folder of the runs; a benchmark that was killed continues with what is there.
        run: Moment and version.
        test: What is known of the pairs of test: later than those of train, a random part of each user, or nothing.
        dim: Width of the vectors.
        changes: `KEY=VALUE` of the configuration.
        out: Folder that gets vectors and lists; None writes none.

    Returns:
        What the JSON file holds.

    Raises:
        ConfigError: A change is not valid.
        SourceError: The folder's files are not of that format; names the line.
    """
    split = read_published_split(data)
    _print_split(split)
    jobs = _Jobs(data, dim, changes, runs, run)
    choice = _choose(jobs, test)
    found: dict[str, Any] = {}
    for order in ORDERS:
        config, paths = jobs.do(order, OWN_PART[order], before="index")
        vectors = _vectors(paths, split)
        of_test = score(*vectors, fitted=split.train, test=split.test, k=K)
        found[order] = {
            f"recall@{K}": of_test.recall,
            f"ndcg@{K}": of_test.ndcg,
            "configuration": config.model_dump(mode="json"),
            "training_seconds": json_value((paths.steps / "train.json").read_text(encoding="utf-8"))["seconds"],
        }
        chosen = ", chosen" if order == choice.order else ""
        console.console().print(
            f"test, {ORDER_NAMES[order]}{chosen}: recall@{K} {of_test.recall:.4f}, NDCG@{K} {of_test.ndcg:.4f} of "
            f"{len(of_test.users):,} users"
        )
        if out is not None:
            write(out / order, split, vectors, of_test)
    return {
        f"recall@{K}": found[choice.order][f"recall@{K}"],
        f"ndcg@{K}": found[choice.order][f"ndcg@{K}"],
        "order": choice.order,
        "known_of_test": test,
        "parts_agree": choice.agree,
        "validation": [
            {"order": order, "held_out": part, f"recall@{K}": recall}
            for (order, part), recall in choice.recalls.items()
        ],
        "by_order": found,
        "vector_width": dim,
        "num_users": len(split.user_ids),
        "num_items": len(split.item_ids),
        "num_train_pairs": len(split.train),
        "num_test_pairs": len(split.test),
        "num_test_users": len(np.unique(split.test.users)),
        "num_test_items_unseen": split.num_unseen_items,
        "num_test_users_unseen": split.num_unseen_users,
        "num_repeats_dropped": split.num_repeats,
        "num_test_pairs_in_train": split.num_overlap,
    }


def _print_split(split: PublishedSplit) -> None:
    console.console().print(
        f"{len(split.user_ids):,} users, {len(split.item_ids):,} items, {len(split.train):,} train and "
        f"{len(split.test):,} test pairs"
    )
    notes = {
        "items of test that train lacks": split.num_unseen_items,
        "users of test that train lacks": split.num_unseen_users,
        "repeats of an item in its line; dropped": split.num_repeats,
        "test pairs that train has too; left out of the lists, they count as missed": split.num_overlap,
    }
    for meaning, count in notes.items():
        if count:
            console.console().print(f"  {count:,} {meaning}")


def configuration(data: Path, order: Order, held_out: Part, *, dim: int, changes: Sequence[str] = ()) -> Config:
    """What the daily job is given for a split.

    Args:
        data: Folder of the split.
        order: Order of a user's pairs.
        held_out: Which part of them validates.
        dim: Width of the vectors.
        changes: `KEY=VALUE` on top of it.

    Raises:
        ConfigError: A change is not valid.
    """
    name = re.sub("[^a-z0-9]+", "_", data.resolve().name.lower())
    plain = {
        "name": f"{name}_{order}_{held_out}",
        "as_of": CUT,
        "dataset": {"event_name": "interaction"},
        "ingest": {"source": {"kind": "lightgcn", "path": str(data), "order": order, "held_out": held_out}},
        "towers": {"embedding_dim": dim, "factor_dim": 0, "history_decay_days": DECAY_DAYS[order]},
        "training": {
            "patience": 2,
            "example_fade_days": None,
            "validation_days": VALIDATION_DAYS,
            **TRAINING[order],
        },
        "evaluation": {"ks": [K]},
    }
    return load_config.resolve(Config, plain, changes, source="the configuration of a published split")


def _choose(jobs: _Jobs, test: Test) -> Choice:
    """Compares both orders on the parts that may look like the test."""
    recalls: dict[tuple[Order, Part], float] = {}
    for part in HELD_OUT[test]:
        for order in ORDERS:
            recalls[order, part] = jobs.validation_recall(order, part)
            found = f"recall@{K} {recalls[order, part]:.4f} on the {part} part of train"
            console.console().print(f"{ORDER_NAMES[order]}: {found}")
    better = {part: max(ORDERS, key=lambda order: recalls[order, part]) for part in HELD_OUT[test]}
    agree = len(set(better.values())) == 1
    if not agree:
        console.console().print(
            "[yellow]warning[/] the order of the lines helps on one part of train and not on the other, so it is left "
            "out; if the test pairs are known to be later than those of train, or a random part, give --test"
        )
    return Choice(next(iter(better.values())) if agree else "random", recalls, agree)


@dataclass(frozen=True)
class _Jobs:
    """The daily jobs of a split, one for each order and part held out.

    Attributes:
        data, dim, changes: As of `configuration`.
        runs: Folder of the runs.
        run: Moment and version.
    """

    data: Path
    dim: int
    changes: Sequence[str]
    runs: Path
    run: trained_arm.Invocation

    def do(self, order: Order, part: Part, *, before: str) -> tuple[Config, RunPaths]:
        """Does the steps of a job that come before one, as far as they are not done yet."""
        config = configuration(self.data, order, part, dim=self.dim, changes=self.changes)
        paths = RunPaths(self.runs / config.name, config.as_of)
        with locks.only_run(paths.root, command="twinspire benchmark lightgcn", now=self.run.now):
            job.save_config(config, paths)
            steps = self.run.steps(config, paths)
            names = [*steps]
            for name in names[: names.index(before)]:
                job.do(steps[name], force=False)
        return config, paths

    def validation_recall(self, order: Order, part: Part) -> float:
        """Recall on the part of train that a job holds out; the final fit of an order has it anyway."""
        if OWN_PART[order] == part:
            _, paths = self.do(order, part, before="embed")
            epochs = json_value((paths.model / EPOCHS).read_text(encoding="utf-8"))["validation"]
            return float(max(epoch["metrics"][f"recall_at_{K}"] for epoch in epochs))
        config, paths = self.do(order, part, before="train")
        sections, found = pick(TrainSections, config), paths.model.with_name(f"{config.as_of}.validation.json")

        def fit() -> str:
            from training.trial import fit_trial

            recall, _ = fit_trial(sections, paths, unfinished=paths.unfinished_fit, on_epoch=_say_epoch)
            replace_text(found, json_text({"recall": recall}))
            return f"recall@{K} {recall:.4f}"

        digest = digest_of({"train": self.run.steps(config, paths)["train"].digest})
        job.do(Step("validate", digest, (found,), fit, paths.steps), force=False)
        return float(json_value(found.read_text(encoding="utf-8"))["recall"])


def _say_epoch(epoch: int, recall: float) -> None:
    console.console().print(f"  validation epoch {epoch}: recall@{K} {recall:.4f}")


def _vectors(paths: RunPaths, split: PublishedSplit) -> tuple[Floats, Floats]:
    """Vectors by row of the split: those of the tables are in the order of the ids as text."""
    found = []
    for tower, ids in (("user", split.user_ids), ("item", split.item_ids)):
        table = pq.read_table(paths.tables / f"{tower}s.parquet", columns=[f"{tower}_id"])
        row_of = {name: row for row, name in enumerate(table.column(0).to_pylist())}
        found.append(read_vectors(paths.vectors / f"{tower}s")[[row_of[str(one)] for one in ids]])
    return found[0], found[1]


def write(folder: Path, split: PublishedSplit, vectors: tuple[Floats, Floats], found: Score) -> None:
    """Writes `users.parquet` and `items.parquet` (id, vector [D]) and `lists.parquet` (user_id, item_ids, best first).

    Args:
        folder: Made if it is not there.
        split: Whose ids.
        vectors: Of its users and items, [U, D] and [N, D] float32.
        found: The lists of the users of test.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, ids, of_ids in (("user", split.user_ids, vectors[0]), ("item", split.item_ids, vectors[1])):
        flat = pa.FixedSizeListArray.from_arrays(pa.array(of_ids.ravel()), of_ids.shape[1])
        pq.write_table(pa.table({f"{name}_id": ids, "vector": flat}), folder / f"{name}s.parquet")
    lists = pa.array([split.item_ids[rows[rows >= 0]] for rows in found.lists])
    table = pa.table({"user_id": split.user_ids[found.users], "item_ids": lists})
    pq.write_table(table, folder / "lists.parquet")
