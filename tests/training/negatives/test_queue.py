"""The queue holds the item vectors of the last batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from training.negatives.queue import RecentItems, VectorQueue


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 12))
def test_vectors_and_items_stay_aligned_over_batches_of_unequal_size(sizes: list[int], size: int) -> None:
    vectors, items = VectorQueue(size, 2), RecentItems(size)
    begin, spans = 1, [np.array([span]) for span in range(3)]
    for number, batch_size in enumerate(sizes):
        rows = np.arange(begin, begin + batch_size)
        vectors.push(tf.constant(np.stack([rows, -rows], axis=1), tf.float32))
        items.push(rows, spans[number // 2])
        begin += batch_size
        expected = ([0] * size + list(range(1, begin)))[-size:]
        assert items.read().tolist() == expected
        # Which span each place is from, in turn.
        filled = np.repeat(np.arange(len(sizes)) // 2, sizes)[: begin - 1][-size:]
        expected_spans = [(span, int((filled == span).sum())) for span in np.unique(filled)]
        assert [(int(counts[0]), num) for counts, num in items.drawn] == expected_spans
        assert vectors.read().numpy().tolist() == [[row, -row] for row in expected]


def test_a_read_is_not_changed_by_later_pushes() -> None:
    vectors, items = VectorQueue(2, 1), RecentItems(2)
    before = vectors.read(), items.read()
    vectors.push(tf.ones([2, 1]))
    items.push(np.array([1, 2]), np.array([0, 1, 1]))
    assert before[0].numpy().tolist() == [[0], [0]]
    assert before[1].tolist() == [0, 0]


def test_no_gradient_reaches_the_queue_nor_what_was_pushed() -> None:
    queue, pushed, users = VectorQueue(3, 2), tf.Variable(tf.ones([2, 2])), tf.Variable(tf.ones([1, 2]))
    with tf.GradientTape() as tape:
        queue.push(pushed * 2.0)
        loss = tf.reduce_sum(tf.matmul(users, queue.read(), transpose_b=True))
    gradients = tape.gradient(loss, {"pushed": pushed, "users": users})
    assert gradients["pushed"] is None
    assert gradients["users"].numpy().tolist() == [[4, 4]]
    assert queue.trainable_variables == ()


def test_it_works_in_a_traced_step_whose_batch_size_is_unknown() -> None:
    queue = VectorQueue(3, 2)

    @tf.function(input_signature=[tf.TensorSpec([None, 2])])
    def step(vectors: tf.Tensor) -> tf.Tensor:
        before = queue.read()
        queue.push(vectors)
        return before

    assert step(tf.ones([2, 2])).numpy().tolist() == [[0, 0]] * 3
    assert step(tf.ones([1, 2]) * 5).numpy().tolist() == [[0, 0], [1, 1], [1, 1]]
    assert queue.read().numpy().tolist() == [[1, 1], [1, 1], [5, 5]]


def test_an_epoch_begins_empty_and_a_checkpoint_brings_the_vectors_back(tmp_path: Path) -> None:
    queue, other = VectorQueue(2, 1), VectorQueue(2, 1)
    queue.push(tf.constant([[3.0], [4.0]]))
    saved = tf.train.Checkpoint(queue=queue).write(str(tmp_path / "queue"))
    tf.train.Checkpoint(queue=other).read(saved).assert_consumed()
    assert other.read().numpy().tolist() == [[3], [4]]
    queue.clear()
    assert queue.read().numpy().tolist() == [[0], [0]]


def test_sizes_and_vectors_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="a queue of 0 vectors of width 4"):
        VectorQueue(0, 4)
    with pytest.raises(ValueError, match=r"vectors have shape \(2, 3\), expected \[B, 4\]"):
        VectorQueue(5, 4).push(tf.ones([2, 3]))
