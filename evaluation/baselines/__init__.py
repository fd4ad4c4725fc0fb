"""Baselines: retrieval without a model of ours, one file each."""

from collections.abc import Mapping

from evaluation.baselines.als import ALS
from evaluation.baselines.baseline import Baseline
from evaluation.baselines.ease import EASE
from evaluation.baselines.item_knn import ITEM_KNN
from evaluation.baselines.popularity import POPULARITY
from evaluation.baselines.repeat_purchase import REPEAT_PURCHASE

BASELINES: Mapping[str, Baseline] = {
    baseline.name: baseline for baseline in (POPULARITY, REPEAT_PURCHASE, ITEM_KNN, EASE, ALS)
}
