"""Ensemble of tower pairs: one inner product of concatenated vectors, in one index.

    user = [a_1 u_1; a_2 u_2; ...] / sqrt(sum a_i^2),   item = [v_1; v_2; ...] / sqrt(number of pairs)
    <user, item> = sum_i a_i cos_i / sqrt(number of pairs * sum a_i^2)

A prefix of the vectors is the first pair's, so that it can also be asked alone.

Shape letters: B rows, D_i width of pair i's vectors.

Source: Huang et al. (EBR), KDD 2020, section 6.2.1.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf
import tf_keras

from features.schema import Tower
from towers.inputs import Tensors
from towers.two_tower import TwoTower, inputs_of


class WeightedConcatenation(tf_keras.layers.Layer):  # type: ignore[misc]
    """Concatenates vectors of length one, scaled, to one of length one.

        joined = [a_1 x_1; a_2 x_2; ...] / sqrt(sum a_i^2)

    Args:
        weights: a_i of each vector, above 0.
    """

    def __init__(self, *, weights: Sequence[float], **kwargs: object) -> None:
        """Takes the weights."""
        super().__init__(**kwargs)
        self.weights_of_parts = tuple(weights)

    def call(self, vectors: Sequence[tf.Tensor]) -> tf.Tensor:
        """Joins: tensors [B, D_i] -> [B, sum D_i].

        Each is brought to length one first; the sum of the squares is a constant, so that a zero vector stays zero
        among the others and leaves their scores as they were.
        """
        length = sum(weight**2 for weight in self.weights_of_parts) ** 0.5
        scaled = [
            weight / length * tf.math.l2_normalize(part, axis=-1)
            for weight, part in zip(self.weights_of_parts, vectors, strict=True)
        ]
        return tf.concat(scaled, axis=-1)

    def get_config(self) -> dict[str, object]:
        """Arguments that make the same layer again."""
        return {**super().get_config(), "weights": self.weights_of_parts}


def concatenate(members: Sequence[tuple[TwoTower, float]]) -> TwoTower:
    """One pair of towers whose scores are the weighted sum of the members' cosines, up to one constant factor.

    Args:
        members: Pairs of towers and their weights a_i, at least one; inputs of the same name are shared.

    Returns:
        A pair of width sum D_i over the inputs of all members.

    Raises:
        ValueError: There is no member, a weight is not above 0, or members disagree about an input.
    """
    if not members:
        raise ValueError("there are no towers to concatenate; pass at least one pair")
    for number, (_, weight) in enumerate(members):
        if not weight > 0:
            raise ValueError(f"weight of pair {number} is {weight}, expected above 0; leave the pair out instead")
    towers = [member for member, _ in members]
    weights = [weight for _, weight in members]
    return TwoTower(
        user=_join([member.user for member in towers], weights, tower="user"),
        item=_join([member.item for member in towers], [1.0] * len(towers), tower="item"),
    )


def part_widths(towers: Sequence[TwoTower]) -> tuple[int, ...]:
    """Width of each pair's part of the concatenated vectors: (D_1, D_2, ...)."""
    return tuple(int(member.item.output.shape[-1]) for member in towers)


def _join(models: Sequence[tf_keras.Model], weights: Sequence[float], *, tower: Tower) -> tf_keras.Model:
    inputs: Tensors = {}
    for model in models:
        for name, tensor in inputs_of(model).items():
            if name not in inputs:
                inputs[name] = tf_keras.Input(shape=tensor.shape[1:], dtype=tensor.dtype, name=name)
            elif not inputs[name].shape.is_compatible_with(tensor.shape) or inputs[name].dtype != tensor.dtype:
                raise ValueError(
                    f"{tower} input {name!r} is {tensor.dtype.name} of shape {tensor.shape} in one pair, "
                    f"{inputs[name].dtype.name} of shape {inputs[name].shape} in another; make both with one encoder"
                )
    vectors = []
    for number, model in enumerate(models):
        own = inputs_of(model)
        # Members are made by the same code, and a model refuses two layers of one name.
        member = tf_keras.Model(own, model.output, name=f"{tower}_member_{number}")
        vectors.append(member({name: inputs[name] for name in own}))
    joined = WeightedConcatenation(weights=weights, name=f"{tower}_concatenation")(vectors)
    return tf_keras.Model(inputs, joined, name=f"{tower}_tower")
