"""Reads of an online store that hangs, breaks and comes back."""

from __future__ import annotations

import asyncio
import sqlite3
import threading

import pyarrow as pa
import pytest

from serving.asked import Unavailable
from serving.user_features import FeaturesLostError
from serving.web.feature_reads import REST_SECONDS, FeatureReads

TABLE = pa.table({"user_id": ["a"]})
DEADLINE = 0.05


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def reads(clock: Clock) -> FeatureReads:
    return FeatureReads(DEADLINE, clock=clock)


def test_features_are_read(reads: FeatureReads) -> None:
    assert asyncio.run(reads.read(lambda ids: TABLE, ["a"])) is TABLE
    assert reads.state == "ok"


def test_a_read_that_hangs_is_given_up_and_others_do_not_try(reads: FeatureReads, clock: Clock) -> None:
    gate, asked = threading.Event(), []

    def hang(ids: list[str]) -> pa.Table:
        asked.append(ids)
        gate.wait(10)
        return TABLE

    async def several() -> list[object]:
        first = await reads.read(hang, ["a"])
        return [first, await reads.read(hang, ["b"]), await reads.read(hang, ["c"])]

    found = asyncio.run(several())
    gate.set()
    assert all(isinstance(one, Unavailable) for one in found)
    assert asked == [["a"]]
    assert "no answer in 50 ms" in reads.state
    clock.seconds += REST_SECONDS
    assert asyncio.run(reads.read(lambda ids: TABLE, ["a"])) is TABLE
    assert reads.state == "ok"


def test_a_store_in_a_file_is_read_in_place(clock: Clock) -> None:
    reads = FeatureReads(DEADLINE, in_place=True, clock=clock)
    threads = []

    def read(ids: list[str]) -> pa.Table:
        threads.append(threading.current_thread())
        if len(threads) == 2:
            raise sqlite3.OperationalError("database is locked")
        return TABLE

    assert asyncio.run(reads.read(read, ["a"])) is TABLE
    assert threads == [threading.current_thread()]
    assert asyncio.run(reads.read(read, ["a"])) == Unavailable("OperationalError: database is locked")
    clock.seconds += REST_SECONDS
    assert asyncio.run(reads.read(read, ["a"])) is TABLE


def test_features_that_are_lost_are_missed_by_their_bundle_alone(reads: FeatureReads) -> None:
    def lost(ids: list[str]) -> pa.Table:
        if is_lost:
            raise FeaturesLostError("online features 2017-12-01-5f3c9a71: the store has none")
        return TABLE

    def other(ids: list[str]) -> pa.Table:
        return TABLE

    is_lost = True
    for _ in range(2):
        assert isinstance(asyncio.run(reads.read(lost, ["a"])), Unavailable)
        assert asyncio.run(reads.read(other, ["a"])) is TABLE
        assert reads.state == "online features 2017-12-01-5f3c9a71: the store has none"
    is_lost = False
    assert asyncio.run(reads.read(lost, ["a"])) is TABLE
    assert reads.state == "ok"


def test_a_look_reads_a_few_users_at_most_once_a_second(reads: FeatureReads, clock: Clock) -> None:
    asked: list[list[str]] = []

    def read(ids: list[str]) -> pa.Table:
        asked.append(ids)
        raise FeaturesLostError("none")

    for _ in range(3):
        assert asyncio.run(reads.look([(read, ["a", "b"]), (read, [])])) == "none"
    assert asked == [["a", "b"]]
    clock.seconds += REST_SECONDS
    asyncio.run(reads.look([(read, ["a", "b"])]))
    assert len(asked) == 2


def test_no_error_of_a_store_fails_a_request(reads: FeatureReads, clock: Clock) -> None:
    def fail(ids: list[str]) -> pa.Table:
        raise ConnectionError("refused\nand a stack")

    found = asyncio.run(reads.read(fail, ["a"]))
    assert isinstance(found, Unavailable)
    assert found.why == "ConnectionError: refused"
    assert isinstance(asyncio.run(reads.read(lambda ids: TABLE, ["a"])), Unavailable), "it rests"
    clock.seconds += REST_SECONDS
    assert asyncio.run(reads.read(lambda ids: TABLE, ["a"])) is TABLE
