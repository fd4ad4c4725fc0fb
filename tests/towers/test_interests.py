"""Several interests in the user tower: attention heads by a NumPy twin, unit vectors, export, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from features.encoding import HISTORY, HISTORY_AGE, Inputs
from features.kinds import InputSpec
from serving.retrieval.exported_tower import ExportedTower
from towers.co_purchase import ItemFactors, with_factors
from towers.history import HISTORY_ENCODERS
from towers.interests import InterestAttention
from towers.two_tower import VECTOR, TwoTower, build_two_tower
from training.export import export_tower

RNG = np.random.default_rng(5)
K, D = 3, 6
Rows = Callable[..., Inputs]
Randomise = Callable[[tf_keras.Model], None]
ENCODERS = {
    "mean": {"decay_days": [None, 7.0], "power": 0.5},
    "attention": {"heads": 2, "length": 3},
    "gru": {},
    "self_attention": {"blocks": 2, "dropout": 0.2},
}
every_encoder = pytest.mark.parametrize("encoder", ENCODERS)


def built(user_specs: list[InputSpec], item_specs: list[InputSpec], encoder: str = "mean") -> TwoTower:
    history = HISTORY_ENCODERS[encoder](**ENCODERS[encoder])
    return build_two_tower(user_specs, item_specs, embedding_dim=D, hidden_units=[5], history=history, num_interests=K)


def test_heads_in_a_tower_compare_directions_and_forget(rows_of: Rows) -> None:
    layer = InterestAttention(2, inside_tower=True)
    user, items = RNG.normal(size=(3, D)).astype(np.float32), RNG.normal(size=(3, 4, D)).astype(np.float32)
    rows = np.int32([[5, 2, 0, 0], [1, 2, 3, 4], [0, 0, 0, 0]])
    ages = RNG.uniform(0, 9, size=(3, 4)).astype(np.float32)
    layer((user, items, rows, ages))
    for weight in layer.trainable_variables:
        weight.assign(RNG.normal(size=weight.shape))
    found = layer((user, items, rows, ages)).numpy()
    queries, own, key, value, fades = (weight.numpy() for weight in layer.trainable_variables)
    for row in range(2):
        known = rows[row] > 0
        places = items[row][known].astype(float)
        keys = places / np.linalg.norm(places, axis=1, keepdims=True)
        for head in range(2):
            query = queries[head] + (user[row] @ own).reshape(2, D)[head]
            logits = keys @ key @ query / np.sqrt(D) - fades[head] * np.log(1 + 24 * ages[row][known])
            shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
            np.testing.assert_allclose(found[row, head], shares @ places @ value, rtol=1e-3, atol=1e-4)
    # Without a history, each is the user's own vector through the map.
    np.testing.assert_allclose(found[2], np.tile(user[2] @ value, (2, 1)), rtol=1e-3, atol=1e-4)
    assert InterestAttention.from_config(layer.get_config()).get_config() == layer.get_config()


@every_encoder
def test_users_have_vectors_of_length_one_side_by_side_that_survive_the_export(
    encoder: str, user_specs: list[InputSpec], item_specs: list[InputSpec], rows_of: Rows, randomise: Randomise,
    tmp_path: Path,
) -> None:  # fmt: skip
    towers = built(user_specs, item_specs, encoder)
    randomise(towers.user)
    inputs = rows_of(user_specs, 7)
    flat = towers.user(inputs).numpy()
    vectors = flat.reshape(7, K, D)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=2), 1, atol=1e-5)
    assert np.abs(vectors[:, 0] - vectors[:, 1]).max() > 0.01
    np.testing.assert_allclose(towers.user_parts(inputs)[VECTOR], vectors, atol=1e-6)
    export_tower(towers.user, tmp_path / "user.tflite")
    np.testing.assert_allclose(ExportedTower(tmp_path / "user.tflite").embed(inputs), flat, atol=1e-5)


@every_encoder
def test_a_history_of_one_item_or_none_has_one_interest(
    encoder: str, user_specs: list[InputSpec], item_specs: list[InputSpec], rows_of: Rows, randomise: Randomise
) -> None:
    towers = built(user_specs, item_specs, encoder)
    randomise(towers.user)
    inputs = rows_of(user_specs, 2)
    inputs[HISTORY] = np.int32([[3, 0, 0, 0], [0, 0, 0, 0]])
    vectors = towers.user(inputs).numpy().reshape(2, K, D)
    np.testing.assert_allclose(vectors, np.tile(vectors[:, :1], (1, K, 1)), atol=1e-5)


def test_what_is_behind_the_padding_has_no_effect(
    user_specs: list[InputSpec], item_specs: list[InputSpec], rows_of: Rows, randomise: Randomise
) -> None:
    towers = built(user_specs, item_specs, "gru")
    randomise(towers.user)
    inputs = rows_of(user_specs, 2)
    inputs[HISTORY] = np.int32([[3, 5, 0, 0], [2, 2, 1, 0]])
    before = towers.user(inputs).numpy()
    inputs[HISTORY_AGE] = np.where(inputs[HISTORY] > 0, inputs[HISTORY_AGE], np.float32(77))
    np.testing.assert_allclose(towers.user(inputs), before, atol=1e-5)


def test_factors_are_appended_to_each_vector(
    user_specs: list[InputSpec], item_specs: list[InputSpec], rows_of: Rows, randomise: Randomise
) -> None:
    towers = built(user_specs, item_specs)
    randomise(towers.user)
    factors = ItemFactors((RNG.normal(size=(9, 2)) / 9).astype(np.float32), RNG.uniform(size=9).astype(np.float32))
    joined = with_factors(towers, factors, weight=2.0)
    inputs = rows_of(user_specs, 5)
    learned = towers.user(inputs).numpy().reshape(5, K, D)
    found = joined.user(inputs).numpy().reshape(5, K, D + 3)
    taste = (factors.own * factors.weights[:, None])[inputs[HISTORY]].sum(axis=1)
    taste /= np.linalg.norm(taste, axis=1, keepdims=True)
    tiled = np.tile(2 * taste[:, None], (1, K, 1))
    expected = np.concatenate([learned, tiled, np.zeros((5, K, 1))], axis=2) / np.sqrt(5)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert joined.item.output.shape[-1] == D + 3


def test_positions_and_encoders_without_states_are_refused(
    user_specs: list[InputSpec], item_specs: list[InputSpec]
) -> None:
    with pytest.raises(ValueError, match="num_interests is 3 and num_positions 2"):
        build_two_tower(user_specs, item_specs, embedding_dim=D, num_interests=K, num_positions=2)

    def first_item(history: object) -> tf.Tensor:
        return history.vectors(1)[:, 0]  # type: ignore[attr-defined]

    with pytest.raises(ValueError, match="num_interests is 3, and the history encoder gives one vector a row"):
        build_two_tower(user_specs, item_specs, embedding_dim=D, num_interests=K, history=first_item)
