"""A server that does not start, refuses or is gone ends a comparison with its output."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evaluation.arms.bundle_arm import Asked, without_holes
from evaluation.arms.served import ask_server, server_of

SHOP = """
name: shop
as_of: 2024-01-08
ingest: {source: {kind: tables, events: {path: events.csv}}}
"""
ASKED = Asked(2, exclude_known=False, retriever=None, weight_exponent=None)


def test_a_server_that_does_not_start_is_reported_with_its_output(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match=r"the server of 2024-01-08-00000000 did not start: error: .*shop/bundles"),
        server_of(SHOP, tmp_path, "2024-01-08-00000000"),
    ):
        pass


def test_an_unreachable_server_is_reported_with_its_address() -> None:
    users = np.array(["ann"], dtype=object)
    with pytest.raises(ValueError, match=r"http://127\.0\.0\.1:9/v1/recommend: does not answer"):
        ask_server("http://127.0.0.1:9", ASKED, users, users)


def test_items_outside_the_catalogue_leave_no_gap_in_a_list() -> None:
    lists = np.array([[3, -1, 5, -1], [1, 2, 4, 0]], np.int32)
    assert without_holes(lists).tolist() == [[3, 5, -1, -1], [1, 2, 4, 0]]
