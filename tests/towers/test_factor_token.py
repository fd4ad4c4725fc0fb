"""Factors are appended to learned tokens by the formula, and their token keeps their inner product."""

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
from towers.co_purchase import ItemFactors, with_factors
from towers.factor_token import FactorToken, rest_tower
from towers.quantizer import ProductQuantizer
from towers.sparcode import Interaction, MlpInteraction, ProductInteraction, SparCode
from towers.tokenizer import tokenizers
from towers.two_tower import TwoTower, build_two_tower
from training.export import export_tower

Rows = Callable[..., Inputs]
D, WIDTH, FACTORS, WEIGHT, SCALE, PARTS, CODES = 6, 8, 4, 2.0, 5.0, 2, 4
RNG = np.random.default_rng(4)


def interaction(kind: str) -> Interaction:
    if kind == "product":
        product = ProductInteraction(num_item_tokens=2, width=WIDTH, scale=2.0)
        product.products.assign(RNG.normal(size=(2, WIDTH)))
        return product
    net = MlpInteraction(num_item_tokens=2, width=WIDTH, hidden_units=3, scale=2.0, seed=1)
    net.output.assign(RNG.normal(size=3))
    net.hidden_bias.assign(RNG.normal(size=3))
    return net


@pytest.fixture
def learned(user_specs: list[InputSpec], item_specs: list[InputSpec], randomise: Callable[[object], None]) -> TwoTower:
    towers = build_two_tower(user_specs, item_specs, embedding_dim=D)
    randomise(towers.item)
    randomise(towers.user)
    return towers


@pytest.fixture
def served(learned: TwoTower, user_specs: list[InputSpec]) -> TwoTower:
    num_rows = next(spec.num_rows for spec in user_specs if spec.kind == "history")
    factors = RNG.normal(size=(num_rows, FACTORS))
    factors /= 1.5 * np.linalg.norm(factors, axis=1, keepdims=True)
    factors[0] = 0
    own = ItemFactors(factors.astype(np.float32), np.ones(num_rows, np.float32))
    return with_factors(learned, own, weight=WEIGHT)


def model_of(learned: TwoTower, kind: str) -> SparCode:
    table = RNG.normal(size=(9, D)).astype(np.float32)
    user, item = tokenizers(learned, table, num_head_tokens=1, num_interest_tokens=1, num_item_tokens=2, width=WIDTH)
    quantizer = ProductQuantizer(num_parts=PARTS, num_codes=CODES, width=WIDTH, decay=0.9, restart_below=0, seed=1)
    quantizer.start(RNG.normal(size=(50, WIDTH)).astype(np.float32))
    return SparCode(user, item, quantizer, interaction(kind), tf.Variable(0.3), WIDTH)


@pytest.mark.parametrize("kind", ["mlp", "product"])
def test_scores_are_those_of_learned_tokens_and_of_the_factors(
    learned: TwoTower,
    served: TwoTower,
    user_specs: list[InputSpec],
    item_specs: list[InputSpec],
    rows_of: Rows,
    kind: str,
) -> None:
    users, items = rows_of(user_specs, 5), rows_of(item_specs, 7)
    users[HISTORY][0] = 0  # factors of the padding row
    model = model_of(learned, kind)
    rest = rest_tower(served, learned_width=D, width=WIDTH)(users).numpy()
    token = FactorToken.of(served, rest, learned_width=D, scale=SCALE, num_parts=PARTS, num_codes=CODES, seed=1)
    both = token.append_to(model)
    assert (both.num_user_tokens, both.num_item_tokens, both.width) == (3, 2, 2 * WIDTH)
    tokens, of_items = both.user_tokens(users), both.item_tokens(items)
    # The third token has no learned half, so that a net adds no more than its constant.
    empty = model.interaction.scores(tf.zeros([1, WIDTH]), model.item_tokens(items)).numpy()
    user_vectors, item_vectors = served.user(users).numpy(), served.item(items).numpy()
    learned_cosines = np.sum(user_vectors[:, None, :D] * item_vectors[None, :, :D], axis=2)
    units = np.linalg.norm(user_vectors[:, :D], axis=1)[:, None] * np.linalg.norm(item_vectors[:, :D], axis=1)[None]
    of_factors = (user_vectors @ item_vectors.T - learned_cosines) / units
    expected = model.scores(model.user_tokens(users), model.item_tokens(items)).numpy()
    expected += np.maximum(SCALE * of_factors + empty + 0.3, 0)
    np.testing.assert_allclose(both.scores(tokens, of_items), expected, rtol=1e-4, atol=1e-4)
    assert np.ptp(of_factors[1:]) > 0.1
    np.testing.assert_allclose(of_factors[0], 0, atol=1e-6)


def test_each_half_is_quantised_by_its_own_codebooks_and_an_empty_half_stays_empty(
    learned: TwoTower, served: TwoTower, user_specs: list[InputSpec], rows_of: Rows
) -> None:
    users = rows_of(user_specs, 6)
    model = model_of(learned, "product")
    rest = rest_tower(served, learned_width=D, width=WIDTH)(users).numpy()
    token = FactorToken.of(served, rest, learned_width=D, scale=SCALE, num_parts=PARTS, num_codes=CODES, seed=1)
    both = token.append_to(model)
    assert (both.quantizer.num_parts, both.quantizer.num_codes) == (2 * PARTS, CODES + 1)
    tokens = both.user_tokens(users)
    quantised = both.quantizer.decode(both.quantizer.codes(tokens)).numpy()
    own = model.user_tokens(users)
    expected = model.quantizer.decode(model.quantizer.codes(own)).numpy()
    distance = np.linalg.norm(quantised[:, :2, :WIDTH] - own.numpy(), axis=2)
    # A row of zeros more can only be nearer.
    assert (distance <= np.linalg.norm(expected - own.numpy(), axis=2) + 1e-5).all()
    np.testing.assert_array_equal(quantised[:, :2, WIDTH:], 0)
    np.testing.assert_array_equal(quantised[:, 2, :WIDTH], 0)
    # Six users, four rows and k-means from four of them: the token of factors is near, not anywhere.
    assert np.linalg.norm(quantised[:, 2, WIDTH:] - rest, axis=1).mean() < 0.7 * np.linalg.norm(rest, axis=1).mean()


def test_exported_tokenizers_give_the_same_tokens(
    learned: TwoTower, served: TwoTower, user_specs: list[InputSpec], item_specs: list[InputSpec], rows_of: Rows,
    tmp_path: Path,
) -> None:  # fmt: skip
    users, items = rows_of(user_specs, 3), rows_of(item_specs, 3)
    rest = rest_tower(served, learned_width=D, width=WIDTH)(users).numpy()
    token = FactorToken.of(served, rest, learned_width=D, scale=SCALE, num_parts=PARTS, num_codes=CODES, seed=1)
    both = token.append_to(model_of(learned, "mlp"))
    pairs: list[tuple[tf_keras.Model, Inputs]] = [(both.user_tokenizer, users), (both.item_tokenizer, items)]
    for number, (tokenizer, inputs) in enumerate(pairs):
        path = tmp_path / f"{number}.tflite"
        export_tower(tokenizer, path)
        np.testing.assert_allclose(ExportedTower(path).embed(inputs), tokenizer(inputs), rtol=1e-4, atol=1e-5)
