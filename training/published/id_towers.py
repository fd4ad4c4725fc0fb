"""Towers of ids alone for pairs without time: neighbours' vectors, fitted on all of a user's items at once.

    A = D_u^-1/2 X D_i^-1/2,   [U; V] = sum_{h=0..H} [[0, A], [A', 0]]^h [E_u; E_v]

One hop is a history tower: a user is its own row and the sum of the rows of its items, scaled by how many they are;
an item likewise by its users. Further hops reach users with items in common.

Shape letters: U users, N items, P pairs, B users of a batch, C candidates, D vector width.

Source: He et al., LightGCN, SIGIR 2020, section 3. Departs from it: the hops are added, not averaged, which vectors of
length one do not notice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tf_keras
from scipy import sparse

from training.negatives.known_positives import UserItems
from training.negatives.sampling_bias import log_of

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
        num_uniform: Items drawn evenly for each batch, in addition to all items of its users.
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


class NeighbourTowers(tf.Module):  # type: ignore[misc]
    """Id tables of users and items, and the pairs through which they are read.

    Args:
        users: [P] int64 user rows of distinct pairs.
        items: [P] int64 item rows.
        num_users: U.
        num_items: N.
        embedding_dim: D.
        num_hops: H; 0 is matrix factorisation.
        seed: Of the tables' first values.
    """

    def __init__(
        self,
        users: Ints,
        items: Ints,
        *,
        num_users: int,
        num_items: int,
        embedding_dim: int,
        num_hops: int,
        seed: int,
    ) -> None:
        """Normalises the pairs and fills the tables."""
        super().__init__()
        matrix = sparse.csr_array((np.ones(len(users), np.float32), (users, items)), shape=(num_users, num_items))
        of_users, of_items = (
            1.0 / np.sqrt(np.maximum(np.bincount(rows, minlength=size), 1.0))
            for rows, size in ((users, num_users), (items, num_items))
        )
        scaled = sparse.csr_array(sparse.diags_array(of_users) @ matrix @ sparse.diags_array(of_items))
        self._to_users = scaled.astype(np.float32)
        self._to_items = sparse.csr_array(self._to_users.T)
        self.num_hops = num_hops
        rng = np.random.default_rng(seed)
        self.user_table = tf.Variable(_first_values(rng, num_users, embedding_dim), name="user_table")
        self.item_table = tf.Variable(_first_values(rng, num_items, embedding_dim), name="item_table")

    def vectors(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Vectors of all users [U, D] and all items [N, D], not normalised; gradients reach both tables.

        SciPy multiplies the sparse matrix, fourteen times faster on two cores than TensorFlow does; the map is linear
        and symmetric, so that it is its own gradient. Runs eagerly.
        """

        @tf.custom_gradient  # type: ignore[untyped-decorator]
        def spread(user_table: tf.Tensor, item_table: tf.Tensor) -> object:
            def gradient(of_users: tf.Tensor, of_items: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
                dense = (tf.convert_to_tensor(part).numpy() for part in (of_users, of_items))
                return self._spread(*dense)

            return self._spread(user_table.numpy(), item_table.numpy()), gradient

        users, items = spread(self.user_table, self.item_table)
        return users, items

    def _spread(self, users: Floats, items: Floats) -> tuple[tf.Tensor, tf.Tensor]:
        total_users, total_items = users.copy(), items.copy()
        for _ in range(self.num_hops):
            users, items = self._to_users @ items, self._to_items @ users
            total_users += users
            total_items += items
        return tf.convert_to_tensor(total_users), tf.convert_to_tensor(total_items)


def _first_values(rng: np.random.Generator, num_rows: int, width: int) -> Floats:
    # Only the direction counts, so that the length sets how fast it turns.
    return rng.normal(scale=0.1, size=(num_rows, width)).astype(np.float32)


def grouped_softmax(
    users: tf.Tensor,
    candidates: tf.Tensor,
    positive_row: tf.Tensor,
    positive_column: tf.Tensor,
    *,
    log_q: tf.Tensor,
    temperature: float,
) -> tf.Tensor:
    """Sum over pairs of the sampled-softmax loss; users and candidates have length one.

        loss = sum_p ( log sum_c exp(s_{u(p),c} - log q_c) - (s_p - log q_p) ),   s = <u, v> / temperature

    With candidates that are distinct and q_c the probability that c is among them, the sum tends to that over the
    catalogue. A user's other positives stay in the sum, as in a softmax over the catalogue.

    Args:
        users: [B, D] float32.
        candidates: [C, D] float32, distinct items, every positive among them.
        positive_row: [P] int64, row of `users`.
        positive_column: [P] int64, row of `candidates`.
        log_q: [C] float32, natural log of the probability that an item is among the candidates, at most 0.
        temperature: Scores are divided by it before the correction.

    Returns:
        [] float32, nats, summed over pairs.

    Source: Yi et al., RecSys 2019, section 3, with one row of scores for all examples of a user.
    """
    users = users / temperature
    bound = 1.0 / temperature
    # Cosines are at most 1: this bound replaces a pass for each row's largest score. It and log q ride in the product.
    ones = tf.ones_like(users[:, :1])
    correction = (-log_q - bound)[:, None]
    log_sums = bound + _log_sum_exp(tf.concat([users, ones], 1), tf.concat([candidates, correction], 1))
    positives = tf.reduce_sum(tf.gather(users, positive_row) * tf.gather(candidates, positive_column), axis=1)
    own = positives - tf.gather(log_q, positive_column)
    return tf.reduce_sum(tf.gather(log_sums, positive_row) - own)


@tf.custom_gradient  # type: ignore[untyped-decorator]
def _log_sum_exp(left: tf.Tensor, right: tf.Tensor) -> object:
    """Log of sum_c exp(<l_b, r_c>): [B]; its gradient reuses the exponentials instead of making a softmax of them."""
    exponentials = tf.exp(tf.matmul(left, right, transpose_b=True))
    totals = tf.reduce_sum(exponentials, axis=1)

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        share = (upstream / totals)[:, None]
        return share * tf.matmul(exponentials, right), tf.matmul(exponentials, share * left, transpose_a=True)

    return tf.math.log(totals), gradient


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
