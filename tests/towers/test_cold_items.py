"""Items without events are what their content says, whether they never had any or these are left out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from features.encoding import Inputs
from features.kinds import InputSpec
from towers.cold_items import ColdItems
from towers.two_tower import TwoTower, build_two_tower

Rows = Callable[..., Inputs]
NONE = -1.5
BUCKETS = np.array([0, 7, 8, 7, 8, 7, 8], np.int32)


def built(
    user_specs: list[InputSpec], item_specs: list[InputSpec], buckets: np.ndarray | None = None, **shape: object
) -> TwoTower:
    cold = ColdItems(item_specs, NONE, buckets)
    return build_two_tower(
        user_specs, item_specs, embedding_dim=4, item_ids_pass=cold.pass_ids, item_adds=[cold.content], **shape
    )


@pytest.fixture
def towers(user_specs: list[InputSpec], item_specs: list[InputSpec], randomise: Callable[..., None]) -> TwoTower:
    """Towers whose weights are all other than zero."""
    towers = built(user_specs, item_specs, hidden_units=(5,))
    randomise(towers.item)
    return towers


def described(rows_of: Rows, specs: list[InputSpec], num_rows: int, *, events: float) -> Inputs:
    inputs = rows_of(specs, num_rows)
    inputs["item_numeric"][:, 0] = events
    return inputs


def test_of_an_item_without_events_the_id_does_not_count(
    towers: TwoTower, item_specs: list[InputSpec], rows_of: Rows
) -> None:
    for events, counts in ((NONE, False), (NONE + 0.3, True)):
        inputs = described(rows_of, item_specs, 6, events=events)
        vectors = towers.item({**inputs, "item_id": np.arange(1, 7, dtype=np.int32)}).numpy()
        unknown = towers.item({**inputs, "item_id": np.zeros(6, np.int32)}).numpy()
        assert (np.abs(vectors - unknown).max(axis=1) > 1e-3).all() == counts
        if not counts:
            np.testing.assert_array_equal(vectors, unknown)


def test_content_has_tables_of_its_own_where_there_are_no_events(
    towers: TwoTower, item_specs: list[InputSpec], rows_of: Rows
) -> None:
    tables = [
        variable for variable in towers.item.trainable_variables if variable.name in ("cold.aisle_table/embeddings:0",)
    ]
    assert len(tables) == 1
    for events, moved in ((NONE, True), (NONE + 0.3, False)):
        inputs = described(rows_of, item_specs, 6, events=events)
        inputs["aisle"][:] = [1, 1, 2, 2, 1, 2]
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(towers.item(inputs)[:, 0])
        gradient = tf.convert_to_tensor(tape.gradient(total, tables)[0]).numpy()
        assert gradient[0].tolist() == [0, 0, 0, 0]
        assert (np.abs(gradient[1:]) > 0).any() == moved


def test_ids_of_items_without_events_are_those_of_unknown_items_in_the_same_bucket(
    user_specs: list[InputSpec], item_specs: list[InputSpec], rows_of: Rows, randomise: Callable[..., None]
) -> None:
    towers = built(user_specs, item_specs, BUCKETS)
    randomise(towers.item)
    inputs = described(rows_of, item_specs, 6, events=NONE)
    of_ids = towers.item({**inputs, "item_id": np.arange(1, 7, dtype=np.int32)}).numpy()
    of_buckets = towers.item({**inputs, "item_id": BUCKETS[1:]}).numpy()
    np.testing.assert_array_equal(of_ids, of_buckets)
    beyond = towers.item({**inputs, "item_id": np.array([8] * 6, np.int32)}).numpy()
    assert not np.array_equal(of_buckets, beyond)


def test_a_row_alone_has_the_same_vector_as_in_a_batch_of_items_with_and_without_events(
    towers: TwoTower, item_specs: list[InputSpec], rows_of: Rows
) -> None:
    inputs = rows_of(item_specs, 5)
    inputs["item_numeric"][::2, 0] = NONE
    together = towers.item(inputs).numpy()
    for row in range(5):
        alone = towers.item({name: values[row : row + 1] for name, values in inputs.items()}).numpy()
        np.testing.assert_allclose(alone[0], together[row], atol=1e-6)


def test_the_user_tower_is_as_without_it(user_specs: list[InputSpec], item_specs: list[InputSpec]) -> None:
    plain = build_two_tower(user_specs, item_specs, embedding_dim=4)
    found, expected = (
        [(weight.name, tuple(weight.shape)) for weight in towers.user.weights]
        for towers in (built(user_specs, item_specs), plain)
    )
    assert found == expected
