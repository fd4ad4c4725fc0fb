"""SparCode is fitted with its loss, and sums over the tables equal the model's scores."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from features.encoding import Encoder
from serving.sparcode import all_to_all
from serving.sparcode.codebook import Codebook
from serving.sparcode.interactions import INTERACTIONS
from towers.quantizer import ProductQuantizer
from towers.sparcode import MlpInteraction, SparCode
from towers.tokenizer import tokenizers
from training.fit_sparcode import SparCodeModel, adam
from training.losses.softmax import in_batch_softmax
from training.trainer import embed

tools = runpy.run_path(str(Path(__file__).parent / "fit_for_tests.py"))
NUM_CODES, PARTS = 8, 2


def model_of(encoder: Encoder, **changes: object) -> SparCodeModel:
    towers = tools["plain_model"](encoder).fitted
    width = int(towers.item.output.shape[-1])
    width += width % PARTS
    table = np.random.default_rng(1).normal(size=(encoder.item_ids.num_table_rows, int(towers.item.output.shape[-1])))
    user, item = tokenizers(
        towers, table.astype(np.float32), num_head_tokens=1, num_interest_tokens=2, num_item_tokens=2, width=width
    )
    quantizer = ProductQuantizer(
        num_parts=PARTS, num_codes=NUM_CODES, width=width, decay=0.9, restart_below=0.01, seed=1
    )
    quantizer.start(np.random.default_rng(2).normal(size=(60, width)).astype(np.float32))
    net = MlpInteraction(num_item_tokens=2, width=width, hidden_units=4, scale=5.0, seed=1)
    sparcode = SparCode(user, item, quantizer, net, tf.Variable(0.5, name="bias"), width)
    settings = {"log_q": "yi2019", "commit_weight": 0.25, "estimator": "straight_through", **changes}
    return SparCodeModel(sparcode, **settings)


def fitted(folder: Path, out: Path, *, epochs: int = 3, seed: int = 1, **changes: object) -> tuple[SparCodeModel, list]:
    return tools["fit_small"](
        folder,
        out,
        seed=seed,
        epochs=epochs,
        make=lambda encoder: model_of(encoder, **changes),
        optimizer=adam(0.01),
    )


def test_the_loss_is_the_corrected_softmax_over_quantised_scores_and_the_commitment(groups_folder: Path) -> None:
    encoder = Encoder.load(groups_folder / "encoder")
    model = model_of(encoder)
    batch = first_batch(groups_folder, encoder)
    users = {name.removeprefix("user/"): values for name, values in batch.items() if name.startswith("user/")}
    items = {name.removeprefix("item/"): values for name, values in batch.items() if name.startswith("item/")}
    sparcode = model.fitted
    tokens = sparcode.user_tokens(users)
    codes = sparcode.quantizer.decode(sparcode.quantizer.codes(tokens))
    scores = sparcode.scores(codes, sparcode.item_tokens(items))
    losses = in_batch_softmax(scores, batch["log_q"], mask=batch["mask"]).numpy()
    distance = np.square(tokens - codes).sum(axis=(1, 2))
    weight = batch["weight"]
    expected = ((losses + 0.25 * distance) * weight).sum() / weight.sum()
    assert float(model.compute_loss(batch)) == pytest.approx(expected, rel=1e-4)


def test_it_learns_and_reports_how_codes_are_used(groups_folder: Path, tmp_path: Path) -> None:
    model, reports = fitted(groups_folder, tmp_path)
    assert reports[-1].loss < reports[0].loss
    usage = model.usage
    assert usage.counts.sum(axis=1).tolist() == [usage.counts[0].sum()] * PARTS
    assert 1 <= usage.perplexity.min() <= usage.perplexity.max() <= NUM_CODES
    assert 0 <= usage.zero_share < 1
    model.begin_epoch()
    assert model.usage.counts.sum() == 0


def test_the_same_seed_gives_the_same_model(groups_folder: Path, tmp_path: Path) -> None:
    weights = []
    for run in "ab":
        model, _ = fitted(groups_folder, tmp_path / run, epochs=1)
        variables = [*model.trainable_variables, model.quantizer.codebooks]
        weights.append([variable.numpy() for variable in variables])
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_without_straight_through_heads_learn_from_the_commitment_alone(groups_folder: Path) -> None:
    encoder = Encoder.load(groups_folder / "encoder")
    batch = first_batch(groups_folder, encoder)
    moved = {}
    for commit_weight in (0.0, 0.25):
        model = model_of(encoder, estimator="stop_gradient", commit_weight=commit_weight)
        heads = model.user_tokenizer.trainable_variables
        with tf.GradientTape() as tape:
            loss = model.compute_loss(batch)
        gradients = tape.gradient(loss, heads, unconnected_gradients="zero")
        moved[commit_weight] = max(float(np.abs(tf.convert_to_tensor(gradient)).max()) for gradient in gradients)
    assert moved[0.0] == 0
    assert moved[0.25] > 0


def test_all_scores_without_tensorflow_are_those_of_the_model(groups_folder: Path, tmp_path: Path) -> None:
    model, _ = fitted(groups_folder, tmp_path, epochs=1)
    encoder, sparcode = Encoder.load(groups_folder / "encoder"), model.fitted
    batch = first_batch(groups_folder, encoder)
    users = {name.removeprefix("user/"): values for name, values in batch.items() if name.startswith("user/")}
    items = {name.removeprefix("item/"): values for name, values in batch.items() if name.startswith("item/")}
    tokens, of_items = embed(sparcode.user_tokenizer, users), embed(sparcode.item_tokenizer, items)
    for quantise in (True, False):
        expected = quantised_scores(sparcode, tokens, of_items, quantise=quantise)
        rows, scores = all_to_all.search(
            tokens,
            of_items,
            interaction=INTERACTIONS["mlp"](**sparcode.interaction.arrays()),
            bias=float(sparcode.bias),
            codebook=Codebook(sparcode.quantizer.codebooks.numpy()) if quantise else None,
            k=len(of_items),
        )
        for user, (own_rows, own_scores) in enumerate(zip(rows, scores, strict=True)):
            found = np.zeros(len(of_items), np.float32)
            found[own_rows[own_rows >= 0]] = own_scores[own_rows >= 0]
            np.testing.assert_allclose(found, expected[user], rtol=1e-3, atol=1e-4)


def test_an_unknown_correction_is_refused(groups_folder: Path) -> None:
    with pytest.raises(ValueError, match="log_q is 'yi2020', expected one of: none, yi2019, khrylchenko2025"):
        model_of(Encoder.load(groups_folder / "encoder"), log_q="yi2020")


def first_batch(folder: Path, encoder: Encoder) -> dict[str, np.ndarray]:
    return next(tools["batches_for"](folder, encoder, seed=1)(0))


def quantised_scores(
    sparcode: SparCode, users: npt.NDArray[np.float32], items: npt.NDArray[np.float32], *, quantise: bool
) -> npt.NDArray[np.float32]:
    """Scores of all pairs from tokens: [B, K_u D], [N, K_c D] float32 -> [B, N]; without codes where not `quantise`."""
    tokens = tf.reshape(users, [-1, sparcode.num_user_tokens, sparcode.width])
    if quantise:
        tokens = sparcode.quantizer.decode(sparcode.quantizer.codes(tokens))
    of_items = tf.reshape(items, [-1, sparcode.num_item_tokens, sparcode.width])
    found: npt.NDArray[np.float32] = sparcode.scores(tokens, of_items).numpy()
    return found
