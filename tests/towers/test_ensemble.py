"""Several pairs of towers become one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from features.encoding import Inputs
from features.kinds import InputSpec
from towers.co_purchase import ItemFactors, with_factors
from towers.ensemble import WeightedConcatenation, concatenate, part_widths
from towers.two_tower import TwoTower, build_two_tower, inputs_of

Rows = Callable[..., Inputs]
WIDTHS, WEIGHTS = (6, 3), (1.0, 0.4)


@pytest.fixture
def members(
    user_specs: list[InputSpec], item_specs: list[InputSpec], randomise: Callable[[tf_keras.Model], None]
) -> list[TwoTower]:
    """Two pairs made by the same code, so that their layers have the same names."""
    towers = [build_two_tower(user_specs, item_specs, embedding_dim=width) for width in WIDTHS]
    for member in towers:
        randomise(member.item)
        randomise(member.user)
    return towers


@pytest.fixture
def users(user_specs: list[InputSpec], rows_of: Rows) -> Inputs:
    return rows_of(user_specs, 5)


@pytest.fixture
def items(item_specs: list[InputSpec], rows_of: Rows) -> Inputs:
    return rows_of(item_specs, 7, seed=2)


def cosines(towers: TwoTower, users: Inputs, items: Inputs) -> np.ndarray:
    vectors = [model(inputs).numpy() for model, inputs in ((towers.user, users), (towers.item, items))]
    left, right = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in vectors)
    return np.asarray(left @ right.T)


def test_the_score_is_the_weighted_sum_of_the_cosines_up_to_one_factor(
    members: list[TwoTower], users: Inputs, items: Inputs
) -> None:
    joined = concatenate(list(zip(members, WEIGHTS, strict=True)))
    scores = joined.user(users).numpy() @ joined.item(items).numpy().T
    total = sum(weight * cosines(member, users, items) for member, weight in zip(members, WEIGHTS, strict=True))
    # Item side: length sqrt(2); user side: sqrt(1 + .16).
    np.testing.assert_allclose(scores, total / (2 * 1.16) ** 0.5, atol=1e-6)


def test_vectors_have_length_one_and_their_first_part_is_the_first_pair(
    members: list[TwoTower], users: Inputs, items: Inputs
) -> None:
    joined = concatenate(list(zip(members, WEIGHTS, strict=True)))
    assert part_widths(members) == WIDTHS
    user_vectors, item_vectors = joined.user(users).numpy(), joined.item(items).numpy()
    assert (user_vectors.shape, item_vectors.shape) == ((5, 9), (7, 9))
    for vectors in (user_vectors, item_vectors):
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    first = cosines(members[0], users, items)
    np.testing.assert_allclose(user_vectors[:, :6] @ item_vectors[:, :6].T * 2.32**0.5, first, atol=1e-6)


def test_one_pair_alone_stays_what_it_is(members: list[TwoTower], users: Inputs, items: Inputs) -> None:
    joined = concatenate([(members[0], 3.0)])
    np.testing.assert_allclose(joined.user(users).numpy(), members[0].user(users).numpy(), atol=1e-6)
    np.testing.assert_allclose(joined.item(items).numpy(), members[0].item(items).numpy(), atol=1e-6)


def test_inputs_are_shared_and_those_of_one_pair_alone_are_added(
    user_specs: list[InputSpec], item_specs: list[InputSpec], members: list[TwoTower], users: Inputs
) -> None:
    without_age = [spec for spec in user_specs if spec.name != "age"]
    narrow = build_two_tower(without_age, item_specs, embedding_dim=2)
    joined = concatenate([(narrow, 1.0), (members[0], 1.0)])
    assert inputs_of(joined.user).keys() == {spec.name for spec in user_specs}
    older = {**users, "age": (users["age"] + 1) % 4}
    change = np.abs(joined.user(older).numpy() - joined.user(users).numpy()).max(axis=0)
    assert (change[:2] == 0).all()
    assert (change[2:] > 0).any()


def test_a_zero_vector_of_one_pair_leaves_the_scores_of_the_others(members: list[TwoTower], users: Inputs) -> None:
    layer = WeightedConcatenation(weights=(1.0, 2.0))
    joined = layer([tf.constant([[0.0, 3.0], [0.0, 0.0]]), tf.constant([[2.0], [-1.0]])]).numpy()
    np.testing.assert_allclose(joined * 5**0.5, [[0, 1, 2], [0, 0, -2]], atol=1e-6)


def test_every_pair_gets_a_gradient(members: list[TwoTower], users: Inputs, items: Inputs) -> None:
    joined = concatenate(list(zip(members, WEIGHTS, strict=True)))
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(joined.user(users)[:4] * joined.item(items)[:4])
    for member in members:
        table = member.user.get_layer("age_table").embeddings
        assert any(variable is table for variable in joined.user.trainable_variables)
    gradients = tape.gradient(total, [member.user.get_layer("user_bias").bias for member in members])
    assert all(np.abs(gradient.numpy()).max() > 0 for gradient in gradients)


def test_a_saved_ensemble_answers_the_same(members: list[TwoTower], users: Inputs, tmp_path: Path) -> None:
    joined = concatenate(list(zip(members, WEIGHTS, strict=True)))
    tf.saved_model.save(joined.user, str(tmp_path / "saved"))
    answer = tf.saved_model.load(str(tmp_path / "saved"))({name: tf.constant(rows) for name, rows in users.items()})
    np.testing.assert_allclose(answer, joined.user(users), atol=1e-6)


def test_the_layer_is_made_again_from_its_configuration() -> None:
    layer = WeightedConcatenation.from_config(WeightedConcatenation(weights=(1.0, 0.3), name="join").get_config())
    assert (layer.weights_of_parts, layer.name) == ((1.0, 0.3), "join")


def test_arrays_that_cannot_be_concatenated_are_refused(
    members: list[TwoTower], user_specs: list[InputSpec], item_specs: list[InputSpec]
) -> None:
    with pytest.raises(ValueError, match="no towers to concatenate"):
        concatenate([])
    with pytest.raises(ValueError, match=r"weight of pair 1 is 0\.0, expected above 0"):
        concatenate([(members[0], 1.0), (members[1], 0.0)])
    longer = [InputSpec("title_text", "text", 5, 11) if spec.name == "title_text" else spec for spec in item_specs]
    other = build_two_tower(user_specs, longer, embedding_dim=2)
    with pytest.raises(ValueError, match=r"item input 'title_text' is int32 of shape \(None, 5\) in one pair"):
        concatenate([(members[0], 1.0), (other, 1.0)])


def test_factors_are_appended_to_concatenated_pairs(members: list[TwoTower], users: Inputs, items: Inputs) -> None:
    joined = concatenate(list(zip(members, WEIGHTS, strict=True)))
    factors = np.full((int(max(items["item_id"].max(), users["user_history"].max())) + 1, 2), 0.5, np.float32)
    served = with_factors(joined, ItemFactors(factors, np.ones(len(factors), np.float32)), weight=0.5)
    for model, rows in ((served.user, users), (served.item, items)):
        vectors = model(rows).numpy()
        assert vectors.shape == (len(rows[model.inputs[0].name]), sum(WIDTHS) + 3)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
