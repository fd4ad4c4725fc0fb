"""Baselines: retrieval without a model of ours, one file each."""

from collections.abc import Mapping
from pathlib import Path

from evaluation.baselines.als import ALS
from evaluation.baselines.baseline import Baseline
from evaluation.baselines.ease import EASE
from evaluation.baselines.item_knn import ITEM_KNN
from evaluation.baselines.oracle import oracle_of
from evaluation.baselines.popularity import POPULARITY
from evaluation.baselines.repeat_purchase import REPEAT_PURCHASE
from evaluation.report import ORACLE

BASELINES: Mapping[str, Baseline] = {
    baseline.name: baseline for baseline in (POPULARITY, REPEAT_PURCHASE, ITEM_KNN, EASE, ALS)
}


def baselines_of(world: Path | None) -> Mapping[str, Baseline]:
    """The baselines of a dataset: the registered ones, and on a world its oracle.

    Args:
        world: Folder of the world that the dataset is; None for any other dataset.
    """
    return BASELINES if world is None else {**BASELINES, ORACLE: oracle_of(world)}
