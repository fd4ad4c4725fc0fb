"""Ranked lists are made once, and again when anything that they depend on has changed."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from artefacts.paths import RunPaths
from evaluation.baselines.baseline import Baseline, Fitted, Past
from evaluation.report import ALL_PURCHASES, NEW_TO_THE_USER, TASKS
from tests.evaluation.baselines.test_baselines import split_of
from twinspire.kept_lists import kept_baseline, kept_lists

FIRST = dt.date(2024, 5, 1)


def test_lists_are_made_once_and_again_when_anything_changes(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path, FIRST, "default-1")
    made: list[int] = []

    def make() -> np.ndarray:
        made.append(1)
        return np.full((3, 2), len(made), np.int32)

    def lists(digest: str) -> int:
        return int(kept_lists("exact", paths, digest=digest, shape=(3, 2), make=make)[0, 0])

    assert [lists("a"), lists("a"), lists("b"), lists("b")] == [1, 1, 2, 2]
    with pytest.raises(ValueError, match=r"exact\.npy: holds \(3, 2\), expected \(4, 2\)"):
        kept_lists("exact", paths, digest="b", shape=(4, 2), make=make)
    (tmp_path / "arms" / "default-1" / "lists" / str(FIRST) / "exact.npy").unlink()
    assert lists("b") == 3


def test_lists_whose_making_was_broken_off_are_made_again(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path, FIRST, "default-1")

    def killed() -> np.ndarray:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept_lists("exact", paths, digest="a", shape=(1, 1), make=killed)
    found = kept_lists("exact", paths, digest="a", shape=(1, 1), make=lambda: np.ones((1, 1), np.int32))
    assert found.tolist() == [[1]]


def test_a_baseline_is_fitted_once_for_all_tasks_and_again_for_other_tables(tmp_path: Path) -> None:
    fits: list[Past] = []

    def fit(past: Past) -> Fitted:
        fits.append(past)
        number = len(fits)
        return Fitted(lambda k, new_only: np.full((2, k), 10 * number + new_only, np.int32), note=f"fit {number}")

    baseline = Baseline("last-item", "last item", "what was met last", fit)
    past = Past(split_of([[1, 0], [0, 2]]), pa.table({}), np.array(["a", "b"], dtype=object), seed=1, k=3)
    paths = RunPaths(tmp_path, FIRST)

    def kept(tables: str, *tasks: str) -> tuple[dict[str, int], str]:
        lists, note = kept_baseline(baseline, past, paths, tables=tables, tasks=tasks)  # type: ignore[arg-type]
        assert all(rows.shape == (2, 3) for rows in lists.values())
        return {task: int(rows[0, 0]) for task, rows in lists.items()}, note

    assert kept("t", NEW_TO_THE_USER) == ({NEW_TO_THE_USER: 11}, "fit 1")
    # The list that is missing takes another fit, the other one stays.
    assert kept("t", *TASKS) == ({NEW_TO_THE_USER: 11, ALL_PURCHASES: 20}, "fit 2")
    assert kept("t", *TASKS) == ({NEW_TO_THE_USER: 11, ALL_PURCHASES: 20}, "fit 2")
    assert kept("u", *TASKS) == ({NEW_TO_THE_USER: 31, ALL_PURCHASES: 30}, "fit 3")
    assert len(fits) == 3
