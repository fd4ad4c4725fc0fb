"""Fit SparCode: on the days of a phase, over fitted towers; and the files that the jobs and the server take."""

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
from training.config import SparCodeConfig
from training.dataset import Batch, BatchPlan, epoch_batches
from training.fit import Fitted
from training.held_out import WarmStart, state_file
from training.sparcode import SparCodeModel, adam
from training.trainer import EpochMetrics, EpochReport, embed, export_tower, fit, make_deterministic
from training.training_data import Material
from training.warm_start import carry_over, save_state, state_of
from twinspire.config import Config

STATE = "sparcode"
Say = Callable[[str, EpochReport], None]


def fit_sparcode(
    config: Config,
    settings: SparCodeConfig,
    encoder: Encoder,
    material: Material,
    backbone: Fitted,
    *,
    users: Inputs,
    items: Inputs,
    folder: Path,
    look: Callable[[SparCode], EpochMetrics] | None,
    say: Say,
    warm: WarmStart | None = None,
) -> tuple[SparCode, list[EpochMetrics]]:
    """Fits SparCode over towers, which stay as they are.

    Args:
        config: The configuration.
        settings: Its part about SparCode.
        encoder: The dataset's encoder.
        material: What is fitted.
        backbone: Fitted towers; frozen, in place. What stands beside their learned vectors becomes a token of its own.
        users: Model inputs of everybody at the phase's moment, by row of the canonical tables.
        items: Likewise of everything.
        folder: Gets checkpoints and logs.
        look: Measures the model before the first epoch and after each; None looks at nothing.
        say: Told of each epoch.
        warm: What the fit goes on from; None begins anew.

    Returns:
        The model, and what `look` found: before the first epoch, then after each.
    """
    make_deterministic(config.seed)
    widths = int(backbone.learned.user.output.shape[-1]), int(backbone.towers.user.output.shape[-1])
    # Learned coordinates and what stands beside them are cut alike: the next multiple of the number of parts.
    width = -(-max(widths[0], widths[1] - widths[0]) // settings.parts) * settings.parts
    sparcode = _build(config, settings, encoder, backbone.learned, items, width=width)
    join = _with_factors(config, settings, backbone, users, width=width)
    model = SparCodeModel(
        sparcode, log_q=settings.log_q, commit_weight=settings.commitment, estimator=settings.estimator
    )
    plan, optimizer = _plan(settings, encoder, material), adam(settings.learning_rate)
    # The towers below the tokens are today's; tokens, codes and net go on from where they were.
    carried = {"": [*model.trainable_variables, *sparcode.quantizer.variables]}
    if warm is None:
        sparcode.quantizer.start(embed(sparcode.user_tokenizer, users).reshape(-1, sparcode.width))
    else:
        carry_over(warm.state(STATE), warm.growth, carried, optimizer)

    def batches_of(epoch: int) -> Iterator[Batch]:
        return epoch_batches(material.load_all(), plan, seed=[config.seed, epoch])

    def looked(fitted: SparCode) -> EpochMetrics:
        return {} if look is None else look(join(_refitted(fitted, users)))

    def measured(fitted: SparCode) -> EpochMetrics:
        usage = model.usage
        for warning in usage.warnings():
            console().print(f"[yellow]warning[/] {warning}")
        found.append(looked(fitted))
        return {**usage.metrics(), **found[-1]}

    found = [looked(sparcode)]
    title = f"{material.name} sparcode"
    steps = settings.epochs * max(1, round(int(plan.item_counts.sum()) / settings.batch_size))
    with progress(f"training ({title})", total=steps) as advance:
        fit(
            model,
            settings.epochs,
            batches_of=batches_of,
            optimizer=optimizer,
            folder=folder / f"{material.name}-sparcode",
            look=measured,
            on_step=lambda loss: advance(1),
            on_epoch=lambda report: say(title, report),
            saved={"quantizer": sparcode.quantizer},
        )
    save_state(state_of(carried, optimizer), state_file(folder, STATE))
    return join(_refitted(sparcode, users)), found


def _refitted(sparcode: SparCode, users: Inputs) -> SparCode:
    """The model with codebooks fitted anew, by k-means, to everybody's tokens.

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
    config: Config, settings: SparCodeConfig, encoder: Encoder, backbone: TwoTower, items: Inputs, *, width: int
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
        seed=config.seed,
    )
    bias = tf.Variable(settings.initial_bias, name="bias", dtype=tf.float32)
    return SparCode(user_tokenizer, item_tokenizer, quantizer, _interaction(config, settings, width), bias, width)


def _with_factors(
    config: Config, settings: SparCodeConfig, backbone: Fitted, users: Inputs, *, width: int
) -> Callable[[SparCode], SparCode]:
    """Puts what stands beside the learned vectors, if anything, beside their tokens."""
    learned_width = int(backbone.learned.user.output.shape[-1])
    if int(backbone.towers.user.output.shape[-1]) == learned_width:
        return lambda learned: learned
    token = FactorToken.of(
        backbone.towers,
        embed(rest_tower(backbone.towers.user, learned_width=learned_width, width=width), users),
        learned_width=learned_width,
        scale=1.0 / config.towers.temperature,
        num_parts=settings.parts,
        num_codes=settings.codes,
        seed=config.seed,
    )
    return token.beside


def _interaction(config: Config, settings: SparCodeConfig, width: int) -> Interaction:
    num_tokens, scale = settings.item_tokens, settings.scale
    if settings.interaction == "product":
        return ProductInteraction(num_item_tokens=num_tokens, width=width, scale=scale)
    return MlpInteraction(
        num_item_tokens=num_tokens, width=width, hidden_units=settings.hidden_units, scale=scale, seed=config.seed
    )


def _plan(settings: SparCodeConfig, encoder: Encoder, material: Material) -> BatchPlan:
    return BatchPlan(
        batch_size=settings.batch_size,
        in_batch=True,
        num_uniform=settings.num_uniform,
        num_random=0,
        queue_size=0,
        mined=None,
        num_mined=0,
        impressions=None,
        num_impressions=0,
        known=material.known,
        item_counts=material.item_counts,
        catalogue_size=len(encoder.item_ids) - 1,
        correct=settings.log_q != "none",
        frequency=None,
    )
