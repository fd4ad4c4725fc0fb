"""Two towers: a user model and an item model whose outputs meet only in an inner product.

Shape letters: B rows, D vector width, F features of a tower, K interests of a user.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tf_keras

from features.encoding import CELLS, HISTORY, HISTORY_AGE
from features.kinds import InputSpec
from towers.history import weighted_means
from towers.inputs import (
    BucketDropout,
    History,
    HistoryEncoder,
    SideBySideIdentities,
    Tables,
    Tensors,
    embedding_tables,
    feature_vectors,
    input_tensors,
    projections,
)
from towers.interests import InterestAttention, SideBySide
from towers.lookups import Fact, PooledLookup, pooled_fact

Head = Literal["residual", "mlp"]
Activation = Literal["relu", "tanh"]
VECTOR, POSITIONS = "vector", "positions"
Pass = Callable[[tf.Tensor], tf.Tensor]
"""From rows of ids to rows of ids, of one shape."""


@dataclass(frozen=True)
class TwoTower:
    """A pair of towers, as they are served and as they are trained.

    Attributes:
        user, item: Dict of inputs -> [B, D] float32 vectors, of length one unless documented otherwise. Users of
            several interests have K of them side by side, [B, K D].
        user_parts, item_parts: The same inputs -> dict of what the terms of the loss read: "vector" [B, D], what the
            parts of the towers add, and "positions" [B, P, D] where users are fitted at earlier positions of their
            histories, too. Of several interests, "vector" is [B, K, D]. None gives the vector alone.
    """

    user: tf_keras.Model
    item: tf_keras.Model
    user_parts: tf_keras.Model = None
    item_parts: tf_keras.Model = None

    def __post_init__(self) -> None:
        """Fills in the parts of towers that have none."""
        for name, tower in (("user_parts", self.user), ("item_parts", self.item)):
            if getattr(self, name) is None:
                object.__setattr__(self, name, tf_keras.Model(inputs_of(tower), {VECTOR: tower.output}, name=name))


def inputs_of(model: tf_keras.Model) -> Tensors:
    """The symbolic inputs of a tower by name."""
    return {tensor.name: tensor for tensor in model.inputs}


@dataclass(frozen=True)
class Bottom:
    """What a tower has at its bottom, for parts that add to it.

    Attributes:
        tensors: The tower's symbolic inputs.
        features: F tensors [B, D], one for each feature.
        tables: The tower's own embedding tables by input.
        other_tables: Those of the other tower.
        width: D.
    """

    tensors: Tensors
    features: list[tf.Tensor]
    tables: Tables
    other_tables: Tables
    width: int


@dataclass(frozen=True)
class Addition:
    """What a part adds to a tower.

    Attributes:
        features: Tensors [B, D] that are summed with the tower's features, below its hidden layers.
        parts: What the terms of the loss read, by name.
    """

    features: list[tf.Tensor] = field(default_factory=list)
    parts: Tensors = field(default_factory=dict)


Part = Callable[[Bottom], Addition]


class UnitLength(tf_keras.layers.Layer):  # type: ignore[misc]
    """Scales vectors to length one: [..., D] -> [..., D]."""

    def call(self, vectors: tf.Tensor) -> tf.Tensor:
        """Normalises; a zero vector stays zero."""
        return tf.math.l2_normalize(vectors, axis=-1)


class Bias(tf_keras.layers.Layer):  # type: ignore[misc]
    """Adds a learned vector: where a row without any known feature ends up. [B, D] -> [B, D]."""

    def build(self, shape: tf.TensorShape) -> None:
        """Makes the vector."""
        self.bias = self.add_weight("bias", (shape[-1],), initializer=tf_keras.initializers.RandomNormal(stddev=0.05))

    def call(self, vectors: tf.Tensor) -> tf.Tensor:
        """Adds it."""
        return vectors + self.bias


def build_two_tower(
    user_specs: Sequence[InputSpec],
    item_specs: Sequence[InputSpec],
    *,
    embedding_dim: int,
    hidden_units: Sequence[int] = (),
    head: Head = "residual",
    activation: Activation = "relu",
    history: HistoryEncoder | None = None,
    item_facts: Sequence[Fact] = (),
    num_positions: int = 0,
    num_interests: int = 1,
    id_dropout: float = 0.0,
    bucket_of_user_row: npt.NDArray[np.int32] | None = None,
    bucket_of_item_row: npt.NDArray[np.int32] | None = None,
    item_ids_pass: Callable[[Tensors], Pass] | None = None,
    user_adds: Sequence[Part] = (),
    item_adds: Sequence[Part] = (),
) -> TwoTower:
    """Builds both towers.

    The item id table starts at zero, so that an item without buyers is described by its other features alone; it is
    shared with the user's history.

    Args:
        user_specs: Inputs of the user tower.
        item_specs: Inputs of the item tower.
        embedding_dim: Width of all tables and of the learned vectors (D).
        hidden_units: Width of each hidden layer.
        head: `residual` adds the hidden layers' output to the sum of the features, and is that sum where there are no
            hidden layers; `mlp` ends in a layer of width D, all layers with the activation.
        activation: Of the hidden layers, and of both ends of an `mlp`.
        history: How a user's history becomes one vector; None takes the mean of its items.
        item_facts: What is known of the items of a history besides their ids. The place of the latest item is a feature
            of the user tower, which begins as the vector of that place in the item tower.
        num_positions: P, earlier positions of a history that have vectors, too, while training: of the history alone.
        num_interests: K. Above 1, the history gives K vectors by attention, each of which is added to the sum of the
            other features, and goes through all that is above it.
        id_dropout: See `BucketDropout`; the own id and the items of a history are drawn independently.
        bucket_of_user_row: The bucket of each user's id; None drops no user ids.
        bucket_of_item_row: Likewise of each item's id, in the item tower and in histories.
        item_ids_pass: From the inputs of the item tower to what its ids pass before they are looked up, if anything.
        user_adds: Parts that add to the user tower, in order.
        item_adds: Likewise for the item tower.

    Raises:
        ValueError: The encoder lacks vectors of positions or places that are needed, or both are.

    Source: Yi et al., RecSys 2019, section 4; head `mlp` with `tanh`, Huang et al. (DSSM), CIKM 2013, section 3.
    """
    user_id, item_id = (next(spec for spec in specs if spec.kind == "id") for specs in (user_specs, item_specs))
    user_tensors, item_tensors = input_tensors(user_specs), input_tensors(item_specs)
    user_tables, item_tables = (embedding_tables(specs, width=embedding_dim) for specs in (user_specs, item_specs))
    of_items = {**item_tables, **projections(item_specs, width=embedding_dim)}
    buckets = {user_id.name: bucket_of_user_row, item_id.name: bucket_of_item_row, HISTORY: bucket_of_item_row}
    passes = _passes(_dropouts(buckets, id_dropout), item_id.name, item_ids_pass and item_ids_pass(item_tensors))

    def encode_history(table_rows: tf.Tensor) -> tf.Tensor:
        ids = PooledLookup(item_tables[item_id.name], name=f"{HISTORY}_sum")
        facts = [pooled_fact(fact, of_items[fact.name], name=f"{HISTORY}_{fact.name}") for fact in item_facts]
        items, ages = user_tensors[HISTORY], user_tensors[HISTORY_AGE]
        past = History(items, table_rows, ages, ids, facts, num_positions=1 + num_positions)
        return (history or weighted_means(decay_days=[None], power=1.0))(replace(past, wants_states=num_interests > 1))

    user_features = feature_vectors(
        user_specs,
        user_tensors,
        width=embedding_dim,
        tables={**user_tables, **projections(user_specs, width=embedding_dim)},
        encode_history=encode_history,
        id_dropout=passes,
    )
    user_features += _last_places(item_facts, of_items, user_tensors, width=embedding_dim)
    item_features = feature_vectors(item_specs, item_tensors, width=embedding_dim, tables=of_items, id_dropout=passes)
    user_features, by_place = _apart(user_features, num_positions=num_positions, num_interests=num_interests)
    shape = _Shape(hidden_units, head, activation)
    user_bottom = Bottom(user_tensors, user_features, user_tables, item_tables, embedding_dim)
    item_bottom = Bottom(item_tensors, item_features, item_tables, user_tables, embedding_dim)
    user, item = _tower("user", user_bottom, user_adds, shape, by_place), _tower("item", item_bottom, item_adds, shape)
    return TwoTower(user[0], item[0], user[1], item[1])


def with_last_place(facts: Sequence[Fact], *, chosen: bool | None) -> list[Fact]:
    """Facts of which those that are places are features of their own, or are not.

    Args:
        facts: Of the items of a history.
        chosen: Whether they are; None makes those of columns so, and not the cells of two numeric columns.
    """
    return [
        replace(fact, is_place=fact.is_place and (fact.name != CELLS["item"] if chosen is None else chosen))
        for fact in facts
    ]


def _last_places(facts: Sequence[Fact], tables: Tables, tensors: Tensors, *, width: int) -> list[tf.Tensor]:
    """Where a user was last, for each place of an item: that of the latest item of the history, zeros without one.

    Its cells have the vectors that they have in the item tower, so that inner products begin by falling with distance.
    """
    found = []
    for fact in (fact for fact in facts if fact.is_place):
        latest = tensors[HISTORY][:, :1]
        there = tf.cast(latest > 0, tf.float32)[:, None, :]
        name = f"{HISTORY}_last_{fact.name}"
        place = pooled_fact(fact, tables[fact.name], name=name)((latest, there))[:, 0, :]
        kernel = SideBySideIdentities()
        weights = tf_keras.layers.Dense(width, use_bias=False, kernel_initializer=kernel, name=f"{name}_weights")
        found.append(weights(place))
    return found


@dataclass(frozen=True)
class _Shape:
    """What is between the features and the vector."""

    hidden_units: Sequence[int]
    head: Head
    activation: Activation


def _passes(dropouts: Mapping[str, BucketDropout], item_id: str, last: Pass | None) -> dict[str, Pass]:
    """By input, what ids pass before they are looked up: their dropout, and of the item's own id one more."""
    passes: dict[str, Pass] = {**dropouts}
    first = passes.get(item_id)
    if last is not None:
        passes[item_id] = last if first is None else lambda rows: last(first(rows))
    return passes


def _dropouts(buckets: Mapping[str, npt.NDArray[np.int32] | None], rate: float) -> dict[str, BucketDropout]:
    """By input, what replaces ids by their buckets; nothing where there are none, or no rate."""
    return {
        name: BucketDropout(rate=rate, bucket_of_row=rows, name=f"{name}_dropout")
        for name, rows in buckets.items()
        if rows is not None and rate > 0
    }


def _apart(
    features: Sequence[tf.Tensor], *, num_positions: int, num_interests: int
) -> tuple[list[tf.Tensor], tf.Tensor | _Interests | None]:
    """Features [B, D], and that of a history at earlier positions, [B, P, D], or at each place, if it is encoded there.

    The others have no part in earlier positions: numbers and columns are those of the row's own moment.
    """
    by_place = [feature for feature in features if feature.shape.rank == 3]
    if num_interests > 1 and num_positions:
        raise ValueError(
            f"num_interests is {num_interests} and num_positions {num_positions}: interests are read at the row's own "
            "position alone; set one of them to 1 and 0"
        )
    for asked, name, off in (
        (num_positions, "num_positions", "training.positions: 0"),
        (num_interests > 1 and num_interests, "num_interests", "towers.interests: null"),
    ):
        if asked and not by_place:
            raise ValueError(
                f"{name} is {asked}, and the history encoder gives one vector a row or there is no history; expected "
                f"one for each position or place; set {off}, or another towers.history_encoder"
            )
    if num_interests > 1:
        others = [feature for feature in features if feature.shape.rank == 2]
        return others, _Interests(num_interests, by_place[0])
    latest = [feature[:, 0] if feature.shape.rank == 3 else feature for feature in features]
    return latest, by_place[0][:, 1:] if by_place else None


@dataclass(frozen=True)
class _Interests:
    """What the interests of a user are read from."""

    num: int
    states: tf.Tensor

    def of(self, summed: tf.Tensor, tensors: Tensors) -> tf.Tensor:
        """The sum of the other features [B, D] with each interest: [B, K, D]."""
        length = self.states.shape[1]
        rows, ages = tensors[HISTORY][:, :length], tensors[HISTORY_AGE][:, :length]
        read = InterestAttention(self.num, inside_tower=True, name="user_heads")((summed, self.states, rows, ages))
        return tf_keras.layers.Add(name="user_interests")([summed[:, None], read])


def _tower(
    name: str,
    bottom: Bottom,
    adds: Sequence[Part],
    shape: _Shape,
    by_place: tf.Tensor | _Interests | None = None,
) -> tuple[tf_keras.Model, tf_keras.Model]:
    """A tower, and the same with its parts.

    Positions [B, P, D] go through all that is above its features, and so do interests, which take the place of the sum.
    """
    additions = [add(bottom) for add in adds]
    features = [*bottom.features, *(vector for addition in additions for vector in addition.features)]
    # Without its history, a user may have one feature alone.
    summed = features[0] if len(features) == 1 else tf_keras.layers.Add(name=f"{name}_sum")(features)
    interests = by_place if isinstance(by_place, _Interests) else None
    inputs = [summed if interests is None else interests.of(summed, bottom.tensors)]
    inputs += [] if by_place is None or interests is not None else [by_place]
    biased = _each(Bias(name=f"{name}_bias"), inputs)
    vector, *others = _each(UnitLength(name=f"{name}_vector"), _HEADS[shape.head](biased, shape, name))
    parts: dict[str, tf.Tensor] = {VECTOR: vector, **dict(zip((POSITIONS,), others, strict=False))}
    for addition in additions:
        parts |= addition.parts
    served = vector if interests is None else SideBySide(name=f"{name}_side_by_side")(vector)
    return (
        tf_keras.Model(bottom.tensors, served, name=f"{name}_tower"),
        tf_keras.Model(bottom.tensors, parts, name=f"{name}_parts"),
    )


def _each(layer: tf_keras.layers.Layer, inputs: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """What one layer makes of each of some tensors."""
    return [layer(tensor) for tensor in inputs]


def _hidden(vectors: list[tf.Tensor], shape: _Shape, tower: str) -> list[tf.Tensor]:
    for number, units in enumerate(shape.hidden_units):
        dense = tf_keras.layers.Dense(units, activation=shape.activation, name=f"{tower}_hidden_{number}")
        vectors = _each(dense, vectors)
    return vectors


def _residual(summed: list[tf.Tensor], shape: _Shape, tower: str) -> list[tf.Tensor]:
    if not shape.hidden_units:
        return summed
    last = tf_keras.layers.Dense(summed[0].shape[-1], name=f"{tower}_correction")
    corrections = _each(last, _hidden(summed, shape, tower))
    return _each(tf_keras.layers.Add(name=f"{tower}_corrected"), list(zip(summed, corrections, strict=True)))


def _mlp(summed: list[tf.Tensor], shape: _Shape, tower: str) -> list[tf.Tensor]:
    first = _each(tf_keras.layers.Activation(shape.activation, name=f"{tower}_activation"), summed)
    output = tf_keras.layers.Dense(summed[0].shape[-1], activation=shape.activation, name=f"{tower}_output")
    return _each(output, _hidden(first, shape, tower))


_HEADS: Mapping[Head, Callable[[list[tf.Tensor], _Shape, str], list[tf.Tensor]]] = {
    "residual": _residual,
    "mlp": _mlp,
}
