"""Training speed of each history encoder, and what its exported tower takes for one user.

    python -m benchmarks.history_encoders

Examples are made up: users with a full history, items with popularity like 1 / rank, one fact and two numbers. All
encoders train on the same batches, the making of the batches included. Every position that is fitted counts as an
example. Encoders are compared by examples per second of CPU time, all cores together, which other work on the machine
hardly changes. Exported towers run on one core, as they are served.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
import tf_keras

from features.encoding import HISTORY, HISTORY_AGE, Inputs
from features.kinds import InputSpec
from serving.retrieval.exported_tower import ExportedTower
from towers.history import HISTORY_ENCODERS
from towers.lookups import Fact
from towers.two_tower import TwoTower, build_two_tower
from training.data.batches import Batch, BatchPlan, Span, batches
from training.export import export_tower
from training.losses.fused_softmax import fused_softmax
from training.losses.positions import positions_term
from training.losses.softmax import softmax_term
from training.negatives.even_draws import uniform
from training.negatives.known_positives import KnownPositives
from training.optimizers import make_optimizer
from training.trainer import RetrievalModel

NUM_USERS, NUM_ITEMS, NUM_FACTS = 20_000, 20_000, 50
MEANS = (None, 60.0, 7.0)
ARMS: Mapping[str, tuple[str, dict[str, Any], bool]] = {
    "`mean`": ("mean", {"decay_days": MEANS, "power": 0.5}, False),
    "`attention`": ("attention", {}, False),
    "`gru`": ("gru", {}, False),
    "`self_attention`, 1 block": ("self_attention", {"blocks": 1}, False),
    "`self_attention`, 2 blocks": ("self_attention", {}, False),
    "`self_attention`, 2 blocks, 2 heads, dropout .2, means": (
        "self_attention", {"heads": 2, "dropout": 0.2, "means": MEANS}, False
    ),
    "`mean`, all positions": ("mean", {"decay_days": MEANS, "power": 0.5}, True),
    "`attention`, all positions": ("attention", {}, True),
    "`gru`, all positions": ("gru", {}, True),
    "`self_attention`, 2 blocks, all positions": ("self_attention", {}, True),
}  # fmt: skip
"""Name -> encoder, its arguments, and whether all positions are fitted."""


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=50, help="items of a history while training")
    parser.add_argument("--served-length", type=int, default=100, help="items of the history of the user who is served")
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--width", type=int, default=64, help="numbers of a vector")
    parser.add_argument("--steps", type=int, default=12, help="timed steps of each encoder, after two that are not")
    args = parser.parse_args()
    span, known = made_up(args.length, (args.steps + 2) * args.batch_size)
    print(
        "| encoder | examples/CPU s | of `mean` | CPU ms/step | ms/step | export, s | kB | one user, ms | differs by |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    first = 0.0
    for name, (encoder, settings, all_positions) in ARMS.items():
        num = args.length - 1 if all_positions else 0
        rate, cpu, ms = training_speed(
            span, known, encoder, settings, num, batch_size=args.batch_size, width=args.width
        )
        first = first or rate
        shown = f"| {name} | {rate:,.0f} | {rate / first:.2f} | {cpu:,.0f} | {ms:,.0f} |"
        if not all_positions:
            seconds, size, served, largest = served_speed(args.served_length, encoder, settings, width=args.width)
            shown += f" {seconds:.1f} | {size:,.0f} | {served:.3f} | {largest:.0e} |"
        print(shown if not all_positions else shown + " | | | |", flush=True)


def made_up(length: int, num: int) -> tuple[Span, KnownPositives]:
    """Examples of a span, with histories of a length, and what users had met."""
    rng = np.random.default_rng(1)
    popularity = 1.0 / np.arange(1, NUM_ITEMS + 1)
    met = rng.choice(NUM_ITEMS, size=(num, length + 1), p=popularity / popularity.sum()).astype(np.int32) + 1
    user_ids = rng.integers(1, NUM_USERS + 1, num).astype(np.int32)
    users = histories(met[:, 1:], rng) | {"user_id": user_ids}
    span = Span(
        users=users,
        items=items(met[:, 0], rng),
        uniform=items(rng.permutation(NUM_ITEMS).astype(np.int32) + 1, rng),
        user_row=np.arange(num),
        item_row=np.arange(num),
        weight=np.ones(num, np.float32),
    )
    pairs = np.repeat(user_ids, length + 1).astype(np.int64), met.ravel().astype(np.int64)
    return span, KnownPositives.of(*pairs, num_user_rows=NUM_USERS + 1)


def histories(rows: np.ndarray, rng: np.random.Generator) -> Inputs:
    """Inputs of users but for their ids: rows [B, T] int32, with ages that rise."""
    ages = np.sort(rng.exponential(100, rows.shape), axis=1).astype(np.float32)
    return {HISTORY: rows, HISTORY_AGE: ages, "user_numeric": rng.normal(size=(len(rows), 5)).astype(np.float32)}


def items(rows: np.ndarray, rng: np.random.Generator) -> Inputs:
    """Inputs of items."""
    numbers = rng.normal(size=(len(rows), 2)).astype(np.float32)
    return {"item_id": rows, "aisle": rows % NUM_FACTS, "item_numeric": numbers}


def towers_of(length: int, encoder: str, settings: dict[str, Any], *, width: int, num_positions: int = 0) -> TwoTower:
    """Both towers with an encoder."""
    tf_keras.utils.set_random_seed(1)
    user_specs = [
        InputSpec("user_id", "id", None, NUM_USERS + 1),
        InputSpec("user_numeric", "numeric", 5),
        InputSpec(HISTORY, "history", length, NUM_ITEMS + 1),
        InputSpec(HISTORY_AGE, "history_number", length),
    ]
    item_specs = [
        InputSpec("item_id", "id", None, NUM_ITEMS + 1),
        InputSpec("aisle", "categorical", None, NUM_FACTS),
        InputSpec("item_numeric", "numeric", 2),
    ]
    facts = [Fact("aisle", (np.arange(NUM_ITEMS + 1) % NUM_FACTS).astype(np.int32))]
    history = HISTORY_ENCODERS[encoder](**settings)
    return build_two_tower(
        user_specs, item_specs, embedding_dim=width, history=history, item_facts=facts, num_positions=num_positions
    )


def training_speed(
    span: Span, known: KnownPositives, encoder: str, settings: dict[str, Any], num_positions: int, *, batch_size: int,
    width: int,
) -> tuple[float, float, float]:  # fmt: skip
    """Examples a CPU second, positions among them, and CPU and wall milliseconds of a step, after two warm-up steps."""
    length = span.users[HISTORY].shape[1]
    towers = towers_of(length, encoder, settings, width=width, num_positions=num_positions)
    terms = [(1.0, softmax_term("yi2019", kernel=fused_softmax))]
    if num_positions:
        terms.append((1.0, positions_term("yi2019", kernel=fused_softmax)))
    model = RetrievalModel(towers, terms=terms, temperature=0.1, learn_temperature=False)
    model.compile(optimizer=make_optimizer("adam", 0.003))
    step = tf.function(model.train_step, reduce_retracing=True)
    plan = BatchPlan(
        batch_size=batch_size, in_batch=True, queue_size=0, sources=[uniform(num=512)], known=known,
        num_item_rows=NUM_ITEMS + 1, catalogue_size=NUM_ITEMS, correct=True, frequency=None, history_dropout=0.3,
        num_positions=num_positions,
    )  # fmt: skip
    seconds, cpu_seconds, examples, last, last_cpu = [], [], 0, 0.0, 0.0
    for number, batch in enumerate(batches(span, plan, seed=[1])):
        float(step(batch)["loss"])
        now, now_cpu = time.perf_counter(), time.process_time()
        if number >= 2:
            seconds.append(now - last)
            cpu_seconds.append(now_cpu - last_cpu)
            examples += num_examples(batch)
        last, last_cpu = now, now_cpu
    return examples / sum(cpu_seconds), 1000 * float(np.median(cpu_seconds)), 1000 * float(np.median(seconds))


def num_examples(batch: Batch) -> int:
    """Rows, and positions that have a target."""
    return len(batch["weight"]) + (int((batch["target"] >= 0).sum()) if "target" in batch else 0)


def served_speed(
    length: int, encoder: str, settings: dict[str, Any], *, width: int
) -> tuple[float, float, float, float]:
    """Seconds of the export, kilobytes without the tables of ids, milliseconds of one user, and the difference.

    The difference is the largest between the exported tower and the Keras model, over histories of all lengths.
    """
    towers, rng = towers_of(length, encoder, settings, width=width), np.random.default_rng(2)
    towers.user.set_weights([rng.normal(0, 0.3, weight.shape) for weight in towers.user.get_weights()])
    tables = sum(weight.size * 4 for weight in towers.user.get_weights() if len(weight) > max(NUM_USERS, NUM_ITEMS))
    rows = rng.integers(1, NUM_ITEMS, (length + 1, length)).astype(np.int32)
    rows[np.arange(length) >= np.arange(length + 1)[:, None]] = 0
    users = histories(rows, rng) | {"user_id": np.arange(1, length + 2, dtype=np.int32)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "user_tower.tflite"
        begin = time.perf_counter()
        export_tower(towers.user, path)
        exported_in = time.perf_counter() - begin
        size, tower = (path.stat().st_size - tables) / 1000, ExportedTower(path)
    largest = float(np.abs(tower.embed(users) - towers.user(users).numpy()).max())
    one = {name: values[-1:] for name, values in users.items()}
    taken = []
    for _ in range(500):
        begin = time.perf_counter()
        tower.embed(one)
        taken.append(time.perf_counter() - begin)
    return exported_in, size, 1000 * float(np.median(taken)), largest


if __name__ == "__main__":
    main()
