"""Ranked lists that are made once and kept: of fits and of baselines, so that a killed comparison resumes.

U users of a split, k places of a list.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np

from artefacts.files import replace_text
from artefacts.paths import RunPaths
from artefacts.steps import Step, digest_of, finished, run_step
from evaluation.baselines.baseline import Baseline, Fitted, Past
from evaluation.report import ALL_PURCHASES, NEW_TO_THE_USER, Task
from serving.retrieval.ranking import Rows
from twinspire.ablation_config import folder_of

_NAMES = {NEW_TO_THE_USER: "exact", ALL_PURCHASES: "all"}


def kept_lists(name: str, paths: RunPaths, *, digest: str, shape: tuple[int, int], make: Callable[[], Rows]) -> Rows:
    """Ranked lists that are made once.

    Args:
        name: Of the lists in their folder.
        paths: Whose they are.
        digest: Hash over everything that they depend on.
        shape: U and K, for a check.
        make: Makes them, [U, K] int32.

    Returns:
        [U, K] int32.

    Raises:
        ValueError: What is kept is not of this shape.
    """
    path = _folder(paths) / f"{name}.npy"

    def write() -> str:
        lists = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, lists)
        return f"{len(lists):,} lists"

    step = Step(f"lists_{name}", digest, (path,), write, paths.steps)
    if finished(step) is None:
        run_step(step)
    lists: Rows = np.load(path, allow_pickle=False)
    if lists.shape != shape:
        raise ValueError(f"{path}: holds {lists.shape}, expected {shape}; remove the file, and it is made again")
    return lists


def kept_baseline(
    baseline: Baseline, past: Past, paths: RunPaths, *, tables: str, tasks: Sequence[Task]
) -> tuple[dict[Task, Rows], str]:
    """The lists of a baseline, which is fitted where one of them is not kept yet.

    Args:
        baseline: What is fitted.
        past: What it may look at, of which the lists have `past.k` places.
        paths: Of the data set.
        tables: Digest of the tables that the past is of.
        tasks: What lists are for.

    Returns:
        Task -> [U, k] int32, and what was chosen, a sentence.
    """
    paths = replace(paths, as_of=past.split.cut.date(), arm=folder_of(baseline.name))
    inputs = {"ingest": tables, "k": past.k, "window": past.split.window_days, "seed": past.seed, "tuned": 1}
    note = _folder(paths).with_suffix(".txt")

    @cache
    def fitted() -> Fitted:
        found = baseline.fit(past)
        replace_text(note, found.note)
        return found

    def make(task: Task) -> Rows:
        return fitted().rank(past.k, task == NEW_TO_THE_USER)

    digest, shape = digest_of(inputs), (len(past.split.user_ids), past.k)
    lists = {
        task: kept_lists(_NAMES[task], paths, digest=digest, shape=shape, make=partial(make, task)) for task in tasks
    }
    return lists, note.read_text(encoding="utf-8")


def _folder(paths: RunPaths) -> Path:
    return paths.of_fit / "lists" / str(paths.as_of)
