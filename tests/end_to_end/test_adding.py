"""A toy of each kind that can be added reaches training, server, smoke gate and comparison through its registry alone.

One small shop is run from events to a report in this process, with a toy kind of column, computed feature, history
encoder, loss, negative source, index backend, retriever and baseline, each no more than an entry of its registry and
keys of the configuration.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import runpy
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import tensorflow as tf

from artefacts.config import pick
from artefacts.paths import RunPaths
from evaluation.baselines import BASELINES
from evaluation.baselines.baseline import Baseline, Fitted, Past
from evaluation.config import GatesSections
from evaluation.gates import smoke
from evaluation.gates.candidate import Candidate
from features.computed import COMPUTED, ComputedFeature
from features.encoding import Encoder
from features.kinds import KINDS, ColumnKind, Storage
from serving.config import ServeSections
from serving.open import open_live, service_of
from serving.registry import RETRIEVERS
from serving.retrieval.index import INDEXES, REPORT_FILE
from serving.web.app import create_app
from serving.web.metrics import Metrics
from towers.history import HISTORY_ENCODERS
from training.losses import LOSSES
from training.losses.objective import Outputs
from training.negatives import NEGATIVE_SOURCES
from training.negatives.source import Descriptions, Draws
from twinspire.config import Config
from twinspire.load_config import load
from twinspire.main_job import plan

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(600)]
HERE = Path(__file__)
serving_toys = runpy.run_path(str(HERE.parents[1] / "contracts" / "test_adding_serving.py"))
NUM_USERS, NUM_ITEMS, NUM_DAYS = 24, 30, 14
FIRST = dt.date(2024, 1, 1)
AS_OF = FIRST + dt.timedelta(days=NUM_DAYS - 3)
NOW = dt.datetime(2024, 3, 1, tzinfo=dt.UTC)
CONFIG = """
name: toys
as_of: {as_of}
dataset:
  user_columns: {{member: yes_or_no}}
  item_columns: {{kind: categorical}}
  item_category: kind
  computed_features: [user_toy_value]
ingest:
  source:
    kind: tables
    events: {{path: {data}/orders.csv}}
    users: {{path: {data}/users.csv}}
    items: {{path: {data}/items.csv}}
features: {{history_length: 6, example_days: 9, join_days: 9}}
towers: {{embedding_dim: 6, factor_dim: 0, history_encoder: latest, history_settings: {{num_items: 2}}}}
training:
  epochs: 1
  batch_size: 32
  example_days: 9
  validation_days: 0
  extra_losses: {{toy_loss: {{weight: 0.5, arguments: {{scale: 2.0}}}}}}
  negatives: {{num_uniform: 4, extra_sources: {{first_items: {{num: 3}}}}}}
index: {{form: flat, ef_search: 40, num_queries: 10}}
serving:
  retriever: newest
  max_fetch: 30
  fusion_depth: 10
  fusion_weights: {{newest: 1.0, repeat: 1.0}}
  second_look: null
evaluation: {{ks: [5], window_days: 3, bootstrap_samples: 100}}
gates: {{smoke_k: 5}}
beam: {{shards: 1}}
"""


@dataclass(frozen=True)
class Shop:
    """What the run left, and how often each toy was called."""

    config: Config
    paths: RunPaths
    calls: Counter[str]


def write_source(folder: Path) -> None:
    folder.mkdir()
    rng = np.random.default_rng(3)
    orders = [
        (
            f"u{user}",
            f"i{rng.integers(NUM_ITEMS)}",
            f"{FIRST + dt.timedelta(days=day)}T{rng.integers(10, 20)}:00:00",
            2.5,
        )
        for day in range(NUM_DAYS)
        for user in range(NUM_USERS)
    ]
    pd.DataFrame(orders, columns=["user_id", "item_id", "timestamp", "value"]).to_csv(
        folder / "orders.csv", index=False
    )
    members = [(f"u{user}", ("yes", "no")[user % 2]) for user in range(NUM_USERS)]
    pd.DataFrame(members, columns=["user_id", "member"]).to_csv(folder / "users.csv", index=False)
    kinds = [(f"i{item}", ("fruit", "tool")[item % 2]) for item in range(NUM_ITEMS)]
    pd.DataFrame(kinds, columns=["item_id", "kind"]).to_csv(folder / "items.csv", index=False)


def register(patch: pytest.MonkeyPatch, calls: Counter[str]) -> None:
    """Enters each toy into its registry."""

    def yes_or_no(raw: pa.ChunkedArray, moments: np.ndarray) -> np.ndarray:
        calls["kind"] += 1
        return np.array([{"yes": 1.0, "no": 0.0}.get(value, np.nan) for value in raw.to_pylist()])

    def latest(*, num_items: int) -> Any:
        def encode(history: Any) -> tf.Tensor:
            calls["encoder"] += 1
            vectors = history.vectors(num_items)
            return tf.reshape(vectors, [-1, num_items * vectors.shape[-1]])

        return encode

    def toy_loss(*, scale: float) -> Any:
        def term(outputs: Outputs) -> tf.Tensor:
            calls["loss"] += 1
            return scale * tf.reduce_mean(tf.square(outputs.users["vector"]))

        return term

    def first_items(*, num: int) -> Any:
        def begin(descriptions: Descriptions, rng: np.random.Generator) -> Draws:
            calls["source"] += 1
            return Draws(shared=lambda: rng.integers(descriptions.num_of_examples, size=num))

        return begin

    def by_id(past: Past) -> Fitted:
        def rank(k: int, new_only: bool) -> np.ndarray:
            calls["baseline"] += 1
            return np.tile(np.arange(k, dtype=np.int32), (len(past.split.user_ids), 1))

        return Fitted(rank)

    patch.setitem(KINDS, "yes_or_no", ColumnKind(Storage.STRING, numbers={"yes_or_no": yes_or_no}))
    patch.setitem(COMPUTED, "user_toy_value", ComputedFeature("user", "value so far", lambda day: day.sum(day.value)))
    patch.setitem(HISTORY_ENCODERS, "latest", latest)
    patch.setitem(LOSSES, "toy_loss", toy_loss)
    patch.setitem(NEGATIVE_SOURCES, "first_items", first_items)
    patch.setitem(INDEXES, "flat", serving_toys["Flat"])
    patch.setitem(RETRIEVERS, "newest", serving_toys["build"](serving_toys["Newest"]))
    patch.setitem(BASELINES, "by-id", Baseline("by-id", "by id", "the first ids", by_id))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("toys")
    write_source(folder / "data")
    file = folder / "toys.yaml"
    file.write_text(CONFIG.format(as_of=AS_OF, data=folder / "data"))
    with pytest.MonkeyPatch.context() as patch:
        calls: Counter[str] = Counter()
        register(patch, calls)
        config = load(file)
        paths = RunPaths(folder / "runs" / config.name, config.as_of)
        for step in plan(config, paths, now=NOW, code_version="1"):
            paths.steps.mkdir(parents=True, exist_ok=True)
            step.action()
        yield Shop(config, paths, calls)


def test_training_reads_the_column_the_feature_the_encoder_the_loss_and_the_source(shop: Shop) -> None:
    scaling = Encoder.load(shop.paths.model / "encoder").scaling
    assert scaling["member.yes_or_no"] == pytest.approx((0.5, 0.5), abs=0.05)
    # log(1 + 2.5 n) of the n orders so far, one a day: never constant.
    assert scaling["user_toy_value"][1] > 0.1
    assert all(shop.calls[name] for name in ("kind", "encoder", "loss", "source"))


def test_the_index_is_the_toy_backend(shop: Shop) -> None:
    report = json.loads((shop.paths.index / REPORT_FILE).read_text())
    assert (report["form"], report["recall"]) == ("flat", 1.0)


def test_the_server_answers_by_the_toy_retriever_with_the_toy_features(shop: Shop) -> None:
    live = open_live(pick(ServeSections, shop.config), shop.paths)
    service = service_of(live, Metrics(), pick(ServeSections, shop.config), shop.paths)
    served = create_app(service, max_k=100)

    async def ask(body: dict[str, Any]) -> dict[str, Any]:
        transport = httpx.ASGITransport(app=served)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            answer: dict[str, Any] = (await client.post("/v1/recommend", json=body)).json()
            return answer

    before = shop.calls["kind"]
    [towers] = asyncio.run(ask({"user_id": "u1", "k": 3, "retriever": "two_tower"}))["results"]
    assert len(towers["items"]) == 3
    assert shop.calls["kind"] > before
    [toy] = asyncio.run(ask({"user_id": "u1", "k": 3}))["results"]
    assert toy["retriever"] == "newest"
    assert len(toy["items"]) == 3


def test_the_smoke_gate_asks_the_toy_retriever(shop: Shop) -> None:
    version = shop.paths.bundle_name.read_text()
    candidate = Candidate(pick(GatesSections, shop.config), shop.paths, version, None)
    assert "newest" in smoke.opens(candidate).sentence
    for check in (smoke.answers, smoke.exclude_bought):
        assert check(candidate).outcome == "passed"


def test_the_report_compares_the_toy_retriever_and_the_toy_baseline(shop: Shop) -> None:
    report = (shop.paths.report / "report.json").read_text()
    assert {"served (newest)", "by id"} <= {arm["name"] for arm in arms_of(json.loads(report))}
    # Once for each task.
    assert shop.calls["baseline"] == 2


def arms_of(value: Any) -> list[dict[str, Any]]:
    """Every list of arms in a report."""
    if isinstance(value, dict):
        own = value.get("arms", [])
        return [*own, *(arm for part in value.values() for arm in arms_of(part))]
    return [arm for part in value for arm in arms_of(part)] if isinstance(value, list) else []
