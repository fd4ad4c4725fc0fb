"""One small shop with a column of every kind runs from events to a served answer and through the gates.

Users come from a CSV file and items from Parquet, so that both forms of every list are read. Some values are missing,
some cannot be read, and some are not known when they are served.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from artefacts.config import pick
from artefacts.paths import RunPaths
from evaluation.config import GatesSections
from evaluation.gates import drift, features, smoke
from evaluation.gates.candidate import Candidate
from evaluation.gates.data import nulls
from features.encoding import Encoder, moments_of
from features.kinds import KINDS
from serving.bundles.bundle import Bundle
from serving.config import ServeSections
from serving.context_values import with_context
from serving.open import open_live, service_of
from serving.retrieval.exported_tower import ExportedTower
from serving.retrieval.vectors import read_vectors
from serving.web.app import create_app
from serving.web.metrics import Metrics
from training.data.training_data import grown_encoder
from twinspire.config import Config
from twinspire.load_config import load
from twinspire.main_job import plan

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(600)]
NUM_USERS, NUM_ITEMS, NUM_DAYS = 24, 30, 20
FIRST = dt.date(2024, 1, 1)
AS_OF = FIRST + dt.timedelta(days=NUM_DAYS - 3)
NOW = dt.datetime(2024, 3, 1, tzinfo=dt.UTC)
TAGS = ("red", "blue", "round", "flat", "old")
EVENT_COLUMNS = (
    "device", "paid", "query", "basket", "basket_weights", "query_vector", "since", "spot", "in_app"
)  # fmt: skip
OF_EVENTS = (
    ("phone", 2.5, "red shoes", "red|blue", "1|3", "[1, 2, 3]", "2024-01-01", "48.1,11.5", "yes"),
    ("tv", 1.0, "a thing", "round", "2", "0.5 0.5 1", "1700000000", "[52.5, 13.4]", "no"),
    (None,) * len(EVENT_COLUMNS),
)
CONFIG = """
name: kinds
as_of: {as_of}
dataset:
  user_columns:
    plan: categorical
    age: numeric
    motto: text
    likes: categories
    taste: vector
    joined: timestamp
    home: geo
    member: boolean
  item_columns:
    kind: categorical
    size: numeric
    words: text
    tags: categories
    tags_weights: weights
    content: vector
    released: timestamp
    place: geo
    fresh: boolean
  item_category: tags
  event_columns:
    device: categorical
    paid: numeric
    query: text
    basket: categories
    basket_weights: weights
    query_vector: vector
    since: timestamp
    spot: geo
    in_app: boolean
  dated_columns:
    discount: numeric
    shelf: categorical
  event_kinds: {{look: 0.1, order: 1}}
  positive_kinds: [order]
ingest:
  source:
    kind: tables
    events: {{path: {data}/orders.csv}}
    users: {{path: {data}/users.csv}}
    items: {{path: {data}/items.parquet}}
    dated: {{path: {data}/promotions.csv}}
  max_quarantine_share: 0.2
features: {{history_length: 6, example_days: 9, join_days: 9}}
towers: {{embedding_dim: 6, factor_dim: 0, hidden_units: [8]}}
training: {{epochs: 1, batch_size: 32, example_days: 9, validation_days: 0, negatives: {{num_uniform: 4}}}}
index: {{num_queries: 10}}
serving: {{retriever: two_tower, max_fetch: 30}}
evaluation: {{ks: [5], window_days: 3, bootstrap_samples: 100}}
gates: {{smoke_k: 5, drift_min_users: 5, drift_days: 7}}
beam: {{shards: 2}}
"""


@dataclass(frozen=True)
class Shop:
    """What the run left."""

    config: Config
    paths: RunPaths

    @property
    def encoder(self) -> Encoder:
        """Of the fit."""
        return Encoder.load(self.paths.model / "encoder")


def write_source(folder: Path) -> None:
    folder.mkdir()
    rng = np.random.default_rng(3)
    orders = [
        (
            f"u{user}",
            f"i{rng.integers(NUM_ITEMS)}",
            f"{FIRST + dt.timedelta(days=day)}T{rng.integers(10, 20)}:00:00",
            2.5,
            kind,
            *OF_EVENTS[(user + day) % 3],
        )
        for day in range(NUM_DAYS)
        for user in range(NUM_USERS)
        for kind in ("look", "order")
    ]
    names = ["user_id", "item_id", "timestamp", "value", "kind", *EVENT_COLUMNS]
    pd.DataFrame(orders, columns=names).to_csv(folder / "orders.csv", index=False)
    promotions = [
        (
            f"i{item}",
            FIRST + dt.timedelta(days=day),
            FIRST + dt.timedelta(days=day + 2),
            item / 100,
            f"shelf {item % 3}",
        )
        for item in range(NUM_ITEMS)
        for day in range(item % 7, NUM_DAYS, 7)
    ]
    names = ["item_id", "first_day", "last_day", "discount", "shelf"]
    pd.DataFrame(promotions, columns=names).to_csv(folder / "promotions.csv", index=False)
    users = [
        {
            "user_id": f"u{user}",
            "plan": ("free", "paid")[user % 2],
            "age": 20 + user,
            "motto": "carpe diem",
            "likes": ("red|blue", '["round"]', None)[user % 3],
            "taste": ("[0.5, -1.0]", "1 2", None)[user % 3],
            "joined": ("2023-05-01T08:00:00+02:00", "1700000000", None)[user % 3],
            "home": ("48.1,11.5", "[52.5, 13.4]", None)[user % 3],
            "member": ("yes", "false", None)[user % 3],
        }
        for user in range(NUM_USERS)
    ]
    users[0] |= {"member": "perhaps"}
    users[1] |= {"home": "148.1,11.5"}
    users[4] |= {"taste": "1 2 3"}
    pd.DataFrame(users).to_csv(folder / "users.csv", index=False)
    has = [item % 5 > 0 for item in range(NUM_ITEMS)]

    def column(values: list[Any], kind: pa.DataType) -> pa.Array:
        return pa.array([value if there else None for value, there in zip(values, has, strict=True)], kind)

    items = {
        "item_id": pa.array([f"i{item}" for item in range(NUM_ITEMS)]),
        "kind": column([("fruit", "tool")[item % 2] for item in range(NUM_ITEMS)], pa.string()),
        "size": column([item / 2 for item in range(NUM_ITEMS)], pa.float64()),
        "words": column(["a thing"] * NUM_ITEMS, pa.string()),
        "tags": column([list(TAGS[: item % 4]) for item in range(NUM_ITEMS)], pa.list_(pa.string())),
        "tags_weights": column([[1.0, 0.5, 0.25][: item % 4] for item in range(NUM_ITEMS)], pa.list_(pa.float64())),
        "content": column(rng.normal(size=(NUM_ITEMS, 4)).tolist(), pa.list_(pa.float32(), 4)),
        "released": column([dt.datetime(2024, 1, 1 + item) for item in range(NUM_ITEMS)], pa.timestamp("us")),
        "place": column([[48.0 + item / 100, 11.0] for item in range(NUM_ITEMS)], pa.list_(pa.float64())),
        "fresh": column([item % 2 == 0 for item in range(NUM_ITEMS)], pa.bool_()),
    }
    pq.write_table(pa.table(items), folder / "items.parquet")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    folder = tmp_path_factory.mktemp("kinds")
    write_source(folder / "data")
    file = folder / "kinds.yaml"
    file.write_text(CONFIG.format(as_of=AS_OF, data=folder / "data"))
    config = load(file)
    paths = RunPaths(folder / "runs" / config.name, config.as_of)
    for step in plan(config, paths, now=NOW, code_version="1"):
        paths.steps.mkdir(parents=True, exist_ok=True)
        step.action()
    return Shop(config, paths)


def ask(shop: Shop, *bodies: dict[str, Any]) -> list[dict[str, Any]]:
    live = open_live(pick(ServeSections, shop.config), shop.paths)
    service = service_of(live, Metrics(), pick(ServeSections, shop.config), shop.paths)
    served = create_app(service, max_k=100)

    async def ask_all() -> list[dict[str, Any]]:
        transport = httpx.ASGITransport(app=served)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            return [(await client.post("/v1/recommend", json=body)).json() for body in bodies]

    return asyncio.run(ask_all())


def test_every_kind_is_tried_here(shop: Shop) -> None:
    tried = {
        kind for side in ("user", "item") for kinds in shop.config.dataset.columns_of(side).values() for kind in kinds
    }
    assert tried == set(KINDS)
    assert {kind for kinds in shop.config.dataset.event_columns.values() for kind in kinds} == set(KINDS)


def test_rows_that_cannot_be_read_are_counted(shop: Shop) -> None:
    manifest = json.loads((shop.paths.tables / "manifest.json").read_text())
    # The flag of u0, the place of u1 and the vector of u4; all three have events, so that they stay as users.
    assert manifest["quarantined"]["users"] == {"unparsable_value": 2, "wrong_width": 1}
    assert (manifest["num_users"], manifest["num_added_users"]) == (NUM_USERS, 3)
    assert manifest["quarantined"]["items"] == {}


def test_the_exported_tower_agrees_with_what_the_bundle_answers_from(shop: Shop) -> None:
    bundle = Bundle.open(shop.paths.bundles / shop.paths.bundle_name.read_text())
    items = pq.read_table(shop.paths.catalogue(shop.paths.as_of) / "items.parquet")
    inputs = bundle.encoder.encode_items(items, as_of_seconds=moments_of(items))
    assert {"tags_values", "tags_weights", "content", "place_cells", "kind", "words_text"} <= inputs.keys()
    vectors = ExportedTower(shop.paths.model / "item_tower.tflite").embed(inputs)
    np.testing.assert_allclose(vectors, bundle.item_vectors, atol=1e-5)


def test_every_kind_of_context_and_recent_items_change_what_is_served(shop: Shop) -> None:
    context = {
        "plan": "free",
        "age": 99,
        "motto": "memento mori",
        "likes": ["blue", "never seen"],
        "taste": [3.0, 4.0],
        "joined": 1_600_000_000,
        "home": [48.1, 11.5],
        "member": True,
        "device": "tv",
        "paid": 7.5,
        "query": "blue shoes",
        "basket": ["round", "never seen"],
        "query_vector": [1.0, 0.0, 2.0],
        "since": 1_600_000_000,
        "spot": [52.5, 13.4],
        "in_app": False,
    }
    user = {"user_id": "u5", "k": 5}
    plain, *others = ask(
        shop,
        user,
        *({**user, "context": {name: value}} for name, value in context.items()),
        {**user, "recent_items": ["i7"]},
    )
    scores = [item["score"] for item in plain["results"][0]["items"]]
    assert len(scores) == 5
    for name, answer in zip([*context, "recent_items"], others, strict=True):
        assert [item["score"] for item in answer["results"][0]["items"]] != scores, name


def test_events_carry_their_own_columns_into_examples(shop: Shop) -> None:
    day = AS_OF - dt.timedelta(days=1)
    folder = shop.paths.examples / str(day)
    events, users = (pq.read_table(folder / f"{part}.parquet") for part in ("events", "users"))
    owners = users.column("user_id").take(events.column("user_row")).to_pylist()
    for owner, row in zip(owners, events.to_pylist(), strict=True):
        device, paid, query, *_ = OF_EVENTS[(int(owner[1:]) + (day - FIRST).days) % 3]
        assert (row["device"], row["paid"], row["query"]) == (device, paid, query)
        assert row["query_vector"] == {"phone": [1, 2, 3], "tv": [0.5, 0.5, 1], None: None}[device]
        assert row["in_app"] == {"phone": True, "tv": False, None: None}[device]
        assert row["since"] == {"phone": 1_704_067_200, "tv": 1_700_000_000, None: None}[device]


def test_items_are_described_by_the_promotions_of_each_day(shop: Shop) -> None:
    def discount(item: str, day: dt.date) -> float | None:
        number = int(item[1:])
        is_on = ((day - FIRST).days - number % 7) % 7 <= 2 and (day - FIRST).days >= number % 7
        return pytest.approx(number / 100) if is_on else None

    items = pq.read_table(shop.paths.catalogue(AS_OF) / "items.parquet")
    for row in items.to_pylist():
        assert row["discount"] == discount(row["item_id"], AS_OF), row["item_id"]
    for folder in sorted(shop.paths.examples.glob("????-??-??")):
        for part in ("items", "uniform"):
            for row in pq.read_table(folder / f"{part}.parquet").to_pylist():
                assert row["discount"] == discount(row["item_id"], dt.date.fromisoformat(folder.name))
    assert "dated_numeric" in shop.encoder.encode_items(items, as_of_seconds=moments_of(items))


def test_nightly_vectors_are_those_of_users_of_whom_nothing_is_known_at_the_moment(shop: Shop) -> None:
    users = pq.read_table(shop.paths.catalogue(AS_OF) / "users.parquet")
    inputs = shop.encoder.encode_users(users, as_of_seconds=moments_of(users))
    tower = ExportedTower(shop.paths.model / "user_tower.tflite")
    nightly = read_vectors(shop.paths.vectors / "users")
    np.testing.assert_allclose(tower.embed(inputs), nightly, atol=1e-5)
    given = with_context(users, {"device": "phone", "query": "red shoes"}, shop.config.dataset)
    other = tower.embed(shop.encoder.encode_users(given, as_of_seconds=moments_of(given)))
    assert np.abs(other - nightly).max() > 0.01


def test_a_warm_start_keeps_the_values_of_events(shop: Shop) -> None:
    config, encoder = shop.config, shop.encoder
    grown = grown_encoder(shop.paths, encoder, dataset=config.dataset, towers=config.towers, history_length=6)
    for name in ("device", "basket_values", "spot_cells"):
        assert grown.vocabularies[name].ids([1]) == encoder.vocabularies[name].ids([1])
        assert len(grown.vocabularies[name]) == len(encoder.vocabularies[name])
    assert grown.scaling == encoder.scaling
    assert grown.measures == encoder.measures


def test_context_that_is_not_of_its_kind_is_refused(shop: Shop) -> None:
    wrong: dict[str, tuple[Any, str]] = {
        "likes": ("red", "expected a list of at most 1,000 texts"),
        "taste": ([1.0], "expected a list of 2 numbers"),
        "joined": (1.5, "expected a moment, in whole Unix seconds"),
        "home": ([91, 0], r"expected [latitude, longitude] in degrees, of at most 90 and 180"),
        "member": (1, "expected true or false"),
        "query": (3, "expected text"),
        "query_vector": ([1.0, 2.0], "expected a list of 3 numbers"),
        "devices": ("tv", "is not a column of users or events; expected some of: plan, age"),
    }
    answers = ask(shop, *({"user_id": "u5", "context": {name: value}} for name, (value, _) in wrong.items()))
    for (name, (_, expected)), answer in zip(wrong.items(), answers, strict=True):
        [error] = answer["errors"]
        assert error["field"] == f"context.{name}"
        assert expected in error["message"]


def test_items_are_filtered_by_any_of_their_categories(shop: Shop) -> None:
    tags = dict(
        zip(
            *pq.read_table(shop.paths.tables / "items.parquet").select(["item_id", "tags"]).to_pydict().values(),
            strict=True,
        )
    )
    body = {"user_id": "u5", "k": 30, "exclude_bought": False}
    allowed, denied, unknown = ask(
        shop,
        {**body, "allow_categories": ["blue"]},
        {**body, "deny_categories": ["red"]},
        {**body, "allow_categories": ["old"]},
    )
    found = {item["item_id"]: item["category"] for item in allowed["results"][0]["items"]}
    assert set(found) == {item for item, own in tags.items() if "blue" in (own or [])}
    assert set(found.values()) == {"red, blue", "red, blue, round"}
    assert {item["item_id"] for item in denied["results"][0]["items"]} == {i for i, own in tags.items() if not own}
    assert "'old', which no item of this catalogue is of" in unknown["errors"][0]["message"]


def test_what_was_looked_at_is_in_histories_and_what_was_ordered_is_known(shop: Shop) -> None:
    events = pd.concat(pq.read_table(path).to_pandas() for path in sorted((shop.paths.tables / "events").iterdir()))
    past = events[events.timestamp < pd.Timestamp(AS_OF, tz="UTC")]
    users = pq.read_table(shop.paths.catalogue(AS_OF) / "users.parquet").to_pandas().set_index("user_id")
    assert users.user_num_events.to_dict() == past.groupby("user_id").size().to_dict()
    ordered = past[past.kind == "order"]
    pairs = pq.read_table(shop.paths.pairs).to_pandas()
    assert set(zip(pairs.user_id, pairs.item_id, strict=True)) == set(
        zip(ordered.user_id, ordered.item_id, strict=True)
    )
    fitted = sum(
        pq.read_metadata(folder / "events.parquet").num_rows for folder in shop.paths.examples.glob("????-??-??")
    )
    assert fitted == (ordered.timestamp >= pd.Timestamp(AS_OF - dt.timedelta(days=9), tz="UTC")).sum()


def test_gates_look_at_every_column(shop: Shop) -> None:
    version = shop.paths.bundle_name.read_text()
    candidate = Candidate(pick(GatesSections, shop.config), shop.paths, version, None)
    for check in (features.examples, features.catalogue, features.parity, smoke.opens, smoke.answers):
        assert check(candidate).outcome == "passed"
    shares = nulls(candidate).found
    assert len(shares) == 17
    assert shares["items.content"] == pytest.approx(1 / 5)
    assert shares["users.member"] == pytest.approx(11 / 24)  # A third, and the three whose row could not be used.
    assert drift.category_drift(candidate).found.keys() == {
        "users.plan",
        "users.likes_values",
        "items.kind",
        "items.tags_values",
    }
    numbers = drift.numeric_drift(candidate).found
    assert {"age", "size", "member", "fresh"} <= numbers.keys()
    # Ages and parts of the calendar change from day to day without any fault of the source.
    assert not [name for name in numbers if name.startswith(("joined", "released"))]
