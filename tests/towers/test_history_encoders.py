"""History encoders against slow twins, and what they promise: nothing of the future, of padding or of chance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
import tf_keras

from features.encoding import HISTORY, HISTORY_AGE
from towers.history import HISTORY_ENCODERS
from towers.history_attention import SeedAttention, SelfAttention
from towers.history_gru import GatedRecurrentUnit
from towers.history_positions import PlaceVectors
from towers.inputs import Code, History
from towers.lookups import PooledFacts, PooledLookup

Array = npt.NDArray[Any]
LENGTH, WIDTH, NUM_ITEMS = 5, 6, 9
ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "mean": ("mean", {"decay_days": [None, 5.0], "power": 0.5}),
    "attention": ("attention", {"heads": 2}),
    "gru": ("gru", {}),
    "self_attention": ("self_attention", {"heads": 2}),
    "self_attention and means": ("self_attention", {"blocks": 1, "means": [None, 3.0]}),
}
SEQUENCES = {name: value for name, value in ENCODERS.items() if name != "mean"}
every_encoder = pytest.mark.parametrize("name", ENCODERS)
every_sequence = pytest.mark.parametrize("name", SEQUENCES)
# The second row has an item that is not known in between, the third has one item, the last has none.
ROWS = np.array([[3, 5, 1, 8, 2], [4, 0, 7, 7, 0], [6, 0, 0, 0, 0], [0, 0, 0, 0, 0]], np.int32)
AGES = np.array([[0.5, 2, 2, 30, 400], [1, 3, 3.5, 8, 0], [20, 0, 0, 0, 0], [0, 0, 0, 0, 0]], np.float32)


def randomise(model: tf_keras.Model | tf_keras.layers.Layer, seed: int = 3) -> None:
    """Sets all weights, also those that start at zero or one."""
    rng = np.random.default_rng(seed)
    model.set_weights([rng.normal(0, 0.5, weight.shape) for weight in model.get_weights()])


def model_of(
    name: str, *, num_positions: int = 1, change: Mapping[str, Any] | None = None, code: int | None = None
) -> tf_keras.Model:
    """Items, ages and a code of each -> what an encoder makes of them; item vectors are those of ids and a fact."""
    encoder, settings = ENCODERS[name]
    shapes = {HISTORY: "int32", HISTORY_AGE: "float32", "kind": "int32"}
    tensors = {key: tf_keras.Input((LENGTH,), dtype=dtype, name=key) for key, dtype in shapes.items()}
    table = tf_keras.layers.Embedding(NUM_ITEMS, WIDTH, name="item_id_table")
    facts = [PooledFacts(tf_keras.layers.Embedding(3, WIDTH, name="aisle_table"), rows=np.arange(NUM_ITEMS) % 3)]
    history = History(
        tensors[HISTORY],
        tensors[HISTORY],
        tensors[HISTORY_AGE],
        PooledLookup(table),
        facts,
        num_positions=num_positions,
    )
    if code is not None:
        history = replace(history, codes={"kind": Code(tensors["kind"], code)})
    found = HISTORY_ENCODERS[encoder](**{**settings, **(change or {})})(history)
    return tf_keras.Model(tensors, found)


def inputs_of(rows: Array = ROWS, ages: Array = AGES) -> dict[str, Array]:
    return {HISTORY: rows, HISTORY_AGE: ages, "kind": np.zeros_like(rows)}


def positions_of(model: tf_keras.Model, rows: Array = ROWS, ages: Array = AGES) -> Array:
    """All positions that are fitted: [B, P, any width]."""
    return np.asarray(model(inputs_of(rows, ages), training=True))


# The twins: a position at a time, with loops.
Layer = tf_keras.layers.Layer


def layer_norm(x: Array, scale: Array, offset: Array) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    return np.asarray(centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-6) * scale + offset)


def slow_attention(
    queries: Array, keys: Array, values: Array, items: Array, ages: Array, position: int, fades: Array
) -> Array:
    """What one position [H W] finds; zeros where it sees nothing."""
    heads, width = len(fades), keys.shape[1] // len(fades)
    moment = ages[position - 1] if position else 0.0
    seen = [place for place in range(position, len(items)) if items[place] > 0]
    found = np.zeros(keys.shape[1])
    for head in range(heads) if seen else ():
        part = slice(head * width, (head + 1) * width)
        age = np.array([max(ages[place] - moment, 0) for place in seen])
        logits = keys[seen][:, part] @ queries[part] / np.sqrt(width) - fades[head] * np.log(1 + 24 * age)
        shares = np.exp(logits - logits.max())
        found[part] = shares / shares.sum() @ values[seen][:, part]
    return found


def slow_seed(layer: SeedAttention, x: Array, items: Array, ages: Array, position: int) -> Array:
    if not (items[position:] > 0).any():
        return np.asarray(layer.start)
    n = layer_norm(x, layer.scale.numpy(), layer.offset.numpy())
    found = slow_attention(
        n[position] @ layer.query.numpy(), n @ layer.key.numpy(), x @ layer.value.numpy(), items, ages, position,
        layer.fades.numpy(),
    )  # fmt: skip
    return np.concatenate([x[position], found @ layer.output_map.numpy()])


def slow_gru(layer: GatedRecurrentUnit, x: Array, items: Array, ages: Array, position: int) -> Array:
    n = layer_norm(x, layer.scale.numpy(), layer.offset.numpy())
    width, state = x.shape[1], np.asarray(layer.start)
    sigmoid = lambda value: 1 / (1 + np.exp(-value))  # noqa: E731
    for place in reversed(range(position, len(items))):
        if items[place] == 0:
            continue
        read, kept = n[place] @ layer.kernel.numpy() + layer.bias.numpy(), state @ layer.recurrent.numpy()
        stay = sigmoid(read[:width] + kept[:width])
        reset = sigmoid(read[width : 2 * width] + kept[width : 2 * width])
        candidate = np.tanh(read[2 * width :] + reset * kept[2 * width :])
        state = stay * state + (1 - stay) * candidate
    return state


def slow_self_attention(layer: SelfAttention, x: Array, items: Array, ages: Array, position: int) -> Array:
    if not (items[position:] > 0).any():
        return np.asarray(layer.start)
    for weights in layer.block_weights:
        w = {name: value.numpy() for name, value in weights.items()}
        n = layer_norm(x, w["scale"], w["offset"])
        rows = []
        for place in range(len(items)):
            read = slow_attention(
                n[place] @ w["query"], n @ w["key"], n @ w["value"], items, ages, place, w["fades"]
            )  # fmt: skip
            row = x[place] + read @ w["output"]
            hidden = np.maximum(
                layer_norm(row, w["second_scale"], w["second_offset"]) @ w["hidden"] + w["hidden_bias"], 0
            )
            rows.append(row + hidden @ w["correction"] + w["correction_bias"])
        x = np.array(rows)
    return np.asarray(x[position])


TWINS: dict[str, tuple[Layer, Callable[..., Array]]] = {
    "seed": (SeedAttention(heads=1, num_positions=LENGTH), slow_seed),
    "seed, 4 heads": (SeedAttention(heads=4, num_positions=LENGTH), slow_seed),
    "gru": (GatedRecurrentUnit(num_positions=LENGTH), slow_gru),
    "self-attention": (SelfAttention(blocks=1, heads=1, dropout=0.0, num_positions=LENGTH), slow_self_attention),
    "3 blocks, 2 heads": (SelfAttention(blocks=3, heads=2, dropout=0.0, num_positions=3), slow_self_attention),
}


@pytest.mark.parametrize(("layer", "twin"), TWINS.values(), ids=TWINS)
def test_layers_equal_their_slow_twins_at_every_position(layer: Layer, twin: Callable[..., Array]) -> None:
    x = np.random.default_rng(1).normal(size=(len(ROWS), LENGTH, WIDTH)).astype(np.float32)
    layer((x, ROWS, AGES))
    randomise(layer)
    found = layer((x, ROWS, AGES), training=True).numpy()
    assert found.shape[1] == layer.num_positions
    for row, position in np.ndindex(*found.shape[:2]):
        # Of a position whose latest place holds nothing known there is only what that place reads.
        expected = twin(layer, x[row].astype(np.float64), ROWS[row], AGES[row], position)
        np.testing.assert_allclose(found[row, position], expected, atol=2e-5)
    np.testing.assert_allclose(layer((x, ROWS, AGES)), found[:, :1], atol=1e-5)


def test_places_carry_vector_age_place_and_codes_by_hand() -> None:
    layer = PlaceVectors(num_values=(3,))
    vectors = np.ones((1, 3, 2), np.float32) * [[10], [20], [30]]
    rows, ages, kinds = np.array([[4, 0, 5]]), np.array([[0.05, 3, 3]], np.float32), np.array([[2, 0, 1]])
    layer((vectors.astype(np.float32), rows, ages, kinds))
    edges = np.zeros((15, 2), np.float32)
    edges[0], edges[1], edges[6] = [1, 0], [0, 1], [0, 100]  # from an hour, two hours and 64 hours on
    layer.set_weights([edges, np.array([[0.1, 0], [0.2, 0], [0.3, 0]]), np.array([[0, 0], [0, 7], [0, 9]])])
    found = layer((vectors.astype(np.float32), rows, ages, kinds)).numpy()
    # Item 4 was met 1.2 hours ago; the one that is not known 70.8 hours before it; item 5 at the same moment.
    expected = [[10 + 1 + 0.1, 10 + 9], [1 + 0.2, 1 + 100], [30 + 0.3, 30 + 7]]
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)


@every_encoder
def test_a_position_knows_nothing_of_what_came_after_it(name: str) -> None:
    model = model_of(name, num_positions=4)
    randomise(model)
    before = positions_of(model)
    for position in (1, 2, 3):
        rows, ages = ROWS.copy(), AGES.copy()
        rows[:, :position] = [[8], [1], [2], [0]]
        # Its own moment is that of the item before, which it is to find; all earlier ones are the future.
        ages[:, : position - 1] = 0.25
        after = positions_of(model, rows, ages)
        np.testing.assert_array_equal(after[:, position:], before[:, position:])
        assert np.abs(after[0, position - 1] - before[0, position - 1]).max() > 1e-4


@every_encoder
def test_a_position_is_what_the_row_was_at_that_moment(name: str) -> None:
    model = model_of(name, num_positions=4)
    randomise(model)
    for layer in model.layers:
        if isinstance(layer, PlaceVectors):
            layer.places.assign(np.zeros(layer.places.shape))  # what differs: the place from the end
    found = positions_of(model, ROWS[:1], AGES[:1])
    for position in (1, 2, 3):
        rows, ages = np.zeros_like(ROWS[:1]), np.zeros_like(AGES[:1])
        rows[:, : LENGTH - position] = ROWS[:1, position:]
        ages[:, : LENGTH - position] = AGES[:1, position:] - AGES[0, position - 1]
        then = positions_of(model, rows, ages)
        np.testing.assert_allclose(then[0, 0], found[0, position], atol=1e-5)


@every_encoder
def test_padding_counts_nothing_whatever_it_holds(name: str) -> None:
    model = model_of(name)
    randomise(model)
    before = model(inputs_of()).numpy()
    ages = np.where(ROWS == 0, 77, AGES).astype(np.float32)
    ages[1, 1] = AGES[1, 1]  # a place in between keeps its moment, which is when the item before was the latest one
    table = next(weight for weight in model.weights if weight.name == "item_id_table/embeddings:0")
    table.assign(tf.concat([tf.fill([1, WIDTH], 1000.0), table[1:]], axis=0))
    np.testing.assert_allclose(model(inputs_of(ROWS, ages)).numpy(), before, atol=1e-6)


@every_encoder
def test_a_row_alone_is_the_same_as_in_a_batch_and_as_while_training(name: str) -> None:
    model = model_of(name)
    randomise(model)
    together = model(inputs_of()).numpy()
    for row in range(len(ROWS)):
        alone = model(inputs_of(ROWS[row : row + 1], AGES[row : row + 1])).numpy()
        np.testing.assert_allclose(alone[0], together[row], atol=1e-5)
    np.testing.assert_allclose(positions_of(model), together, atol=1e-5)
    several = model_of(name, num_positions=3)
    randomise(several)
    np.testing.assert_allclose(positions_of(several)[:, 0], together, atol=1e-5)
    np.testing.assert_allclose(several(inputs_of()).numpy()[:, 0], together, atol=1e-5)


@every_encoder
def test_order_counts_for_all_but_means(name: str) -> None:
    model = model_of(name)
    randomise(model)
    ages = np.full_like(AGES, 3)
    order = [2, 0, 3, 1, 4]
    one, other = (model(inputs_of(rows, ages)).numpy()[0] for rows in (ROWS, ROWS[:, order]))
    if name == "mean":
        np.testing.assert_allclose(one, other, atol=1e-6)
    else:
        assert np.abs(one - other).max() > 1e-3


@every_sequence
def test_who_has_no_history_gets_a_learned_vector(name: str) -> None:
    model = model_of(name)
    start = next(weight for weight in model.trainable_weights if weight.name.endswith("/start:0"))
    width = start.shape[0]
    with tf.GradientTape() as tape:
        found = model(inputs_of(ROWS[2:], AGES[2:]), training=True)
        total = tf.reduce_sum(found[1])
    np.testing.assert_array_equal(found[1, :width], start)
    assert np.any(start.numpy())
    np.testing.assert_array_equal(tape.gradient(total, start), np.ones(width))


@every_encoder
def test_gradients_reach_the_tables_of_items_and_facts_once_for_each_row(name: str) -> None:
    model = model_of(name)
    randomise(model)
    tables = {weight.name: weight for weight in model.trainable_weights if "_table/" in weight.name}
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(model(inputs_of(), training=True) ** 2)
    gradients = tape.gradient(total, list(tables.values()))
    for table, gradient in zip(tables.values(), gradients, strict=True):
        assert isinstance(gradient, tf.IndexedSlices)
        dense = tf.convert_to_tensor(gradient).numpy()
        assert np.abs(dense).max() > 1e-4
        if table.shape[0] == NUM_ITEMS and len(gradients) == 2:
            assert np.abs(dense[0]).max() == 0  # the row of padding
            assert set(np.flatnonzero(np.abs(dense).max(axis=1) > 0)) == set(ROWS.ravel()) - {0}


@every_encoder
def test_the_same_seed_gives_the_same_encoder(name: str) -> None:
    change = {"dropout": 0.4} if "self_attention" in name else {}
    found = []
    for seed in (1, 1, 2):
        tf_keras.utils.set_random_seed(seed)
        model = model_of(name, change=change)
        found.append((model.get_weights(), positions_of(model)))
    assert all(np.array_equal(*pair) for pair in zip(found[0][0], found[1][0], strict=True))
    np.testing.assert_array_equal(found[0][1], found[1][1])
    assert not np.array_equal(found[0][1], found[2][1])


def test_dropout_leaves_out_numbers_while_training_only() -> None:
    layer = SelfAttention(blocks=1, heads=1, dropout=0.5, num_positions=1)
    plain = SelfAttention(blocks=1, heads=1, dropout=0.0, num_positions=1)
    x = np.random.default_rng(1).normal(size=(1, LENGTH, WIDTH)).astype(np.float32)
    given = (np.repeat(x, 3000, axis=0), np.repeat(ROWS[:1], 3000, axis=0), np.repeat(AGES[:1], 3000, axis=0))
    layer((x, ROWS[:1], AGES[:1]))
    plain((x, ROWS[:1], AGES[:1]))
    randomise(layer)
    # What a block adds is the same on average, where its second part adds nothing.
    layer.block_weights[0]["correction"].assign(np.zeros((WIDTH, WIDTH)))
    layer.block_weights[0]["correction_bias"].assign(np.zeros(WIDTH))
    plain.set_weights(layer.get_weights())
    np.testing.assert_array_equal(layer(given), plain(given))
    added = layer(given, training=True).numpy()[:, 0] - x[0, 0]
    expected = plain((x, ROWS[:1], AGES[:1])).numpy()[0, 0] - x[0, 0]
    assert (added == 0).mean() == pytest.approx(0.5, abs=0.02)
    np.testing.assert_allclose(added.mean(axis=0), expected, atol=0.06 * np.abs(expected).max() + 0.01)


@every_sequence
def test_items_beyond_the_length_are_not_read(name: str) -> None:
    change = {"length": 2, "means": []}
    model = model_of(name, change=change)
    randomise(model)
    rows, ages = ROWS.copy(), AGES.copy()
    before = model(inputs_of(rows, ages)).numpy()
    rows[:, 2:], ages[:, 2:] = 1, 500
    np.testing.assert_array_equal(model(inputs_of(rows, ages)).numpy(), before)
    rows[0, 1] = 4
    assert np.abs(model(inputs_of(rows, ages)).numpy() - before)[0].max() > 1e-4
    with pytest.raises(ValueError, match="encoder reads 2 items and is trained at 3 positions"):
        model_of(name, num_positions=3, change=change)


@every_sequence
def test_further_codes_of_items_are_read(name: str) -> None:
    model = model_of(name, code=3)
    randomise(model)
    kinds = inputs_of() | {"kind": np.full_like(ROWS, 2)}
    assert np.abs(model(kinds).numpy() - model(inputs_of()).numpy())[0].max() > 1e-4


@pytest.mark.parametrize("layer", [*(layer for layer, _ in TWINS.values()), PlaceVectors(num_values=(3, 2))])
def test_a_layer_can_be_made_again_from_its_configuration(layer: Layer) -> None:
    assert type(layer).from_config(layer.get_config()).get_config() == layer.get_config()


@pytest.mark.parametrize(
    ("encoder", "settings", "message"),
    [
        ("self_attention", {"blocks": 5}, "blocks is 5, expected a whole number from 1 to 4"),
        ("self_attention", {"blocks": True}, "blocks is True, expected a whole number from 1 to 4"),
        ("self_attention", {"heads": 0}, "heads is 0, expected a whole number from 1 to 4"),
        ("attention", {"heads": 2.0}, r"heads is 2\.0, expected a whole number from 1 to 4"),
        ("self_attention", {"dropout": 1}, "dropout is 1, expected a number from 0 to below 1"),
        ("self_attention", {"dropout": "a little"}, "dropout is 'a little', expected a number from 0 to below 1"),
        ("gru", {"length": 0}, "length is 0, expected a whole number of at least 1"),
        (
            "gru",
            {"means": [None, -1.0]},
            r"means is \[None, -1\.0\], expected a list of days above 0, or null, such as",
        ),
        ("gru", {"means": 7}, "means is 7, expected a list of days above 0"),
        ("attention", {"power": 2}, "power is 2, expected a number from 0 to 1"),
    ],
)
def test_settings_that_are_none_are_refused(encoder: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HISTORY_ENCODERS[encoder](**settings)
