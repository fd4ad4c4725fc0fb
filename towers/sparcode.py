"""SparCode's model: tokens of users that become codes, and a net that scores codes against all items.

    score(user, item) = sum_{k=1..K_u} relu( S(q_k, tokens of the item) + b ),   q_k = the code nearest to token k

What depends on the user is a code out of a finite number, so that every S can be worked out beforehand; what is below
-b is not even stored. Most of S is precomputable too:

    h = relu( sum_k W_k (q * t_k) + c ),   S = sum_k <a_k, q * t_k> + <w, h> + bias

W_k diag(t_k) summed over an item's tokens is one matrix [H, D] of the item alone, so that a pair costs H D products
however many tokens an item has. The first sum is the inner product that a two-tower model would take: it
is ours, and with it the net begins as its backbone.

Shape letters: B rows, C candidates, K_u tokens of a user, K_c tokens of an item, D width of a token, M parts of a code,
Q tokens of users, N items, H hidden units.

Source: Su et al. (SparCode), SIGIR 2023, arXiv 2311.18213, section 3; section 3.4 has the interaction of Hadamard
products and an MLP.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tf_keras

from towers.quantizer import ProductQuantizer, straight_through

Estimator = Literal["straight_through", "stop_gradient"]


@dataclass(frozen=True)
class SparCode:
    """The parts of the model.

    Attributes:
        user_tokenizer: Dict of the user tower's inputs -> [B, K_u D].
        item_tokenizer: Dict of the item tower's inputs -> [C, K_c D].
        quantizer: Codebooks.
        interaction: S.
        bias: b, [] float32.
        width: D.
    """

    user_tokenizer: tf_keras.Model
    item_tokenizer: tf_keras.Model
    quantizer: ProductQuantizer
    interaction: Interaction
    bias: tf.Variable
    width: int

    @property
    def num_user_tokens(self) -> int:
        """K_u."""
        return int(self.user_tokenizer.output.shape[-1]) // self.width

    @property
    def num_item_tokens(self) -> int:
        """K_c."""
        return int(self.item_tokenizer.output.shape[-1]) // self.width

    def user_tokens(self, inputs: Mapping[str, tf.Tensor], *, training: bool = False) -> tf.Tensor:
        """[B, K_u, D] float32, before they become codes."""
        flat = self.user_tokenizer(inputs, training=training)
        return tf.reshape(flat, [-1, self.num_user_tokens, self.width])

    def item_tokens(self, inputs: Mapping[str, tf.Tensor], *, training: bool = False) -> tf.Tensor:
        """[C, K_c, D] float32."""
        flat = self.item_tokenizer(inputs, training=training)
        return tf.reshape(flat, [-1, self.num_item_tokens, self.width])

    def scores(self, tokens: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
        """Scores of all pairs: tokens or codes [B, K_u, D], items [C, K_c, D] -> [B, C], none below 0."""
        num_rows, num_tokens = tf.shape(tokens)[0], tokens.shape[1]
        pairs = self.interaction.scores(tf.reshape(tokens, [-1, self.width]), items)
        kept = tf.nn.relu(tf.reshape(pairs, [num_rows, num_tokens, -1]) + self.bias)
        return tf.reduce_sum(kept, axis=1)


def passed_on(tokens: tf.Tensor, quantised: tf.Tensor, estimator: Estimator) -> tf.Tensor:
    """What the scorer is given of quantised tokens: their values, and a gradient for the tokens or none.

    Args:
        tokens: [..., D].
        quantised: [..., D], what their codes decode to.
        estimator: `straight_through` hands the gradient through as if nothing had been replaced; with `stop_gradient`,
            as the paper's formula has it literally, the commitment loss alone moves the tokens.
    """
    return straight_through(tokens, quantised) if estimator == "straight_through" else tf.stop_gradient(quantised)


def commitment(tokens: tf.Tensor, quantised: tf.Tensor) -> tf.Tensor:
    """Squared distance of tokens from what replaces them, which does not move: [B, K_u, D] twice -> [B]."""
    return tf.reduce_sum(tf.square(tokens - tf.stop_gradient(quantised)), axis=[1, 2])


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
