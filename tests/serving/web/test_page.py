"""The page at `/`, opened by Chromium against a server in this process."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pyarrow as pa
import pytest
import uvicorn

from serving.arms import Arm, Arms
from serving.bundles.bundle import Bundle
from serving.config import RankingConfig
from serving.exposures.files import Exposure
from serving.live import Live
from serving.recommender import Recommender
from serving.registry import retrievers_of
from serving.web import app as page_module
from serving.web import service as service_module
from serving.web.app import Protection, create_app
from serving.web.feature_reads import FeatureReads
from serving.web.metrics import Metrics
from serving.web.service import Service

HOSTILE = """<img src=x onerror="document.title='broken'">"""
FILES = Path(page_module.__file__).with_name("page")
ARMS = [Arm("plain", 0.5), Arm("towers", 0.5, retriever="two_tower")]
KEY = "Schlüssel 🔑"


class Log:
    """Exposures."""

    def __init__(self) -> None:
        self.seen: list[Exposure] = []

    def add(self, exposures: Sequence[Exposure]) -> None:
        self.seen += exposures

    def close(self) -> None:
        """Has them already."""


@pytest.fixture(scope="module")
def log() -> Log:
    return Log()


@pytest.fixture(scope="module")
def live(bundle: Bundle, read_users: Callable[[list[str]], pa.Table]) -> Live:
    named = dataclasses.replace(bundle, item_names=[HOSTILE, *bundle.item_names[1:]])
    retrievers = retrievers_of(
        named,
        RankingConfig(
            max_fetch=30, fusion_weights={"two_tower": 1.0, "repeat": 2.0}, fusion_rank_constant=60, fusion_depth=20
        ),
        ef_search=50,
    )
    recommender = Recommender(named, read_users, retrievers=retrievers, default_retriever="fused")
    arms = Arms(ARMS, salt="")
    return Live(arms, lambda _: recommender, lambda: bundle.version, clock=lambda: dt.datetime.now(dt.UTC))


@contextlib.contextmanager
def serving(live: Live, log: Log, protection: Protection | None = None) -> Iterator[str]:
    app = create_app(Service(live, FeatureReads(30.0), Metrics(), log), max_k=100, protection=protection)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none"))
        thread = Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            thread.join(0.01)
            assert thread.is_alive()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def address(live: Live, log: Log) -> Iterator[str]:
    with serving(live, log) as address:
        yield address


@pytest.fixture(scope="module")
def words_address(written_words: Path, read_users: Callable[[list[str]], pa.Table], log: Log) -> Iterator[str]:
    words = Bundle.open(written_words)
    retrievers = retrievers_of(words, RankingConfig(), ef_search=50)
    recommender = Recommender(words, read_users, retrievers=retrievers, default_retriever="fused")
    live = Live(
        Arms(ARMS, salt=""), lambda _: recommender, lambda: words.version, clock=lambda: dt.datetime.now(dt.UTC)
    )
    with serving(live, log) as address:
        yield address


@pytest.fixture(scope="module")
def api(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, trust_env=False) as client:
        yield client


def shown(items: list[dict[str, Any]]) -> list[str]:
    return [item["item_name"] or f"item {item['item_id']}" for item in items]


def asked(api: httpx.Client, **body: Any) -> dict[str, Any]:
    (result,) = api.post("/v1/recommend", json=body).json()["results"]
    return result  # type: ignore[no-any-return]


def test_the_page_shows_the_history_and_both_lists_as_the_api_gives_them(page, address: str, api: httpx.Client) -> None:
    page.open(address, user="u1", k=12)
    history = api.get("/v1/users/u1/history").json()["items"]
    assert page.names("#past") == shown(history)
    assert page.run("all('#past .when')") == [
        "2 times, last on 2017-11-27", "2 times, last on 2017-11-26", "3 times, last on 2017-11-24",
    ]  # fmt: skip
    lists = [asked(api, user_id="u1", k=12, arm=arm.name) for arm in ARMS]
    past = {item["item_id"] for item in history}
    for place, (letter, found) in enumerate(zip("ab", lists, strict=True)):
        part = f"[data-list={letter}]"
        assert page.names(part) == shown(found["items"])
        assert page.run(f"all('{part} .category')") == [item["category"] for item in found["items"]]
        assert page.run(f"all('{part} .rank')") == [str(rank) for rank in range(1, 13)]
        assert [float(text) for text in page.run(f"all('{part} .score')")] == pytest.approx(
            [item["score"] for item in found["items"]], rel=1e-3
        )
        assert page.run(f"all('{part} dd')") == [found["bundle_version"], found["arm"], found["retriever"]]
        assert "retrieval" in page.run(f"document.querySelector('{part} .timings').textContent")
        ids = [item["item_id"] for item in found["items"]]
        others = [item["item_id"] for item in lists[1 - place]["items"]]
        other = "BA"[place]
        expected = [
            (["bought before"] if item in past else [])
            + ([f"{other} #{others.index(item) + 1}"] if item in others else [])
            for item in ids
        ]
        entries = f"[...document.querySelectorAll('{part} .items li')]"
        marks = page.run(f"{entries}.map((one) => [...one.querySelectorAll('.mark')].map((m) => m.firstChild.data))")
        assert marks == expected
    shared = len({item["item_id"] for item in lists[0]["items"]} & {item["item_id"] for item in lists[1]["items"]})
    assert page.run("status.textContent") == f"12 items in list A, 12 in list B, {shared} in both."


def test_a_user_is_typed_and_the_address_then_reproduces_the_view(page, address: str) -> None:
    page.open(address).until("document.querySelector('[data-list=b] .arm').value === 'towers'")
    assert page.run("document.activeElement.id") == "user"
    page.call("Input.insertText", text="u1")
    page.press_enter()
    page.settled()
    assert page.run("location.search") == "?user=u1&k=10&arm_a=plain&arm_b=towers"
    page.type("deny", "fish")
    page.until("location.search.includes('deny=fish')").until("!all('.items .category').includes('fish')")
    assert page.run("all('#deny ~ .chips button')") == ["fish×"]
    page.run("document.getElementById('exclude').click()")
    page.until("!all('.items .mark').includes('bought before')")
    search, names = page.run("location.search"), page.names(".items")
    page.open(address).until("document.title === 'twinspire'")
    page.go(f"{address}/{search}").settled()
    assert page.names(".items") == names
    assert page.run("document.getElementById('exclude').checked")
    page.run("document.querySelector('.chips button').click()")
    page.until("all('.items .category').includes('fish')")
    page.run("history.back()")
    page.until("location.search.includes('deny=fish') && !all('.items .category').includes('fish')")


def test_a_retriever_is_chosen_and_both_lists_are_side_by_side(page, address: str, api: httpx.Client) -> None:
    page.open(address, user="u1", arm_b="plain", retriever_a="exact", retriever_b="popularity", k=5)
    for letter, retriever in (("a", "exact"), ("b", "popularity")):
        found = asked(api, user_id="u1", k=5, arm="plain", retriever=retriever)
        assert page.names(f"[data-list={letter}]") == shown(found["items"])
    chosen = "document.querySelector('[data-list=b] .retriever')"
    assert page.run(f"[...{chosen}.options].map((one) => one.value)")[0] == ""
    page.run(f"({chosen}.value = '', {chosen}.dispatchEvent(new Event('change', {{bubbles: true}})))")
    page.until("all('[data-list=b] dd').includes('fused')")
    assert "retriever_b" not in page.run("location.search")


def test_an_item_of_the_past_is_marked_though_the_history_ends_before_it(
    page, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "HISTORY_LENGTH", 3)
    page.open(address, user="u2", k=10)
    assert len(page.names("#past")) == 3
    assert page.run("all('#past-note')") == ["The latest 3 items of a longer history."]
    assert page.run("all('.items .bought').length") == 20


def test_an_unknown_user_is_named_as_unknown_and_gets_the_default_list(page, address: str, api: httpx.Client) -> None:
    page.open(address, user="../nobody?", k=3)
    page.open(address, user="nobody", k=3)
    assert page.run("status.textContent").startswith("There is no user nobody. ")
    assert page.names("#past") == []
    assert "There is no user nobody." in page.run("document.getElementById('past-note').innerText")
    assert page.names("[data-list=a]") == shown(asked(api, user_id="nobody", k=3, arm="plain")["items"])
    assert page.run("all('[data-list=a] .reasons li')") == [
        "The bundle does not know this user.",
        "Nothing is known of what this user bought.",
        "The retriever popularity answers instead.",
    ]
    assert page.run("all('.bought')") == []


@pytest.mark.parametrize(
    ("query", "field", "message"),
    [
        ({"k": "0"}, "k", "k is 0, expected 1 to 100."),
        ({"k": "ten"}, "k", "Input should be a valid integer."),
        ({"allow": "toys"}, "allow", "allow_categories names 'toys'"),
        ({"arm_a": "gone"}, "a-arm", "arm is 'gone', expected one of: plain, towers."),
        ({"retriever_b": "best"}, "b-retriever", "retriever is 'best', expected one of: "),
        ({"user": "u" * 257}, "user", "String should have at most 256 characters."),
    ],
)
def test_an_error_of_the_api_is_shown_at_its_field_and_disappears(
    page, address: str, query: dict[str, str], field: str, message: str
) -> None:
    page.open(address, **{"user": "u1", **query})
    control = f"document.getElementById('{field}')"
    assert page.run(f"{control}.getAttribute('aria-invalid')") == "true"
    described = page.run(f"document.getElementById({control}.getAttribute('aria-describedby')).innerText")
    assert message in described
    assert page.run("all('.field .error').length") == 1
    assert page.run("status.textContent") == "Something in the request is wrong; see the fields."
    page.open(address, user="u1")
    assert page.run("all('.error').length") == 0


def test_an_item_is_explained(page, address: str, api: httpx.Client) -> None:
    page.open(address, user="u1", explain=1, k=2)
    explanation = asked(api, user_id="u1", arm="plain", k=2, explain=True)["items"][0]["explanation"]
    page.run("document.querySelector('.items summary').click()")
    text = page.run("document.querySelector('.items details').innerText")
    for retriever, found in explanation["found_by"].items():
        assert f"{retriever} at rank {found['rank']} (" in text
    for near in shown(explanation["near"]):
        assert f"{near} (" in text


def test_words_are_searched_with_and_without_a_user(page, words_address: str) -> None:
    with httpx.Client(base_url=words_address, trust_env=False) as client:
        page.open(words_address, words="cofee acme", k=4)
        found = client.post("/v1/search", json={"query": "cofee acme", "k": 4}).json()
        assert page.names("#found") == shown(found["items"])
        assert page.run("all('#found .reasons li')") == ["cofee: looked for coffee."]
        assert page.run("status.textContent") == "4 items found by words."
        assert page.run("document.title") == "cofee acme – twinspire"
        assert page.names("#columns") == []
        page.open(words_address, user="u1", words="coffee", k=4, deny="fruit", explain=1)
        asked = {"query": "coffee", "k": 4, "user_id": "u1", "deny_categories": ["fruit"]}
        assert page.names("#found") == shown(client.post("/v1/search", json=asked).json()["items"])
        page.run("document.querySelector('#found .items summary').click()")
        assert "Matches: coffee." in page.run("document.querySelector('#found .items details').innerText")
        assert page.run("status.textContent").endswith("in both. 4 items found by words.")
        page.type("words", "zzzz")
        page.until("location.search.includes('words=zzzz') && status.textContent.includes(' 0 items found by words.')")
        assert page.run("all('#found .reasons li')") == ["No item that may come has any of these words."]
        page.type("words", "")
        page.until("document.getElementById('found').hidden && all('.list .items li').length === 8")


def test_a_bundle_without_words_says_so_at_the_field(page, address: str) -> None:
    page.open(address, user="u1", words="coffee", k=3)
    assert page.run("document.getElementById('words').getAttribute('aria-invalid')") == "true"
    assert "sparse: {}" in page.run("document.getElementById('words-error').innerText")
    assert page.run("all('.list .items li').length") == 6


def test_a_name_that_is_markup_is_shown_as_text(page, address: str) -> None:
    page.open(address, user="u1", explain=1, k=40)
    assert HOSTILE in page.names("#past")
    assert HOSTILE in page.names("[data-list=a]")
    near = "[...document.querySelectorAll('.items details')].map((one) => one.textContent).join()"
    assert f"{HOSTILE} (0." in page.run(near)
    page.open(address, user=HOSTILE, deny=HOSTILE, k=1)
    assert page.run("all('.chips button')") == [f"{HOSTILE}×"]
    assert HOSTILE in page.run("document.getElementById('past-note').innerText")
    assert page.run("document.images.length") == 1
    assert page.run("document.title") == f"{HOSTILE} – twinspire"


def test_nothing_is_loaded_from_elsewhere_and_nothing_breaks_the_policy(page, address: str) -> None:
    page.open(address, user="u1", explain=1)
    urls = {event["request"]["url"] for event in page.events("Network.requestWillBeSent")}
    assert {f"{address}/page/page.js", f"{address}/page/page.css", f"{address}/v1/arms"} <= urls
    assert all(url.startswith(f"{address}/") for url in urls)
    assert page.events("Log.entryAdded") == []
    assert page.run("getComputedStyle(columns).display") == "grid"


def test_the_documentation_shows_every_operation_without_another_server(page, address: str, api: httpx.Client) -> None:
    page.go(f"{address}/docs").until("all('h2').length > 8")
    documented = api.get("/openapi.json").json()["paths"]
    operations = [f"{method.upper()} {path}" for path, methods in documented.items() for method in methods]
    assert page.run("all('h2')") == operations
    text = page.run("document.body.textContent")
    assert "user_ids: list of string, , 1 to 256 entries" not in text
    for part in ("k: integer, 1 to 100. Items for each user", "retriever: string, one of two_tower, exact,", "429: "):
        assert part in text
    urls = {event["request"]["url"] for event in page.events("Network.requestWillBeSent")}
    assert {f"{address}/page/docs.js", f"{address}/openapi.json"} <= urls
    assert all(url.startswith(f"{address}/") for url in urls)
    assert page.events("Log.entryAdded") == []
    assert [api.get(path).status_code for path in ("/redoc", "/docs/oauth2-redirect")] == [404, 404]


def test_no_file_of_the_page_names_another_server() -> None:
    found = {path.name: path.read_text(encoding="utf-8") for path in FILES.iterdir()}
    assert {"page.html", "page.js", "page.css", "icon.svg"} <= found.keys()
    for name, text in found.items():
        links = re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\"\s]*", re.sub(r"^\s*// .*$", "", text, flags=re.MULTILINE))
        assert links == (["http://www.w3.org/2000/svg"] if name == "icon.svg" else []), name
        assert "innerHTML" not in text


def test_every_file_is_served_with_a_policy_and_the_favicon_is_there(api: httpx.Client) -> None:
    for path, media_type in (("/", "text/html"), ("/page/page.js", "text/javascript"), ("/favicon.ico", "image/svg")):
        answer = api.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(media_type)
        assert answer.headers["content-security-policy"].startswith("default-src 'self';")
    assert {path.name for path in FILES.iterdir()} == {name for name, _ in page_module._FILES.values()}
    assert "/" not in api.get("/openapi.json").json()["paths"]


def test_opening_the_page_logs_no_exposure(page, address: str, log: Log) -> None:
    page.open(address, user="u1")
    page.open(address, user="nobody")
    assert log.seen == []


def test_a_phone_shows_all_of_it_and_every_control_has_a_label(page, address: str) -> None:
    page.call("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=1, mobile=True)
    page.open(address, user="u1", explain=1, allow=["fish", "fruit"])
    assert page.run("document.documentElement.scrollWidth") <= 360
    assert page.run("[...document.querySelectorAll('input, select')].filter((one) => !one.labels.length).length") == 0


def test_a_server_with_a_key_is_asked_once_the_key_is_given(page, live: Live, log: Log) -> None:
    with serving(live, log, Protection(api_key=KEY)) as address:
        page.open(address, user="u1")
        assert page.run("status.textContent") == "The server asks for its key."
        assert page.run("document.activeElement.id") == "key-text"
        page.type("key-text", "another")
        page.until("status.textContent === 'The server does not take this key.'")
        page.type("key-text", KEY)
        page.until("all('.items li').length === 20")
        assert page.run("document.getElementById('key').hidden")
        page.open(address, user="u4")
        assert page.names("#past") == ["name 39"]


def test_a_lost_server_is_reported(page, live: Live, log: Log) -> None:
    with serving(live, log) as address:
        page.open(address, user="u1")
    page.type("user", "u4")
    page.until("all('.list .error').length === 2")
    assert set(page.run("all('.list .error')")) == {"The server does not answer."}
