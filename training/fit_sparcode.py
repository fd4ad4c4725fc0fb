"""Fit of SparCode on the days of a phase, over fitted towers, and its export for the jobs and the server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from artefacts.console import console, progress
from features.encoding import Encoder, Inputs
from serving.sparcode import interactions as serving_interactions
from serving.sparcode.codebook import Codebook
from serving.sparcode.files import CODEBOOK, INTERACTION, ITEM_TOKENIZER, SHAPE, TOKENIZER, Shape
from serving.sparcode.interactions import save_interaction
from towers.factor_token import FactorToken, rest_tower
from towers.quantizer import ProductQuantizer
from towers.scorer import Interaction, MlpInteraction, ProductInteraction
from towers.sparcode import SparCode
from towers.tokenizer import tokenizers
from towers.two_tower import TwoTower
from training.config import SparCodeFitConfig
from training.data.batches import Batch, BatchPlan, epoch_batches
from training.data.training_data import TrainingData
from training.fit import Fitted, Report
from training.held_out import WarmStart, state_file
from training.negatives.even_draws import uniform
from training.sparcode import SparCodeModel, adam
from training.trainer import EpochMetrics, embed, export_tower, fit, make_deterministic
from training.warm_start import carry_over, save_state, state_of

STATE = "sparcode"


def fit_sparcode(
    encoder: Encoder,
    data: TrainingData,
    *,
    settings: SparCodeFitConfig,
    backbone: Fitted,
    temperature: float,
    seed: int,
    users: Inputs,
    items: Inputs,
    folder: Path,
    evaluate: Callable[[SparCode], EpochMetrics] | None,
    report: Report,
    warm: WarmStart | None = None,
) -> tuple[SparCode, list[EpochMetrics]]:
    """Fits SparCode over towers, which stay as they are.

    Args:
        encoder: The dataset's encoder.
        data: What is fitted.
        settings: How.
        backbone: Fitted towers; frozen, in place. What is appended to their learned vectors becomes a token of its own.
        temperature: What the towers' scores were divided by.
        seed: Of every choice at random.
        users: Model inputs of all users at the phase's moment, by row of the canonical tables.
        items: Likewise of all items.
        folder: Gets checkpoints and logs.
        evaluate: Measures the model before the first epoch and after each; None measures nothing.
        report: Called after each epoch.
        warm: The state that the fit starts from; None starts from random values.

    Returns:
        The model, and what `evaluate` found: before the first epoch, then after each.
    """
    make_deterministic(seed)
    width = _token_width(backbone, num_parts=settings.parts)
    sparcode = _build(settings, encoder, backbone.learned, items, width=width, seed=seed)
    join = _with_factors(settings, backbone, users, width=width, temperature=temperature, seed=seed)
    model = SparCodeModel(
        sparcode, log_q=settings.log_q, commit_weight=settings.commitment, estimator=settings.estimator
    )
    plan, optimizer = _plan(settings, encoder, data), adam(settings.learning_rate)
    # The towers below the tokens are today's; tokens, codes and net start from where they were.
    carried = {"": [*model.trainable_variables, *sparcode.quantizer.variables]}
    if warm is None:
        sparcode.quantizer.start(embed(sparcode.user_tokenizer, users).reshape(-1, sparcode.width))
    else:
        carry_over(warm.state(STATE), warm.growth, carried, optimizer)

    def batches_of(epoch: int) -> Iterator[Batch]:
        return epoch_batches(data.load_all(), plan, seed=[seed, epoch])

    def evaluated(fitted: SparCode) -> EpochMetrics:
        return {} if evaluate is None else evaluate(join(_refitted(fitted, users)))

    def measured(fitted: SparCode) -> EpochMetrics:
        usage = model.usage
        for warning in usage.warnings():
            console().print(f"[yellow]warning[/] {warning}")
        found.append(evaluated(fitted))
        return {**usage.metrics(), **found[-1]}

    found = [evaluated(sparcode)]
    title = f"{data.name} sparcode"
    steps = settings.epochs * max(1, round(int(plan.item_counts.sum()) / settings.batch_size))
    with progress(f"training ({title})", total=steps) as advance:
        fit(
            model,
            settings.epochs,
            batches_of=batches_of,
            optimizer=optimizer,
            folder=folder / f"{data.name}-sparcode",
            evaluate=measured,
            on_step=lambda loss: advance(1),
            on_epoch=lambda epoch_report: report(title, epoch_report),
            saved={"quantizer": sparcode.quantizer},
        )
    save_state(state_of(carried, optimizer), state_file(folder, STATE))
    return join(_refitted(sparcode, users)), found


def _token_width(backbone: Fitted, *, num_parts: int) -> int:
    """Learned coordinates and what is appended to them are cut alike: the next multiple of the number of parts."""
    learned, whole = (int(towers.user.output.shape[-1]) for towers in (backbone.learned, backbone.towers))
    return -(-max(learned, whole - learned) // num_parts) * num_parts


def _refitted(sparcode: SparCode, users: Inputs) -> SparCode:
    """The model with codebooks refitted by k-means to the tokens of all users.

    The moving averages follow the examples, half of which are of a few users; tables are for each user alike.
    """
    quantizer = sparcode.quantizer.like()
    quantizer.start(embed(sparcode.user_tokenizer, users).reshape(-1, sparcode.width))
    return replace(sparcode, quantizer=quantizer)


def export_sparcode(sparcode: SparCode, folder: Path) -> None:
    """Writes what the jobs and the server need, none of it TensorFlow's.

    Args:
        sparcode: The fitted model.
        folder: Made here; gets tokenizers, codebook, interaction and shape.
    """
    folder.mkdir(parents=True)
    export_tower(sparcode.user_tokenizer, folder / TOKENIZER)
    export_tower(sparcode.item_tokenizer, folder / ITEM_TOKENIZER)
    Codebook(sparcode.quantizer.codebooks.numpy()).save(folder / CODEBOOK)
    save_interaction(folder / INTERACTION, _kind(sparcode.interaction), sparcode.interaction.arrays())
    shape = Shape(sparcode.width, sparcode.num_user_tokens, sparcode.num_item_tokens, float(sparcode.bias))
    (folder / SHAPE).write_text(json.dumps(asdict(shape), indent=2))


def interaction_of(sparcode: SparCode) -> serving_interactions.Interaction:
    """The model's interaction net, without TensorFlow."""
    kind = serving_interactions.INTERACTIONS[_kind(sparcode.interaction)]
    return kind(**sparcode.interaction.arrays())


def _kind(interaction: Interaction) -> Literal["mlp", "product"]:
    return "mlp" if isinstance(interaction, MlpInteraction) else "product"


def _build(
    settings: SparCodeFitConfig, encoder: Encoder, backbone: TwoTower, items: Inputs, *, width: int, seed: int
) -> SparCode:
    vectors = embed(backbone.item, items)
    table: npt.NDArray[np.float32] = np.zeros((encoder.item_ids.num_table_rows, vectors.shape[1]), np.float32)
    table[1 : len(vectors) + 1] = vectors
    user_tokenizer, item_tokenizer = tokenizers(
        backbone,
        table,
        num_head_tokens=settings.head_tokens,
        num_interest_tokens=settings.interest_tokens,
        num_item_tokens=settings.item_tokens,
        width=width,
    )
    quantizer = ProductQuantizer(
        num_parts=settings.parts,
        num_codes=settings.codes,
        width=width,
        decay=settings.decay,
        restart_below=settings.restart_below,
        seed=seed,
    )
    bias = tf.Variable(settings.initial_bias, name="bias", dtype=tf.float32)
    return SparCode(user_tokenizer, item_tokenizer, quantizer, _interaction(settings, width, seed), bias, width)


def _with_factors(
    settings: SparCodeFitConfig, backbone: Fitted, users: Inputs, *, width: int, temperature: float, seed: int
) -> Callable[[SparCode], SparCode]:
    """Appends what is appended to the learned vectors, if anything, to their tokens."""
    learned_width = int(backbone.learned.user.output.shape[-1])
    if int(backbone.towers.user.output.shape[-1]) == learned_width:
        return lambda learned: learned
    token = FactorToken.of(
        backbone.towers,
        embed(rest_tower(backbone.towers.user, learned_width=learned_width, width=width), users),
        learned_width=learned_width,
        scale=1.0 / temperature,
        num_parts=settings.parts,
        num_codes=settings.codes,
        seed=seed,
    )
    return token.append_to


def _interaction(settings: SparCodeFitConfig, width: int, seed: int) -> Interaction:
    num_tokens, scale = settings.item_tokens, settings.scale
    if settings.interaction == "product":
        return ProductInteraction(num_item_tokens=num_tokens, width=width, scale=scale)
    return MlpInteraction(
        num_item_tokens=num_tokens, width=width, hidden_units=settings.hidden_units, scale=scale, seed=seed
    )


def _plan(settings: SparCodeFitConfig, encoder: Encoder, data: TrainingData) -> BatchPlan:
    return BatchPlan(
        batch_size=settings.batch_size,
        in_batch=True,
        queue_size=0,
        sources=[uniform(num=settings.num_uniform)],
        known=data.known,
        item_counts=data.item_counts,
        catalogue_size=len(encoder.item_ids) - 1,
        correct=settings.log_q != "none",
        frequency=None,
    )
