"""Optimisers whose updates touch only the rows of the tables that a batch has.

Another one is an entry of `OPTIMIZERS`; `training.optimizer` in the configuration names it. Keras's legacy optimisers
are what they extend: TFRS needs Keras 2, and the newer ones turn sparse gradients into dense ones.

Shape letters: n rows of a table, R of them in a batch, D vector width.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf
import tf_keras

State = dict[tuple[str, tf.DType], dict[str, tf.Tensor]]


class RowAdagrad(tf_keras.optimizers.legacy.Adagrad):  # type: ignore[misc]
    """Keras's legacy Adagrad; only the way in which a sparse gradient is applied differs, and rounding.

        a_r <- a_r + g_r^2,   w_r <- w_r - rate g_r / (sqrt(a_r) + epsilon)

    TensorFlow's own operation for it goes number by number through the rows. Here rows are gathered, updated as one
    dense array, and written back, which takes a third of the time; rows that a batch does not touch cost nothing.

    Source: Duchi et al., JMLR 2011.
    """

    def _resource_apply_sparse(
        self,
        grad: tf.Tensor,
        var: tf.Variable,
        indices: tf.Tensor,
        apply_state: State | None = None,
    ) -> tf.Operation:
        """Updates rows.

        Args:
            grad: [R, D] float32.
            var: [n, D] the table.
            indices: [R] rows of the table, each once: Keras has summed the gradients of repeated ones.
            apply_state: What Keras worked out for the step.
        """
        settings = (apply_state or {}).get((var.device, var.dtype.base_dtype)) or self._fallback_apply_state(
            var.device, var.dtype.base_dtype
        )
        accumulator = self.get_slot(var, "accumulator")
        squares = tf.gather(accumulator, indices) + tf.square(grad)
        rows = tf.gather(var, indices) - settings["lr_t"] * grad / (tf.sqrt(squares) + settings["epsilon"])
        kept = accumulator.scatter_update(tf.IndexedSlices(squares, indices))
        with tf.control_dependencies([kept]):
            return var.scatter_update(tf.IndexedSlices(rows, indices))


class RowAdam(tf_keras.optimizers.legacy.Adam):  # type: ignore[misc]
    """Keras's legacy Adam; a row's moments change only at steps whose batch has the row.

        m_r <- b1 m_r + (1 - b1) g_r,   v_r <- b2 v_r + (1 - b2) g_r^2
        w_r <- w_r - rate sqrt(1 - b2^t) / (1 - b1^t) m_r / (sqrt(v_r) + epsilon)

    The original lets the moments of all rows fade at every step, and moves rows on without a gradient: a large table
    would cost its whole size at each step.

    Source: Kingma and Ba, ICLR 2015, algorithm 1. That absent rows rest is ours, as in TensorFlow Addons' LazyAdam.
    """

    def _resource_apply_sparse(
        self, grad: tf.Tensor, var: tf.Variable, indices: tf.Tensor, apply_state: State | None = None
    ) -> tf.Operation:
        """Updates rows; arguments as in `RowAdagrad`."""
        settings = (apply_state or {}).get((var.device, var.dtype.base_dtype)) or self._fallback_apply_state(
            var.device, var.dtype.base_dtype
        )
        first, second = self.get_slot(var, "m"), self.get_slot(var, "v")
        mean = settings["beta_1_t"] * tf.gather(first, indices) + settings["one_minus_beta_1_t"] * grad
        square = settings["beta_2_t"] * tf.gather(second, indices) + settings["one_minus_beta_2_t"] * tf.square(grad)
        rows = tf.gather(var, indices) - settings["lr"] * mean / (tf.sqrt(square) + settings["epsilon"])
        kept = [
            first.scatter_update(tf.IndexedSlices(mean, indices)),
            second.scatter_update(tf.IndexedSlices(square, indices)),
        ]
        with tf.control_dependencies(kept):
            return var.scatter_update(tf.IndexedSlices(rows, indices))


def _adagrad(learning_rate: float) -> tf_keras.optimizers.Optimizer:
    return RowAdagrad(learning_rate, initial_accumulator_value=0.1)


OPTIMIZERS: dict[str, Callable[[float], tf_keras.optimizers.Optimizer]] = {"adam": RowAdam, "adagrad": _adagrad}
"""What `training.optimizer` names, by its learning rate."""


def make_optimizer(name: str, learning_rate: float) -> tf_keras.optimizers.Optimizer:
    """One of `OPTIMIZERS`."""
    return OPTIMIZERS[name](learning_rate)
