"""Three parts of a vector (MOBIUS): click, unclick and bad, with an inner product each.

Shape letters: B rows, D vector width, W = D // 3 width of a part.

Source: Fan et al. (MOBIUS), KDD 2019, section 3.2.
"""

from __future__ import annotations

import tensorflow as tf
import tf_keras

from towers.two_tower import VECTOR, TwoTower, UnitLength, inputs_of

PARTS = "parts"
CLICK, UNCLICK, BAD = range(3)


class OneIndex(tf_keras.layers.Layer):  # type: ignore[misc]
    """Joins the click part and the bad part of a vector: [B, 3, W] -> [B, 2 W].

    Args:
        bad: What the bad part counts; -beta for users, 1 for items.
    """

    def __init__(self, *, bad: float, **kwargs: object) -> None:
        """Takes the factor."""
        super().__init__(**kwargs)
        self.bad = bad

    def call(self, parts: tf.Tensor) -> tf.Tensor:
        """Joins, to length one: parts of length one make every joined vector equally long, so that no order changes."""
        return tf.math.l2_normalize(tf.concat([parts[:, CLICK], self.bad * parts[:, BAD]], axis=-1), axis=-1)

    def get_config(self) -> dict[str, object]:
        """Arguments that make the same layer again."""
        return {**super().get_config(), "bad": self.bad}


def with_three_parts(towers: TwoTower, *, bad_weight: float) -> TwoTower:
    """Towers whose last layer gives three parts, one for each of click, unclick and bad.

        <u_1, a_1> - beta <u_3, a_3> = <[u_1; -beta u_3], [a_1; a_3]>

    Args:
        towers: The pair below the last layer, width D of at least 3.
        bad_weight: beta, what the bad class counts against the click class at retrieval.

    Returns:
        A pair whose user and item models give the right side of the equation, divided by sqrt(2 (1 + beta^2)) in all,
        of width 2 W and length one; its parts are those of `towers` and `parts` [B, 3, W], each part of length one.

    Raises:
        ValueError: The towers are narrower than three.
    """
    width = towers.user_parts.output[VECTOR].shape[-1] // 3
    if width < 1:
        raise ValueError("towers.embedding_dim is below 3: there is no room for three parts; raise it")
    user, user_parts = _split(towers.user_parts, "user", width, bad=-bad_weight)
    item, item_parts = _split(towers.item_parts, "item", width, bad=1.0)
    return TwoTower(user, item, user_parts, item_parts)


def _split(parts: tf_keras.Model, name: str, width: int, *, bad: float) -> tuple[tf_keras.Model, tf_keras.Model]:
    wide = tf_keras.layers.Dense(3 * width, name=f"{name}_{PARTS}_weights")(parts.output[VECTOR])
    three = UnitLength(name=f"{name}_{PARTS}")(tf_keras.layers.Reshape((3, width))(wide))
    joined = OneIndex(bad=bad, name=f"{name}_one_index")(three)
    inputs = inputs_of(parts)
    return (
        tf_keras.Model(inputs, joined, name=f"{name}_tower"),
        tf_keras.Model(inputs, {**parts.output, PARTS: three}, name=f"{name}_parts"),
    )
