"""The choice of tables from the curve of size against recall."""

from __future__ import annotations

import numpy as np
import pytest

from beam_jobs.code_tables import biases, choose
from serving.sparcode.files import CurvePoint
from twinspire.config import SparCodeConfig

CURVE = [CurvePoint(0.5, 800, 0.99), CurvePoint(0.2, 400, 0.90), CurvePoint(-1.0, 100, 0.60)]


def test_without_a_target_the_largest_tables_are_kept() -> None:
    assert choose(CURVE, SparCodeConfig()).bias == 0.5


@pytest.mark.parametrize(("size", "bias"), [(800, 0.5), (799, 0.2), (100, -1.0)])
def test_a_size_takes_the_largest_that_fit(size: int, bias: float) -> None:
    assert choose(CURVE, SparCodeConfig(target_size_bytes=size)).bias == bias


@pytest.mark.parametrize(("recall", "bias"), [(0.99, 0.5), (0.9, 0.2), (0.5, -1.0)])
def test_a_recall_takes_the_smallest_that_reach_it(recall: float, bias: float) -> None:
    assert choose(CURVE, SparCodeConfig(target_recall=recall)).bias == bias


def test_an_unreachable_target_is_reported() -> None:
    with pytest.raises(ValueError, match="target_size_bytes is 99, and the smallest tables tried have 100"):
        choose(CURVE, SparCodeConfig(target_size_bytes=99))
    with pytest.raises(ValueError, match=r"target_recall is 0\.995, and the largest tables have 0\.990"):
        choose(CURVE, SparCodeConfig(target_recall=0.995))


def test_two_targets_at_once_are_refused() -> None:
    with pytest.raises(ValueError, match="controlled_bias and target_recall each choose the bias of the tables"):
        SparCodeConfig(controlled_bias=0.1, target_recall=0.9)


def test_codes_without_a_number_are_refused() -> None:
    with pytest.raises(ValueError, match="parts is 8 and codes 256"):
        SparCodeConfig(parts=8, codes=256)


def test_biases_leave_even_shares_of_the_postings() -> None:
    scores = np.arange(1, 101, dtype=np.float32)
    found = biases(scores, 2.0, 4)
    assert found[0] == 2.0
    left = [(scores - (2.0 - bias) > 0).mean() for bias in found]
    np.testing.assert_allclose(left, [1, 0.75, 0.5, 0.25], atol=0.02)


def test_nothing_stored_leaves_nothing_to_try() -> None:
    assert biases(np.zeros(0, np.float32), 1.5, 8) == [1.5]
