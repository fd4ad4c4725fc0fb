"""The fit of the second look's net, by the softmax over each list.

L lists, W entries of the longest one, E entries of all, F inputs of an entry, H items of a history, Q inputs with one
of these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tf_keras

from serving.config import SecondLookConfig
from serving.second_look.inputs import PAIR_INPUTS
from serving.second_look.net import LIMIT, WEIGHTS, Net
from training.second_look_lists import Lists
from training.trainer import make_deterministic

NOT_THERE = -1e9
BATCH = 64
"""Lists of a step."""
FIRST_LOOK = 4.0
"""What a cosine with an item of the history counts in attention before training."""


def first_net(lists: Lists, names: tuple[str, ...], look: SecondLookConfig, *, seed: int) -> Net:
    """A net before training, with the means and deviations of the inputs of some lists.

    Args:
        lists: What it is to be fitted on.
        names: F names of the inputs.
        look: How large it is.
        seed: Of the weights.
    """
    rng = np.random.default_rng(seed)
    width, num_pairs = lists.inputs.values.shape[1], lists.inputs.pairs.shape[2]
    num_read = width + look.codes * num_pairs
    attention = rng.normal(0, 0.3, (num_pairs, look.codes))
    # A code begins with one part of the vectors each.
    for code in range(look.codes):
        attention[code % max(num_pairs - len(PAIR_INPUTS), 1), code] += FIRST_LOOK
    return Net(
        names=names,
        mean=lists.inputs.values.mean(axis=0),
        spread=np.maximum(lists.inputs.values.std(axis=0), 1e-3).astype(np.float32),
        attention=attention.astype(np.float32),
        hidden=rng.normal(0, np.sqrt(2 / num_read), (num_read, look.hidden_units)).astype(np.float32),
        hidden_bias=np.zeros(look.hidden_units, np.float32),
        output=rng.normal(0, np.sqrt(1 / look.hidden_units), look.hidden_units).astype(np.float32),
    )


def net_scores(weights: Mapping[str, tf.Tensor], values: tf.Tensor, pairs: tf.Tensor, is_met: tf.Tensor) -> tf.Tensor:
    """The formula of `Net` in TensorFlow: [E].

    Args:
        weights: Name -> array.
        values: [E, F] standardised inputs.
        pairs: [E, H, Q].
        is_met: [E, H] float32, 1 where there is an item.
    """
    logits = tf.einsum("ehq,qc->ehc", pairs, weights["attention"])
    powers = tf.exp(tf.minimum(logits, 60.0)) * is_met[..., None]
    shares = powers / (1 + tf.reduce_sum(powers, axis=1, keepdims=True))
    attended = tf.einsum("ehc,ehq->ecq", shares, pairs)
    read = tf.concat([values, tf.reshape(attended, [tf.shape(values)[0], -1])], axis=1)
    hidden = tf.nn.relu(tf.linalg.matmul(read, weights["hidden"]) + weights["hidden_bias"])
    return tf.linalg.matvec(hidden, weights["output"])


def list_loss(scores: tf.Tensor, is_met: tf.Tensor, is_there: tf.Tensor) -> tf.Tensor:
    """The softmax of what was met against what was not: a mean over lists of the mean over what was met of each.

        l = mean_i  -log( exp(s_i) / (exp(s_i) + sum_j exp(s_j)) ),  i was met, j was not

    Args:
        scores: [L, W].
        is_met: [L, W] float32, 1 for what was met.
        is_there: [L, W] float32, 1 where a list has an entry.
    """
    others = tf.where((is_there > 0) & (is_met == 0), scores, NOT_THERE)
    against = tf.reduce_logsumexp(others, axis=1, keepdims=True)
    losses = tf.reduce_sum(tf.math.softplus(against - scores) * is_met, axis=1)
    return tf.reduce_mean(losses / tf.reduce_sum(is_met, axis=1))


def fit_net(lists: Lists, names: tuple[str, ...], look: SecondLookConfig, *, seed: int) -> Net:
    """Fits a net by Adam, with a rate that falls to nothing.

    Args:
        lists: L of them, each with something that was met and something that was not.
        names: F names of the inputs.
        look: How large the net is and how long it is fitted.
        seed: Of the weights and of the order of lists.
    """
    make_deterministic(seed)
    net = first_net(lists, names, look, seed=seed)
    values = np.clip((lists.inputs.values - net.mean) / net.spread, -LIMIT, LIMIT)
    lists = replace(lists, inputs=replace(lists.inputs, values=values))
    variables = {name: tf.Variable(getattr(net, name), name=name) for name in WEIGHTS}
    optimizer = tf_keras.optimizers.legacy.Adam(look.learning_rate)
    step = _step_of(variables, optimizer)
    rng, entries = np.random.default_rng(seed), _entries_by_list(lists)
    num_steps = look.epochs * -(-len(lists) // BATCH)
    done = 0
    for _ in range(look.epochs):
        order = rng.permutation(len(lists))
        for begin in range(0, len(order), BATCH):
            optimizer.learning_rate = look.learning_rate * (1 - done / num_steps)
            step(*_batch(lists, entries[order[begin : begin + BATCH]]))
            done += 1
    return net.with_weights({name: variable.numpy() for name, variable in variables.items()})


def _step_of(
    variables: Mapping[str, tf.Variable], optimizer: tf_keras.optimizers.Optimizer
) -> tf.types.experimental.PolymorphicFunction:
    names = list(variables)

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def step(
        values: tf.Tensor, pairs: tf.Tensor, pair_is_there: tf.Tensor, is_met: tf.Tensor, is_there: tf.Tensor
    ) -> tf.Tensor:
        with tf.GradientTape() as tape:
            scores = net_scores(variables, values, pairs, pair_is_there)
            loss = list_loss(tf.reshape(scores, tf.shape(is_met)), is_met, is_there)
        gradients = tape.gradient(loss, [variables[name] for name in names])
        optimizer.apply_gradients(zip(gradients, [variables[name] for name in names], strict=True))
        return loss

    return step


def _entries_by_list(lists: Lists) -> npt.NDArray[np.int64]:
    """[L, W] entries of each list, -1 behind the last one."""
    lengths = np.bincount(lists.owners, minlength=len(lists))
    found = np.full((len(lists), int(lengths.max())), -1)
    place = np.arange(len(lists.owners)) - np.searchsorted(lists.owners, lists.owners)
    found[lists.owners, place] = np.arange(len(lists.owners))
    return found


def _batch(lists: Lists, entries: npt.NDArray[np.int64]) -> tuple[tf.Tensor, ...]:
    is_there = entries >= 0
    flat = np.where(is_there, entries, 0).ravel()
    inputs = lists.inputs.of(flat)
    is_met = lists.is_met[flat].reshape(entries.shape) & is_there
    arrays = (inputs.values, inputs.pairs, inputs.is_met, is_met, is_there)
    return tuple(tf.constant(array.astype(np.float32)) for array in arrays)
