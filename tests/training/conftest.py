"""Partitions of examples on disk, and a world whose right answer is known: two groups of users with disjoint items."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.columns import midnight, seconds_of
from features.encoding import Encoder, fit_encoder
from features.examples import Day
from features.schema import Schema, snapshot_schema
from training.data.batches import Span, load_span

FIRST_DAY = dt.date(2020, 1, 1)
GROUP_SIZE, MET_OF_GROUP, NUM_DAYS = 12, 8, 4
USERS = [f"u{number}" for number in range(2 * GROUP_SIZE)]
ITEMS = [f"i{number}" for number in range(2 * GROUP_SIZE)]
SCHEMA = Schema(
    user_columns={"age": "categorical", "income": "numeric"},  # type: ignore[dict-item]
    item_columns={"title": "text", "aisle": "categorical"},  # type: ignore[dict-item]
)


class Event(NamedTuple):
    """One event; users and items by number, `second` since the day's midnight."""

    user: int
    item: int
    day: int = 0
    second: int = 0
    reward: float = 1.0
    first: bool = True

    @property
    def seconds(self) -> int:
        return seconds_of(FIRST_DAY) + 86_400 * self.day + self.second


def user_row(user: int, event: Event, past: Sequence[Event]) -> dict[str, object]:
    """The user's features at the moment of an event, latest item of the history first."""
    before = [other for other in reversed(past) if other.user == user and other.seconds < event.seconds]
    return {
        "user_id": USERS[user],
        "event_timestamp": dt.datetime.fromtimestamp(event.seconds, dt.UTC),
        "user_num_events": len(before),
        "user_num_items": len({other.item for other in before}),
        "user_num_days": len({other.day for other in before}),
        "user_value": 2.0 * len(before),
        "user_last_seconds": before[0].seconds if before else 0,
        "user_history": [ITEMS[other.item] for other in before],
        "user_history_seconds": [other.seconds for other in before],
        "age": ("young", "old", None)[user % 3],
        "income": 1000.0 * user if user % 4 else None,
    }


def item_row(item: int, moment: dt.datetime) -> dict[str, object]:
    return {
        "item_id": ITEMS[item],
        "event_timestamp": moment,
        "item_as_of_seconds": int(moment.timestamp()),
        "item_num_events": item,
        "item_num_buyers": item,
        "item_price": 1.5,
        "item_fast_rate": 0.5,
        "item_slow_rate": 0.25,
        "item_fast_new_rate": 0.5,
        "item_slow_new_rate": 0.25,
        "title": f"Thing {item}",
        "aisle": "even" if item % 2 == 0 else "odd",
    }


def write_days(folder: Path, events: Sequence[Event], *, num_uniform: int = 24) -> list[dt.date]:
    """Writes a partition for each day that has events, as the point-in-time join would."""
    days = []
    for number in sorted({event.day for event in events}):
        today = [event for event in events if event.day == number]
        user_moments = list(dict.fromkeys((event.user, event.seconds) for event in today))
        item_moments = list(dict.fromkeys((event.item, event.seconds) for event in today))
        day = FIRST_DAY + dt.timedelta(days=number)
        drawn = np.random.default_rng(number).permutation(np.resize(np.arange(len(ITEMS)), num_uniform))
        moment_of = {event.seconds: event for event in today}
        tables = Day(
            events=pa.table(
                {
                    "user_row": [user_moments.index((event.user, event.seconds)) for event in today],
                    "item_row": [item_moments.index((event.item, event.seconds)) for event in today],
                    "timestamp": [dt.datetime.fromtimestamp(event.seconds, dt.UTC) for event in today],
                    "reward": pa.array([event.reward for event in today], pa.float32()),
                    "first_meeting": [event.first for event in today],
                }
            ),
            users=pa.Table.from_pylist(
                [user_row(user, moment_of[seconds], events) for user, seconds in user_moments],
                schema=snapshot_schema(SCHEMA, "user"),
            ),
            items=pa.Table.from_pylist(
                [item_row(item, dt.datetime.fromtimestamp(seconds, dt.UTC)) for item, seconds in item_moments],
                schema=snapshot_schema(SCHEMA, "item"),
            ),
            uniform=pa.Table.from_pylist(
                [item_row(int(item), midnight(day)) for item in drawn], schema=snapshot_schema(SCHEMA, "item")
            ),
        )
        (folder / str(day)).mkdir(parents=True)
        for part, table in vars(tables).items():
            pq.write_table(table, folder / str(day) / f"{part}.parquet")
        days.append(day)
    return days


@pytest.fixture(scope="session")
def event() -> type[Event]:
    return Event


@pytest.fixture(scope="session", name="write_days")
def write_days_fixture() -> Callable[..., list[dt.date]]:
    return write_days


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    """Fitted on a sample of both sides; four items of history."""
    events = [Event(user, user, second=user) for user in range(len(USERS))]
    moment = midnight(FIRST_DAY)
    users = pa.Table.from_pylist(
        [user_row(event.user, event, events) for event in events], schema=snapshot_schema(SCHEMA, "user")
    )
    items = pa.Table.from_pylist(
        [item_row(item, moment) for item in range(len(ITEMS))], schema=snapshot_schema(SCHEMA, "item")
    )
    samples = [("user", users), ("item", items)]
    return fit_encoder(SCHEMA, users, items, samples, history_length=4, text_length=8, text_buckets=50)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def groups_events() -> list[Event]:
    """Each user of a group meets 8 of its 12 items, two in a basket, a basket a day; 4 are left to be found."""
    rng = np.random.default_rng(3)
    events = []
    for user in range(len(USERS)):
        own = rng.permutation(GROUP_SIZE)[:MET_OF_GROUP] + GROUP_SIZE * (user // GROUP_SIZE)
        events += [Event(user, int(item), day=place // 2, second=60 * user) for place, item in enumerate(own)]
    return sorted(events, key=lambda event: (event.seconds, event.item))


@pytest.fixture(scope="session")
def groups_folder(groups_events: list[Event], encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`examples/` and `encoder/` of the two groups."""
    folder = tmp_path_factory.mktemp("groups")
    write_days(folder / "examples", groups_events)
    encoder.save(folder / "encoder")
    return folder


@pytest.fixture(scope="session")
def groups_days() -> list[dt.date]:
    return [FIRST_DAY + dt.timedelta(days=number) for number in range(NUM_DAYS)]


@pytest.fixture(scope="session")
def groups_span(groups_folder: Path, groups_days: list[dt.date], encoder: Encoder) -> Span:
    return load_span(
        groups_folder / "examples",
        groups_days,
        encoder,
        only_first=True,
        user_balance=0,
        reward="reward",
        reward_power=1.0,
    )
