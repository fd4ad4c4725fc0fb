"""SparCode's model: tokens of users that become codes, and a net that scores codes against all items.

    score(user, item) = sum_{k=1..K_u} relu( S(q_k, tokens of the item) + b ),   q_k = the code nearest to token k

What depends on the user is a code out of a finite number, so that every S can be worked out beforehand; what is below
-b is not even stored.

Shape letters: B rows, C candidates, K_u tokens of a user, K_c tokens of an item, D width of a token, M parts of a code.

Source: Su et al. (SparCode), SIGIR 2023, arXiv 2311.18213, section 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import tensorflow as tf
import tf_keras

from towers.quantizer import ProductQuantizer, straight_through
from towers.scorer import Interaction

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
