"""History encoders of attention: the seed item with what it attends to, and causal blocks of self-attention.

Every position reads what it sees and no more (`towers.history_positions`). Only while training is more than position 0
computed: what is served has one query.

Shape letters: B rows, T history length, P positions, D vector width, H heads, W width of a head.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf
import tf_keras

from towers.history_positions import HOURS, NOT_THERE, ages_at, sees_any, visible
from towers.lookups import seeded_generator


def attend(queries: tf.Tensor, keys: tf.Tensor, values: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """Scaled dot-product attention of several heads.

        share_hpt = softmax_t( <q_hp, k_ht> / sqrt(W) + bias_hpt ),   found_hp = sum_t share_hpt v_ht

    Args:
        queries: [B, P, H W] float32.
        keys: [B, T, H W] float32.
        values: [B, T, H W] float32.
        bias: [B, H, P, T] float32.

    Returns:
        [B, P, H W] float32, heads one after the other.

    Source: Vaswani et al., NeurIPS 2017, section 3.2.
    """
    num_heads, total = bias.shape[1], keys.shape[-1]
    width = total // num_heads

    def by_head(rows: tf.Tensor) -> tf.Tensor:
        return tf.transpose(tf.reshape(rows, [-1, rows.shape[1], num_heads, width]), [0, 2, 1, 3])

    logits = tf.matmul(by_head(queries), by_head(keys), transpose_b=True) / width**0.5 + bias
    found = tf.matmul(tf.nn.softmax(logits), by_head(values))
    return tf.reshape(tf.transpose(found, [0, 2, 1, 3]), [-1, queries.shape[1], total])


def place_biases(items: tf.Tensor, age_days: tf.Tensor, num_positions: int) -> Callable[[tf.Tensor, int], tf.Tensor]:
    """What the logits of places are raised by: heads forget at their own speed, and nothing unseen is read.

        bias_hpt = -fade_h log(1 + hours of age of item t at position p), or NOT_THERE where p does not see t

    Args:
        items: [B, T] int32 rows, 0 where padded.
        age_days: [B, T] float32.
        num_positions: P.

    Returns:
        From fades [H] float32, and how many of the P positions are wanted, to [B, H, positions, T] float32.

    Source: ours, after the linear biases of Press et al. (ALiBi), ICLR 2022; here of time, as a power law.
    """
    hidden = NOT_THERE * (1.0 - visible(items, num_positions))[:, None]
    faded = tf.math.log(1.0 + HOURS * ages_at(age_days, num_positions))[:, None]
    return lambda fades, asked: first(hidden, asked, axis=2) - fades[:, None, None] * first(faded, asked, axis=2)


def first(values: tf.Tensor, num: int, *, axis: int = 1) -> tf.Tensor:
    """The first entries along an axis; all of them are not copied, which a slice would."""
    return values if values.shape[axis] == num else values[:, :num] if axis == 1 else values[:, :, :num]


def mapped(vectors: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """[B, T, D] times [D, W] -> [B, T, W], as a product of two matrices: exported, it is a fully connected layer."""
    flat = tf.matmul(tf.reshape(vectors, [-1, vectors.shape[-1]]), kernel)
    return tf.reshape(flat, [-1, vectors.shape[1], kernel.shape[1]])


def normalised(vectors: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
    """Layer normalisation (Ba et al., 2016): [..., D], [D], [D] -> [..., D]."""
    centred = vectors - tf.reduce_mean(vectors, axis=-1, keepdims=True)
    variance = tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True)
    return centred * (tf.math.rsqrt(variance + 1e-6) * scale) + offset


class SeedAttention(tf_keras.layers.Layer):  # type: ignore[misc]
    """The latest item's vector and, next to it, what it attends to among all items that its position sees.

        found_p = [ x_p ; sum_t share_pt V x_t ],   share_p = attention of Q n_p over K n_t,   n = norm(x)

    It begins as the latest item and a mean of all.

    Args:
        heads: H.
        num_positions: P while training; otherwise 1.
        always: Whether all of them are wanted when serving, too.

    Source: Yi et al., RecSys 2019, section 4 (the seed item among the features of the query tower); attention of the
        candidate to the history in Zhou et al. (DIN), KDD 2018, is here that of the seed, as a query tower knows no
        candidate.
    """

    def __init__(self, *, heads: int, num_positions: int, always: bool = False, **kwargs: object) -> None:
        """Takes the shape."""
        super().__init__(**kwargs)
        self.heads, self.num_positions, self.always = heads, num_positions, always

    def build(self, shapes: tuple[tf.TensorShape, ...]) -> None:
        """Makes the maps, and the vector of who has no history."""
        width = shapes[0][-1]
        total = self.heads * -(-width // self.heads)
        same = tf_keras.initializers.Identity()
        self.scale = self.add_weight("scale", (width,), initializer="ones")
        self.offset = self.add_weight("offset", (width,), initializer="zeros")
        self.query = self.add_weight("query", (width, total))
        self.key = self.add_weight("key", (width, total))
        self.value = self.add_weight("value", (width, total), initializer=same)
        self.output_map = self.add_weight("output", (total, width), initializer=same)
        self.fades = self.add_weight("fades", (self.heads,), initializer="zeros")
        self.start = self.add_weight("start", (2 * width,), initializer=tf_keras.initializers.RandomNormal(stddev=0.05))

    def call(self, inputs: tuple[tf.Tensor, tf.Tensor, tf.Tensor], training: bool | None = None) -> tf.Tensor:
        """Attends.

        Args:
            inputs: As `towers.history_positions.place_vectors` gives them.
            training: Whether more than position 0 is wanted.

        Returns:
            [B, P, 2 D] float32.
        """
        vectors, items, age_days = inputs
        num = self.num_positions if training or self.always else 1
        rows = normalised(vectors, self.scale, self.offset)
        queries, keys, values = (
            mapped(first(rows, num), self.query),
            mapped(rows, self.key),
            mapped(vectors, self.value),
        )
        bias = place_biases(items, age_days, num)(self.fades, num)
        found = mapped(attend(queries, keys, values, bias), self.output_map)
        return tf.where(sees_any(items, num), tf.concat([first(vectors, num), found], axis=-1), self.start)

    def get_config(self) -> dict[str, object]:
        """Arguments that make the same layer again."""
        shape = {"heads": self.heads, "num_positions": self.num_positions, "always": self.always}
        return {**super().get_config(), **shape}


class SelfAttention(tf_keras.layers.Layer):  # type: ignore[misc]
    """Causal blocks of self-attention; a position's vector is that of its latest place after the last block.

        x <- x + dropout( O attention(n, n, n) ),   x <- x + dropout( F2 relu(F1 norm(x)) ),   n = norm(x)

    O and F2 begin at zero, so that it begins as the latest item. The last block computes only what is asked for.

    Args:
        blocks: Blocks, one after the other.
        heads: H.
        dropout: Share of the numbers that each block adds which are left out while training.
        num_positions: P while training; otherwise 1.
        always: Whether all of them are wanted when serving, too.

    Source: Kang and McAuley (SASRec), ICDM 2018, section 3. Departs from it: norms come first in a block (pre-norm,
        Xiong et al., ICML 2020), without one at the end, as the tower's own follows; ages are read, and fade by head.
    """

    def __init__(
        self, *, blocks: int, heads: int, dropout: float, num_positions: int, always: bool = False, **kwargs: object
    ) -> None:
        """Takes the shape."""
        super().__init__(**kwargs)
        self.blocks, self.heads, self.dropout = blocks, heads, dropout
        self.num_positions, self.always = num_positions, always
        self._random = seeded_generator() if dropout > 0 else None

    def build(self, shapes: tuple[tf.TensorShape, ...]) -> None:
        """Makes the weights of each block, and the vector of who has no history."""
        width = shapes[0][-1]
        total = self.heads * -(-width // self.heads)
        square, zeros = "glorot_uniform", "zeros"
        kinds: dict[str, tuple[tuple[int, ...], str]] = {
            "scale": ((width,), "ones"), "offset": ((width,), zeros), "query": ((width, total), square),
            "key": ((width, total), square), "value": ((width, total), square), "output": ((total, width), zeros),
            "fades": ((self.heads,), zeros), "second_scale": ((width,), "ones"), "second_offset": ((width,), zeros),
            "hidden": ((width, width), square), "hidden_bias": ((width,), zeros), "correction": ((width, width), zeros),
            "correction_bias": ((width,), zeros),
        }  # fmt: skip
        self.block_weights = [
            {
                name: self.add_weight(f"block_{number}_{name}", shape, initializer=initial)
                for name, (shape, initial) in kinds.items()
            }
            for number in range(self.blocks)
        ]
        self.start = self.add_weight("start", (width,), initializer=tf_keras.initializers.RandomNormal(stddev=0.05))

    def call(self, inputs: tuple[tf.Tensor, tf.Tensor, tf.Tensor], training: bool | None = None) -> tf.Tensor:
        """Encodes.

        Args:
            inputs: As `towers.history_positions.place_vectors` gives them.
            training: Whether more than position 0 is wanted, and numbers are left out.

        Returns:
            [B, P, D] float32.
        """
        vectors, items, age_days = inputs
        num, length = self.num_positions if training or self.always else 1, items.shape[1]
        bias_of = place_biases(items, age_days, num if self.blocks == 1 else length)
        for number, weights in enumerate(self.block_weights):
            asked = num if number == self.blocks - 1 else length
            rows = normalised(vectors, weights["scale"], weights["offset"])
            queries = mapped(first(rows, asked), weights["query"])
            keys, values = mapped(rows, weights["key"]), mapped(rows, weights["value"])
            read = mapped(attend(queries, keys, values, bias_of(weights["fades"], asked)), weights["output"])
            vectors = first(vectors, asked) + self._dropped(read, training)
            rows = normalised(vectors, weights["second_scale"], weights["second_offset"])
            hidden = tf.nn.relu(mapped(rows, weights["hidden"]) + weights["hidden_bias"])
            added = mapped(hidden, weights["correction"]) + weights["correction_bias"]
            vectors += self._dropped(added, training)
        return tf.where(sees_any(items, num), vectors, self.start)

    def _dropped(self, numbers: tf.Tensor, training: bool | None) -> tf.Tensor:
        if not training or self._random is None:
            return numbers
        kept = self._random.uniform(tf.shape(numbers)) >= self.dropout
        return tf.where(kept, numbers / (1.0 - self.dropout), 0.0)

    def get_config(self) -> dict[str, object]:
        """Arguments that make the same layer again."""
        shape = {"blocks": self.blocks, "heads": self.heads, "dropout": self.dropout}
        return {**super().get_config(), **shape, "num_positions": self.num_positions, "always": self.always}
