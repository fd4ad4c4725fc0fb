"""Outputs of the towers and the sum of terms."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from training.losses.objective import DecayingWeight, inputs_with_prefix, total_of
from training.losses.softmax import in_batch_softmax, softmax_term, two_tower_softmax

outputs_of = runpy.run_path(str(Path(__file__).parents[1] / "outputs_for_tests.py"))["outputs_of"]
RNG = np.random.default_rng(4)
B, C, Q, H, D = 3, 5, 4, 2, 6
USERS, SHARED, QUEUE = RNG.normal(size=(B, D)), RNG.normal(size=(C, D)), RNG.normal(size=(Q, D))
PRIVATE = RNG.normal(size=(B, H, D))
LOG_Q, PRIVATE_LOG_Q = (RNG.normal(size=shape).astype(np.float32) for shape in (C + Q, (B, H)))
MASK = (RNG.random((B, C + Q + H)) < 0.3) & ~np.eye(B, C + Q + H, dtype=bool)


def everything(**changes):
    batch = {"log_q": LOG_Q, "private_log_q": PRIVATE_LOG_Q, "mask": MASK, "weight": np.float32([1, 2, 4])}
    items = np.concatenate([SHARED, PRIVATE.reshape(B * H, D)])
    return outputs_of({"vector": USERS}, {"vector": items}, batch=batch, temperature=0.5, queue=QUEUE, **changes)


def test_scores_are_in_the_order_shared_queue_private() -> None:
    outputs = everything()
    expected = np.zeros((B, C + Q + H))
    for row in range(B):
        for column, vector in enumerate([*SHARED, *QUEUE, *PRIVATE[row]]):
            expected[row, column] = USERS[row] @ vector / 0.5
    np.testing.assert_allclose(outputs.scores, expected, rtol=1e-4, atol=1e-5)
    assert (int(outputs.num_rows), int(outputs.num_shared), int(outputs.num_private)) == (B, C, H)
    np.testing.assert_array_equal(outputs.log_q[1], np.concatenate([LOG_Q, PRIVATE_LOG_Q[1]]))


def test_without_private_negatives_the_draws_are_the_same_for_all_rows() -> None:
    outputs = outputs_of({"vector": USERS}, {"vector": SHARED}, batch={"log_q": LOG_Q[:C]})
    np.testing.assert_array_equal(outputs.log_q, LOG_Q[:C])
    np.testing.assert_allclose(outputs.scores, USERS @ SHARED.T, rtol=1e-4, atol=1e-5)
    assert int(outputs.num_shared) == C


@pytest.mark.parametrize("name", ["none", "yi2019", "khrylchenko2025"])
def test_the_softmax_term_is_the_weighted_mean_over_all_candidates(name: str) -> None:
    from training.losses.softmax import SOFTMAX

    outputs = everything()
    losses = SOFTMAX[name](outputs.scores, outputs.log_q, mask=MASK).numpy()
    assert float(softmax_term(name)(outputs)) == pytest.approx(losses @ [1, 2, 4] / 7, rel=1e-5)


def test_all_but_the_queue_get_a_gradient_of_the_softmax() -> None:
    outputs = everything()
    with tf.GradientTape() as tape:
        tape.watch(outputs.queue)
        loss = softmax_term("yi2019")(outputs)
    of_users, of_items = tape.gradient(loss, [outputs.users["vector"], outputs.items["vector"]])
    counted = [~MASK[:, :C].all(axis=0), *(~MASK[:, C + Q :])]
    assert (np.abs(of_items).max(axis=1) > 0).tolist() == np.concatenate(counted).tolist()
    assert (np.abs(of_users).max(axis=1) > 0).all()


def test_a_kernel_gets_all_its_arguments_where_candidates_are_shared() -> None:
    calls = []

    def kernel(users, items, **settings):
        calls.append(settings)
        return two_tower_softmax(users, items, **settings)

    shared = outputs_of(
        {"vector": USERS}, {"vector": SHARED}, batch={"log_q": LOG_Q, "mask": MASK[:, : C + Q]}, queue=QUEUE
    )
    expected = in_batch_softmax(shared.scores, LOG_Q, mask=MASK[:, : C + Q]).numpy().mean()
    assert float(softmax_term("yi2019", kernel=kernel)(shared)) == pytest.approx(expected, rel=1e-6)
    softmax_term("none", kernel=kernel)(shared)
    softmax_term("khrylchenko2025", kernel=kernel)(shared)
    softmax_term("yi2019", kernel=kernel)(everything())
    assert [settings["log_q"] is None for settings in calls] == [False, True]


def test_an_unknown_correction_is_refused() -> None:
    with pytest.raises(ValueError, match="log_q is 'yi2020', expected one of: none, yi2019, khrylchenko2025"):
        softmax_term("yi2020")  # type: ignore[arg-type]


def test_terms_are_summed_with_their_weights() -> None:
    outputs = outputs_of({"vector": USERS}, {"vector": SHARED})
    weight = DecayingWeight(0.5, decay=0.1)
    terms = [(2.0, lambda outputs: tf.constant(3.0)), (weight, lambda outputs: tf.constant(10.0))]
    assert float(total_of(terms, outputs)) == pytest.approx(2 * 3 + 0.5 * 10)
    weight.step()
    assert float(total_of(terms, outputs)) == pytest.approx(2 * 3 + 0.05 * 10)


def test_a_weight_decays_in_a_traced_step_too() -> None:
    weight = DecayingWeight(1.0, decay=0.5)
    traced = tf.function(lambda: total_of([(weight, lambda outputs: tf.constant(8.0))], None))
    found = [float(traced())]
    weight.step()
    assert [*found, float(traced())] == [8, 4]
    assert not weight.trainable_variables


def test_inputs_lose_the_prefix_of_their_tower() -> None:
    assert inputs_with_prefix({"user/a": 1, "item/a": 2, "user/b/c": 3}, "user/") == {"a": 1, "b/c": 3}
