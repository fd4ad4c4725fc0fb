"""SparCode's loss: the sampled softmax over its scores, while codebooks follow the tokens.

    loss = sampled softmax( sum_k relu(S_k + b) - log q ) + lambda sum_k || t_k - stop(q_k) ||^2

Shape letters: B rows of a batch, C candidates in it, K_u tokens of a user, D width of a token, M parts, N codes.

Source: Su et al. (SparCode), SIGIR 2023, section 3.5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tensorflow_recommenders as tfrs
import tf_keras

from towers.sparcode import Estimator, SparCode, commitment, passed_on
from training.data.batches import ITEM_PREFIX, LOG_Q, MASK, USER_PREFIX, WEIGHT, Batch
from training.losses.objective import inputs_with_prefix, weighted_mean
from training.losses.softmax import SOFTMAX, LogQ


class SparCodeModel(tfrs.Model):  # type: ignore[misc]
    """SparCode and its loss; `training.trainer.fit` takes it.

    Args:
        sparcode: What is fitted; its quantizer has been started.
        log_q: Correction of the sampling bias, one of `training.losses.softmax.SOFTMAX`.
        commit_weight: lambda.
        estimator: How a gradient passes the quantizer.

    Raises:
        ValueError: There is no such correction.
    """

    def __init__(self, sparcode: SparCode, *, log_q: LogQ, commit_weight: float, estimator: Estimator) -> None:
        """Takes the model."""
        super().__init__()
        if log_q not in SOFTMAX:
            raise ValueError(f"log_q is {log_q!r}, expected one of: {', '.join(SOFTMAX)}")
        self.user_tokenizer, self.item_tokenizer = sparcode.user_tokenizer, sparcode.item_tokenizer
        self.quantizer, self.interaction, self.bias = sparcode.quantizer, sparcode.interaction, sparcode.bias
        # In a function: Keras would look into it for weights, and find the towers that are frozen.
        self._sparcode: Callable[[], SparCode] = lambda: sparcode
        self._softmax, self._commit_weight, self._estimator = SOFTMAX[log_q], commit_weight, estimator
        shape = (sparcode.quantizer.num_parts, sparcode.quantizer.num_codes)
        self.counts = tf.Variable(tf.zeros(shape), trainable=False, name="counts")
        self.zeros = tf.Variable(tf.zeros([2]), trainable=False, name="zeros")

    @property
    def fitted(self) -> SparCode:
        """The model as it is now."""
        return self._sparcode()

    def begin_epoch(self) -> None:
        """Forgets how codes were used."""
        for counter in (self.counts, self.zeros, self.quantizer.restarts):
            counter.assign(tf.zeros_like(counter))

    @property
    def usage(self) -> CodeUsage:
        """How codes were used since the epoch began."""
        rows, zeros = self.zeros.numpy().tolist()
        return CodeUsage(
            self.counts.numpy().astype(np.float64), int(self.quantizer.restarts), zeros / max(rows, 1), float(self.bias)
        )

    def compute_loss(self, inputs: Batch, training: bool = False) -> tf.Tensor:
        """Loss of a batch as `training.data.batches.batches` makes it, without private negatives or a queue: []."""
        batch = {name: tf.convert_to_tensor(values) for name, values in inputs.items()}
        sparcode = self.fitted
        tokens = sparcode.user_tokens(inputs_with_prefix(batch, USER_PREFIX), training=training)
        items = sparcode.item_tokens(inputs_with_prefix(batch, ITEM_PREFIX), training=training)
        codes = self.quantizer.codes(tokens)
        quantised = self.quantizer.decode(codes)
        scores = sparcode.scores(passed_on(tokens, quantised, self._estimator), items)
        losses = self._softmax(scores, batch[LOG_Q], mask=batch[MASK])
        if training:
            self.quantizer.update(tokens, codes)
            self._count(codes, tf.linalg.diag_part(scores))
        return weighted_mean(losses + self._commit_weight * commitment(tokens, quantised), batch[WEIGHT])

    def _count(self, codes: tf.Tensor, own: tf.Tensor) -> None:
        num_parts, num_codes = self.counts.shape
        rows = tf.reshape(codes, [-1, num_parts]) + num_codes * tf.range(num_parts)
        total = num_parts * num_codes
        found = tf.math.bincount(tf.reshape(rows, [-1]), minlength=total, maxlength=total, dtype=tf.float32)
        self.counts.assign_add(tf.reshape(found, [num_parts, num_codes]))
        num_zeros = tf.reduce_sum(tf.cast(own <= 0, tf.float32))
        self.zeros.assign_add(tf.stack([tf.cast(tf.size(own), tf.float32), num_zeros]))


def adam(learning_rate: float) -> tf_keras.optimizers.Optimizer:
    """Adam, for a model all of whose weights move at every step."""
    return tf_keras.optimizers.legacy.Adam(learning_rate)


Floats = npt.NDArray[np.float64]
# Of the codes that there are: below it, most of a codebook is not used.
TOO_FEW = 0.1
# Of the examples: those whose own item scores 0 teach nothing, as relu has no gradient there.
TOO_MANY_ZEROS = 0.5


@dataclass(frozen=True)
class CodeUsage:
    """How the tokens of an epoch were quantised.

    Attributes:
        counts: [M, N] float64, tokens of each code of each part.
        num_restarts: Dead codes that were put elsewhere.
        zero_share: Share of the examples whose own item scored 0.
        bias: b at the end of the epoch.
    """

    counts: Floats
    num_restarts: int
    zero_share: float
    bias: float

    @property
    def perplexity(self) -> Floats:
        """Exp of the entropy of each part's codes, between 1 and N: as many as if all were used alike: [M]."""
        shares = self.counts / np.maximum(self.counts.sum(axis=1, keepdims=True), 1)
        logs = np.log(np.where(shares > 0, shares, 1.0))
        return np.asarray(np.exp(-(shares * logs).sum(axis=1)))

    @property
    def num_used(self) -> npt.NDArray[np.int64]:
        """Codes of each part that any token fell into: [M]."""
        return np.asarray((self.counts > 0).sum(axis=1))

    def metrics(self) -> dict[str, float]:
        """Figures for the log; of the parts, the worst."""
        return {
            "perplexity": float(self.perplexity.min()),
            "codes_in_use": float(self.num_used.min()),
            "restarted_codes": float(self.num_restarts),
            "zero_share": self.zero_share,
            "bias": self.bias,
        }

    def warnings(self) -> list[str]:
        """What is wrong, in words; empty if nothing is."""
        num_codes, found = self.counts.shape[1], []
        for part, (perplexity, used) in enumerate(zip(self.perplexity, self.num_used, strict=True)):
            if perplexity < max(TOO_FEW * num_codes, 2.0):
                found.append(
                    f"the codebook of part {part} has collapsed: {used} of {num_codes} codes are in use, with a "
                    f"perplexity of {perplexity:.1f}. Lower sparcode.commitment or sparcode.learning_rate, or raise "
                    "sparcode.restart_below"
                )
        if self.zero_share > TOO_MANY_ZEROS:
            found.append(
                f"{self.zero_share:.0%} of the examples score 0 for their own item and teach nothing: the bias is "
                f"{self.bias:.2f}. Raise sparcode.initial_bias"
            )
        return found
