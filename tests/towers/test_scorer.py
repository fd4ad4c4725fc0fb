"""The interaction net scores by its formula."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from towers.sparcode import MlpInteraction, ProductInteraction

Q, N, K, D, H = 3, 4, 2, 5, 6
RNG = np.random.default_rng(2)
USERS, ITEMS = RNG.normal(size=(Q, D)).astype(np.float32), RNG.normal(size=(N, K, D)).astype(np.float32)


def net() -> MlpInteraction:
    made = MlpInteraction(num_item_tokens=K, width=D, hidden_units=H, scale=2.0, seed=1)
    for variable in (made.products, made.hidden_bias, made.output):
        variable.assign(RNG.normal(size=variable.shape))
    return made


def test_scores_are_a_net_over_hadamard_products() -> None:
    made = net()
    expected = np.zeros((Q, N))
    for user in range(Q):
        for item in range(N):
            products = USERS[user] * ITEMS[item]
            hidden = np.einsum("kd,khd->h", products, made.hidden.numpy()) + made.hidden_bias.numpy()
            linear = (made.products.numpy() * products).sum()
            expected[user, item] = linear + np.maximum(hidden, 0) @ made.output.numpy()
    np.testing.assert_allclose(made.scores(USERS, ITEMS), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "made",
    [
        MlpInteraction(num_item_tokens=K, width=D, hidden_units=H, scale=2.0, seed=1),
        ProductInteraction(num_item_tokens=K, width=D, scale=2.0),
    ],
    ids=["mlp", "product"],
)
def test_it_begins_as_the_inner_product_with_the_first_token(made: MlpInteraction | ProductInteraction) -> None:
    np.testing.assert_allclose(made.scores(USERS, ITEMS), 2 * USERS @ ITEMS[:, 0].T, rtol=1e-5, atol=1e-5)


def test_all_weights_learn_once_the_output_has_moved() -> None:
    made = net()
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(made.scores(USERS, ITEMS)))
    gradients = tape.gradient(loss, made.trainable_variables)
    assert len(gradients) == 4
    assert all(np.abs(gradient).max() > 0 for gradient in gradients)


def test_items_alone_or_together_score_alike() -> None:
    made = net()
    together = made.scores(USERS, ITEMS).numpy()
    alone = np.concatenate([made.scores(USERS, ITEMS[item : item + 1]).numpy() for item in range(N)], axis=1)
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)
