"""Speed of this project's trainer on ids alone, on all inputs, and with id tables of any size."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
import tf_keras
from clock import Clock, Outcome
from world import World

from features.columns import ITEM_ID, USER_ID
from features.encoding import HISTORY, Inputs
from features.kinds import InputSpec
from towers.history import HISTORY_ENCODERS
from towers.two_tower import build_two_tower
from training.data.batches import ITEM_PREFIX, USER_PREFIX, Batch, BatchPlan, batches
from training.fit_loop import fit
from training.losses.fused_softmax import fused_softmax
from training.losses.softmax import softmax_term
from training.negatives.even_draws import uniform
from training.optimizers import make_optimizer
from training.trainer import RetrievalModel, embed
from twinspire.config import Config


def our_model(
    config: Config, user_specs: Sequence[InputSpec], item_specs: Sequence[InputSpec], *, width: int
) -> RetrievalModel:
    """The towers that the configuration describes, on some of their inputs."""
    towers = build_two_tower(
        user_specs,
        item_specs,
        embedding_dim=width,
        hidden_units=config.towers.hidden_units,
        head=config.towers.head,
        activation=config.towers.activation,
        history=HISTORY_ENCODERS[config.towers.history_encoder](**config.towers.history_arguments),
    )
    terms = [(1.0, softmax_term(config.training.log_q, kernel=fused_softmax))]
    return RetrievalModel(towers, terms=terms, temperature=config.towers.temperature, learn_temperature=False)


def our_plan(config: Config, world: World, *, batch_size: int, num_uniform: int) -> BatchPlan:
    """In-batch and shared uniform negatives."""
    return BatchPlan(
        batch_size=batch_size,
        in_batch=True,
        queue_size=0,
        sources=[uniform(num=num_uniform)],
        known=world.known,
        num_item_rows=len(world.encoder.item_ids),
        catalogue_size=len(world.encoder.item_ids) - 1,
        correct=config.training.log_q != "none",
        frequency=None,
    )


def fit_ours(
    world: World,
    config: Config,
    seed: int,
    *,
    kinds: Sequence[str] | None,
    plan: BatchPlan,
    epochs: int,
    width: int,
    warm_up: int,
) -> Outcome:
    """Fits with this project's trainer, on all inputs or on those of some kinds."""
    tf_keras.utils.set_random_seed(seed)
    specs = {
        tower: [spec for spec in world.encoder.input_specs(tower) if kinds is None or spec.kind in kinds]
        for tower in ("user", "item")
    }

    def only(inputs: Inputs, tower: str) -> Inputs:
        return {spec.name: inputs[spec.name] for spec in specs[tower]}

    span = replace(
        world.span,
        users=only(world.span.users, "user"),
        items=only(world.span.items, "item"),
        uniform=only(world.span.uniform, "item"),
    )
    clock = Clock()

    def batches_of(epoch: int) -> Iterator[Batch]:
        clock.start()
        for batch in batches(span, plan, seed=[seed, epoch]):
            clock.rows.append(len(batch["weight"]))
            yield batch

    model = our_model(config, specs["user"], specs["item"], width=width)
    with tempfile.TemporaryDirectory() as folder:
        fit(
            model,
            epochs,
            batches_of=batches_of,
            optimizer=make_optimizer(config.training.optimizer, config.training.learning_rate),
            folder=Path(folder),
            evaluate=lambda towers: {},
            on_step=lambda loss: clock.step(),
        )
    vectors = (
        embed(model.user_tower, only(world.users, "user")),
        embed(model.item_tower, only(world.items, "item")),
    )
    return Outcome.of(clock, world.recall(*vectors), warm_up=warm_up)


def step_with_tables_of(
    world: World, config: Config, num_rows: int, *, plan: BatchPlan, steps: int, seed: int
) -> list[float]:
    """Milliseconds of each step on batches made beforehand, with id tables of a size of which all rows are used alike.

    Ids are spread over the table by a multiplication, so that a larger table is not merely longer at its end.
    """
    tf_keras.utils.set_random_seed(seed)
    ids = {USER_PREFIX + USER_ID, ITEM_PREFIX + ITEM_ID, USER_PREFIX + HISTORY}
    specs = {
        tower: [
            replace(spec, num_rows=num_rows + 1) if spec.kind in ("id", "history") else spec
            for spec in world.encoder.input_specs(tower)
        ]
        for tower in ("user", "item")
    }
    model = our_model(config, specs["user"], specs["item"], width=config.towers.embedding_dim)
    model.compile(optimizer=make_optimizer(config.training.optimizer, config.training.learning_rate))
    step = tf.function(model.train_step, reduce_retracing=True)
    found = Clock()
    for _, batch in zip(range(steps), batches(world.span, plan, seed=[seed]), strict=False):
        spread = {name: _spread(values, num_rows) if name in ids else values for name, values in batch.items()}
        found.start()
        float(step(spread)["loss"])
        found.step()
    return [1000 * seconds for seconds in found.seconds]


def _spread(rows: np.ndarray, num_rows: int) -> np.ndarray:
    """Rows over a table of another size; padding stays padding."""
    return np.where(rows > 0, rows.astype(np.int64) * 2_654_435_761 % num_rows + 1, 0).astype(rows.dtype)
