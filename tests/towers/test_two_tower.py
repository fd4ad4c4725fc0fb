"""The two towers and what they read."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from features.encoding import HISTORY, HISTORY_AGE, Inputs
from features.kinds import InputSpec
from towers.history import gru, weighted_means
from towers.inputs import HistoryEncoder
from towers.lookups import Fact
from towers.two_tower import Head, TwoTower, UnitLength, build_two_tower, with_last_place

Rows = Callable[..., Inputs]
Randomise = Callable[[tf_keras.Model], None]


@pytest.fixture
def towers(user_specs: list[InputSpec], item_specs: list[InputSpec], randomise: Randomise) -> TwoTower:
    """All kinds of inputs, a hidden layer, decaying histories; no weight is zero."""
    built = build_two_tower(
        user_specs, item_specs, embedding_dim=6, hidden_units=(5,), history=weighted_means(decay_days=[20.0], power=0.5)
    )
    randomise(built.item)
    randomise(built.user)
    return built


@pytest.mark.parametrize("embedding_dim", [1, 3, 32])
@pytest.mark.parametrize("hidden_units", [(), (7,), (9, 4)])
def test_vectors_have_the_configured_width_and_length_one(
    embedding_dim: int,
    hidden_units: tuple[int, ...],
    user_specs: list[InputSpec],
    item_specs: list[InputSpec],
    rows_of: Rows,
) -> None:
    built = build_two_tower(user_specs, item_specs, embedding_dim=embedding_dim, hidden_units=hidden_units)
    for model, specs in ((built.user, user_specs), (built.item, item_specs)):
        vectors = model(rows_of(specs, 11)).numpy()
        assert (vectors.shape, vectors.dtype) == ((11, embedding_dim), np.float32)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        widths = [model.get_layer(f"{model.name[:4]}_hidden_{n}").units for n in range(len(hidden_units))]
        assert widths == list(hidden_units)


def test_a_row_alone_has_the_same_vector_as_in_a_batch(
    towers: TwoTower, user_specs: list[InputSpec], rows_of: Rows
) -> None:
    inputs = rows_of(user_specs, 5)
    together = towers.user(inputs).numpy()
    for row in range(5):
        alone = towers.user({name: values[row : row + 1] for name, values in inputs.items()}).numpy()
        np.testing.assert_allclose(alone[0], together[row], atol=1e-6)


def test_the_item_tower_and_the_history_share_one_table_and_both_move_it(
    towers: TwoTower, user_specs: list[InputSpec], item_specs: list[InputSpec], rows_of: Rows
) -> None:
    table = towers.item.get_layer("item_id_table").embeddings
    assert towers.user.get_layer("user_history_sum").table.embeddings is table
    users, items = rows_of(user_specs, 1), rows_of(item_specs, 1)
    users[HISTORY][:] = [[2, 5, 0, 0]]
    items["item_id"][:] = 7
    with tf.GradientTape(persistent=True) as tape:
        user_sum, item_sum = tf.reduce_sum(towers.user(users)), tf.reduce_sum(towers.item(items))
    for total, moved in ((user_sum, [2, 5]), (item_sum, [7])):
        gradient = tf.convert_to_tensor(tape.gradient(total, table)).numpy()
        assert np.flatnonzero(np.abs(gradient).max(axis=1) > 0).tolist() == moved


@pytest.mark.parametrize("history_decay_days", [None, 20.0])
def test_padding_contributes_nothing(
    history_decay_days: float | None,
    user_specs: list[InputSpec],
    item_specs: list[InputSpec],
    rows_of: Rows,
    randomise: Randomise,
) -> None:
    history = weighted_means(decay_days=[history_decay_days], power=1.0)
    user = build_two_tower(user_specs, item_specs, embedding_dim=6, history=history).user
    randomise(user)
    inputs = rows_of(user_specs, 3)
    inputs[HISTORY][:] = [[4, 0, 0, 0], [4, 2, 0, 0], [0, 0, 0, 0]]
    expected = user(inputs).numpy()
    ages = inputs[HISTORY_AGE] + np.where(inputs[HISTORY] == 0, 77, 0).astype(np.float32)
    np.testing.assert_array_equal(user({**inputs, HISTORY_AGE: ages}), expected)
    order = [3, 0, 2, 1]
    moved = {**inputs, HISTORY: inputs[HISTORY][:, order], HISTORY_AGE: inputs[HISTORY_AGE][:, order]}
    np.testing.assert_allclose(user(moved), expected, atol=1e-6)
    table = user.get_layer("user_history_sum").table
    rows = table.get_weights()[0]
    rows[0] = 1000
    table.set_weights([rows])
    np.testing.assert_array_equal(user(inputs), expected)


def test_a_user_and_an_item_of_whom_nothing_is_known_have_finite_vectors(
    user_specs: list[InputSpec], item_specs: list[InputSpec], rows_of: Rows
) -> None:
    built = build_two_tower(
        user_specs, item_specs, embedding_dim=6, history=weighted_means(decay_days=[20.0], power=0.5)
    )
    for model, specs in ((built.user, user_specs), (built.item, item_specs)):
        nothing = {name: np.zeros_like(values) for name, values in rows_of(specs, 2).items()}
        with tf.GradientTape() as tape:
            vectors = model(nothing)
            total = tf.reduce_sum(vectors[:, 0])
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        for gradient in tape.gradient(total, model.trainable_variables):
            assert gradient is None or np.isfinite(tf.convert_to_tensor(gradient)).all()


def test_new_items_with_equal_features_have_equal_vectors_until_they_are_trained(
    user_specs: list[InputSpec], item_specs: list[InputSpec], rows_of: Rows
) -> None:
    built = build_two_tower(user_specs, item_specs, embedding_dim=6, hidden_units=(4,))
    assert not np.any(built.item.get_layer("item_id_table").get_weights()[0])
    assert not np.any(built.user.get_layer("user_id_table").get_weights()[0])
    inputs = {name: values.repeat(2, axis=0) for name, values in rows_of(item_specs, 1).items()}
    inputs["item_id"] = np.array([3, 8], np.int32)
    first, second = built.item(inputs).numpy()
    np.testing.assert_array_equal(first, second)
    inputs["item_numeric"][1] += 1
    first, second = built.item(inputs).numpy()
    assert np.abs(first - second).max() > 1e-4


@pytest.mark.parametrize("head", ["residual", "mlp"])
def test_earlier_positions_are_of_the_history_alone_and_go_through_the_same_head(
    head: Head, user_specs: list[InputSpec], item_specs: list[InputSpec], rows_of: Rows, randomise: Randomise
) -> None:
    built = build_two_tower(
        user_specs, item_specs, embedding_dim=6, hidden_units=(5,), head=head, history=gru(), num_positions=2
    )
    randomise(built.user)
    inputs = rows_of(user_specs, 3)
    inputs[HISTORY][:] = [[4, 2, 7, 1], [3, 5, 6, 8], [1, 2, 3, 4]]
    found = built.user_parts(inputs, training=True)["positions"].numpy()
    np.testing.assert_allclose(np.linalg.norm(found, axis=2), np.ones((3, 2)), atol=1e-5)
    today = {name: values + (name == "user_numeric") for name, values in rows_of(user_specs, 3, seed=2).items()}
    other = {**today, HISTORY: inputs[HISTORY], HISTORY_AGE: inputs[HISTORY_AGE]}
    np.testing.assert_array_equal(built.user_parts(other, training=True)["positions"], found)
    assert np.abs(built.user(other).numpy() - built.user(inputs).numpy()).max() > 1e-3
    # What is served computes none of them.
    assert built.user_parts(inputs)["positions"].shape == (3, 0, 6)
    np.testing.assert_allclose(built.user_parts(inputs, training=True)["vector"], built.user(inputs), atol=1e-5)
    for layer in ("user_hidden_0", "user_bias"):
        before = built.user_parts(inputs, training=True)["positions"].numpy()
        weights = built.user.get_layer(layer).get_weights()
        built.user.get_layer(layer).set_weights([weight + 0.5 for weight in weights])
        assert np.abs(built.user_parts(inputs, training=True)["positions"].numpy() - before).max() > 1e-3


def test_an_encoder_of_one_vector_a_row_has_no_earlier_positions(
    user_specs: list[InputSpec], item_specs: list[InputSpec]
) -> None:
    latest: HistoryEncoder = lambda history: history.vectors(1)[:, 0]  # noqa: E731
    with pytest.raises(
        ValueError, match=r"num_positions is 2, .* one vector a row .*set training\.positions: 0, or an"
    ):
        build_two_tower(user_specs, item_specs, embedding_dim=6, history=latest, num_positions=2)


@pytest.mark.parametrize("kind", ["categorical", "text", "numeric", "history"])
def test_towers_do_without_any_kind_of_feature(
    kind: str, user_specs: list[InputSpec], item_specs: list[InputSpec], rows_of: Rows
) -> None:
    left_out = {kind, "history_number"} if kind == "history" else {kind}
    users, items = ([spec for spec in specs if spec.kind not in left_out] for specs in (user_specs, item_specs))
    built = build_two_tower(users, items, embedding_dim=6)
    for model, specs in ((built.user, users), (built.item, items)):
        assert {tensor.name for tensor in model.inputs} == {spec.name for spec in specs}
        np.testing.assert_allclose(np.linalg.norm(model(rows_of(specs, 3)), axis=1), 1, atol=1e-5)


def test_ids_alone_make_towers(rows_of: Rows) -> None:
    users, items = [InputSpec("user_id", "id", None, 4)], [InputSpec("item_id", "id", None, 5)]
    built = build_two_tower(users, items, embedding_dim=3)
    np.testing.assert_allclose(np.linalg.norm(built.user(rows_of(users, 3)), axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(built.item(rows_of(items, 3)), axis=1), 1, atol=1e-5)


def test_every_input_matters(towers: TwoTower, user_specs: list[InputSpec], item_specs: list[InputSpec]) -> None:
    for model, specs in ((towers.user, user_specs), (towers.item, item_specs)):
        inputs = {spec.name: np.ones((1,) if spec.length is None else (1, spec.length), spec.dtype) for spec in specs}
        expected = model(inputs).numpy()
        for spec in specs:
            changed = inputs[spec.name].copy()
            changed[(0,) if spec.length is None else (0, 0)] += 1
            assert np.abs(model({**inputs, spec.name: changed}).numpy() - expected).max() > 1e-4, spec.name


def test_a_zero_vector_stays_zero() -> None:
    assert UnitLength()(tf.constant([[0.0, 0.0], [3.0, 4.0]])).numpy().tolist() == [[0, 0], pytest.approx([0.6, 0.8])]


@pytest.mark.parametrize("hidden_units", [(), (7,)])
@pytest.mark.parametrize(("activation", "function"), [("relu", lambda x: np.maximum(x, 0)), ("tanh", np.tanh)])
def test_an_mlp_ends_in_a_layer_with_the_activation_by_hand(
    activation: str,
    function: Callable[[np.ndarray], np.ndarray],
    hidden_units: tuple[int, ...],
    user_specs: list[InputSpec],
    item_specs: list[InputSpec],
    rows_of: Rows,
    randomise: Randomise,
) -> None:
    built = build_two_tower(
        user_specs, item_specs, embedding_dim=4, head="mlp", activation=activation, hidden_units=hidden_units
    )
    randomise(built.item)
    rows = rows_of(item_specs, 6)
    summed = tf_keras.Model(built.item.inputs, built.item.get_layer("item_bias").output)(rows).numpy()
    values = function(summed)
    for name in [*(f"item_hidden_{number}" for number in range(len(hidden_units))), "item_output"]:
        kernel, bias = built.item.get_layer(name).get_weights()
        values = function(values @ kernel + bias)
    expected = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6)
    np.testing.assert_allclose(built.item(rows), expected, atol=1e-5)


def test_towers_without_parts_give_their_vector_as_the_only_one(
    towers: TwoTower, user_specs: list[InputSpec], rows_of: Rows
) -> None:
    plain = TwoTower(towers.user, towers.item)
    rows = rows_of(user_specs, 3)
    parts = plain.user_parts(rows)
    assert set(parts) == {"vector"}
    np.testing.assert_array_equal(parts["vector"], towers.user(rows))


def test_id_dropout_trains_the_rows_of_the_buckets(
    user_specs: list[InputSpec], item_specs: list[InputSpec], rows_of: Rows
) -> None:
    users = np.array([0, 4, 5, 4, 5, 4], np.int32)
    items = np.array([0, 7, 8, 7, 8, 7, 8], np.int32)
    built = build_two_tower(
        user_specs,
        item_specs,
        embedding_dim=4,
        id_dropout=0.5,
        bucket_of_user_row=users,
        bucket_of_item_row=items,
    )
    inputs = rows_of(user_specs, 200)
    inputs["user_id"][:] = 1
    inputs[HISTORY][:] = [1, 2, 3, 0]
    for training, (own, met) in ((False, ({1}, {1, 2, 3})), (True, ({1, 4}, {1, 2, 3, 7, 8}))):
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(built.user(inputs, training=training)[:, 0])
        layers = (built.user.get_layer("user_id_table"), built.item.get_layer("item_id_table"))
        tables = [layer.embeddings for layer in layers]
        for gradient, rows in zip(tape.gradient(total, tables), (own, met), strict=True):
            moved = np.flatnonzero(tf.convert_to_tensor(gradient).numpy().any(axis=1))
            assert set(moved.tolist()) - {0} == rows


def test_the_place_of_the_latest_item_is_a_feature_of_the_user() -> None:
    users = [
        InputSpec("user_id", "id", None, 3),
        InputSpec(HISTORY, "history", 3, 4),
        InputSpec(HISTORY_AGE, "history_number", 3),
    ]
    items = [InputSpec("item_id", "id", None, 4), InputSpec("place_cells", "cells", 2, 5)]
    cells = np.array([[0, 0], [1, 4], [2, 4], [3, 0]], np.int32)
    fact = Fact("place_cells", cells, is_place=True)

    def nothing(history: object) -> tf.Tensor:
        return tf.zeros_like(history.weighted_sums(tf.zeros([1, 1, 3])))[:, 0]  # type: ignore[attr-defined]

    built = build_two_tower(users, items, embedding_dim=2, history=nothing, item_facts=[fact])
    table = next(layer for layer in built.item.layers if layer.name == "place_cells_table").embeddings.numpy()
    histories = np.array([[1, 3, 3], [1, 2, 0], [2, 1, 1], [0, 0, 0]], np.int32)
    inputs = {"user_id": np.zeros(4, np.int32), HISTORY: histories, HISTORY_AGE: np.zeros((4, 3), np.float32)}
    found = built.user(inputs).numpy()
    # At first the vector of the place as the item tower has it; ids start at zero, and nothing else is known.
    last = np.stack([table[cells[row]].sum(axis=0) for row in (1, 1, 2)] + [np.zeros(2)])
    bias = built.user.get_layer("user_bias").bias.numpy()
    expected = (last + bias) / np.linalg.norm(last + bias, axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    plain = build_two_tower(users, items, embedding_dim=2, item_facts=with_last_place([fact], chosen=False))
    assert not any("last" in layer.name for layer in plain.user.layers)


@pytest.mark.parametrize(
    ("chosen", "expected"), [(True, [True, True, False]), (False, [False] * 3), (None, [True, False, False])]
)
def test_the_last_place_is_read_of_columns_or_as_chosen(chosen: bool | None, expected: list[bool]) -> None:
    cells = np.zeros((4, 2), np.int32)
    places = [Fact("place_cells", cells, is_place=True), Fact("item_cells", cells, is_place=True), Fact("kind", cells)]
    assert [fact.is_place for fact in with_last_place(places, chosen=chosen)] == expected
