"""Shares of a batch add up to it: rows, candidates, and the loss of each row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.batches import LOG_Q, MASK, PRIVATE_LOG_Q, TEACHER, WEIGHT, Batch
from training.distribution import COLUMNS, ORDER, share_of


def make_batch(num_rows: int, num_uniform: int, num_private: int, seed: int = 0) -> Batch:
    """Vectors in the place of inputs; every number is different."""
    rng = np.random.default_rng(seed)
    num_shared = num_rows + num_uniform
    batch: Batch = {
        "user/vector": rng.normal(size=(num_rows, 3)),
        "item/vector": rng.normal(size=(num_shared + num_rows * num_private, 3)),
        "item/item_id": np.arange(num_shared + num_rows * num_private),
        MASK: rng.random((num_rows, num_shared + num_private)) < 0.3,
        LOG_Q: rng.normal(size=num_shared).astype(np.float32),
        WEIGHT: rng.random(num_rows).astype(np.float32),
    }
    batch[TEACHER] = rng.normal(size=batch[MASK].shape).astype(np.float32)
    if num_private:
        batch[PRIVATE_LOG_Q] = rng.normal(size=(num_rows, num_private)).astype(np.float32)
    return batch


def losses_of(batch: Batch) -> np.ndarray:
    """A corrected softmax, row by row: the own item first in the sum, then what the mask leaves.

    The teacher's scores are added, so that they must be those of the same pairs.
    """
    users, items = batch["user/vector"], batch["item/vector"]
    num_rows, num_shared = len(users), len(batch[LOG_Q])
    private = items[num_shared:].reshape(num_rows, -1, items.shape[1])
    losses = []
    for row, user in enumerate(users):
        candidates = np.concatenate([items[:num_shared], private[row]])
        log_q = np.concatenate([batch[LOG_Q], batch[PRIVATE_LOG_Q][row] if PRIVATE_LOG_Q in batch else []])
        logits = candidates @ user - log_q + batch[TEACHER][row]
        counted = ~batch[MASK][row]
        counted[row] = True
        losses.append(np.log(np.exp(logits[counted]).sum()) - logits[row])
    return np.array(losses)


sizes = st.tuples(st.integers(1, 4), st.integers(0, 5), st.integers(0, 5), st.integers(0, 3))


@given(sizes=sizes, seed=st.integers(0, 99))
def test_the_losses_of_all_shares_are_those_of_the_batch(sizes: tuple[int, int, int, int], seed: int) -> None:
    size, more_rows, num_uniform, num_private = sizes
    batch = make_batch(size + more_rows, num_uniform, num_private, seed)
    shares = [share_of(batch, number=number, size=size) for number in range(size)]
    np.testing.assert_allclose(np.concatenate([losses_of(share) for share in shares]), losses_of(batch), rtol=1e-6)
    np.testing.assert_array_equal(np.concatenate([share[WEIGHT] for share in shares]), batch[WEIGHT])
    assert {len(share[WEIGHT]) for share in shares} <= {len(batch[WEIGHT]) // size, -(-len(batch[WEIGHT]) // size)}


@given(sizes=sizes)
def test_each_candidate_is_computed_by_one_process(sizes: tuple[int, int, int, int]) -> None:
    size, more_rows, num_uniform, num_private = sizes
    num_rows = size + more_rows
    batch = make_batch(num_rows, num_uniform, num_private)
    shares = [share_of(batch, number=number, size=size) for number in range(size)]
    columns = np.concatenate([share[COLUMNS] for share in shares])
    assert sorted(columns) == [*range(num_rows + num_uniform)]
    for share in shares:
        num_shared = len(share[ORDER])
        np.testing.assert_array_equal(share["item/item_id"][:num_shared], share[ORDER])
        assert set(share[COLUMNS][: len(share[WEIGHT])]) == set(share[ORDER][: len(share[WEIGHT])])
    private = np.concatenate([share["item/item_id"][len(share[ORDER]) :] for share in shares])
    np.testing.assert_array_equal(private, np.arange(num_rows * num_private) + num_rows + num_uniform)


def test_a_share_is_its_rows_against_all_candidates_by_hand() -> None:
    # Rows 0 1 2, uniform candidates 3 4, one private candidate of each row: 5 6 7.
    share = share_of(make_batch(3, 2, 1), number=1, size=2)
    np.testing.assert_array_equal(share[ORDER], [2, 0, 1, 3, 4])
    np.testing.assert_array_equal(share[COLUMNS], [2, 4])
    np.testing.assert_array_equal(share["item/item_id"], [2, 0, 1, 3, 4, 7])


def test_a_process_without_a_row_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a batch of 2 rows for 3 processes, expected one for each; raise training"):
        share_of(make_batch(2, 4, 0), number=0, size=3)


def test_columns_of_a_queue_are_refused() -> None:
    batch = make_batch(2, 1, 1)
    batch[MASK] = np.zeros((2, 3 + 5 + 1), bool)
    with pytest.raises(ValueError, match="the mask has 9 columns, expected 3 of shared and 1 of private candidates"):
        share_of(batch, number=0, size=2)
