"""Items added between two nights are offered within seconds, filtered like all others, and taken over by the night."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from artefacts.config import pick
from artefacts.paths import RunPaths
from features.ids import IdMap
from serving.added_items import add_items, from_records, read_items
from serving.added_to_bundle import vectors_of_new, with_added
from serving.bundles.bundle import Bundle
from serving.config import ServeSections
from serving.live import Live
from serving.open import open_live, open_recommender, service_of
from serving.recommender import Recommender
from serving.web.app import create_app
from serving.web.guard import Protection
from serving.web.metrics import Metrics
from tests.end_to_end.conftest import twinspire
from twinspire.load_config import load

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(600)]

UNSOLD = {
    "article": "a900",
    "title": "fruit that nobody has bought",
    "product_group": "fruit",
    "brand": "maker 1",
    "description": "a fine fruit",
    "list_price": 4.0,
}
NEW = UNSOLD | {"article": "a901", "title": "fruit of today", "product_group": "berries"}
KEY = {"X-API-Key": "of the shop"}


@pytest.fixture(scope="module")
def shop(first_day: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The shop with an article in its table that nobody has bought."""
    folder = tmp_path_factory.mktemp("added")
    articles = folder / "articles.parquet"
    frame = pd.read_parquet(first_day.config.parent / "articles.parquet")
    pd.concat([frame, pd.DataFrame([UNSOLD])]).to_parquet(articles)
    config = folder / "shop.yaml"
    text = first_day.config.read_text().replace(str(first_day.config.parent / "articles.parquet"), str(articles))
    config.write_text(f"{text}\nsparse: {{}}\n")
    shop = type(first_day)(config, folder / "runs", None)
    ran = shop.do("run", "--now", "2024-03-01")
    assert ran.returncode == 0, ran.stderr
    return shop


@pytest.fixture
def own(shop: Any, tmp_path: Path) -> Any:
    return shop.copy(tmp_path / "runs")


def paths_of(shop: Any) -> RunPaths:
    return RunPaths(shop.root, shop.day)


def recommender_of(shop: Any) -> Recommender:
    return open_recommender(pick(ServeSections, load(shop.config, [])), paths_of(shop))


def server_of(shop: Any, protection: Protection) -> tuple[Live, Any]:
    """The bundles and the application of a server that follows what is published only when it is told to."""
    sections = pick(ServeSections, load(shop.config, []))
    live = open_live(sections, paths_of(shop))
    service = service_of(live, Metrics(), sections, paths_of(shop))
    return live, create_app(service, max_k=200, protection=protection, watch=lambda: None)


def post_to(app: Any, path: str, body: dict[str, Any], headers: dict[str, str]) -> httpx.Response:
    async def post() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
            return await client.post(path, json=body, headers=headers)

    return asyncio.run(post())


def items_command(shop: Any, name: str, *arguments: object) -> Any:
    [_, *flags] = shop.command("items")
    return twinspire("items", name, *arguments, *flags)


def add(shop: Any, *rows: dict[str, Any]) -> Any:
    file = shop.runs.with_name("new.csv")
    pd.DataFrame(rows).to_csv(file, index=False)
    ran = items_command(shop, "add", file)
    assert ran.returncode == 0, ran.stderr
    return ran


def test_an_added_item_has_the_vector_that_the_night_gives_an_item_without_events(shop: Any) -> None:
    bundle = Bundle.open(paths_of(shop).bundles / "current")
    [row] = bundle.encoder.item_ids.rows(["a900"]) - 1
    raw = pq.read_table(paths_of(shop).tables / "items.parquet").slice(row, 1)
    np.testing.assert_allclose(vectors_of_new(bundle, raw)[0], bundle.item_vectors[row], atol=1e-5)


def test_an_added_item_is_listed_explained_and_filtered(own: Any) -> None:
    before = recommender_of(own)
    assert "added" in add(own, NEW).stdout
    after = recommender_of(own)
    num_items = len(after.bundle.item_vectors)
    for retriever in ("two_tower", "exact"):
        [answer] = after.recommend(["c00"], k=num_items + 1, retriever=retriever).answers
        found = {item["item_id"]: item for item in answer.items}
        assert len(found) == num_items + 1
        assert found["a901"]["item_name"] == "fruit of today"
        assert found["a901"]["category"] == "berries"
        scores = [item["score"] for item in answer.items]
        assert scores == sorted(scores, reverse=True)
        # All others are as they were.
        [earlier] = before.recommend(["c00"], k=num_items, retriever=retriever).answers
        assert [item["item_id"] for item in answer.items if item["item_id"] != "a901"] == [
            item["item_id"] for item in earlier.items
        ]
    [answer] = after.recommend(["c00"], k=5, allow_categories=("berries",), retriever="exact", explain=True).answers
    [item] = answer.items
    assert item["item_id"] == "a901"
    assert item["explanation"]["found_by"]["exact"]["rank"] == 1
    assert len(item["explanation"]["near"]) == 3
    for asked in ({"exclude_items": ("a901",)}, {"deny_categories": ("berries",)}):
        [answer] = after.recommend(["c00"], k=num_items + 1, retriever="exact", **asked).answers
        assert len(answer.items) == num_items
        assert "a901" not in [item["item_id"] for item in answer.items]
    assert after.similar_items("a901", k=3)
    # What does not go by vectors answers from the catalogue, with and without filters.
    for retriever in ("popularity", "fused"):
        [answer] = after.recommend(["c00"], k=30, retriever=retriever, exclude_items=("a001",)).answers
        assert len(answer.items) == 30


def test_an_added_item_is_found_by_words_on_the_command_line(own: Any) -> None:
    add(own, NEW)
    [_, *flags] = own.command("search")
    ran = twinspire("search", "friut of tody", "--user", "c00", "--json", *flags)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["corrected"] == {"friut": "fruit", "tody": "today"}
    assert found["items"][0]["item_id"] == "a901"
    shown = twinspire("search", "friut of tody", "-k", "1", *flags)
    assert "friut: looked for fruit" in shown.stdout
    assert "fruit of today" in shown.stdout


def test_bad_and_known_rows_are_named_and_change_nothing(own: Any) -> None:
    rows = [
        NEW,
        UNSOLD,
        NEW | {"article": "a902", "list_price": "cheap"},
        NEW | {"title": "again"},
        NEW | {"article": None},
    ]
    ran = add(own, *rows)
    assert "a901: added" in ran.stdout
    assert "a900: in the catalogue already" in ran.stdout
    for text in (
        "row 3: set aside (unparsable_number)",
        "row 4: set aside (duplicate_id)",
        "row 5: set aside (null_id)",
    ):
        assert text in ran.stdout
    listed = json.loads(items_command(own, "list", "--json").stdout)
    assert [(row["item_id"], row["in_bundle"]) for row in listed] == [("a901", False)]
    assert "a901: changed" in add(own, NEW | {"title": "another name"}).stdout
    [answer] = recommender_of(own).recommend(["c00"], k=1, allow_categories=("berries",), retriever="exact").answers
    assert answer.items[0]["item_name"] == "another name"
    assert "a901: no longer offered" in items_command(own, "remove", "a901").stdout
    assert recommender_of(own).bundle.added is None


def test_a_table_without_a_declared_column_is_refused(own: Any) -> None:
    file = own.runs.with_name("new.csv")
    pd.DataFrame([NEW]).drop(columns="brand").to_csv(file, index=False)
    ran = items_command(own, "add", file)
    assert ran.returncode == 1
    assert "brand" in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


def test_a_running_server_offers_what_is_posted_and_forgets_what_is_taken_back(own: Any) -> None:
    live, app = server_of(own, Protection(api_key=KEY["X-API-Key"]))
    record = {
        "item_id": "a901", "item_name": "posted", "category": "berries", "brand": "maker 1",
        "description": "a fine fruit", "list_price": 4,
    }  # fmt: skip
    asked = {"user_id": "c00", "k": 3, "allow_categories": ["berries"], "retriever": "exact"}

    def post(path: str, body: dict[str, Any], headers: dict[str, str] = KEY) -> httpx.Response:
        return post_to(app, path, body, headers)

    assert post("/v1/items", {"items": [record]}, {}).status_code == 401
    assert post("/v1/recommend", asked).status_code == 422
    wrong = post("/v1/items", {"items": [record | {"colour": "red"}]})
    assert wrong.status_code == 422
    assert "items.0.colour: no such column" in wrong.json()["errors"][0]["message"]
    answer = post("/v1/items", {"items": [record]})
    assert answer.json() == {"added": ["a901"], "replaced": [], "in_catalogue": [], "set_aside": []}
    bad_price = record | {"item_id": "a902", "list_price": "cheap"}
    set_aside = post("/v1/items", {"items": [bad_price]}).json()["set_aside"]
    assert set_aside == [{"row": 1, "reason": "unparsable_number"}]
    assert live.look()
    [result] = post("/v1/recommend", asked).json()["results"]
    assert [item["item_id"] for item in result["items"]] == ["a901"]
    assert not live.look()
    items_command(own, "remove", "a901")
    assert live.look()
    assert post("/v1/recommend", asked).status_code == 422


def test_a_server_without_a_key_takes_no_items(own: Any) -> None:
    _, app = server_of(own, Protection())
    answer = post_to(app, "/v1/items", {"items": [{"item_id": "a901"}]}, {})
    assert answer.status_code == 401
    assert "TWINSPIRE_API_KEY" in answer.json()["errors"][0]["message"]


def test_a_damaged_file_leaves_the_bundle_without_added_items_live(own: Any) -> None:
    sections = pick(ServeSections, load(own.config, []))
    live = open_live(sections, paths_of(own))
    paths_of(own).added_items.write_bytes(b"no table")
    assert not live.look()
    assert live.refusal is not None
    assert "added_items.parquet" in live.refusal.reason
    assert live.current.recommend(["c00"], k=3).answers[0].items
    paths_of(own).added_items.unlink()
    assert not live.look()
    assert live.refusal is None


def test_what_a_bundle_has_by_now_is_not_added_again(own: Any) -> None:
    bundle = Bundle.open(paths_of(own).bundles / "current")
    schema = bundle.encoder.schema
    table = from_records([{"item_id": "a900", "item_name": "fruit"}], schema)
    # Added before the night had it.
    add_items(paths_of(own).added_items, table, schema, IdMap([]))
    rows = read_items(paths_of(own).added_items, schema)
    assert rows.num_rows == 1
    assert with_added(bundle, rows) is bundle
    add(own, NEW)
    assert read_items(paths_of(own).added_items, schema).column("item_id").to_pylist() == ["a901"]
