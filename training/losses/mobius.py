"""Three-class loss of MOBIUS: clicks, unclicked pairs, and irrelevant pairs that the student would show.

All pairs of a batch's users and items are there for the asking. A frozen teacher of relevance marks those below a
quantile of its scores; of these, bad cases are sampled in proportion to the student's own chance of a click.

Shape letters: B rows of a batch, C shared candidates in it, P sampled pairs, W width of a part.

Source: Fan et al. (MOBIUS), KDD 2019, section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from towers.mobius import BAD, CLICK, PARTS, UNCLICK
from towers.two_tower import TwoTower, inputs_of
from training.losses.objective import Outputs, Tensors, weighted_mean

NUM_BINS = 2048
"""The threshold is exact to a 2048th of the range of the teacher's scores."""
Pairs = tuple[tf.Tensor, tf.Tensor, tf.Tensor]


def log_click_probability(user_parts: tf.Tensor, item_parts: tf.Tensor, *, temperature: tf.Tensor | float) -> tf.Tensor:
    """Log of the student's pCTR of each pair, the first of a softmax over three inner products.

    Args:
        user_parts: [B, 3, W] float32.
        item_parts: [C, 3, W] float32.
        temperature: What inner products are divided by.

    Returns:
        [B, C] float32.
    """
    click, unclick, bad = (
        tf.matmul(user_parts[:, part], item_parts[:, part], transpose_b=True) / temperature
        for part in (CLICK, UNCLICK, BAD)
    )
    return -tf.math.log1p(tf.exp(unclick - click) + tf.exp(bad - click))


def quantile(values: tf.Tensor, counted: tf.Tensor, *, share: float) -> tf.Tensor:
    """The quantile of the counted values, to a bin of a histogram.

    Args:
        values: [B, C] float32.
        counted: [B, C] bool.
        share: Between 0 and 1.

    Returns:
        [] float32, some value of the range where none is counted.
    """
    low, high = tf.reduce_min(values), tf.reduce_max(values)
    width = tf.maximum(high - low, 1e-6)
    # What is not counted swells the last bin, which is never below the threshold.
    placed = tf.where(counted, values, low + width)
    bins = tf.histogram_fixed_width(placed, [low, low + width], NUM_BINS, dtype=tf.int32)
    wanted = share * tf.reduce_sum(tf.cast(counted, tf.float32))
    below = tf.reduce_sum(tf.cast(tf.cast(tf.cumsum(bins), tf.float32) <= wanted, tf.float32))
    return low + width * below / NUM_BINS


def sample_pairs(log_weights: tf.Tensor, eligible: tf.Tensor, *, num_pairs: tf.Tensor, seed: tf.Tensor) -> Pairs:
    """Draws pairs without replacement, each in proportion to its weight.

    The largest of log weight + Gumbel noise are such a sample.

    Args:
        log_weights: [B, C] float32.
        eligible: [B, C] bool, pairs that may be drawn.
        num_pairs: P.
        seed: [2] int32; the same gives the same pairs.

    Returns:
        rows [P] and columns [P] int32, and [P] bool, False for what is left over where fewer than P are eligible.
    """
    shape = tf.shape(log_weights)
    noise = tf.random.stateless_uniform(shape, seed, minval=1e-20)
    keys = tf.where(eligible, log_weights - tf.math.log(-tf.math.log(noise)), log_weights.dtype.min)
    num_pairs = tf.minimum(num_pairs, tf.size(keys))
    found, places = tf.math.top_k(tf.reshape(keys, [-1]), num_pairs, sorted=False)
    return places // shape[1], places % shape[1], found > log_weights.dtype.min


class ThreeClassLoss(tf.Module):  # type: ignore[misc]
    """The term that trains click, unclick and bad, on pairs that it samples again in every step.

        loss = mean over sampled pairs (i, j) of -log softmax_c(<u_i^c, a_j^c> / temperature)[class of (i, j)]

    Clicks are the rows' own pairs, the others pairs that the mask does not exclude: what a user is known to like is
    never called bad. A pair weighs what its row does. Private negatives and the queue are not read.

    Args:
        teacher: Scores relevance, on the same inputs; it is not fitted.
        irrelevant_quantile: Share of the pairs which the teacher calls irrelevant.
        bad_per_click: Bad cases sampled for each row, from all rows' pairs.
        unclick_per_click: Pairs sampled evenly from the relevant ones, for each row.
        seed: Of the sampling; the number of the step is part of it.
    """

    def __init__(
        self,
        teacher: TwoTower,
        *,
        irrelevant_quantile: float,
        bad_per_click: int,
        unclick_per_click: int,
        seed: int,
    ) -> None:
        """Takes the teacher."""
        super().__init__(name="three_class_loss")
        # In a function: what is an attribute here would be saved with every checkpoint.
        self._teach = _frozen(teacher)
        self._quantile = irrelevant_quantile
        self._bad_per_click = bad_per_click
        self._unclick_per_click = unclick_per_click
        self._seed = seed
        self._step = tf.Variable(0, trainable=False, dtype=tf.int32)

    def __call__(self, outputs: Outputs) -> tf.Tensor:
        """The term: []."""
        users, items = outputs.users[PARTS], outputs.items[PARTS][: outputs.num_shared]
        classes = self.sample(outputs)
        losses, weights = [], []
        for label, (rows, columns, real) in classes.items():
            products = tf.reduce_sum(tf.gather(users, rows) * tf.gather(items, columns), axis=-1)
            log_shares = tf.nn.log_softmax(products / outputs.temperature, axis=-1)
            losses.append(-log_shares[:, label])
            weights.append(tf.gather(outputs.weight, rows) * tf.cast(real, tf.float32))
        return weighted_mean(tf.concat(losses, axis=0), tf.concat(weights, axis=0))

    def sample(self, outputs: Outputs) -> dict[int, Pairs]:
        """The pairs of each class, as `sample_pairs` returns them; a further call draws others."""
        users, items = outputs.users[PARTS], outputs.items[PARTS][: outputs.num_shared]
        num_rows, num_shared = outputs.num_rows, outputs.num_shared
        free = ~outputs.mask[:, :num_shared] & ~tf.eye(num_rows, num_shared, dtype=tf.bool)
        relevance = self._teach(outputs.user_inputs, _first(outputs.item_inputs, num_shared))
        irrelevant = relevance < quantile(relevance, free, share=self._quantile)
        log_clicks = tf.stop_gradient(log_click_probability(users, items, temperature=outputs.temperature))
        self._step.assign_add(1)
        own = tf.range(num_rows)
        return {
            CLICK: (own, own, tf.ones_like(own, tf.bool)),
            UNCLICK: sample_pairs(
                tf.zeros_like(log_clicks),
                free & ~irrelevant,
                num_pairs=self._unclick_per_click * num_rows,
                seed=tf.stack([self._seed, 2 * self._step]),
            ),
            BAD: sample_pairs(
                log_clicks,
                free & irrelevant,
                num_pairs=self._bad_per_click * num_rows,
                seed=tf.stack([self._seed, 2 * self._step + 1]),
            ),
        }


def _frozen(teacher: TwoTower) -> Callable[[Tensors, Tensors], tf.Tensor]:
    def teach(user_inputs: Tensors, item_inputs: Tensors) -> tf.Tensor:
        """The teacher's inner products of all pairs: [B, C], without a gradient."""
        users = teacher.user({name: user_inputs[name] for name in inputs_of(teacher.user)}, training=False)
        items = teacher.item({name: item_inputs[name] for name in inputs_of(teacher.item)}, training=False)
        return tf.stop_gradient(tf.matmul(users, items, transpose_b=True))

    return teach


def _first(inputs: Tensors, num_rows: tf.Tensor) -> Tensors:
    return {name: values[:num_rows] for name, values in inputs.items()}
