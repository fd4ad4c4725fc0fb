"""The objective: a weighted sum of terms, each a number for what the two towers made of a batch.

Shape letters: B rows of a batch, C shared candidates in it, Q columns of the queue, H private negatives of a row, D
vector width, K interests of a user.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import tensorflow as tf

from towers.interests import INTERESTS
from towers.two_tower import VECTOR
from training.data.batches import ITEM_GRADIENT, ITEM_PREFIX, LOG_Q, MASK, PRIVATE_LOG_Q, USER_PREFIX, WEIGHT
from training.distribution import mean_over_replicas

Tensors = dict[str, tf.Tensor]


@dataclass(frozen=True)
class Outputs:
    """What both towers made of a batch.

    Attributes:
        users: Parts of the user tower, [B, ...] each; "vector" is among them. Of several interests, these are
            "interests" [B, K, D], and "vector" is the one that the row's own item has picked, see `picked`.
        items: Parts of the item tower, [C + B H, ...] each: shared candidates, then private ones, row by row.
        batch: The batch, as `training.data.batches.batches` makes it.
        temperature: What scores are divided by.
        queue: [Q, D] vectors of the last batches' items, without gradient; None where there is no queue.
        targets: [n, D] vectors of what earlier positions of histories are to find; None where these are no examples.
    """

    users: Tensors
    items: Tensors
    batch: Mapping[str, tf.Tensor]
    temperature: tf.Tensor | float
    queue: tf.Tensor | None = None
    targets: tf.Tensor | None = None

    @property
    def num_rows(self) -> tf.Tensor:
        """B."""
        return tf.shape(self.weight)[0]

    @property
    def num_private(self) -> tf.Tensor | int:
        """H."""
        return tf.shape(self.batch[PRIVATE_LOG_Q])[1] if PRIVATE_LOG_Q in self.batch else 0

    @property
    def num_shared(self) -> tf.Tensor:
        """C."""
        return tf.shape(self.items[VECTOR])[0] - self.num_rows * self.num_private

    @property
    def weight(self) -> tf.Tensor:
        """[B] float32, the reward of each row."""
        return self.batch[WEIGHT]

    @property
    def mask(self) -> tf.Tensor:
        """[B, C + Q + H] bool, True where a column is not a negative of the row."""
        return self.batch[MASK]

    @property
    def user_inputs(self) -> Tensors:
        """What the user tower was given."""
        return inputs_with_prefix(self.batch, USER_PREFIX)

    @property
    def item_inputs(self) -> Tensors:
        """What the item tower was given."""
        return inputs_with_prefix(self.batch, ITEM_PREFIX)

    @property
    def item_gradient(self) -> tf.Tensor | None:
        """[C + Q] float32, what the gradient for a column's vector counts where it is another row's negative.

        With a queue, an item comes as a negative q times, and only q' times with a gradient; the others cannot move it.
        Its gradient counts q / q' in turn. None where every column takes its own.
        """
        return self.batch.get(ITEM_GRADIENT)

    @cached_property
    def common(self) -> tf.Tensor:
        """[C + Q, D] vectors of the candidates that all rows share."""
        shared = self.items[VECTOR] if PRIVATE_LOG_Q not in self.batch else self.items[VECTOR][: self.num_shared]
        return shared if self.queue is None else tf.concat([shared, self.queue], axis=0)

    @cached_property
    def private(self) -> tf.Tensor | None:
        """[B, H, D] vectors of the rows' private negatives; None where there are none."""
        if PRIVATE_LOG_Q not in self.batch:
            return None
        vectors = self.items[VECTOR][self.num_shared :]
        return tf.reshape(vectors, [self.num_rows, self.num_private, vectors.shape[-1]])

    @cached_property
    def scores(self) -> tf.Tensor:
        """[B, C + Q + H] float32, divided by the temperature; worked out when a term asks for it.

        Of several interests, that of the best one for each candidate.
        """
        interests = self.users.get(INTERESTS)
        users = self.users[VECTOR] if interests is None else interests
        scores = products(users, self.common, item_gradient=self.item_gradient)
        if self.private is not None and interests is not None:
            private = tf.reduce_max(tf.einsum("bkd,bhd->bkh", interests, self.private), axis=1)
            scores = tf.concat([scores, private], axis=1)
        elif self.private is not None:
            scores = tf.concat([scores, tf.einsum("bd,bhd->bh", users, self.private)], axis=1)
        return scores / self.temperature

    @property
    def log_q(self) -> tf.Tensor:
        """Of each score: [C + Q] float32, or [B, C + Q + H] where rows have private negatives."""
        common = self.batch[LOG_Q]
        if PRIVATE_LOG_Q not in self.batch:
            return common
        shape = [self.num_rows, tf.shape(common)[0]]
        return tf.concat([tf.broadcast_to(common, shape), self.batch[PRIVATE_LOG_Q]], axis=1)


Term = Callable[[Outputs], tf.Tensor]
"""From outputs to one number, [] float32."""


class DecayingWeight(tf.Module):  # type: ignore[misc]
    """A term's weight that shrinks between epochs.

    Args:
        weight: In the first epoch.
        decay: What it is multiplied by after each.
    """

    def __init__(self, weight: float, *, decay: float) -> None:
        """Starts at the weight."""
        super().__init__(name="decaying_weight")
        self.value = tf.Variable(weight, trainable=False, dtype=tf.float32)
        self._decay = decay

    def step(self) -> None:
        """Ends an epoch."""
        self.value.assign(self.value * self._decay)


Terms = Sequence[tuple[float | DecayingWeight, Term]]


def total_of(terms: Terms, outputs: Outputs) -> tf.Tensor:
    """sum_t weight_t term_t(outputs): []."""
    values = [
        (weight.value if isinstance(weight, DecayingWeight) else weight) * term(outputs) for weight, term in terms
    ]
    return tf.add_n(values)


def inputs_with_prefix(batch: Mapping[str, tf.Tensor], prefix: str) -> Tensors:
    """The inputs of one tower, without their prefix."""
    return {name.removeprefix(prefix): values for name, values in batch.items() if name.startswith(prefix)}


def products(users: tf.Tensor, items: tf.Tensor, *, item_gradient: tf.Tensor | None) -> tf.Tensor:
    """Inner products of all pairs, with a gradient for the items that may count more than once.

    Args:
        users: [B, D] float32, or [B, K, D], of which the largest product counts.
        items: [C, D] float32, the own items of rows 0 to B - 1 first.
        item_gradient: [C] float32, what an item's gradient counts, but for that of its own row; None leaves it.

    Returns:
        [B, C] float32, which `item_gradient` does not change.
    """
    if item_gradient is None:
        return _best(users, items)
    scale = tf.stop_gradient(item_gradient)[:, None]
    counted = scale * items + tf.stop_gradient((1.0 - scale) * items)
    own_items = items[: tf.shape(users)[0]]
    if len(users.shape) == 2:
        own = tf.reduce_sum(users * own_items, axis=1)
    else:
        own = tf.reduce_max(tf.einsum("bkd,bd->bk", users, own_items), axis=1)
    return tf.linalg.set_diag(_best(users, counted), own)


def _best(users: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
    """Inner products of all pairs, the largest where users have several vectors: [B, C]."""
    if len(users.shape) == 2:
        return tf.matmul(users, items, transpose_b=True)
    num, width = users.shape[1:]
    flat = tf.matmul(tf.reshape(users, [-1, width]), items, transpose_b=True)
    return tf.reduce_max(tf.reshape(flat, [-1, num, tf.shape(items)[0]]), axis=1)


def picked(interests: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
    """The interest of each row that its own item has the largest inner product with; the first of equal ones.

        k*_i = argmax_k <u_ik, v_i>

    The choice is hard, as is the maximum by which items are found: a softmax over interests would fit an average that
    is never asked for.

    Args:
        interests: [B, K, D] float32.
        items: [B, D] float32, the rows' own.

    Returns:
        [B, D] float32.
    """
    best = tf.argmax(tf.einsum("bkd,bd->bk", interests, items), axis=1)
    return tf.gather(interests, best, axis=1, batch_dims=1)


def weighted_mean(losses: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Mean of losses weighted by the rewards of their examples: both [B] float32 -> []; 0 if all weights are 0.

    Where several processes share a batch, their results have that mean as their own mean.
    """
    return tf.math.divide_no_nan(tf.reduce_sum(losses * weights), mean_over_replicas(tf.reduce_sum(weights)))
