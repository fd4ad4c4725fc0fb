"""A collapsed codebook is noticed."""

from __future__ import annotations

import numpy as np
import pytest

from training.fit_sparcode import CodeUsage


def usage(counts: object, **changes: float) -> CodeUsage:
    settings = {"num_restarts": 0, "zero_share": 0.0, "bias": 0.5, **changes}
    return CodeUsage(np.asarray(counts, np.float64), **settings)


def test_perplexity_is_the_number_of_codes_where_all_are_used_alike_and_one_where_one_is() -> None:
    found = usage([[5, 5, 5, 5], [7, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_allclose(found.perplexity, [4, 1, 2, 1])
    assert found.num_used.tolist() == [4, 1, 2, 0]
    assert found.metrics()["codes_in_use"] == 0


def test_a_healthy_codebook_gives_no_warning() -> None:
    assert usage([[3, 4, 5, 4]], zero_share=0.1).warnings() == []


def test_a_collapse_is_reported_in_a_message() -> None:
    counts = np.zeros((2, 100))
    counts[0], counts[1, :2] = 1, 50
    (found,) = usage(counts).warnings()
    assert "the codebook of part 1 has collapsed: 2 of 100 codes are in use, with a perplexity of 2.0" in found
    assert "sparcode.restart_below" in found


def test_examples_without_a_gradient_are_reported() -> None:
    (found,) = usage([[1, 1, 1]], zero_share=0.75, bias=-2.0).warnings()
    assert "75% of the examples score 0 for their own item and teach nothing: the bias is -2.00" in found


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_half_of_zeros_is_not_yet_too_many(share: float) -> None:
    assert usage([[1, 1]], zero_share=share).warnings() == []
