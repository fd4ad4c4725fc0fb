"""A new bundle takes over between two requests, a bad one does not."""

from __future__ import annotations

import datetime as dt
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis

from serving.arms import Arm, Arms, one_arm
from serving.bundles.manifest import BundleError
from serving.live import Live, Refusal
from serving.retrieval.eligible import DenyList
from serving.user_features import FeaturesLostError
from serving.web.workers import WorkerError

NOW = dt.datetime(2024, 3, 1, tzinfo=dt.UTC)


@dataclass
class Shelf:
    """Bundles that can be opened, and which one is published."""

    published: str = "a"
    bad: dict[str, Exception] = field(default_factory=dict)
    opened: list[str] = field(default_factory=list)
    warmed: list[str] = field(default_factory=list)
    lost: set[str] = field(default_factory=set)

    def open(self, version: str) -> Any:
        self.opened.append(version)
        if version in self.bad:
            raise self.bad[version]
        return Opened(self, version)


@dataclass
class Opened:
    shelf: Shelf
    version: str

    @property
    def bundle(self) -> Opened:
        return self

    def warm_up(self) -> None:
        if self.version == "cold":
            raise RuntimeError("the smoke query fails")
        if self.version in self.shelf.lost:
            raise FeaturesLostError(f"{self.version}: no features")
        self.shelf.warmed.append(self.version)


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


def live_on(shelf: Shelf, arms: Arms | None = None) -> Live:
    return Live(arms or one_arm(), shelf.open, lambda: shelf.published, clock=lambda: NOW)


def test_a_published_bundle_takes_over_after_it_was_opened_and_tried(shelf: Shelf) -> None:
    live = live_on(shelf)
    assert not live.look()
    shelf.published = "b"
    before = live.current
    assert live.look()
    assert (before.bundle.version, live.current.bundle.version) == ("a", "b")
    assert shelf.warmed == ["a", "b"]
    shelf.published = "a"
    assert live.look(), "going back is the same"
    assert live.num_swaps == 2


@pytest.mark.parametrize("version", ["broken", "cold"])
def test_a_bad_bundle_is_refused_once_and_reported_until_another_is_published(shelf: Shelf, version: str) -> None:
    shelf.bad["broken"] = ValueError("vectors.npy: has 3 bytes, expected 4")
    live = live_on(shelf)
    shelf.published = version
    assert not live.look()
    assert not live.look()
    assert shelf.opened == ["a", version], "not read again and again"
    assert live.current.bundle.version == "a"
    assert live.refusal is not None
    assert (live.refusal.bundle_version, live.refusal.moment) == (version, NOW)
    assert ("3 bytes" in live.refusal.reason) == (version == "broken")
    shelf.published = "b"
    assert live.look()
    assert live.refusal is None


def test_a_refusal_ends_when_the_old_bundle_is_published_again(shelf: Shelf) -> None:
    shelf.bad["broken"] = ValueError("no")
    live = live_on(shelf)
    shelf.published = "broken"
    live.look()
    shelf.published = "a"
    assert not live.look()
    assert live.refusal is None


class Clock:
    """Monotonic seconds that a test sets."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        OSError(24, "Too many open files"),
        FeaturesLostError("the store came back empty"),
        sqlite3.OperationalError("database is locked"),
        MemoryError(),
        redis.exceptions.ConnectionError("refused"),
        WorkerError("a worker cannot answer: it was not ready within 120 seconds", may_pass=True),
        caused(BundleError("vectors.npy: cannot be read: [Errno 5]; make the bundle again"), OSError(5, "I/O error")),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_bundle_that_is_refused_for_a_passing_fault_is_tried_again_with_growing_pauses(
    shelf: Shelf, error: Exception
) -> None:
    clock = Clock()
    live = Live(one_arm(), shelf.open, lambda: shelf.published, clock=lambda: NOW, monotonic=clock)
    shelf.bad["b"] = error
    shelf.published = "b"
    tried = []
    for second in range(200):
        clock.seconds = 100.0 + second
        before = len(shelf.opened)
        assert not live.look()
        tried += [second] * (len(shelf.opened) - before)
    # After 1, 2, 4, ... seconds, and then once a minute.
    assert tried == [0, 1, 3, 7, 15, 31, 63, 123, 183]
    assert live.refusal is not None
    assert live.refusal.reason.endswith("; it is tried again, with growing pauses")
    del shelf.bad["b"]
    clock.seconds += 60
    assert live.look()
    assert (live.current.bundle.version, live.refusal) == ("b", None)


@pytest.mark.parametrize(
    "error",
    [
        BundleError("manifest.json: format version 1, expected 6"),
        WorkerError("a worker cannot answer: it died", may_pass=False),
        RuntimeError("the smoke query fails"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_fault_of_the_bundle_itself_is_tried_again_only_once_its_files_have_changed(
    shelf: Shelf, error: Exception
) -> None:
    clock, files = Clock(), {"b": 1}
    live = Live(one_arm(), shelf.open, lambda: shelf.published, clock=lambda: NOW, monotonic=clock, files_of=files.get)
    shelf.bad["b"] = error
    shelf.published = "b"
    for _ in range(1000):
        clock.seconds += 1
        live.look()
    assert shelf.opened == ["a", "b"]
    assert live.refusal is not None
    assert "tried again" not in live.refusal.reason
    files["b"] = 2
    del shelf.bad["b"]
    assert live.look()


def test_a_new_bundle_without_its_users_features_is_refused_and_a_server_starts_without_them(
    shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    shelf.lost = {"a", "b"}
    live = live_on(shelf)
    assert "no features; users are answered without them" in caplog.text
    shelf.published = "b"
    assert not live.look()
    assert live.refusal is not None
    assert live.refusal.reason.startswith("b: no features; it is tried again")
    assert live.current.bundle.version == "a"


def test_the_deny_list_is_read_where_others_answer(shelf: Shelf, tmp_path: Path) -> None:
    file, clock = tmp_path / "denied.txt", Clock()
    denied = DenyList(file, clock=clock)
    live = Live(one_arm(), shelf.open, lambda: shelf.published, clock=lambda: NOW, denied=denied)
    file.write_text("i1\n")
    clock.seconds += 1
    live.look()
    assert denied.item_ids == ("i1",)


def test_a_missing_pointer_is_reported_and_the_bundle_stays_live(shelf: Shelf) -> None:
    def published() -> str:
        if shelf.published == "nothing":
            raise OSError("no pointer")
        return shelf.published

    live = Live(one_arm(), shelf.open, published, clock=lambda: NOW)
    shelf.published = "nothing"
    assert not live.look()
    assert live.refusal is not None
    assert live.refusal.reason == "no pointer"
    assert live.current.bundle.version == "a"


def test_arms_keep_their_pinned_bundles(shelf: Shelf) -> None:
    arms = Arms([Arm("new", 0.5), Arm("old", 0.5, bundle="old")], salt="")
    live = live_on(shelf, arms)
    shelf.published = "b"
    live.look()
    assert [live.of(arm).bundle.version for arm in arms.arms] == ["b", "old"]
    shelf.published = "old"
    live.look()
    assert shelf.opened.count("old") == 1, "an open one is not opened twice"
    assert live.current is live.of(arms.arms[1])


def test_a_server_does_not_start_without_its_bundles(shelf: Shelf) -> None:
    shelf.bad["gone"] = ValueError("gone: no such bundle")
    with pytest.raises(ValueError, match="no such bundle"):
        live_on(shelf, Arms([Arm("new", 0.5), Arm("old", 0.5, bundle="gone")], salt=""))


def test_watching_notices_a_publication(shelf: Shelf) -> None:
    live = live_on(shelf)
    thread = live.watch(0.01)
    shelf.published = "b"
    for _ in range(500):
        if live.current.bundle.version == "b":
            break
        thread.join(0.01)
    assert live.current.bundle.version == "b"
    live.close()
    thread.join(5)
    assert not thread.is_alive()


def test_a_bundle_that_fails_its_trial_is_refused(shelf: Shelf) -> None:
    live, tried = live_on(shelf), []

    def try_out(new: Any) -> None:
        tried.append((new.version, live.current.bundle.version))
        if new.version == "b":
            raise ValueError("no worker starts")

    shelf.published = "b"
    assert not live.look(try_out)
    assert live.refusal is not None
    assert (live.refusal.reason, live.current.bundle.version) == ("no worker starts", "a")
    shelf.published = "c"
    assert live.look(try_out)
    assert tried == [("b", "a"), ("c", "a")]
    assert (live.current.bundle.version, live.num_swaps, live.refusal) == ("c", 1, None)


def test_bundles_are_warmed_up_on_request_only(shelf: Shelf) -> None:
    arms = Arms([Arm("old", 0.5, bundle="z"), Arm("new", 0.5)], salt="")
    live = Live(arms, shelf.open, lambda: shelf.published, clock=lambda: NOW, warm_up=False)
    shelf.published = "b"
    assert live.look()
    assert shelf.warmed == []
    live.warm_up()
    assert sorted(shelf.warmed) == ["b", "z"]


def test_a_passive_watcher_reports_the_state_that_it_is_given(shelf: Shelf) -> None:
    live, refusal = live_on(shelf), Refusal("b", "broken", NOW)
    live.adopt_state(refusal, 7)
    assert (live.refusal, live.num_swaps, live.current.bundle.version) == (refusal, 7, "a")
