"""Guesses of the other side's fields and their loss."""

from __future__ import annotations

import math
import runpy
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from training.losses.counterpart import counterpart_term, guess_loss

outputs_of = runpy.run_path(str(Path(__file__).parents[1] / "outputs_for_tests.py"))["outputs_of"]


def test_a_guess_loses_the_log_of_its_probability_and_nothing_where_nothing_is_known() -> None:
    logits = np.log([[0.2, 0.3, 0.5], [0.2, 0.3, 0.5], [0.1, 0.8, 0.1]])
    np.testing.assert_allclose(guess_loss(logits, tf.constant([2, 0, 1])), [-math.log(0.5), 0, -math.log(0.8)])


def outputs():
    """Two rows and a third item that is no row's own; the second user's age is unknown."""
    users = {"vector": np.zeros((2, 1)), "generated/aisle": np.log([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])}
    items = {"vector": np.zeros((3, 1)), "generated/age": np.log([[0.5, 0.5], [0.9, 0.1], [0.5, 0.5]])}
    batch = {
        "user/age": np.array([1, 0], np.int32),
        "item/aisle": np.array([1, 2, 2], np.int32),
        "weight": np.float32([1, 3]),
    }
    return outputs_of(users, items, batch=batch)


def test_both_towers_learn_from_positives_by_hand() -> None:
    by_items = float(counterpart_term(user_fields=["age"], item_fields=[])(outputs()))
    by_users = float(counterpart_term(user_fields=[], item_fields=["aisle"])(outputs()))
    both = float(counterpart_term(user_fields=["age"], item_fields=["aisle"])(outputs()))
    assert by_items == pytest.approx(-math.log(0.5), rel=1e-5)
    assert by_users == pytest.approx(-(math.log(0.25) + 3 * math.log(0.8)) / 4, rel=1e-5)
    assert both == pytest.approx(by_items + by_users, rel=1e-5)
    assert float(counterpart_term(user_fields=[], item_fields=[])(outputs())) == 0


def test_negatives_and_unknown_values_teach_nothing() -> None:
    found = outputs()
    with tf.GradientTape() as tape:
        loss = counterpart_term(user_fields=["age"], item_fields=["aisle"])(found)
    of_items, of_users = tape.gradient(loss, [found.items["generated/age"], found.users["generated/aisle"]])
    assert np.flatnonzero(np.abs(tf.convert_to_tensor(of_items)).max(axis=1)).tolist() == [0]
    assert np.flatnonzero(np.abs(of_users).max(axis=1)).tolist() == [0, 1]
