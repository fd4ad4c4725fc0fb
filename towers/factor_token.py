"""Factor token: co-purchase factors as one more token of SparCode, which is not trained.

    user tokens  [ token_1; 0 ], ..., [ token_K; 0 ], [ 0; factors of the user ]
    item tokens  [ token_1; factors of the item ], [ token_2; 0 ], ...
    score        as fitted over learned tokens + relu( <factors of the user, factors of the item> / temperature + b )

The learned vectors and the factors are fitted apart in the towers; so they are here. Tokens that are trained over
factors lean on what these know of the very examples, and lists get worse while the loss falls.

Shape letters: B rows, K tokens, D width of a learned token, F = D width of the rest of a vector, M parts of each half
of a token, N rows of a codebook, P = D / M, U users.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tf_keras

from towers.quantizer import ProductQuantizer
from towers.sparcode import SparCode
from towers.two_tower import TwoTower, inputs_of

Floats = npt.NDArray[np.float32]


class RestOfVector(tf_keras.layers.Layer):  # type: ignore[misc]
    """The coordinates after the learned ones, in units in which the learned ones have length one.

    Args:
        first: Learned coordinates of a vector.
        end: All coordinates of a vector. Of several side by side the first is read: the rest of all is the same.
        width: What the rest is filled up to with zeros.
    """

    def __init__(self, *, first: int, end: int, width: int, **kwargs: object) -> None:
        """Takes the widths."""
        super().__init__(**kwargs)
        self.first, self.end, self.width = first, end, width

    def call(self, vectors: tf.Tensor) -> tf.Tensor:
        """Cuts: [B, K (first + rest)] -> [B, width]."""
        rest = vectors[:, self.first : self.end] / tf.norm(vectors[:, : self.first], axis=1, keepdims=True)
        return tf.pad(rest, [[0, 0], [0, self.width - rest.shape[1]]])

    def get_config(self) -> dict[str, object]:
        """Arguments that make the same layer again."""
        return {**super().get_config(), "first": self.first, "end": self.end, "width": self.width}


class WithRest(tf_keras.layers.Layer):  # type: ignore[misc]
    """Appends the rest of a vector to tokens of its learned part: as a token of its own, or into the first one.

    Args:
        num_tokens: K.
        apart: Whether the rest becomes a token of its own.
    """

    def __init__(self, *, num_tokens: int, apart: bool, **kwargs: object) -> None:
        """Takes the number of tokens."""
        super().__init__(**kwargs)
        self.num_tokens, self.apart = num_tokens, apart

    def call(self, inputs: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        """Joins: tokens side by side [B, K D], rest [B, F] -> [B, (K + 1 or K) (D + F)]."""
        flat, rest = inputs
        tokens = tf.reshape(flat, [-1, self.num_tokens, flat.shape[1] // self.num_tokens])
        width = tokens.shape[2]
        if self.apart:
            learned = tf.pad(tokens, [[0, 0], [0, 1], [0, 0]])
            others = tf.pad(rest[:, None], [[0, 0], [self.num_tokens, 0], [0, 0]])
        else:
            learned = tokens
            others = tf.pad(rest[:, None], [[0, 0], [0, self.num_tokens - 1], [0, 0]])
        num_tokens = self.num_tokens + self.apart
        return tf.reshape(tf.concat([learned, others], axis=2), [-1, num_tokens * (width + rest.shape[1])])

    def get_config(self) -> dict[str, object]:
        """Arguments that make the same layer again."""
        return {**super().get_config(), "num_tokens": self.num_tokens, "apart": self.apart}


def rest_tower(backbone: TwoTower, *, learned_width: int, width: int) -> tf_keras.Model:
    """What the user tower appends to the learned vector: its inputs -> [B, F], filled with zeros up to F."""
    whole = int(backbone.item.output.shape[-1])
    cut = RestOfVector(first=learned_width, end=whole, width=width, name=f"{backbone.user.name}_rest")
    return tf_keras.Model(inputs_of(backbone.user), cut(backbone.user.output))


@dataclass(frozen=True)
class FactorToken:
    """What a backbone appends to its learned vectors, ready to be appended to their tokens.

    Attributes:
        backbone: Its towers give [B, learned_width + rest], users of several interests side by side.
        learned_width: Learned coordinates of its vectors.
        scale: What the inner product of the rests counts: one over the temperature of the learned scores.
        codebooks: Of the rests of users, [M, N, P].
    """

    backbone: TwoTower
    learned_width: int
    scale: float
    codebooks: tf.Tensor

    @classmethod
    def of(
        cls, backbone: TwoTower, user_rest: Floats, *, learned_width: int, scale: float, num_parts: int, num_codes: int,
        seed: int,
    ) -> FactorToken:  # fmt: skip
        """Puts codebooks where k-means puts them.

        Args:
            backbone: See `FactorToken`.
            user_rest: [U, F] float32, what `rest_tower` gives for users.
            learned_width: See `FactorToken`.
            scale: See `FactorToken`.
            num_parts: M.
            num_codes: N.
            seed: Of k-means.
        """
        quantizer = ProductQuantizer(
            num_parts=num_parts, num_codes=num_codes, width=user_rest.shape[1], decay=1.0, restart_below=0.0, seed=seed
        )
        quantizer.start(user_rest)
        return cls(backbone, learned_width, scale, quantizer.codebooks.value())

    def append_to(self, learned: SparCode) -> SparCode:
        """A model over learned vectors with the rest as one more token: width D + F, 2 M parts of N + 1 codes."""
        width = int(self.codebooks.shape[0] * self.codebooks.shape[2])
        whole = int(self.backbone.item.output.shape[-1])
        tokenizers: list[tf_keras.Model] = []
        for tokenizer, tower, apart in (
            (learned.user_tokenizer, self.backbone.user, True),
            (learned.item_tokenizer, self.backbone.item, False),
        ):
            inputs = inputs_of(tower)
            cut = RestOfVector(first=self.learned_width, end=whole, width=width, name=f"{tower.name}_rest")
            rest = cut(tower(inputs))
            tokens = tokenizer({name: inputs[name] for name in inputs_of(tokenizer)})
            num_tokens = tokens.shape[1] // learned.width
            joined = WithRest(num_tokens=num_tokens, apart=apart, name=f"{tokenizer.name}_rest")((tokens, rest))
            tokenizers.append(tf_keras.Model(inputs, joined, name=f"{tokenizer.name}_with_factors"))
        user_tokenizer, item_tokenizer = tokenizers
        return SparCode(
            user_tokenizer,
            item_tokenizer,
            self._codebooks_with(learned.quantizer),
            learned.interaction.widened(width, self.scale),
            learned.bias,
            learned.width + width,
        )

    def _codebooks_with(self, learned: ProductQuantizer) -> ProductQuantizer:
        """Codebooks of both halves; each has a row of zeros for the tokens whose half is empty."""
        both = tf.concat([learned.codebooks, self.codebooks], axis=0)
        num_parts, num_codes, part_width = both.shape
        quantizer = ProductQuantizer(
            num_parts=num_parts, num_codes=num_codes + 1, width=num_parts * part_width, decay=1.0, restart_below=0.0,
            seed=0,
        )  # fmt: skip
        quantizer.codebooks.assign(tf.pad(both, [[0, 0], [1, 0], [0, 0]]))
        return quantizer
