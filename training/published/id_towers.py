"""How are towers of ids alone fitted on pairs without time? Batches of users, all their items at once.

Shape letters: U users, N items, P pairs, B users of a batch, C candidates, D vector width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tf_keras

from towers.neighbours import NeighbourTowers
from training.negatives import UserItems
from training.published.grouped_softmax import grouped_softmax
from training.sampling_bias import log_of

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
# Share of the learning rate that is left in the last step.
LAST_RATE = 0.1


@dataclass(frozen=True)
class IdTowerSettings:
    """How towers of ids are built and fitted.

    Attributes:
        embedding_dim: D.
        num_hops: Of neighbours, see `NeighbourTowers`.
        temperature: Cosines are divided by it.
        epochs: Passes over the users.
        batch_users: B.
        num_uniform: Items drawn evenly for each batch, beside all items of its users.
        learning_rate: Of Adam at the first step; falls evenly to a tenth.
    """

    embedding_dim: int
    num_hops: int
    temperature: float
    epochs: int
    batch_users: int
    num_uniform: int
    learning_rate: float


def fit_id_towers(
    users: Ints,
    items: Ints,
    settings: IdTowerSettings,
    *,
    num_users: int,
    num_items: int,
    seed: int,
    on_step: Callable[[float], None] = lambda loss: None,
) -> tuple[Floats, Floats]:
    """Fits id tables read through their neighbours with the sampled softmax.

    Args:
        users: [P] int64 user rows of distinct pairs.
        items: [P] int64 item rows.
        settings: How.
        num_users: U; those without a pair get the mean direction of the others.
        num_items: N.
        seed: Of first values, order and negatives.
        on_step: Called with the mean loss of each batch's pairs, nats.

    Returns:
        User vectors [U, D] and item vectors [N, D], float32, of length one.

    Raises:
        FloatingPointError: The loss is not a finite number.
        ValueError: There are no pairs.
    """
    if not len(users):
        raise ValueError("there are no pairs to fit; expected at least one user with an item")
    towers = NeighbourTowers(
        users,
        items,
        num_users=num_users,
        num_items=num_items,
        embedding_dim=settings.embedding_dim,
        num_hops=settings.num_hops,
        seed=seed,
    )
    sampler = _Sampler(users, items, settings, num_users=num_users, num_items=num_items)
    num_steps = settings.epochs * sampler.num_batches
    # Every row moves at every step, through its neighbours: a sparse optimiser would have nothing to save.
    optimizer = tf_keras.optimizers.legacy.Adam(
        tf_keras.optimizers.schedules.PolynomialDecay(
            settings.learning_rate, num_steps, settings.learning_rate * LAST_RATE
        )
    )
    tables = [towers.user_table, towers.item_table]
    for epoch in range(settings.epochs):
        for batch in sampler.batches(np.random.default_rng([seed, epoch])):
            with tf.GradientTape() as tape:
                loss = _loss(*towers.vectors(), *batch, temperature=settings.temperature)
            optimizer.apply_gradients(zip(tape.gradient(loss, tables), tables, strict=True))
            mean = float(loss)
            if not np.isfinite(mean):
                raise FloatingPointError(f"epoch {epoch + 1}: the loss is {mean}; lower the learning rate")
            on_step(mean)
    return _unit_vectors(towers, users)


def num_batches(users: Ints, batch_users: int) -> int:
    """Steps of an epoch: users with a pair, in equal parts of about `batch_users`."""
    return max(1, round(len(np.unique(users)) / batch_users))


class _Sampler:
    """Batches of users, with all their items and some drawn evenly as candidates."""

    def __init__(self, users: Ints, items: Ints, settings: IdTowerSettings, *, num_users: int, num_items: int) -> None:
        self._pairs = UserItems.of(users, items, num_user_rows=num_users)
        self._some = np.unique(users)
        self._num_items = num_items
        self._num_uniform = min(settings.num_uniform, num_items)
        self.num_batches = num_batches(users, settings.batch_users)
        # Present unless no user of the batch has it and it is not drawn either.
        missed = 1.0 - 1.0 / self.num_batches
        drawn = self._num_uniform / num_items
        absent = (1.0 - drawn) * missed ** np.bincount(items, minlength=num_items)
        self._log_q = log_of(np.asarray(1.0 - absent, np.float64))

    def batches(self, rng: np.random.Generator) -> Iterator[tuple[Ints, Ints, Ints, Ints, Floats]]:
        """Users [B], candidates [C], rows and columns of the pairs [P] twice, and log q [C], of each batch."""
        order = rng.permutation(self._some)
        for rows in np.array_split(order, self.num_batches):
            positive_row, own = self._pairs.pairs_of(rows)
            drawn = rng.choice(self._num_items, self._num_uniform, replace=False)
            candidates = np.unique(np.concatenate([own, drawn]))
            yield rows, candidates, positive_row, np.searchsorted(candidates, own), self._log_q[candidates]


@tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
def _loss(
    users: tf.Tensor,
    items: tf.Tensor,
    rows: tf.Tensor,
    candidates: tf.Tensor,
    positive_row: tf.Tensor,
    positive_column: tf.Tensor,
    log_q: tf.Tensor,
    *,
    temperature: float,
) -> tf.Tensor:
    total = grouped_softmax(
        tf.math.l2_normalize(tf.gather(users, rows), axis=1),
        tf.math.l2_normalize(tf.gather(items, candidates), axis=1),
        positive_row,
        positive_column,
        log_q=log_q,
        temperature=temperature,
    )
    return total / tf.cast(tf.shape(positive_row)[0], tf.float32)


def _unit_vectors(towers: NeighbourTowers, users: Ints) -> tuple[Floats, Floats]:
    user_vectors, item_vectors = (tf.math.l2_normalize(part, axis=1).numpy() for part in towers.vectors())
    known = np.zeros(len(user_vectors), bool)
    known[users] = True
    user_vectors[~known] = user_vectors[known].mean(axis=0)
    return user_vectors, item_vectors
