"""The layers between a model and its users are compared, and what should not differ is a finding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from evaluation.arms.layers import check_layers

ARGS: dict[str, Any] = {"letter": "A", "k": 4, "draw": {"num_samples": 200, "seed": 1, "level": 0.95}}
USERS = 50
EXACT = np.tile(np.arange(4, dtype=np.int32), (USERS, 1))
RELEVANT = sp.csr_array(np.tile([1, 0, 0, 1, 0, 0], (USERS, 1)).astype(bool))


def test_layers_that_answer_alike_have_no_finding() -> None:
    check = check_layers(EXACT, EXACT.copy(), RELEVANT, layers=("index", "server"), **ARGS)
    assert (check.same_lists, check.found_share, check.recall.mean) == (1, 1, 0)
    assert check.finding is None
    assert not check.blocks


def test_a_server_that_answers_otherwise_blocks_even_for_one_user() -> None:
    served = EXACT.copy()
    served[7] = [0, 1, 3, 2]
    check = check_layers(EXACT, served, RELEVANT, layers=("index", "server"), **ARGS)
    assert check.same_lists == pytest.approx(49 / 50)
    assert check.finding is not None
    assert "the server answers 1 of 50 users with other lists" in check.finding
    assert check.blocks


def test_an_index_that_misses_too_much_blocks() -> None:
    found = EXACT.copy()
    found[:, 3] = 5
    check = check_layers(EXACT, found, RELEVANT, layers=("exact", "index"), **ARGS)
    # Three of four items, and one of the two that are relevant: from 1 to 1/2.
    assert check.found_share == 0.75
    assert check.recall.mean == -0.5
    assert check.finding is not None
    assert "the index finds 0.750 of exact search's items, and recall@4 is -0.5000" in check.finding
    assert check.blocks


def test_an_index_that_costs_recall_beyond_doubt_is_named_and_does_not_block() -> None:
    many = np.tile(np.arange(100, dtype=np.int32), (USERS, 1))
    found = many.copy()
    found[:, 0] = 150
    relevant = sp.csr_array((np.ones(USERS, bool), (np.arange(USERS), np.zeros(USERS, int))), shape=(USERS, 200))
    check = check_layers(many, found, relevant, layers=("exact", "index"), **{**ARGS, "k": 100})
    assert check.found_share == pytest.approx(0.99)
    assert check.finding is not None
    assert not check.blocks
