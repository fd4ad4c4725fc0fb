"""Some items with events are embedded as they would be without any."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from features.columns import ITEM_ID
from features.encoding import NUMERIC_INPUT, Encoder, Inputs
from serving.retrieval.vectors import ItemsAsNew
from towers.two_tower import TwoTower, build_two_tower
from training import items_as_new as subject
from training.co_purchase import with_factors_of
from training.config import TowerConfig
from training.fit import Fitted
from training.negatives.known_positives import KnownPositives

WIDTH, NUM_FACTORS = 8, 3


@pytest.fixture(scope="module")
def learned(encoder: Encoder) -> TwoTower:
    towers = build_two_tower(encoder.input_specs("user"), encoder.input_specs("item"), embedding_dim=WIDTH)
    rng = np.random.default_rng(2)
    for model in (towers.user, towers.item):
        model.set_weights([rng.normal(0, 0.5, weight.shape) for weight in model.get_weights()])
    return towers


@pytest.fixture(scope="module")
def items(encoder: Encoder) -> Inputs:
    """Of all items of the catalogue."""
    num_items, rng = len(encoder.item_ids) - 1, np.random.default_rng(1)
    found: Inputs = {}
    for spec in encoder.input_specs("item"):
        shape = (num_items,) if spec.length is None else (num_items, spec.length)
        values = rng.integers(0, spec.num_rows, shape) if spec.num_rows else rng.normal(1, 1, shape)
        found[spec.name] = values.astype(spec.dtype)
    found[ITEM_ID] = np.arange(1, num_items + 1, dtype=np.int32)
    return found


@pytest.fixture(scope="module")
def known(encoder: Encoder) -> KnownPositives:
    """All items but the last three are met."""
    num_met, num_users = len(encoder.item_ids) - 4, len(encoder.user_ids)
    pairs = np.arange(6 * num_met)
    return KnownPositives.of(1 + pairs % (num_users - 1), 1 + pairs * 5 % num_met, num_user_rows=num_users)


def embedded(
    encoder: Encoder,
    learned: TwoTower,
    items: Inputs,
    known: KnownPositives,
    *,
    num_factors: int = 0,
    dropout: float = 0.0,
    suggest: Any = None,
) -> ItemsAsNew:
    sections = SimpleNamespace(
        seed=3, towers=TowerConfig(factor_dim=num_factors), training=SimpleNamespace(item_dropout=dropout)
    )
    fitted = Fitted(learned, learned, (WIDTH,), [], {}, suggest)
    return subject.items_as_new(cast(Any, sections), encoder, fitted, items, known)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_tenth_of_what_is_met_is_embedded_without_events(
    encoder: Encoder, learned: TwoTower, items: Inputs, known: KnownPositives, dropout: float
) -> None:
    before = {name: values.copy() for name, values in items.items()}
    found = embedded(encoder, learned, items, known, dropout=dropout)
    num_met = len(encoder.item_ids) - 4
    assert len(found.rows) == -(-num_met // 10)
    assert (np.diff(found.rows) > 0).all()
    assert found.rows.max() < num_met
    expected = {name: values[found.rows].copy() for name, values in items.items()}
    none = encoder.without_events()[NUMERIC_INPUT["item"]]
    expected[NUMERIC_INPUT["item"]][:, : len(none)] = none
    # Towers that know the state of such items leave the id aside themselves.
    expected[ITEM_ID] *= dropout > 0
    np.testing.assert_allclose(found.vectors, learned.item(expected).numpy(), atol=1e-6)
    for name, values in items.items():
        np.testing.assert_array_equal(values, before[name])


def test_factors_are_those_that_are_suggested_without_the_items(
    encoder: Encoder, learned: TwoTower, items: Inputs, known: KnownPositives
) -> None:
    asked = []

    def suggest(own: np.ndarray, pairs: np.ndarray) -> np.ndarray:
        asked.append((own, pairs))
        return np.where(np.isin(np.arange(len(own)), pairs)[:, None], own, np.float32(0.1))

    found = embedded(encoder, learned, items, known, num_factors=NUM_FACTORS, dropout=0.3, suggest=suggest)
    [(own, pairs)] = asked
    assert not own[found.rows + 1].any()
    assert not np.isin(found.rows + 1, pairs).any()
    assert set(pairs.tolist()) == set(known.items.tolist()) - set((found.rows + 1).tolist())
    # A learned vector and one of factors, each of length one.
    np.testing.assert_allclose(found.vectors[:, WIDTH:-1], 0.1 / np.sqrt(2), rtol=1e-5)


def test_without_a_suggestion_they_have_none_and_others_would(
    encoder: Encoder, learned: TwoTower, items: Inputs, known: KnownPositives
) -> None:
    found = embedded(encoder, learned, items, known, num_factors=NUM_FACTORS)
    assert not found.vectors[:, WIDTH:-1].any()
    joined = with_factors_of(encoder, known, towers=TowerConfig(factor_dim=NUM_FACTORS), seed=3)(learned)
    assert np.abs(joined.item(items).numpy()[found.rows, WIDTH:-1]).max() > 0.01
