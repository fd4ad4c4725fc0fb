"""History encoder of a gated recurrent unit, which reads a history from the oldest item to the latest.

Shape letters: B rows, T history length, P positions, D vector width.
"""

from __future__ import annotations

import tensorflow as tf
import tf_keras

from towers.history_attention import mapped, normalised


class GatedRecurrentUnit(tf_keras.layers.Layer):  # type: ignore[misc]
    """A state that each item changes, by gates that the item and the state open.

        z, r = sigmoid(W n_t + b + U h),   c = tanh(W' n_t + b' + r * (U' h)),   h <- z * h + (1 - z) * c,   n = norm(x)

    The state begins as a learned vector, which is that of who has no history. Padding leaves it as it is. Steps are
    unrolled: exported, it has no loops.

    Args:
        num_positions: P while training; otherwise 1. A position's vector is the state after its latest item.
        always: Whether all of them are wanted when serving, too.

    Source: Cho et al., EMNLP 2014, with the reset gate behind the product; for sessions, Hidasi et al. (GRU4Rec), ICLR
        2016.
    """

    def __init__(self, *, num_positions: int, always: bool = False, **kwargs: object) -> None:
        """Takes the number of positions."""
        super().__init__(**kwargs)
        self.num_positions, self.always = num_positions, always

    def build(self, shapes: tuple[tf.TensorShape, ...]) -> None:
        """Makes the maps, and the first state."""
        width = shapes[0][-1]
        self.scale = self.add_weight("scale", (width,), initializer="ones")
        self.offset = self.add_weight("offset", (width,), initializer="zeros")
        self.kernel = self.add_weight("kernel", (width, 3 * width))
        self.recurrent = self.add_weight("recurrent", (width, 3 * width), initializer="orthogonal")
        self.bias = self.add_weight("bias", (3 * width,), initializer="zeros")
        self.start = self.add_weight("start", (width,), initializer=tf_keras.initializers.RandomNormal(stddev=0.05))

    def call(self, inputs: tuple[tf.Tensor, tf.Tensor, tf.Tensor], training: bool | None = None) -> tf.Tensor:
        """Reads.

        Args:
            inputs: As `towers.history_positions.place_vectors` gives them.
            training: Whether more than position 0 is wanted.

        Returns:
            [B, P, D] float32.
        """
        vectors, items, _ = inputs
        num, width = self.num_positions if training or self.always else 1, vectors.shape[-1]
        read = mapped(normalised(vectors, self.scale, self.offset), self.kernel) + self.bias
        read, known = tf.unstack(read, axis=1), tf.unstack(items[:, :, None] > 0, axis=1)
        state = tf.zeros_like(vectors[:, 0]) + self.start
        states = []
        for place in reversed(range(len(read))):
            of_item, of_state = read[place], tf.matmul(state, self.recurrent)
            gates = tf.sigmoid(of_item[:, : 2 * width] + of_state[:, : 2 * width])
            stay, reset = gates[:, :width], gates[:, width:]
            candidate = tf.tanh(of_item[:, 2 * width :] + reset * of_state[:, 2 * width :])
            state = tf.where(known[place], candidate + stay * (state - candidate), state)
            states.append(state)
        return tf.stack(states[::-1][:num], axis=1)

    def get_config(self) -> dict[str, object]:
        """Arguments that make the same layer again."""
        return {**super().get_config(), "num_positions": self.num_positions, "always": self.always}
