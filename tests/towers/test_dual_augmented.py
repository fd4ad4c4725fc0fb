"""Augmented vectors of ids and their fallbacks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from features.encoding import Inputs
from features.kinds import InputSpec
from towers.dual_augmented import AugmentedTable, augmented, refresh_fallbacks
from towers.two_tower import TwoTower, build_two_tower

Rows = Callable[..., Inputs]
WIDTH = 2
TRAINED = np.array([False, True, True, True, False, True])
GROUPS = np.array([0, 1, 1, 2, 2, 3], np.int32)
VECTORS = np.array([[9, 9], [1, 0], [3, 2], [0, 8], [9, 9], [4, 2], [9, 9]], np.float32)


def table_of(groups: npt.NDArray[np.int32] | None = GROUPS, *, dropout: float = 0.0) -> AugmentedTable:
    """Seven rows, the last one beyond what is known of ids; rows 0, 4 and 6 are cold."""
    table = AugmentedTable(num_rows=7, width=WIDTH, trained=TRAINED, groups=groups, dropout=dropout)
    table.table.assign(VECTORS)
    return table


def read(table: AugmentedTable, rows: npt.ArrayLike, *, training: bool = False) -> npt.NDArray[np.float32]:
    found: npt.NDArray[np.float32] = table(tf.constant(rows, tf.int32), training=training)[1].numpy()
    return found


def test_a_cold_id_reads_the_mean_of_its_category() -> None:
    table = table_of(np.array([0, 1, 1, 2, 1, 3], np.int32))
    table.refresh()
    # Row 4 is of category 1, whose trained rows are 1 and 2; rows 0 and 6 of category 0, which has none: all four.
    everybody = [(1 + 3 + 0 + 4) / 4, (0 + 2 + 8 + 2) / 4]
    assert read(table, [4, 0, 6]).tolist() == [[(1 + 3) / 2, (0 + 2) / 2], everybody, everybody]
    assert read(table, [1, 3]).tolist() == VECTORS[[1, 3]].tolist()


def test_without_groups_a_cold_id_reads_zero() -> None:
    table = table_of(None)
    table.refresh()
    assert read(table, [4, 0, 6, 2]).tolist() == [[0, 0], [0, 0], [0, 0], [3, 2]]


def test_fallbacks_follow_the_vectors_when_they_are_refreshed() -> None:
    table = table_of()
    assert read(table, [4]).tolist() == [[0, 0]]
    table.refresh()
    assert read(table, [4]).tolist() == [[0, 8]]
    table.table.assign(2 * VECTORS)
    assert read(table, [4]).tolist() == [[0, 8]]
    table.refresh()
    assert read(table, [4]).tolist() == [[0, 16]]


def test_a_table_of_cold_ids_only_stays_zero() -> None:
    table = AugmentedTable(num_rows=3, width=WIDTH, trained=np.zeros(3, bool), groups=np.zeros(3, np.int32), dropout=0)
    table.refresh()
    assert read(table, [0, 1, 2]).tolist() == [[0, 0]] * 3


def test_while_training_some_read_the_fallback_and_none_when_served() -> None:
    table = table_of(dropout=0.3)
    table.refresh()
    rows = np.full(4000, 2)
    served, trained = read(table, rows), read(table, rows, training=True)
    assert (served == VECTORS[2]).all()
    dropped = (trained == [2, 1]).all(axis=1)
    assert (dropped | (trained == VECTORS[2]).all(axis=1)).all()
    assert dropped.mean() == pytest.approx(0.3, abs=0.04)


def test_what_learns_to_mimic_is_never_dropped() -> None:
    table = table_of(dropout=0.9)
    vectors, _ = table(tf.constant([2, 4]), training=True)
    assert vectors.numpy().tolist() == VECTORS[[2, 4]].tolist()


def test_only_warm_ids_that_are_read_get_a_gradient_through_the_tower() -> None:
    table = table_of()
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(table(tf.constant([1, 4, 5]))[1])
    gradient = tf.convert_to_tensor(tape.gradient(total, table.table)).numpy()
    assert np.flatnonzero(gradient.any(axis=1)).tolist() == [1, 5]


def test_more_ids_than_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="trained has 6 rows, expected at most the 5 rows of the id table"):
        AugmentedTable(num_rows=5, width=2, trained=TRAINED, groups=None, dropout=0)


@pytest.fixture
def towers(user_specs: list[InputSpec], item_specs: list[InputSpec]) -> TwoTower:
    """Both sides augmented, width 4; item 8 is cold."""
    trained = np.arange(9) % 8 != 0
    users = AugmentedTable(num_rows=6, width=4, trained=np.ones(6, bool), groups=np.zeros(6, np.int32), dropout=0.5)
    items = AugmentedTable(num_rows=9, width=4, trained=trained, groups=np.zeros(9, np.int32), dropout=0.5)
    return build_two_tower(
        user_specs,
        item_specs,
        embedding_dim=4,
        user_adds=[augmented(users, id_name="user_id")],
        item_adds=[augmented(items, id_name="item_id")],
    )


def test_the_vector_moves_its_own_tower_and_is_among_its_parts(
    towers: TwoTower, item_specs: list[InputSpec], rows_of: Rows
) -> None:
    inputs = rows_of(item_specs, 5)
    inputs["item_id"][:] = [1, 2, 3, 8, 1]
    before = towers.item(inputs).numpy()
    table = next(layer for layer in towers.item.layers if isinstance(layer, AugmentedTable))
    table.table.assign(np.random.default_rng(1).normal(size=(9, 4)))
    parts = towers.item_parts(inputs)
    np.testing.assert_array_equal(parts["augmented"], table.table.numpy()[inputs["item_id"]])
    np.testing.assert_array_equal(parts["vector"], towers.item(inputs))
    moved = np.abs(parts["vector"].numpy() - before).max(axis=1) > 1e-4
    assert moved.tolist() == [True, True, True, False, True]
    refresh_fallbacks(towers)
    assert np.abs(towers.item(inputs).numpy()[3] - before[3]).max() > 1e-4


def test_served_vectors_are_the_same_every_time(towers: TwoTower, user_specs: list[InputSpec], rows_of: Rows) -> None:
    inputs = rows_of(user_specs, 5)
    np.testing.assert_array_equal(towers.user(inputs), towers.user(inputs))
