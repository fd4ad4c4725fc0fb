"""Positions of a history: what was known at each of them, how old it was then, and the vectors that encoders read.

Place t holds the t-th item from the end. Position t is the state of the user before the items at places 0 to t - 1 were
met, at the moment of the last of these; position 0 is that of the row itself. So position t sees places t and on, and
with the item at place t - 1 as its target it is one more example, as of the moment of that item.

Shape letters: B rows, T history length, P positions, D vector width, E edges of the buckets of ages.

Source: Kang and McAuley (SASRec), ICDM 2018, section 3.1 (each position of a sequence has the next item as its target).
Departs from it: ages are as of each position's own moment.
"""

from __future__ import annotations

import tensorflow as tf
import tf_keras

from towers.inputs import History

HOURS = 24.0
AGE_EDGES_DAYS = tuple(2.0**power / HOURS for power in range(15))
"""From an hour to 683 days, each twice the one before."""
# The logit of a place that is not seen.
NOT_THERE = -1e9


def moments(age_days: tf.Tensor) -> tf.Tensor:
    """How long before the row's own moment each position was: [B, T] float32 days, 0 for position 0.

    Args:
        age_days: [B, T] float32, days since each item was met, as of the row's own moment.
    """
    return tf.pad(age_days[:, :-1], [[0, 0], [1, 0]])


def ages_at(age_days: tf.Tensor, num_positions: int) -> tf.Tensor:
    """Age of each item as of the moment of each position: [B, P, T] float32 days, 0 where it was not met yet."""
    return tf.maximum(age_days[:, None, :] - moments(age_days)[:, :num_positions, None], 0.0)


def visible(items: tf.Tensor, num_positions: int) -> tf.Tensor:
    """Which items each position sees: rows [B, T] int32, 0 where padded -> [B, P, T] float32, 1 or 0."""
    length = items.shape[1]
    older = tf.linalg.band_part(tf.ones([num_positions, length]), 0, -1)
    return older * tf.cast(items > 0, tf.float32)[:, None, :]


def sees_any(items: tf.Tensor, num_positions: int) -> tf.Tensor:
    """Whether a position sees an item at all: rows [B, T] int32 -> [B, P, 1] bool."""
    return tf.reduce_max(visible(items, num_positions), axis=2, keepdims=True) > 0


class PlaceVectors(tf_keras.layers.Layer):  # type: ignore[misc]
    """What encoders of sequences read of each item: its vector, and what is learned of its age, place and codes.

        x_t = [item t is known] v_t + age(t) + place_t + sum_c code_c(t)

    The age is the item's as of the moment of position t, when it was the latest one: the time that passed until the
    next item was met or, at place 0, until now. So a position is encoded as it was when its target was still to come.

    age(t) = sum_e [age >= edge_e] a_e, so that neighbouring buckets share what they have in common.

    Args:
        num_values: Of each further code.
    """

    def __init__(self, *, num_values: tuple[int, ...] = (), **kwargs: object) -> None:
        """Takes the number of values of each code."""
        super().__init__(**kwargs)
        self.num_values = tuple(num_values)

    def build(self, shapes: tuple[tf.TensorShape, ...]) -> None:
        """Makes the tables."""
        length, width = shapes[0][1:]
        rows = {"ages": len(AGE_EDGES_DAYS), "places": length}
        rows |= {f"code_{number}": num for number, num in enumerate(self.num_values)}
        self.ages, self.places, *self.codes = [
            self.add_weight(name, (num, width), initializer=tf_keras.initializers.RandomNormal(stddev=0.02))
            for name, num in rows.items()
        ]

    def call(self, inputs: tuple[tf.Tensor, ...]) -> tf.Tensor:
        """Sums.

        Args:
            inputs: vectors [B, T, D], rows [B, T] int32 (0 is padding), age_days [B, T] float32, and [B, T] int32 of
                each code.

        Returns:
            [B, T, D] float32.
        """
        vectors, items, age_days, *codes = inputs
        age = tf.maximum(age_days - moments(age_days), 0.0)
        steps = tf.cast(age[:, :, None] >= tf.constant(AGE_EDGES_DAYS), tf.float32)
        found = vectors * tf.cast(items > 0, tf.float32)[:, :, None] + tf.matmul(steps, self.ages) + self.places
        # Products, not lookups: these tables are small, and the gradients of lookups are summed row by row.
        for values, num, table in zip(codes, self.num_values, self.codes, strict=True):
            found += tf.matmul(tf.one_hot(values, num), table)
        return found

    def get_config(self) -> dict[str, object]:
        """Arguments that make the same layer again."""
        return {**super().get_config(), "num_values": self.num_values}


def place_vectors(history: History, length: int | None) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The latest items of a history as `PlaceVectors` has them: vectors [B, L, D], rows [B, L], age_days [B, L].

    Args:
        history: The history.
        length: How many are read, at most; None reads all.

    Raises:
        ValueError: Fewer are read than there are positions.
    """
    longest = int(history.items.shape[1])
    length = longest if length is None else min(length, longest)
    if length < history.num_positions:
        raise ValueError(
            f"the history encoder reads {length} items and is trained at {history.num_positions} positions, each of "
            "which needs one; raise its length, or lower training.positions"
        )
    items, ages = history.items[:, :length], history.age_days[:, :length]
    codes = history.codes.values()
    layer = PlaceVectors(num_values=tuple(code.num_values for code in codes), name="history_places")
    vectors = layer((history.vectors(length), items, ages, *(code.values[:, :length] for code in codes)))
    return vectors, items, ages
