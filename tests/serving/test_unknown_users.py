"""A user whom the towers do not know is served from a hash bucket, and without anyone else's purchases."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from features.encoding import Encoder
from features.ids import IdMap
from serving.bundles.bundle import Bundle
from serving.config import RankingConfig
from serving.recommender import Recommender
from serving.registry import retrievers_of

NUM_BUCKETS = 5


class Recorder:
    """Records the inputs of a tower, and calls older towers without the buckets that they do not have."""

    def __init__(self, bundle: Bundle) -> None:
        self._tower = bundle.user_tower
        self._num_users = len(bundle.encoder.user_ids)
        self.user_rows: list[int] = []

    def embed(self, inputs: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        rows = inputs["user_id"]
        self.user_rows += rows.tolist()
        return self._tower.embed({**inputs, "user_id": np.where(rows < self._num_users, rows, 0).astype(np.int32)})


def bucketed(encoder: Encoder) -> Encoder:
    ids = encoder.user_ids.ids(np.arange(1, len(encoder.user_ids)))
    return dataclasses.replace(encoder, user_ids=IdMap(ids, NUM_BUCKETS))


@pytest.fixture
def recorder(bundle: Bundle) -> Recorder:
    return Recorder(bundle)


@pytest.fixture
def with_buckets(bundle: Bundle, recorder: Recorder, read_users: Callable[[list[str]], pa.Table]) -> Recommender:
    changed = dataclasses.replace(bundle, encoder=bucketed(bundle.encoder), user_tower=recorder)  # type: ignore[arg-type]
    retrievers = retrievers_of(
        changed,
        RankingConfig(
            max_fetch=30, fusion_weights={"two_tower": 1.0, "repeat": 2.0}, fusion_rank_constant=60, fusion_depth=20
        ),
        ef_search=50,
    )
    return Recommender(changed, read_users, retrievers=retrievers, default_retriever="fused")


def test_the_tower_is_asked_for_the_bucket_of_an_unknown_user(with_buckets: Recommender, recorder: Recorder) -> None:
    with_buckets.recommend(["u1", "n1", "stranger"], k=3, retriever="two_tower")
    ids = with_buckets.bundle.encoder.user_ids
    assert recorder.user_rows == ids.table_rows(["u1", "n1", "stranger"]).tolist()
    assert recorder.user_rows[0] == 1
    assert min(recorder.user_rows[1:]) >= len(ids)


@pytest.mark.parametrize("retriever", ["two_tower", "repeat", "popularity", "fused"])
@pytest.mark.parametrize("exclude_known", [False, True])
def test_answers_are_those_of_a_table_whose_buckets_hold_what_its_unknown_row_holds(
    with_buckets: Recommender, recommender: Recommender, retriever: str, exclude_known: bool
) -> None:
    asked = ["u1", "stranger", "n1", "u4", "u2"]
    found, plain = (
        each.recommend(asked, k=7, retriever=retriever, exclude_known=exclude_known)
        for each in (with_buckets, recommender)
    )
    assert found.answers == plain.answers
    assert [answer.unknown_user for answer in found.answers] == [False, True, True, False, False]
