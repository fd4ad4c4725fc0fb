"""What every term of the loss promises, run against each of them.

Five rows, three shared candidates more, two private negatives a row and a queue of four; parts of both towers drawn at
random.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from features.kinds import InputSpec
from towers.two_tower import TwoTower, build_two_tower
from training.losses.counterpart import counterpart_term
from training.losses.distillation import DISTILLATION, distillation_term
from training.losses.dual_augmented import category_alignment_term, mimic_term
from training.losses.hard_in_batch import hard_in_batch_term
from training.losses.interests import interests_term
from training.losses.mobius import ThreeClassLoss
from training.losses.objective import Outputs, Term
from training.losses.positions import positions_term
from training.losses.softmax import softmax_term

NUM_ROWS, NUM_SHARED, NUM_PRIVATE, NUM_QUEUED, WIDTH = 5, 8, 2, 4, 6
NUM_POSITIONS, NUM_TARGETS = 2, 3


def teacher() -> TwoTower:
    users, items = [InputSpec("user_id", "id", None, 9)], [InputSpec("item_id", "id", None, 9)]
    return build_two_tower(users, items, embedding_dim=4)


def with_interests(term: Term) -> Term:
    """A term whose users have two vectors: their own, and the same backwards."""

    def with_two(outputs: Outputs) -> tf.Tensor:
        vectors = outputs.users["vector"]
        return term(replace(outputs, users={**outputs.users, "interests": tf.stack([vectors, vectors[:, ::-1]], 1)}))

    return with_two


TERMS: dict[str, Callable[[], Term]] = {
    "softmax": lambda: softmax_term("yi2019"),
    "softmax without correction": lambda: softmax_term("none"),
    "softmax of 2025": lambda: softmax_term("khrylchenko2025"),
    "hard in batch": lambda: hard_in_batch_term(num_hard=2, margin=0.1),
    "mimic of users": lambda: mimic_term("user"),
    "mimic of items": lambda: mimic_term("item"),
    "category alignment": lambda: category_alignment_term("aisle"),
    "counterpart": lambda: counterpart_term(user_fields=["age"], item_fields=["aisle"]),
    "softmax of interests": lambda: with_interests(softmax_term("yi2019")),
    "interests": lambda: with_interests(interests_term(temperature=0.3)),
    "positions": lambda: positions_term("yi2019"),
    "positions of 2025": lambda: positions_term("khrylchenko2025"),
    "three classes": lambda: ThreeClassLoss(
        teacher(), irrelevant_quantile=0.5, bad_per_click=1, unclick_per_click=2, seed=1
    ),
}
TERMS |= {f"distillation, {loss}": lambda loss=loss: distillation_term(loss=loss) for loss in DISTILLATION}
every_term = pytest.mark.parametrize("make", TERMS.values(), ids=TERMS.keys())
# Of the items' spread, not of examples.
weighted = pytest.mark.parametrize(
    "make", [make for name, make in TERMS.items() if name != "category alignment"],
    ids=[name for name in TERMS if name != "category alignment"],
)  # fmt: skip
# Samples other pairs when they come in another order.
ordered = pytest.mark.parametrize(
    "make", [make for name, make in TERMS.items() if name != "three classes"],
    ids=[name for name in TERMS if name != "three classes"],
)  # fmt: skip


def unit(rng: np.random.Generator, *shape: int) -> npt.NDArray[np.float32]:
    vectors = rng.normal(size=shape)
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def draw(num_rows: int = NUM_ROWS, num_shared: int = NUM_SHARED) -> Outputs:
    """Outputs for the user and item parts of every term."""
    rng = np.random.default_rng(num_rows)
    num_items = num_shared + num_rows * NUM_PRIVATE
    mask = rng.random((num_rows, num_shared + NUM_QUEUED + NUM_PRIVATE)) < 0.2
    mask[np.arange(num_rows), np.arange(num_rows)] = False
    batch = {
        "user/user_id": rng.integers(1, 9, num_rows).astype(np.int32),
        "user/age": rng.integers(0, 4, num_rows).astype(np.int32),
        "item/item_id": rng.integers(1, 9, num_items).astype(np.int32),
        "item/aisle": rng.integers(0, 3, num_items).astype(np.int32),
        "mask": mask,
        "log_q": rng.normal(-1, 1, num_shared + NUM_QUEUED).astype(np.float32),
        "private_log_q": rng.normal(-1, 1, (num_rows, NUM_PRIVATE)).astype(np.float32),
        "weight": rng.uniform(0.5, 2, num_rows).astype(np.float32),
        "target": rng.integers(-1, NUM_TARGETS, (num_rows, NUM_POSITIONS)).astype(np.int32),
        "target_log_q": rng.normal(-1, 1, NUM_TARGETS).astype(np.float32),
    }
    batch["target"][0, 0] = 0
    # Of about half of the columns the teacher knows no more than that they are below the others.
    batch["teacher"] = np.maximum(rng.normal(size=mask.shape), 0).astype(np.float32)
    users = {
        "vector": unit(rng, num_rows, WIDTH),
        "positions": unit(rng, num_rows, NUM_POSITIONS, WIDTH),
        "augmented": rng.normal(size=(num_rows, WIDTH)).astype(np.float32),
        "generated/aisle": rng.normal(size=(num_rows, 3)).astype(np.float32),
        "parts": unit(rng, num_rows, 3, WIDTH // 3),
    }
    items = {
        "vector": unit(rng, num_items, WIDTH),
        "augmented": rng.normal(size=(num_items, WIDTH)).astype(np.float32),
        "generated/age": rng.normal(size=(num_items, 4)).astype(np.float32),
        "parts": unit(rng, num_items, 3, WIDTH // 3),
    }
    return Outputs(
        users={name: tf.constant(values) for name, values in users.items()},
        items={name: tf.constant(values) for name, values in items.items()},
        batch={name: tf.constant(values) for name, values in batch.items()},
        temperature=tf.constant(0.2),
        queue=tf.constant(unit(rng, NUM_QUEUED, WIDTH)),
        targets=tf.constant(unit(rng, NUM_TARGETS, WIDTH)),
    )


def gradients(term: Term, outputs: Outputs) -> list[npt.NDArray[np.float32]]:
    """Of all parts of both towers; zeros where there is none."""
    parts = [*outputs.users.values(), *outputs.items.values()]
    with tf.GradientTape() as tape:
        tape.watch(parts)
        total = term(outputs)
    found = tape.gradient(total, parts, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return [tf.convert_to_tensor(gradient).numpy() for gradient in found]


@every_term
def test_a_term_is_one_finite_number_and_moves_something(make: Callable[[], Term]) -> None:
    value = make()(draw())
    assert (value.shape, value.dtype) == ((), tf.float32)
    assert np.isfinite(value)
    found = gradients(make(), draw())
    assert all(np.isfinite(gradient).all() for gradient in found)
    assert max(np.abs(gradient).max() for gradient in found) > 0


@every_term
def test_a_term_is_the_same_inside_a_graph_of_open_shapes(make: Callable[[], Term]) -> None:
    outputs = draw()
    # One instance each: a term that samples counts its steps.
    plain, traced = make(), make()

    @tf.function
    def call(users: dict[str, tf.Tensor], items: dict[str, tf.Tensor], batch: dict[str, tf.Tensor]) -> tf.Tensor:
        return traced(replace(outputs, users=users, items=items, batch=batch))

    def spec(value: tf.Tensor) -> tf.TensorSpec:
        return tf.TensorSpec([None, *([None] if value.dtype == tf.bool else value.shape[1:])], value.dtype)

    specs = tf.nest.map_structure(spec, (outputs.users, outputs.items, outputs.batch))
    found = call.get_concrete_function(*specs)(outputs.users, outputs.items, outputs.batch)
    np.testing.assert_allclose(found, plain(outputs), rtol=1e-5)


@every_term
@pytest.mark.parametrize("num_shared", [1, 3])
def test_a_batch_of_one_row_is_finite(make: Callable[[], Term], num_shared: int) -> None:
    outputs = draw(num_rows=1, num_shared=num_shared)
    assert np.isfinite(make()(outputs))
    assert all(np.isfinite(gradient).all() for gradient in gradients(make(), outputs))


@every_term
def test_a_batch_whose_columns_are_all_masked_is_finite(make: Callable[[], Term]) -> None:
    outputs = draw()
    mask = np.ones(outputs.mask.shape, bool)
    mask[np.arange(NUM_ROWS), np.arange(NUM_ROWS)] = False
    outputs = replace(outputs, batch={**outputs.batch, "mask": tf.constant(mask)})
    assert np.isfinite(make()(outputs))
    assert all(np.isfinite(gradient).all() for gradient in gradients(make(), outputs))


@weighted
def test_without_any_weight_there_is_nothing_to_learn(make: Callable[[], Term]) -> None:
    outputs = draw()
    outputs = replace(outputs, batch={**outputs.batch, "weight": tf.zeros(NUM_ROWS)})
    assert make()(outputs).numpy() == 0
    assert all((gradient == 0).all() for gradient in gradients(make(), outputs))


@weighted
def test_only_the_proportions_of_the_weights_matter(make: Callable[[], Term]) -> None:
    outputs = draw()
    scaled = replace(outputs, batch={**outputs.batch, "weight": 7 * outputs.weight})
    np.testing.assert_allclose(make()(scaled), make()(outputs), rtol=1e-5)


@ordered
def test_the_order_of_the_rows_does_not_matter(make: Callable[[], Term]) -> None:
    outputs = draw()
    rows = np.random.default_rng(2).permutation(NUM_ROWS)
    private = NUM_SHARED + (NUM_PRIVATE * rows[:, None] + np.arange(NUM_PRIVATE)).ravel()
    items = np.concatenate([rows, np.arange(NUM_ROWS, NUM_SHARED), private])
    columns = np.concatenate([rows, np.arange(NUM_ROWS, outputs.mask.shape[1])])
    moved = {
        name: tf.gather(values, items if name.startswith("item/") else rows)
        for name, values in outputs.batch.items()
        if name != "target_log_q"
    } | {"target_log_q": outputs.batch["target_log_q"]}
    moved |= {name: tf.gather(moved[name], columns, axis=1) for name in ("mask", "teacher")}
    moved["log_q"] = tf.gather(outputs.batch["log_q"], columns[: NUM_SHARED + NUM_QUEUED])
    found = make()(
        replace(
            outputs,
            users={name: tf.gather(part, rows) for name, part in outputs.users.items()},
            items={name: tf.gather(part, items) for name, part in outputs.items.items()},
            batch=moved,
        )
    )
    np.testing.assert_allclose(found, make()(outputs), rtol=1e-5)
