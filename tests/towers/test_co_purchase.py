"""Co-purchase factors next to the learned vectors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from features.encoding import HISTORY, Inputs
from features.kinds import InputSpec
from towers.co_purchase import ItemFactors, WithHistoryFactors, WithOwnFactors, fixed_table, with_factors
from towers.two_tower import TwoTower, build_two_tower

Rows = Callable[..., Inputs]
NUM_FACTORS, WIDTH, WEIGHT = 3, 6, 0.8


@pytest.fixture
def factors() -> ItemFactors:
    """Rows of length at most one; item 8 has none, row 0 is the unknown item."""
    rows = np.random.default_rng(6).normal(size=(9, NUM_FACTORS))
    rows *= np.linspace(1, 0.1, 9)[:, None] / np.linalg.norm(rows, axis=1, keepdims=True)
    rows[[0, 8]] = 0
    return ItemFactors(rows.astype(np.float32), np.array([0, 1, 0.5, 0.3, 0.9, 0.2, 0.7, 0.4, 0], np.float32))


@pytest.fixture
def learned(
    user_specs: list[InputSpec], item_specs: list[InputSpec], randomise: Callable[[tf_keras.Model], None]
) -> TwoTower:
    towers = build_two_tower(user_specs, item_specs, embedding_dim=WIDTH)
    randomise(towers.item)
    randomise(towers.user)
    return towers


@pytest.fixture
def users(user_specs: list[InputSpec], rows_of: Rows) -> Inputs:
    inputs = rows_of(user_specs, 4)
    inputs[HISTORY][:] = [[1, 2, 0, 0], [5, 0, 0, 0], [3, 4, 6, 7], [2, 8, 8, 0]]
    return inputs


@pytest.fixture
def items(item_specs: list[InputSpec], rows_of: Rows) -> Inputs:
    inputs = rows_of(item_specs, 9)
    inputs["item_id"][:] = np.arange(9)
    return inputs


def test_scores_add_the_two_cosines_by_hand(
    learned: TwoTower, factors: ItemFactors, users: Inputs, items: Inputs
) -> None:
    joined = with_factors(learned, factors, weight=WEIGHT)
    scores = joined.user(users).numpy() @ joined.item(items).numpy().T
    cosines = learned.user(users).numpy() @ learned.item(items).numpy().T
    for row, history in enumerate(users[HISTORY]):
        taste = sum(factors.own[item] * factors.weights[item] for item in history)
        direction = taste / np.linalg.norm(taste)
        expected = (cosines[row] + WEIGHT * factors.own @ direction) / (2**0.5 * (1 + WEIGHT**2) ** 0.5)
        np.testing.assert_allclose(scores[row], expected, atol=1e-6)


def test_vectors_have_length_one_and_room_for_the_missing_length(
    learned: TwoTower, factors: ItemFactors, users: Inputs, items: Inputs
) -> None:
    joined = with_factors(learned, factors, weight=WEIGHT)
    user_vectors, item_vectors = joined.user(users).numpy(), joined.item(items).numpy()
    assert user_vectors.shape == (4, WIDTH + NUM_FACTORS + 1)
    assert item_vectors.shape == (9, WIDTH + NUM_FACTORS + 1)
    for vectors in (user_vectors, item_vectors):
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert (user_vectors[:, -1] == 0).all()
    missing = np.sqrt(1 - np.square(factors.own).sum(axis=1))
    np.testing.assert_allclose(item_vectors[:, -1] * 2**0.5, missing, atol=1e-3)


@pytest.mark.parametrize("history", [[0, 0, 0, 0], [8, 8, 0, 0]], ids=["empty", "items without factors"])
def test_a_history_without_factors_leaves_the_learned_order(
    history: list[int], learned: TwoTower, factors: ItemFactors, users: Inputs, items: Inputs
) -> None:
    users[HISTORY][:] = history
    joined = with_factors(learned, factors, weight=WEIGHT)
    found = joined.user(users).numpy() @ joined.item(items).numpy().T
    cosines = learned.user(users).numpy() @ learned.item(items).numpy().T
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, cosines / 2**0.5, atol=1e-6)


def test_an_item_without_factors_is_scored_by_the_learned_part_alone(
    learned: TwoTower, factors: ItemFactors, users: Inputs, items: Inputs
) -> None:
    vector = with_factors(learned, factors, weight=WEIGHT).item(items).numpy()[8]
    np.testing.assert_allclose(vector[:WIDTH] * 2**0.5, learned.item(items).numpy()[8], atol=1e-6)
    np.testing.assert_allclose(vector[WIDTH:] * 2**0.5, [0, 0, 0, 1], atol=1e-6)


def test_the_inputs_stay_those_of_the_learned_towers(learned: TwoTower, factors: ItemFactors) -> None:
    joined = with_factors(learned, factors, weight=WEIGHT)
    for before, after in ((learned.user, joined.user), (learned.item, joined.item)):
        assert {tensor.name for tensor in after.inputs} == {tensor.name for tensor in before.inputs}


def test_a_step_moves_the_learned_part_and_never_the_factors(
    learned: TwoTower, factors: ItemFactors, users: Inputs, items: Inputs
) -> None:
    joined = with_factors(learned, factors, weight=WEIGHT)
    assert joined.item.get_layer("factors").embeddings is joined.user.get_layer("factors").embeddings
    for before, after in ((learned.user, joined.user), (learned.item, joined.item)):
        trained = {id(variable) for variable in after.trainable_variables}
        assert trained == {id(variable) for variable in before.trainable_variables}
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(joined.user(users)[0] * joined.item(items)[1])
    variables = joined.item.trainable_variables
    ids = learned.item.get_layer("item_id_table")
    ids_before = ids.get_weights()[0]
    tf_keras.optimizers.legacy.SGD(1.0).apply_gradients(zip(tape.gradient(total, variables), variables, strict=True))
    assert np.flatnonzero((ids.get_weights()[0] != ids_before).any(axis=1)).tolist() == [1, 2]
    np.testing.assert_array_equal(joined.user.get_layer("factors").get_weights()[0], factors.own)
    np.testing.assert_array_equal(joined.user.get_layer("factor_weights").get_weights()[0][:, 0], factors.weights)


def test_factors_are_kept_as_given(factors: ItemFactors) -> None:
    table = fixed_table(factors.own, name="factors")
    np.testing.assert_array_equal(table(np.arange(9)), factors.own)
    assert not table.trainable


def test_layers_are_made_again_from_their_configuration() -> None:
    layer = WithHistoryFactors.from_config(WithHistoryFactors(weight=0.3, name="join").get_config())
    assert (layer.weight, layer.name) == (0.3, "join")
    assert WithOwnFactors.from_config(WithOwnFactors(name="own").get_config()).name == "own"


def test_factors_a_little_longer_than_one_have_nothing_missing() -> None:
    long = tf.constant([[1.0000001, 0.0]])
    vector = WithOwnFactors()((tf.constant([[2.0]]), long)).numpy()
    np.testing.assert_allclose(vector, [[0.5**0.5, 0.5**0.5, 0, 0]], atol=1e-6)
