"""The softmax of earlier positions, by a slow twin."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from training.losses.fused_softmax import fused_softmax
from training.losses.objective import Outputs
from training.losses.positions import positions_term
from training.losses.softmax import Kernel, LogQ, two_tower_softmax

outputs_of = runpy.run_path(str(Path(__file__).parents[1] / "outputs_for_tests.py"))["outputs_of"]
NUM_ROWS, NUM_COLUMNS, NUM_QUEUED, NUM_PRIVATE, NUM_TARGETS, WIDTH, TEMPERATURE = 3, 5, 2, 1, 4, 6, 0.3
# The last row has no target at all, and one of the first row is described by nothing.
TARGET = np.array([[0, -1, 3], [2, 1, 0], [-1, -1, -1]], np.int32)


def drawn(*, with_queue: bool = True, **batch: Any) -> Outputs:
    rng = np.random.default_rng(1)

    def unit(*shape: int) -> npt.NDArray[np.float32]:
        vectors = rng.normal(size=(*shape, WIDTH))
        return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), np.float32)

    num = NUM_COLUMNS + (NUM_QUEUED if with_queue else 0)
    given = {
        "mask": rng.random((NUM_ROWS, num + NUM_PRIVATE)) < 0.3,
        "log_q": rng.normal(-2, 1, num).astype(np.float32),
        "private_log_q": np.zeros((NUM_ROWS, NUM_PRIVATE), np.float32),
        "weight": np.array([0.5, 2, 1], np.float32),
        "target": TARGET,
        "target_log_q": rng.normal(-2, 1, NUM_TARGETS).astype(np.float32),
        "item_gradient": 1 + rng.random(num).astype(np.float32),
    }
    users, items = unit(NUM_ROWS), unit(NUM_COLUMNS + NUM_ROWS * NUM_PRIVATE)
    made: Outputs = outputs_of(
        {"vector": users, "positions": unit(NUM_ROWS, 3)},
        {"vector": items},
        batch=given | batch,
        temperature=TEMPERATURE,
        queue=unit(NUM_QUEUED) if with_queue else None,
    )
    return Outputs(made.users, made.items, made.batch, made.temperature, made.queue, tf.Variable(unit(NUM_TARGETS)))


def slow(outputs: Outputs, log_q: LogQ) -> float:
    assert outputs.targets is not None
    positions, targets, columns = (
        values.numpy().astype(np.float64) for values in (outputs.users["positions"], outputs.targets, outputs.common)
    )
    batch = {name: values.numpy() for name, values in outputs.batch.items()}
    total = weights = 0.0
    for row, place in zip(*np.nonzero(batch["target"] >= 0), strict=True):
        user, which = positions[row, place], batch["target"][row, place]
        own = user @ targets[which] / TEMPERATURE
        negatives = [column for column in range(len(columns)) if not batch["mask"][row, column] and column != row]
        scores = columns[negatives] @ user / TEMPERATURE
        corrected = scores if log_q == "none" else scores - batch["log_q"][negatives]
        if log_q == "yi2019":
            own -= batch["target_log_q"][which]
        negative = np.log(np.exp(corrected).sum())
        if log_q == "khrylchenko2025":
            share = 1 / (1 + np.exp(own - negative))
            loss = share * (negative - own + np.log(len(negatives)))
        else:
            loss = np.log(np.exp(own) + np.exp(negative)) - own
        total += batch["weight"][row] * loss
        weights += batch["weight"][row]
    return total / weights


@pytest.mark.parametrize("log_q", ["none", "yi2019", "khrylchenko2025"])
@pytest.mark.parametrize("kernel", [two_tower_softmax, fused_softmax])
@pytest.mark.parametrize("with_queue", [False, True])
def test_the_term_equals_its_slow_twin(log_q: LogQ, kernel: Kernel, with_queue: bool) -> None:
    outputs = drawn(with_queue=with_queue)
    assert float(positions_term(log_q, kernel=kernel)(outputs)) == pytest.approx(slow(outputs, log_q), rel=1e-5)


@pytest.mark.parametrize("log_q", ["none", "yi2019"])
def test_both_kernels_have_the_same_gradients_which_reach_all_but_the_rows_own_vectors(log_q: LogQ) -> None:
    found = []
    for kernel in (two_tower_softmax, fused_softmax):
        outputs = drawn()
        parts = [outputs.users["positions"], outputs.items["vector"], outputs.targets, outputs.users["vector"]]
        with tf.GradientTape() as tape:
            total = positions_term(log_q, kernel=kernel)(outputs)
        gradients = tape.gradient(total, parts)
        assert gradients.pop() is None
        found.append([tf.convert_to_tensor(gradient).numpy() for gradient in gradients])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    of_positions, of_items, of_targets = found[0]
    np.testing.assert_array_equal(np.abs(of_positions).max(axis=2) > 0, TARGET >= 0)
    assert (np.abs(of_targets).max(axis=1) > 0).all()
    assert (of_items[NUM_COLUMNS:] == 0).all()  # private negatives are those of the row's own moment


def test_without_targets_or_training_there_is_nothing_to_learn() -> None:
    nothing = drawn(target=np.full((NUM_ROWS, 3), -1, np.int32))
    with tf.GradientTape() as tape:
        total = positions_term("yi2019", kernel=fused_softmax)(nothing)
    assert float(total) == 0
    assert not np.any(tf.convert_to_tensor(tape.gradient(total, nothing.users["positions"])))
    outputs = drawn()
    evaluated = {**outputs.users, "positions": tf.zeros([NUM_ROWS, 0, WIDTH])}
    found = Outputs(evaluated, outputs.items, outputs.batch, TEMPERATURE, outputs.queue, outputs.targets)
    assert float(positions_term("yi2019")(found)) == 0


def test_an_unknown_correction_is_refused() -> None:
    with pytest.raises(ValueError, match="log_q is 'yi2020', expected one of: none, yi2019, khrylchenko2025"):
        positions_term("yi2020")  # type: ignore[arg-type]
