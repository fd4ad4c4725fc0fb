"""Tokens begin at the backbone, and the model scores by its formula."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from features.encoding import HISTORY, Inputs
from features.kinds import InputSpec
from serving.retrieval.exported_tower import ExportedTower
from towers.interests import InterestAttention
from towers.quantizer import ProductQuantizer
from towers.sparcode import MlpInteraction, SparCode, commitment, passed_on
from towers.tokenizer import tokenizers
from towers.two_tower import TwoTower, build_two_tower
from training.export import export_tower

Rows = Callable[..., Inputs]
WIDTH, D = 8, 6
RNG = np.random.default_rng(6)


@pytest.fixture
def backbone(user_specs: list[InputSpec], item_specs: list[InputSpec], randomise: Callable[[object], None]) -> TwoTower:
    built = build_two_tower(user_specs, item_specs, embedding_dim=D)
    randomise(built.item)
    randomise(built.user)
    return built


def table_of(user_specs: list[InputSpec]) -> np.ndarray:
    num_rows = next(spec.num_rows for spec in user_specs if spec.kind == "history")
    table = np.random.default_rng(1).normal(size=(num_rows, D)).astype(np.float32)
    table[0] = 0
    return table


def made(backbone: TwoTower, user_specs: list[InputSpec], *, interests: int = 2) -> SparCode:
    user, item = tokenizers(
        backbone, table_of(user_specs), num_head_tokens=1, num_interest_tokens=interests, num_item_tokens=2, width=WIDTH
    )
    quantizer = ProductQuantizer(num_parts=4, num_codes=5, width=WIDTH, decay=0.9, restart_below=0, seed=1)
    quantizer.start(RNG.normal(size=(50, WIDTH)).astype(np.float32))
    net = MlpInteraction(num_item_tokens=2, width=WIDTH, hidden_units=3, scale=2.0, seed=1)
    net.output.assign(RNG.normal(size=3))
    return SparCode(user, item, quantizer, net, tf.Variable(0.3), WIDTH)


def test_first_tokens_begin_as_the_vectors_of_the_towers_filled_up_with_zeros(
    backbone: TwoTower, user_specs: list[InputSpec], item_specs: list[InputSpec], rows_of: Rows
) -> None:
    model = made(backbone, user_specs)
    users, items = rows_of(user_specs, 5), rows_of(item_specs, 4)
    tokens, of_items = model.user_tokens(users).numpy(), model.item_tokens(items).numpy()
    assert (tokens.shape, of_items.shape) == ((5, 3, WIDTH), (4, 2, WIDTH))
    np.testing.assert_allclose(tokens[:, 0, :D], backbone.user(users), atol=1e-5)
    np.testing.assert_allclose(of_items[:, 0, :D], backbone.item(items), atol=1e-5)
    np.testing.assert_array_equal(tokens[:, 0, D:], 0)
    np.testing.assert_allclose(np.linalg.norm(tokens, axis=2), 1, atol=1e-5)


def test_attention_is_a_softmax_over_the_history_and_the_user(user_specs: list[InputSpec]) -> None:
    layer = InterestAttention(2)
    user, items = RNG.normal(size=(3, D)).astype(np.float32), RNG.normal(size=(3, 4, D)).astype(np.float32)
    rows = np.int32([[5, 2, 0, 0], [1, 2, 3, 4], [0, 0, 0, 0]])
    layer((user, items, rows))
    for weight in layer.trainable_variables:
        weight.assign(RNG.normal(size=weight.shape))
    found = layer((user, items, rows)).numpy()
    for row in range(3):
        places = np.concatenate([user[row : row + 1], items[row][rows[row] > 0]])
        for token in range(2):
            query = layer.queries.numpy()[token] + (user[row] @ layer.own.numpy()).reshape(2, D)[token]
            logits = places @ layer.key.numpy() @ query / np.sqrt(D)
            shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
            np.testing.assert_allclose(found[row, token], shares @ places @ layer.value.numpy(), rtol=1e-3, atol=1e-4)


def test_content_behind_the_padding_has_no_effect(
    backbone: TwoTower, user_specs: list[InputSpec], rows_of: Rows
) -> None:
    model = made(backbone, user_specs)
    empty = {name: np.zeros_like(values) for name, values in rows_of(user_specs, 2).items()}
    tokens = model.user_tokens(empty).numpy()
    # An empty history: every interest is the user's own vector.
    np.testing.assert_allclose(tokens[:, 1], tokens[:, 0], atol=1e-5)
    assert HISTORY in empty


def test_scores_are_sums_of_what_is_above_the_bias(
    backbone: TwoTower, user_specs: list[InputSpec], item_specs: list[InputSpec], rows_of: Rows
) -> None:
    model = made(backbone, user_specs)
    tokens = model.user_tokens(rows_of(user_specs, 3))
    items = model.item_tokens(rows_of(item_specs, 4))
    pairs = model.interaction.scores(tf.reshape(tokens, [-1, WIDTH]), items).numpy().reshape(3, 3, 4)
    expected = np.maximum(pairs + 0.3, 0).sum(axis=1)
    np.testing.assert_allclose(model.scores(tokens, items), expected, rtol=1e-5, atol=1e-5)
    assert (expected >= 0).all()


def test_the_towers_below_are_frozen_and_everything_above_learns(
    backbone: TwoTower, user_specs: list[InputSpec], item_specs: list[InputSpec], rows_of: Rows
) -> None:
    model = made(backbone, user_specs)
    variables = [*model.user_tokenizer.trainable_variables, *model.item_tokenizer.trainable_variables]
    own = {id(variable) for tower in (backbone.user, backbone.item) for variable in tower.variables}
    assert variables
    assert not own & {id(variable) for variable in variables}
    with tf.GradientTape() as tape:
        tokens = model.user_tokens(rows_of(user_specs, 6))
        loss = tf.reduce_sum(tf.square(model.scores(tokens, model.item_tokens(rows_of(item_specs, 5)))))
    gradients = tape.gradient(loss, variables)
    assert all(gradient is not None for gradient in gradients)


@pytest.mark.parametrize(("estimator", "learns"), [("straight_through", True), ("stop_gradient", False)])
def test_the_match_loss_reaches_tokens_straight_through_only(estimator: str, learns: bool) -> None:
    tokens, quantised = tf.Variable([[[1.0, 2.0]]]), tf.constant([[[3.0, 5.0]]])
    with tf.GradientTape(persistent=True) as tape:
        passed = passed_on(tokens, quantised, estimator)
        match, commit = tf.reduce_sum(passed), commitment(tokens, quantised)
    np.testing.assert_array_equal(passed, quantised)
    gradient = tape.gradient(match, tokens)
    assert (gradient is not None and float(tf.reduce_sum(gradient)) != 0) == learns
    # || t - q ||^2 = 4 + 9, towards which tokens alone move.
    np.testing.assert_array_equal(commit, [13.0])
    np.testing.assert_array_equal(tape.gradient(commit, tokens), [[[-4.0, -6.0]]])


def test_tokenizers_leave_tensorflow_unchanged(
    backbone: TwoTower, user_specs: list[InputSpec], item_specs: list[InputSpec], rows_of: Rows, tmp_path: Path
) -> None:
    model = made(backbone, user_specs)
    for number, (tokenizer, specs) in enumerate(
        ((model.user_tokenizer, user_specs), (model.item_tokenizer, item_specs))
    ):
        export_tower(tokenizer, tmp_path / f"{number}.tflite")
        inputs = rows_of(specs, 7)
        found = ExportedTower(tmp_path / f"{number}.tflite").embed(inputs)
        np.testing.assert_allclose(found, tokenizer(inputs), atol=1e-5)


def test_a_layer_can_be_made_again_from_its_config() -> None:
    assert InterestAttention.from_config(InterestAttention(3).get_config()).num_tokens == 3
    assert isinstance(InterestAttention(3), tf_keras.layers.Layer)
