"""Speed of TFRS's retrieval tutorial: two embeddings of ids, its `Retrieval` task, Keras's `fit`."""

from __future__ import annotations

import os
from collections.abc import Sequence

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs
import tf_keras
from clock import Clock, Outcome
from world import World

from features.columns import ITEM_ID, USER_ID

EPOCHS, BATCH_SIZE, WIDTH, RATE = 3, 8192, 32, 0.1
# A step with metrics takes minutes.
METRIC_STEPS = 2


class TutorialModel(tfrs.Model):  # type: ignore[misc]
    """Two embeddings and the `Retrieval` task, as TFRS's retrieval tutorial has them.

    Args:
        user_ids: Strings.
        item_ids: Strings.
        with_metrics: Whether the rank of each example among all items is followed while training, as in the tutorial.
    """

    def __init__(self, user_ids: Sequence[str], item_ids: Sequence[str], *, with_metrics: bool) -> None:
        """Makes the towers."""
        super().__init__()
        self.user_model, self.item_model = _id_tower(user_ids), _id_tower(item_ids)
        candidates = tf.data.Dataset.from_tensor_slices(list(item_ids)).batch(128).map(self.item_model)
        metrics = tfrs.metrics.FactorizedTopK(candidates=candidates) if with_metrics else None
        self.task = tfrs.tasks.Retrieval(metrics=metrics)

    def compute_loss(self, features: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        """The task's loss, summed over the batch."""
        return self.task(self.user_model(features[USER_ID]), self.item_model(features[ITEM_ID]))


def _id_tower(ids: Sequence[str]) -> tf_keras.Model:
    lookup = tf_keras.layers.StringLookup(vocabulary=list(ids), mask_token=None)
    return tf_keras.Sequential([lookup, tf_keras.layers.Embedding(len(ids) + 1, WIDTH)])


def fit_tutorial(world: World, seed: int, *, with_metrics: bool, warm_up: int) -> Outcome:
    """Fits the tutorial's model on the ids of the same examples; with metrics for a few steps only."""
    tf_keras.utils.set_random_seed(seed)
    users, items = (ids.ids(np.arange(1, len(ids))) for ids in (world.encoder.user_ids, world.encoder.item_ids))
    model = TutorialModel(users, items, with_metrics=with_metrics)
    model.compile(optimizer=tf_keras.optimizers.legacy.Adagrad(learning_rate=RATE))
    rows = {
        USER_ID: world.span.users[USER_ID][world.span.user_row] - 1,
        ITEM_ID: world.span.items[ITEM_ID][world.span.item_row] - 1,
    }
    examples = {USER_ID: np.array(users)[rows[USER_ID]], ITEM_ID: np.array(items)[rows[ITEM_ID]]}
    data = tf.data.Dataset.from_tensor_slices(examples).shuffle(len(world.span), seed=seed).batch(BATCH_SIZE)
    if with_metrics:
        data = data.take(1 + METRIC_STEPS)
    clock = Clock()
    sizes = [min(BATCH_SIZE, len(world.span) - at) for at in range(0, len(world.span), BATCH_SIZE)]
    follow = tf_keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: clock.start(), on_batch_end=lambda batch, logs: clock.step()
    )
    epochs = 1 if with_metrics else EPOCHS
    model.fit(data.cache(), epochs=epochs, callbacks=[follow], verbose=0)
    clock.rows = (sizes * epochs)[: len(clock.seconds)]
    if with_metrics:
        return Outcome.of(clock, float("nan"), warm_up=1)
    vectors = (model.user_model(tf.constant(users)).numpy(), model.item_model(tf.constant(items)).numpy())
    return Outcome.of(clock, world.recall(*vectors), warm_up=warm_up)
