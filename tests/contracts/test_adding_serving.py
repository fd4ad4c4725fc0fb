"""A retriever and an index backend that are added through their registries alone reach everything that serves."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Self

import httpx
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from artefacts.config import ConfigError, pick
from artefacts.paths import RunPaths
from beam_jobs.build_index import BuildIndex, IndexJob, IndexSettings
from evaluation.config import GatesSections
from evaluation.gates import smoke
from evaluation.gates.candidate import Candidate
from serving.arms import one_arm
from serving.bundles.bundle import Bundle
from serving.bundles.manifest import BundleError, Facts
from serving.bundles.publish import Parts, write
from serving.config import RankingConfig
from serving.live import Live
from serving.recommender import Recommender
from serving.registry import RETRIEVERS, retrievers_of
from serving.retrieval import exact
from serving.retrieval.eligible import NO_ITEMS, Items
from serving.retrieval.index import INDEXES, IndexReport
from serving.retrieval.ranking import Rows, Scores, best_of_each
from serving.retrieval.retrievers import Retriever, UserQueries
from serving.retrieval.vectors import vector_schema
from serving.web.app import create_app
from serving.web.feature_reads import FeatureReads
from serving.web.metrics import Metrics
from serving.web.service import Service
from twinspire.cli import app as commands
from twinspire.config import Config
from twinspire.load_config import load

TABLES = Path(__file__).parents[2] / "configs" / "tables_example.yaml"
AS_OF = dt.date(2017, 12, 1)
ReadUsers = Callable[[list[str]], pa.Table]


class Newest:
    """The items with the highest numbers, the same for all users."""

    needs_embeddings: ClassVar[bool] = False
    needs_tokens: ClassVar[bool] = False
    finds_all: ClassVar[bool] = True
    fills_up: ClassVar[bool] = False

    def retrieve(self, users: UserQueries, k: int) -> tuple[Rows, Scores]:
        num_items = users.purchases.num_items
        owners, items = np.divmod(np.arange(len(users) * num_items), num_items)
        stays = np.ones(len(items), np.bool_) if users.offered is None else users.offered[items]
        if users.kept_out is not None:
            stays &= ~np.isin(np.arange(len(items)), users.kept_out.keys)
        return best_of_each(
            owners[stays], items[stays], scores=items[stays].astype(np.float32), num_users=len(users), k=k
        )


class Short(Newest):
    """Claims to find all, and finds one item."""

    def retrieve(self, users: UserQueries, k: int) -> tuple[Rows, Scores]:
        rows, scores = super().retrieve(users, k)
        return np.where(np.arange(k) < 1, rows, -1).astype(np.int32), np.where(np.arange(k) < 1, scores, -np.inf)


def build(retriever: Callable[[], Retriever]) -> Callable[..., Retriever]:
    return lambda bundle, ranking, *, ef_search: retriever()


@pytest.fixture
def newest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RETRIEVERS, "newest", build(Newest))


def configured(*overrides: str) -> Config:
    return load(TABLES, ["serving.retriever=newest", "serving.fusion_weights={newest: 1, repeat: 2}", *overrides])


def recommender_of(bundle: Bundle, read_users: ReadUsers) -> Recommender:
    ranking: RankingConfig = configured().serving
    retrievers = retrievers_of(bundle, ranking, ef_search=50)
    return Recommender(bundle, read_users, retrievers=retrievers, default_retriever=ranking.retriever)


def test_a_configuration_and_the_command_line_name_a_retriever_from_when_it_is_registered(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = ["recommend", "--user", "u1", "--retriever", "newest", "--config", str(TABLES), "--runs", str(tmp_path)]
    with pytest.raises(ConfigError, match=r"serving\.retriever is 'newest', expected one of: two_tower, exact"):
        configured()
    assert "'newest' is not one of: two_tower" in CliRunner().invoke(commands, asked, env={"COLUMNS": "300"}).stderr
    monkeypatch.setitem(RETRIEVERS, "newest", build(Newest))
    assert configured().serving.fusion_weights == {"newest": 1, "repeat": 2}
    # It gets as far as opening what is published.
    assert "current" in CliRunner().invoke(commands, asked).stderr


def test_a_registered_retriever_answers_alone_and_fused(newest: None, bundle: Bundle, read_users: ReadUsers) -> None:
    recommender = recommender_of(bundle, read_users)
    found = recommender.recommend(["u1", "stranger"], k=3, deny_categories=("fruit",), exclude_known=True)
    assert found.retriever == "newest"
    # Odd numbers are fruit; a stranger has no past and gets what is popular, which here are the highest numbers, too.
    assert [[item["item_id"] for item in answer.items] for answer in found.answers] == [["i38", "i36", "i34"]] * 2
    [fused] = recommender.recommend(["u1"], k=4, retriever="fused", explain=True).answers
    assert [item["item_id"] for item in fused.items] == ["i0", "i2", "i1", "i39"]
    assert fused.items[3]["explanation"]["found_by"] == {"newest": {"rank": 1, "score": 39.0}}


def test_a_server_answers_by_a_registered_retriever(newest: None, bundle: Bundle, read_users: ReadUsers) -> None:
    recommender = recommender_of(bundle, read_users)
    live = Live(one_arm(), lambda _: recommender, lambda: bundle.version, clock=lambda: dt.datetime.now(dt.UTC))
    served = create_app(Service(live, FeatureReads(30.0), Metrics()), max_k=100)

    async def ask() -> tuple[dict[str, Any], dict[str, Any]]:
        transport = httpx.ASGITransport(app=served)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            answer = await client.post("/v1/recommend", json={"user_id": "u1", "k": 2, "retriever": "newest"})
            return answer.json(), (await client.get("/openapi.json")).json()

    answer, document = asyncio.run(ask())
    [result] = answer["results"]
    assert (result["retriever"], [item["item_id"] for item in result["items"]]) == ("newest", ["i39", "i38"])
    body = document["paths"]["/v1/recommend"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert "newest" in body["properties"]["retriever"]["anyOf"][0]["enum"]


def test_the_smoke_gate_asks_a_registered_retriever(
    monkeypatch: pytest.MonkeyPatch, newest: None, written: Path, read_users: ReadUsers, tmp_path: Path
) -> None:
    paths = RunPaths(tmp_path, AS_OF)
    paths.pairs.parent.mkdir(parents=True)
    pq.write_table(pa.table({"user_id": ["u1", "u1", "u4"], "item_id": ["i0", "i1", "i39"]}), paths.pairs)
    paths.bundles.mkdir()
    (paths.bundles / written.name).symlink_to(written)
    store = SimpleNamespace(open=lambda folder: SimpleNamespace(read_online=read_users))
    monkeypatch.setattr(smoke, "Store", store)
    candidate = Candidate(pick(GatesSections, configured("gates.smoke_k=5")), paths, written.name, None)
    assert "newest" in smoke.opens(candidate).sentence
    assert smoke.answers(candidate).outcome == "passed"
    assert smoke.exclude_bought(candidate).outcome == "passed"
    monkeypatch.setitem(RETRIEVERS, "newest", build(Short))
    assert smoke.answers(candidate).sentence == "newest: u1 gets 1 items, expected 5"


class Flat:
    """Exact search over a copy of the vectors."""

    num_searches: ClassVar[int] = 0

    def __init__(self, vectors: Scores, left_out: Items) -> None:
        self.left_out = left_out
        self._vectors = vectors

    @classmethod
    def build(cls, vectors: Scores, *, m: int, ef_construction: int, seed: int, left_out: Items = NO_ITEMS) -> Self:
        return cls(vectors, left_out)

    @classmethod
    def num_vectors(cls, path: Path) -> int:
        return len(np.load(path, mmap_mode="r", allow_pickle=False))

    def save(self, path: Path) -> None:
        with path.open("wb") as file:
            np.save(file, self._vectors, allow_pickle=False)

    @classmethod
    def load(cls, path: Path, vectors: Scores, left_out: Items = NO_ITEMS) -> Self:
        with path.open("rb") as file:
            return cls(np.load(file, allow_pickle=False), left_out)

    def search(self, query_embeddings: Scores, *, k: int, ef: int) -> tuple[Rows, Scores]:
        type(self).num_searches += 1
        return exact.search(query_embeddings, self._vectors, k=k)


def write_vectors(folder: Path, vectors: npt.NDArray[np.float32]) -> str:
    folder.mkdir()
    listed = pa.FixedSizeListArray.from_arrays(vectors.ravel(), vectors.shape[1])
    table = pa.table([pa.array(np.arange(len(vectors))), listed], schema=vector_schema(vectors.shape[1]))
    pq.write_table(table, folder / "vectors-00000-of-00001.parquet")
    return str(folder)


def test_a_registered_index_backend_is_built_put_into_a_bundle_and_searched(
    monkeypatch: pytest.MonkeyPatch, parts: Parts, facts: Facts, read_users: ReadUsers, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"index\.form is 'flat', expected one of: ip, augmented"):
        load(TABLES, ["index.form=flat"])
    monkeypatch.setitem(INDEXES, "flat", Flat)
    index = load(TABLES, ["index.form=flat"]).index
    width, vectors = parts.item_vectors.shape[1], parts.item_vectors
    settings = IndexSettings(
        m=8,
        ef_construction=9,
        ef_search=10,
        k=5,
        num_queries=3,
        seed=1,
        min_recall=0.9,
        parts=(width,),
        form=index.form,
    )
    items, users = (write_vectors(tmp_path / name, vectors) for name in ("items", "users"))
    job = IndexJob(items, users, str(tmp_path / "index"), None, None)
    [path] = BuildIndex(settings).process(job)
    report = IndexReport(**json.loads(Path(path).read_text()))
    assert (report.form, report.recall) == ("flat", 1.0)

    own = replace(parts, index=Flat.load(tmp_path / "index" / "index.hnsw", vectors))
    folder = tmp_path / "bundles" / write(tmp_path / "bundles", own, facts.model_copy(update={"index_report": report}))
    bundle = Bundle.open(folder)
    assert isinstance(bundle.index, Flat)
    before = Flat.num_searches
    retrievers = retrievers_of(bundle, RankingConfig(), ef_search=10)
    recommender = Recommender(bundle, read_users, retrievers=retrievers, default_retriever="two_tower")
    found, wanted = (recommender.recommend(["u1"], k=5, retriever=name).answers for name in ("two_tower", "exact"))
    assert found == wanted
    assert Flat.num_searches == before + 1
    monkeypatch.delitem(INDEXES, "flat")
    with pytest.raises(BundleError, match="form of the index is 'flat', expected one of: ip, augmented"):
        Bundle.open(folder)
