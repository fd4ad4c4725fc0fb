"""What does SparCode stand on where there are ids alone? Fitted vectors as frozen towers, and pairs as its batches.

    u' = [ u / |u| ; 0 ],   v' = [ v / c ; sqrt(1 - |v / c|^2) ],   c  length of the longest v

Both have length one, as tokens have, and <u', v'> = <u, v> / (|u| c): a user's items keep their order.

Model rows are those of arrays plus one; row 0 is the padding of a history.

Shape letters: U users, N items, P pairs, T history length, D vector width.

Source: the extra coordinate, Bachrach et al., RecSys 2014.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tf_keras

from features.columns import ITEM_ID, USER_ID
from features.encoding import HISTORY, Inputs
from features.sources.lightgcn import Pairs
from towers.two_tower import TwoTower
from training.dataset import Batch, BatchPlan, Span, epoch_batches
from training.negatives import KnownPositives

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int32]


def unit_vectors(user_vectors: Floats, item_vectors: Floats) -> tuple[Floats, Floats]:
    """Brings both sides to length one, so that each user ranks items as before.

    Args:
        user_vectors: [U, D] float32, none of them zero.
        item_vectors: [N, D] float32, not all of them zero.

    Returns:
        [U, D + 1] and [N, D + 1] float32.
    """
    users = user_vectors / np.linalg.norm(user_vectors, axis=1, keepdims=True)
    items = item_vectors / np.linalg.norm(item_vectors, axis=1).max()
    missing = np.sqrt(np.maximum(1.0 - np.square(items).sum(axis=1, keepdims=True), 0.0))
    return np.pad(users, ((0, 0), (0, 1))), np.concatenate([items, missing], axis=1)


def frozen_towers(user_vectors: Floats, item_vectors: Floats, *, history_length: int) -> TwoTower:
    """Towers that look a vector up by its row, and are given a history for those who read it.

    Args:
        user_vectors: [U, D] float32.
        item_vectors: [N, D] float32.
        history_length: T.
    """
    user, item = (tf_keras.Input(shape=(), dtype="int32", name=name) for name in (USER_ID, ITEM_ID))
    history = tf_keras.Input(shape=(history_length,), dtype="int32", name=HISTORY)
    return TwoTower(
        user=tf_keras.Model({USER_ID: user, HISTORY: history}, _lookup(user_vectors, user), name="user_tower"),
        item=tf_keras.Model({ITEM_ID: item}, _lookup(item_vectors, item), name="item_tower"),
    )


def history_vectors(item_vectors: Floats) -> Floats:
    """What a user's history is read as: items without their missing length, which is 0 on the side of users.

    Args:
        item_vectors: [N, D + 1] float32, from `unit_vectors`.

    Returns:
        [N + 1, D + 1] float32, zeros in row 0.
    """
    return np.pad(item_vectors[:, :-1], ((1, 0), (0, 1)))


def user_inputs(pairs: Pairs, *, num_users: int, history_length: int) -> Inputs:
    """Model inputs of all users: their rows [U] int32, and their latest items [U, T] int32, the last one first."""
    latest = _latest(pairs, num_users=num_users, length=history_length)
    return {USER_ID: np.arange(1, num_users + 1, dtype=np.int32), HISTORY: latest}


def item_inputs(num_items: int) -> Inputs:
    """Model inputs of all items: their rows [N] int32."""
    return {ITEM_ID: np.arange(1, num_items + 1, dtype=np.int32)}


def examples(pairs: Pairs, *, num_users: int, num_items: int, history_length: int) -> Span:
    """Each pair as an example, whose history is the user's latest other items.

    Args:
        pairs: What is fitted.
        num_users: U.
        num_items: N; even draws are made from all of them.
        history_length: T.
    """
    longer = _latest(pairs, num_users=num_users, length=history_length + 1)[pairs.users]
    is_later = np.arange(history_length) < pairs.from_last[:, None]
    everything = item_inputs(num_items)
    return Span(
        users={
            USER_ID: (pairs.users + 1).astype(np.int32),
            HISTORY: np.where(is_later, longer[:, :-1], longer[:, 1:]),
        },
        items=everything,
        uniform=everything,
        user_row=np.arange(len(pairs)),
        item_row=pairs.items,
        weight=np.ones(len(pairs), np.float32),
    )


def pair_batches(
    pairs: Pairs,
    *,
    num_users: int,
    num_items: int,
    history_length: int,
    batch_size: int,
    num_uniform: int,
    seed: int,
) -> Callable[[int], Iterator[Batch]]:
    """Batches of an epoch, by its number, as `training.dataset.batches` makes them.

    Args:
        pairs: What is fitted; also masked as negatives of its users.
        num_users: U.
        num_items: N.
        history_length: T.
        batch_size: Pairs of a batch, about; their items are each other's negatives.
        num_uniform: Items drawn evenly for each batch.
        seed: Of order and negatives.
    """
    span = examples(pairs, num_users=num_users, num_items=num_items, history_length=history_length)
    plan = BatchPlan(
        batch_size=batch_size,
        in_batch=True,
        num_uniform=num_uniform,
        num_random=0,
        queue_size=0,
        mined=None,
        num_mined=0,
        impressions=None,
        num_impressions=0,
        known=KnownPositives.of(pairs.users + 1, pairs.items + 1, num_user_rows=num_users + 1),
        item_counts=np.bincount(pairs.items + 1, minlength=num_items + 1),
        catalogue_size=num_items,
        correct=True,
        frequency=None,
    )
    return lambda epoch: epoch_batches([span], plan, seed=[seed, epoch])


def _latest(pairs: Pairs, *, num_users: int, length: int) -> Rows:
    """The model rows of each user's latest items, the last one first, 0 behind them: [U, length]."""
    rows = np.zeros((num_users, length), np.int32)
    is_latest = pairs.from_last < length
    rows[pairs.users[is_latest], pairs.from_last[is_latest]] = pairs.items[is_latest] + 1
    return rows


def _lookup(vectors: Floats, rows: tf.Tensor) -> tf.Tensor:
    table = np.pad(vectors, ((1, 0), (0, 0)))
    initial = tf_keras.initializers.Constant(table)
    return tf_keras.layers.Embedding(*table.shape, embeddings_initializer=initial, trainable=False)(rows)
