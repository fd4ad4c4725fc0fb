"""Guesses of the other side's fields at the bottom of a tower."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from features.encoding import Inputs
from features.kinds import InputSpec
from towers.counterpart import SoftEmbedding, generated_fields, observed_fields
from towers.two_tower import TwoTower, build_two_tower

Rows = Callable[..., Inputs]


@pytest.fixture
def towers(
    user_specs: list[InputSpec], item_specs: list[InputSpec], randomise: Callable[[tf_keras.Model], None]
) -> TwoTower:
    """The item tower guesses the age, the user tower the aisle."""
    built = build_two_tower(
        user_specs,
        item_specs,
        embedding_dim=5,
        user_adds=[generated_fields(["aisle"])],
        item_adds=[generated_fields(["age"])],
    )
    randomise(built.item_parts)
    randomise(built.user_parts)
    return built


def test_values_are_mixed_by_their_shares_and_their_table_learns_nothing() -> None:
    table = tf_keras.layers.Embedding(3, 2)
    table.build(None)
    table.set_weights([np.array([[0, 1], [2, 4], [8, 6]], np.float32)])
    shares = tf.Variable([[0.5, 0.0, 0.5], [0.0, 0.0, 0.0]])
    layer = SoftEmbedding(table)
    with tf.GradientTape() as tape:
        mixed = layer(shares)
    assert mixed.numpy().tolist() == [[8 / 2, (1 + 6) / 2], [0, 0]]
    by_shares, by_table = tape.gradient(mixed, [shares, table.embeddings])
    assert by_table is None
    assert by_shares.numpy()[0].tolist() == [0 + 1, 2 + 4, 8 + 6]


def test_guesses_are_parts_with_a_logit_for_each_value(
    towers: TwoTower, user_specs: list[InputSpec], item_specs: list[InputSpec], rows_of: Rows
) -> None:
    users, items = towers.user_parts(rows_of(user_specs, 3)), towers.item_parts(rows_of(item_specs, 6))
    assert set(users) == {"vector", "generated/aisle"}
    assert users["generated/aisle"].shape == (3, 3)
    assert items["generated/age"].shape == (6, 4)


def test_a_guess_moves_its_own_tower(towers: TwoTower, item_specs: list[InputSpec], rows_of: Rows) -> None:
    inputs = rows_of(item_specs, 4)
    before = towers.item(inputs).numpy()
    guess = towers.item.get_layer("age_guess")
    kernel, bias = guess.get_weights()
    guess.set_weights([kernel, bias + np.array([0, 50, 0, 0], np.float32)])
    assert np.abs(towers.item(inputs).numpy() - before).max() > 1e-3


def test_the_other_towers_table_is_read_and_gets_no_gradient_here(
    towers: TwoTower, item_specs: list[InputSpec], rows_of: Rows
) -> None:
    inputs = rows_of(item_specs, 4)
    table = towers.user.get_layer("age_table").embeddings
    before = towers.item(inputs).numpy()
    with tf.GradientTape() as tape:
        parts = towers.item_parts(inputs)
        total = tf.reduce_sum(parts["vector"][:, 0]) + tf.reduce_sum(parts["generated/age"])
    by_table, by_guess = tape.gradient(total, [table, towers.item.get_layer("age_guess").kernel])
    assert by_table is None
    assert np.abs(by_guess).max() > 0
    table.assign(-table)
    assert np.abs(towers.item(inputs).numpy() - before).max() > 1e-3


def test_the_true_field_is_no_input_of_the_tower_that_guesses_it(towers: TwoTower) -> None:
    assert "age" not in {tensor.name for tensor in towers.item_parts.inputs}
    assert "aisle" not in {tensor.name for tensor in towers.user_parts.inputs}


def test_observed_shares_replace_a_guess(
    user_specs: list[InputSpec], item_specs: list[InputSpec], rows_of: Rows, randomise: Callable[[tf_keras.Model], None]
) -> None:
    specs = [*item_specs, InputSpec("item_age_shares", "shares", 4)]
    built = build_two_tower(user_specs, specs, embedding_dim=5, item_adds=[observed_fields({"age": "item_age_shares"})])
    randomise(built.item)
    inputs = rows_of(specs, 2)
    inputs["item_age_shares"] = np.array([[0, 1, 0, 0], [0, 0, 0.5, 0.5]], np.float32)
    table = built.user.get_layer("age_table").get_weights()[0]
    mixed = tf_keras.Model(built.item.inputs, built.item.get_layer("age_soft").output)(inputs).numpy()
    np.testing.assert_allclose(mixed, [table[1], (table[2] + table[3]) / 2], rtol=1e-6)
    before = built.item(inputs).numpy()
    inputs["item_age_shares"] = inputs["item_age_shares"][::-1].copy()
    assert np.abs(built.item(inputs).numpy() - before).max() > 1e-3


def test_a_field_that_the_other_tower_does_not_look_up_is_refused(
    user_specs: list[InputSpec], item_specs: list[InputSpec]
) -> None:
    message = "counterpart field 'shoe' is not looked up by the other tower; .* one of: user_id, age, hobby_text"
    with pytest.raises(ValueError, match=message):
        build_two_tower(user_specs, item_specs, embedding_dim=5, item_adds=[generated_fields(["shoe"])])


@pytest.mark.parametrize(("length", "found"), [(None, "no such input"), (3, "3 values")])
def test_shares_that_are_not_there_or_of_another_length_are_refused(
    length: int | None, found: str, user_specs: list[InputSpec], item_specs: list[InputSpec]
) -> None:
    specs = [*item_specs, *([] if length is None else [InputSpec("shares", "shares", length)])]
    message = f"input 'shares': found {found}, expected the shares of the 4 values of 'age'"
    with pytest.raises(ValueError, match=message):
        build_two_tower(user_specs, specs, embedding_dim=5, item_adds=[observed_fields({"age": "shares"})])
