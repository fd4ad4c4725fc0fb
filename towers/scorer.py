"""Interaction net of SparCode: the score of a user's token and an item, most of it precomputable.

    h = relu( sum_k W_k (q * t_k) + c ),   S = sum_k <a_k, q * t_k> + <w, h> + bias

W_k diag(t_k) summed over an item's tokens is one matrix [H, D] of the item alone, so that a pair costs H D products
however many tokens an item has. The first sum is the inner product that a two-tower model would take.

Shape letters: Q tokens of users, N items, D width of a token, K_c tokens of an item, H hidden units.

Source: Su et al. (SparCode), SIGIR 2023, section 3.4 (all-to-all interaction of Hadamard products and an MLP). The
inner products next to the MLP are ours; with them the scorer begins as its backbone.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
import tensorflow as tf


class Interaction(Protocol):
    """Any net that scores tokens of users against items."""

    def scores(self, users: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
        """Scores of all pairs, before the bias of the ReLU: [Q, D], [N, K_c, D] -> [Q, N]."""
        ...

    def widened(self, width: int, scale: float) -> Interaction:
        """The same over tokens with more coordinates, which count as `scale` times an inner product, and nothing else.

        Args:
            width: Coordinates that are appended to each token.
            scale: Weight of their inner product with an item's first token.
        """
        ...

    def arrays(self) -> dict[str, npt.NDArray[np.float32]]:
        """What its counterpart without TensorFlow is made of, by name."""
        ...


class MlpInteraction(tf.Module):  # type: ignore[misc]
    """Inner products and a hidden layer over Hadamard products.

    Args:
        num_item_tokens: K_c.
        width: D.
        hidden_units: H.
        scale: First weight of the inner product with an item's first token, such as one over the temperature.
        seed: Of the first values.
    """

    def __init__(self, *, num_item_tokens: int, width: int, hidden_units: int, scale: float, seed: int) -> None:
        """Starts as `scale` times the inner product: the hidden layer counts nothing yet."""
        super().__init__(name="interaction")
        rng = np.random.default_rng(seed)
        first = np.zeros((num_item_tokens, width), np.float32)
        first[0] = scale
        hidden = rng.normal(scale=1.0, size=(num_item_tokens, hidden_units, width)).astype(np.float32)
        self.products = tf.Variable(first, name="products")
        self.hidden = tf.Variable(hidden, name="hidden")
        self.hidden_bias = tf.Variable(tf.zeros(hidden_units), name="hidden_bias")
        self.output = tf.Variable(tf.zeros(hidden_units), name="output")

    def scores(self, users: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
        """See `Interaction`."""
        num_users, num_items = tf.shape(users)[0], tf.shape(items)[0]
        products = tf.matmul(users, tf.einsum("nkd,kd->nd", items, self.products), transpose_b=True)
        of_items = tf.einsum("nkd,khd->nhd", items, self.hidden)
        hidden = tf.matmul(users, tf.reshape(of_items, [-1, users.shape[-1]]), transpose_b=True)
        hidden = tf.nn.relu(tf.reshape(hidden, [num_users * num_items, -1]) + self.hidden_bias)
        return products + tf.reshape(tf.linalg.matvec(hidden, self.output), [num_users, num_items])

    def widened(self, width: int, scale: float) -> MlpInteraction:
        """See `Interaction`."""
        num_tokens, num_hidden, own = self.hidden.shape
        wider = MlpInteraction(
            num_item_tokens=num_tokens, width=own + width, hidden_units=num_hidden, scale=1.0, seed=0
        )
        wider.products.assign(_widened(self.products, width, scale))
        wider.hidden.assign(tf.pad(self.hidden, [[0, 0], [0, 0], [0, width]]))
        wider.hidden_bias.assign(self.hidden_bias)
        wider.output.assign(self.output)
        return wider

    def arrays(self) -> dict[str, npt.NDArray[np.float32]]:
        """See `Interaction`."""
        names = ("products", "hidden", "hidden_bias", "output")
        return {name: getattr(self, name).numpy() for name in names}


class ProductInteraction(tf.Module):  # type: ignore[misc]
    """Weighted inner products alone: several vectors a user and an item, and nothing between them.

    Args:
        num_item_tokens: K_c.
        width: D.
        scale: First weight of the inner product with an item's first token.
    """

    def __init__(self, *, num_item_tokens: int, width: int, scale: float) -> None:
        """Starts as `scale` times the inner product."""
        super().__init__(name="interaction")
        first = np.zeros((num_item_tokens, width), np.float32)
        first[0] = scale
        self.products = tf.Variable(first, name="products")

    def scores(self, users: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
        """See `Interaction`."""
        return tf.matmul(users, tf.einsum("nkd,kd->nd", items, self.products), transpose_b=True)

    def widened(self, width: int, scale: float) -> ProductInteraction:
        """See `Interaction`."""
        num_tokens, own = self.products.shape
        wider = ProductInteraction(num_item_tokens=num_tokens, width=own + width, scale=1.0)
        wider.products.assign(_widened(self.products, width, scale))
        return wider

    def arrays(self) -> dict[str, npt.NDArray[np.float32]]:
        """See `Interaction`."""
        return {"products": self.products.numpy()}


def _widened(products: tf.Variable, width: int, scale: float) -> tf.Tensor:
    """Weights with more coordinates, which count with an item's first token alone: [K_c, D] -> [K_c, D + width]."""
    more = tf.pad(tf.fill([1, width], scale), [[0, products.shape[0] - 1], [0, 0]])
    return tf.concat([products, more], axis=1)
