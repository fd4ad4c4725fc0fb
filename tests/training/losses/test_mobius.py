"""Pairs that the three-class loss samples, and what they count."""

from __future__ import annotations

import math
import runpy
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
import tf_keras

from towers.mobius import BAD, CLICK, UNCLICK
from towers.two_tower import TwoTower
from training.losses.mobius import ThreeClassLoss, log_click_probability, quantile, sample_pairs
from training.losses.objective import Outputs

outputs_of = runpy.run_path(str(Path(__file__).parents[1] / "outputs_for_tests.py"))["outputs_of"]
B, C, W = 6, 10, 2


def teacher() -> TwoTower:
    """Scores pairs by the groups in the batch: relevance 1 where they are the same, else 0."""

    def tower(name: str) -> tf_keras.Model:
        group = tf_keras.Input((), dtype="int32", name="group")
        table = tf_keras.layers.Embedding(2, 2, embeddings_initializer="identity")
        return tf_keras.Model({"group": group}, table(group), name=name)

    return TwoTower(tower("user_tower"), tower("item_tower"))


USER_GROUPS, ITEM_GROUPS = np.arange(B) % 2, np.arange(C) % 2


def unit(rng: np.random.Generator, *shape: int) -> npt.NDArray[np.float64]:
    vectors = rng.normal(size=shape)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))


def outputs(mask: npt.NDArray[np.bool_] | None = None) -> Outputs:
    rng = np.random.default_rng(3)
    users = {"vector": np.zeros((B, 1)), "parts": unit(rng, B, 3, W)}
    items = {"vector": np.zeros((C, 1)), "parts": unit(rng, C, 3, W)}
    batch = {
        "user/group": USER_GROUPS.astype(np.int32),
        "item/group": ITEM_GROUPS.astype(np.int32),
        "mask": np.zeros((B, C), bool) if mask is None else mask,
        "weight": np.arange(1, B + 1).astype(np.float32),
    }
    found: Outputs = outputs_of(users, items, batch=batch, temperature=0.5)
    return found


def make(**changes: object) -> ThreeClassLoss:
    settings = {"irrelevant_quantile": 0.7, "bad_per_click": 2, "unclick_per_click": 2, "seed": 5}
    return ThreeClassLoss(teacher(), **(settings | changes))  # type: ignore[arg-type]


def pairs(sampled: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> list[tuple[int, int]]:
    rows, columns, real = (values.numpy() for values in sampled)
    return list(zip(rows[real].tolist(), columns[real].tolist(), strict=True))


def test_each_class_has_the_pairs_that_it_should() -> None:
    mask = np.random.default_rng(1).random((B, C)) < 0.3
    mask[np.arange(B), np.arange(B)] = False
    term, found = make(), outputs(mask)
    for _ in range(20):
        classes = {label: pairs(sampled) for label, sampled in term.sample(found).items()}
        assert classes[CLICK] == [(row, row) for row in range(B)]
        for label, same_group in ((UNCLICK, True), (BAD, False)):
            chosen = classes[label]
            assert len(set(chosen)) == len(chosen) == 2 * B
            for row, column in chosen:
                assert not mask[row, column]
                assert row != column
                assert (USER_GROUPS[row] == ITEM_GROUPS[column]) == same_group


def test_masked_pairs_are_never_bad_even_if_no_others_are_left() -> None:
    mask = USER_GROUPS[:, None] != ITEM_GROUPS[None, :]
    mask[3, 4] = False
    classes = make().sample(outputs(mask))
    assert pairs(classes[BAD]) == [(3, 4)]


def test_every_step_draws_other_pairs_and_the_same_seed_the_same_ones() -> None:
    found, first, again, other = outputs(), make(), make(), make(seed=6)
    draws = [pairs(first.sample(found)[BAD]) for _ in range(3)]
    assert len({tuple(draw) for draw in draws}) == 3
    assert [pairs(again.sample(found)[BAD]) for _ in range(3)] == draws
    assert pairs(other.sample(found)[BAD]) != draws[0]


def test_bad_cases_come_in_proportion_to_their_chance_of_a_click() -> None:
    shares = np.array([[0.1, 0.2], [0.3, 0.4]])
    drawn = np.zeros(4)
    for step in range(800):
        rows, columns, real = sample_pairs(
            tf.constant(np.log(shares), tf.float32), tf.ones((2, 2), tf.bool), num_pairs=1, seed=tf.constant([1, step])
        )
        assert real.numpy().all()
        drawn[2 * int(rows[0]) + int(columns[0])] += 1
    np.testing.assert_allclose(drawn / 800, shares.ravel(), atol=0.06)


def test_more_pairs_than_there_are_leave_the_rest_unreal() -> None:
    eligible = tf.constant([[True, False], [False, True]])
    sampled = sample_pairs(tf.zeros((2, 2)), eligible, num_pairs=9, seed=tf.constant([1, 2]))
    assert sorted(pairs(sampled)) == [(0, 0), (1, 1)]
    assert sampled[0].shape == (4,)


def test_the_chance_of_a_click_by_hand() -> None:
    users = np.float32([[[1.0], [1.0], [1.0]]])
    items = np.float32([[[math.log(2)], [math.log(3)], [math.log(5)]]])
    found = log_click_probability(tf.constant(users), tf.constant(items), temperature=0.5)
    # exp(log(n) / .5) = n^2.
    assert float(found[0, 0]) == pytest.approx(math.log(4 / (4 + 9 + 25)), rel=1e-5)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_quantile_is_that_of_numpy_to_a_bin(share: float) -> None:
    rng = np.random.default_rng(2)
    values, counted = rng.normal(size=(60, 70)).astype(np.float32), rng.random((60, 70)) < 0.6
    found = float(quantile(tf.constant(values), tf.constant(counted), share=share))
    kept = values[counted]
    assert found == pytest.approx(np.quantile(kept, share), abs=2 * float(np.ptp(values)) / 2048)


def test_nothing_counted_or_all_alike_give_a_finite_threshold() -> None:
    alike = tf.ones((2, 2))
    assert float(quantile(alike, tf.zeros((2, 2), tf.bool), share=0.5)) == pytest.approx(1, abs=1e-5)
    assert float(quantile(alike, tf.ones((2, 2), tf.bool), share=0.5)) == pytest.approx(1, abs=1e-5)


def test_the_loss_equals_its_slow_twin() -> None:
    found = outputs()
    users, items = found.users["parts"].numpy(), found.items["parts"].numpy()
    total = weight_of_all = 0.0
    for label, sampled in make().sample(found).items():
        for row, column in pairs(sampled):
            products = [math.exp(users[row, part] @ items[column, part] / 0.5) for part in range(3)]
            total -= (row + 1) * math.log(products[label] / sum(products))
            weight_of_all += row + 1
    assert float(make()(found)) == pytest.approx(total / weight_of_all, rel=1e-5)


def test_the_student_gets_a_gradient_and_the_teacher_none() -> None:
    found, relevance = outputs(), teacher()
    term = ThreeClassLoss(relevance, irrelevant_quantile=0.5, bad_per_click=1, unclick_per_click=1, seed=1)
    taught = [*relevance.user.trainable_variables, *relevance.item.trainable_variables]
    with tf.GradientTape() as tape:
        loss = term(found)
    *of_student, one, two = tape.gradient(loss, [found.users["parts"], found.items["parts"], *taught])
    assert all(np.abs(tf.convert_to_tensor(gradient)).max() > 0 for gradient in of_student)
    assert (one, two) == (None, None)
    assert not term.trainable_variables
    assert len(term.variables) == 1
