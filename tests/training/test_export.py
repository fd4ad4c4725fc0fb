"""Towers exported from TensorFlow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tf_keras

from features.encoding import HISTORY, HISTORY_AGE, Encoder, Inputs
from features.kinds import InputSpec
from features.schema import Tower
from serving.retrieval.exported_tower import ExportedTower
from towers.co_purchase import ItemFactors, with_factors
from towers.counterpart import generated_fields
from towers.dual_augmented import AugmentedTable, augmented
from towers.history import attention, gru, self_attention, weighted_means
from towers.inputs import HistoryEncoder
from towers.lookups import Fact
from towers.mobius import with_three_parts
from towers.two_tower import TwoTower, build_two_tower
from training.export import export_tower


def random_inputs(encoder: Encoder, tower: Tower, num_rows: int) -> Inputs:
    """Any rows; the first one is unknown and without a past."""
    rng = np.random.default_rng(num_rows)
    inputs: Inputs = {}
    for spec in encoder.input_specs(tower):
        shape = (num_rows,) if spec.length is None else (num_rows, spec.length)
        values = rng.integers(0, spec.num_rows, shape) if spec.num_rows else rng.normal(0, 2, shape)
        inputs[spec.name] = values.astype(spec.dtype)
        inputs[spec.name][0] = 0
    if HISTORY in inputs:
        inputs[HISTORY_AGE] = np.abs(inputs[HISTORY_AGE])
    return inputs


def trained_alike(towers: TwoTower) -> TwoTower:
    """The id tables start at zero: other weights show that they are exported."""
    rng = np.random.default_rng(2)
    for model in (towers.user, towers.item):
        model.set_weights([rng.normal(0, 0.5, weight.shape) for weight in model.get_weights()])
    return towers


def plain(encoder: Encoder) -> TwoTower:
    return build_two_tower(encoder.input_specs("user"), encoder.input_specs("item"), embedding_dim=8)


def deep(encoder: Encoder) -> TwoTower:
    return build_two_tower(
        encoder.input_specs("user"),
        encoder.input_specs("item"),
        embedding_dim=8,
        hidden_units=(12, 6),
        history=weighted_means(decay_days=[10.0], power=0.5),
    )


def of_sequence(encoder: Encoder, history: HistoryEncoder) -> TwoTower:
    """Trained at three positions, of which the exported tower computes the latest alone."""
    specs = encoder.input_specs("user"), encoder.input_specs("item")
    return trained_alike(build_two_tower(*specs, embedding_dim=8, hidden_units=(12,), history=history, num_positions=3))


def with_co_purchases(encoder: Encoder) -> TwoTower:
    factors = np.random.default_rng(4).normal(0, 0.3, (len(encoder.item_ids), 5)).astype(np.float32)
    factors[0] = 0
    weights = np.linspace(0, 1, len(factors)).astype(np.float32)
    return with_factors(trained_alike(deep(encoder)), ItemFactors(factors, weights), weight=0.7)


def augmented_and_guessing(encoder: Encoder) -> TwoTower:
    """DAT on both sides, guesses both ways, tanh layers, ids that are dropped while training."""
    num_users, num_items = len(encoder.user_ids), len(encoder.item_ids)
    users = AugmentedTable(num_rows=num_users, width=8, trained=np.arange(num_users) % 2 == 1, groups=None, dropout=0.2)
    groups = (np.arange(num_items) % 3).astype(np.int32)
    items = AugmentedTable(
        num_rows=num_items, width=8, trained=np.arange(num_items) % 2 == 1, groups=groups, dropout=0.2
    )
    return build_two_tower(
        encoder.input_specs("user"),
        encoder.input_specs("item"),
        embedding_dim=8,
        hidden_units=(12,),
        head="mlp",
        activation="tanh",
        id_dropout=0.3,
        bucket_of_user_row=np.zeros(num_users, np.int32),
        bucket_of_item_row=np.zeros(num_items, np.int32),
        user_adds=[augmented(users, id_name="user_id"), generated_fields(["aisle"])],
        item_adds=[augmented(items, id_name="item_id"), generated_fields(["age"])],
    )


KINDS = {
    "plain": lambda encoder: trained_alike(plain(encoder)),
    "deep": lambda encoder: trained_alike(deep(encoder)),
    "attention": lambda encoder: of_sequence(encoder, attention(heads=2)),
    "gru": lambda encoder: of_sequence(encoder, gru(means=[None, 9.0])),
    "self-attention": lambda encoder: of_sequence(encoder, self_attention(blocks=3, heads=3, dropout=0.2)),
    "with factors": with_co_purchases,
    "untrained": plain,
    "augmented and guessing": lambda encoder: trained_alike(augmented_and_guessing(encoder)),
    "three classes": lambda encoder: trained_alike(with_three_parts(augmented_and_guessing(encoder), bad_weight=0.5)),
}


@pytest.fixture(scope="module", params=KINDS)
def towers(request: pytest.FixtureRequest, encoder: Encoder) -> TwoTower:
    tf_keras.utils.set_random_seed(3)
    return KINDS[request.param](encoder)


@pytest.mark.parametrize("tower", ["user", "item"])
def test_the_exported_tower_answers_as_keras_does(
    towers: TwoTower, tower: Tower, encoder: Encoder, tmp_path: Path
) -> None:
    model = towers.user if tower == "user" else towers.item
    path = tmp_path / "made" / "on_the_way" / "tower.tflite"
    export_tower(model, path)
    exported = ExportedTower(path)
    assert exported.input_names == {spec.name for spec in encoder.input_specs(tower)}
    assert exported.dimension == model.output_shape[1]
    for num_rows in (1, 2, 7, 64):
        inputs = random_inputs(encoder, tower, num_rows)
        found = exported.embed(inputs)
        assert np.isfinite(found).all()
        np.testing.assert_allclose(found, model(inputs).numpy(), atol=1e-5)


def test_every_kind_of_fact_is_exported(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    users = [
        InputSpec("user_id", "id", None, 4),
        InputSpec("likes_values", "categories", 3, 5, weights="likes_weights"),
        InputSpec("likes_weights", "weights", 3),
        InputSpec("taste", "vector", 4),
        InputSpec("home_cells", "cells", 4, 6),
        InputSpec(HISTORY, "history", 5, 8),
        InputSpec(HISTORY_AGE, "history_number", 5),
    ]
    items = [
        InputSpec("item_id", "id", None, 8),
        InputSpec("tags_values", "categories", 2, 5, weights="tags_weights"),
        InputSpec("tags_weights", "weights", 2),
        InputSpec("content", "vector", 3),
        InputSpec("place_cells", "cells", 4, 6),
    ]
    facts = [
        Fact("tags_values", rng.integers(0, 5, (8, 2), np.int32), rng.random((8, 2), np.float32), is_mean=True),
        Fact("content", rng.normal(size=(8, 3)).astype(np.float32)),
        Fact("place_cells", rng.integers(0, 6, (8, 4), np.int32), is_place=True),
    ]
    built = trained_alike(build_two_tower(users, items, embedding_dim=4, hidden_units=(6,), item_facts=facts))
    for model, specs in ((built.user, users), (built.item, items)):
        export_tower(model, tmp_path / "tower.tflite")
        exported = ExportedTower(tmp_path / "tower.tflite")
        for num_rows in (1, 9):
            inputs = {}
            for spec in specs:
                shape = (num_rows,) if spec.length is None else (num_rows, spec.length)
                values = rng.integers(0, spec.num_rows, shape) if spec.num_rows else rng.random(shape)
                inputs[spec.name] = values.astype(spec.dtype)
            np.testing.assert_allclose(exported.embed(inputs), model(inputs).numpy(), atol=1e-5)


def test_an_input_that_no_part_reads_stays_an_input(tmp_path: Path) -> None:
    users = [InputSpec("user_id", "id", None, 4), InputSpec("user_aisle_shares", "shares", 3)]
    built = build_two_tower(users, [InputSpec("item_id", "id", None, 5)], embedding_dim=2)
    export_tower(built.user, tmp_path / "tower.tflite")
    exported = ExportedTower(tmp_path / "tower.tflite")
    # What the encoder gives is what the exported tower takes: a bundle in which they differ is refused.
    assert exported.input_names == {spec.name for spec in users}
    rows = np.array([3, 0], np.int32)
    one, other = (
        exported.embed({"user_id": rows, "user_aisle_shares": np.full((2, 3), share, np.float32)})
        for share in (0.0, 0.5)
    )
    np.testing.assert_array_equal(one, other)
