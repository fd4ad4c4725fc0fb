"""Withdrawn items stay in the bundle, and out of its index and every answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from serving.bundles.bundle import WITHDRAWN, Bundle
from serving.bundles.manifest import BundleError, Facts
from serving.bundles.publish import Parts, write
from serving.config import RankingConfig
from serving.recommender import Recommender
from serving.registry import retrievers_of
from serving.retrieval.eligible import DeniedItems, DenyList
from serving.retrieval.index import HnswIndex

Sign = Callable[..., Path]


@pytest.fixture
def without_two(parts: Parts, facts: Facts, tmp_path: Path) -> Path:
    """A bundle whose items i0 and i2 left the catalogue."""
    withdrawn = np.array([0, 2], np.int32)
    index = HnswIndex.build(parts.item_vectors, m=8, ef_construction=50, seed=7, left_out=withdrawn)
    return tmp_path / write(tmp_path, dataclasses.replace(parts, withdrawn=withdrawn, index=index), facts)


def test_no_retriever_returns_it_whichever_items_are_denied(
    without_two: Path, read_users: Callable[[list[str]], pa.Table]
) -> None:
    bundle = Bundle.open(without_two)
    retrievers = retrievers_of(
        bundle,
        RankingConfig(
            max_fetch=30, fusion_weights={"two_tower": 1.0, "repeat": 2.0}, fusion_rank_constant=60, fusion_depth=20
        ),
        ef_search=50,
    )
    (without_two.parent / "denied.txt").write_text("i1\n")
    denied = DeniedItems(DenyList(without_two.parent / "denied.txt"), bundle.encoder.item_ids)
    for also, gone in ((None, {"i0", "i2"}), (denied, {"i0", "i1", "i2"})):
        recommender = Recommender(bundle, read_users, retrievers=retrievers, default_retriever="fused", denied=also)
        for name in retrievers:
            for answer in recommender.recommend(["u4", "stranger"], k=40, retriever=name).answers:
                found = {item["item_id"] for item in answer.items}
                assert not gone & found
                assert len(found) == (40 - len(gone) if name in ("two_tower", "popularity", "fused") else len(found))
    assert bundle.purchases.counts.sum() > 0


def test_its_index_does_not_have_it(without_two: Path) -> None:
    bundle = Bundle.open(without_two)
    assert bundle.index.left_out.tolist() == [0, 2]
    assert len(bundle.item_vectors) == 40
    rows, _ = bundle.index.search(np.array(bundle.item_vectors[[0, 2]]), k=40, ef=500)
    assert (np.sort(rows[:, :38], axis=1) == np.delete(np.arange(40), [0, 2])).all()
    assert (rows[:, 38:] == -1).all()


def test_a_bundle_whose_index_has_it_is_refused(parts: Parts, facts: Facts, tmp_path: Path) -> None:
    withdrawn = dataclasses.replace(parts, withdrawn=np.array([0, 2], np.int32))
    with pytest.raises(
        BundleError, match=r"index\.hnsw.*shape \[40, 8\], expected \[38, 8\]: 40 items, 2 of them left"
    ):
        Bundle.open(tmp_path / write(tmp_path, withdrawn, facts))


def test_without_withdrawn_items_there_is_no_file(written: Path) -> None:
    assert not (written / WITHDRAWN).exists()
    assert Bundle.open(written).withdrawn.tolist() == []


@pytest.mark.parametrize("rows", [[2, 0], [0, 0], [-1, 3], [3, 40]])
def test_invalid_rows_are_refused(folder: Path, sign: Sign, rows: list[int]) -> None:
    np.save(folder / WITHDRAWN, np.array(rows, np.int32))
    message = r"withdrawn\.npy: holds int32 \[.*\], expected int32 rows that ascend from 0 to 39 at most"
    with pytest.raises(BundleError, match=message):
        Bundle.open(sign(folder))


def test_rows_of_another_type_are_refused(folder: Path, sign: Sign) -> None:
    np.save(folder / WITHDRAWN, np.array([1.0, 2.0]))
    with pytest.raises(BundleError, match=r"withdrawn\.npy: holds float64 \[1\. 2\.\], expected int32"):
        Bundle.open(sign(folder))
