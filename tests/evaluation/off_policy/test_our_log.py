"""Each item of a logged list comes with its reward and its propensity."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evaluation.off_policy.logs import ExposureFeedback, read_exposure_feedback
from features.sources.events import EVENTS_SCHEMA
from serving.exposures.files import Exposure, to_table, write_exposures

USERS, ITEMS = ["ann", "bob"], ["apple", "bread", "cheese"]
SHARES = {"old": 0.75, "new": 0.25}
DAY, WINDOW = dt.date(2024, 1, 10), 2
NOON = dt.datetime(2024, 1, 10, 12, tzinfo=dt.UTC)
SECOND, TWO_DAYS = dt.timedelta(seconds=1), dt.timedelta(days=2)


def write_events(folder: Path, events: list[tuple[dt.datetime, str, str]]) -> Path:
    (folder / "events").mkdir(parents=True)
    for day in {moment.date() for moment, _, _ in events}:
        rows = [
            {"timestamp": moment, "user_id": user, "item_id": item, "reward": None, "value": None}
            for moment, user, item in sorted(events)
            if moment.date() == day
        ]
        pq.write_table(pa.Table.from_pylist(rows, schema=EVENTS_SCHEMA), folder / "events" / f"{day}.parquet")
    (folder / "manifest.json").write_text(json.dumps({}))
    return folder


def log(folder: Path, *lists: tuple[dt.datetime, str, str, list[str]]) -> Path:
    for number, (moment, user, arm, items) in enumerate(lists):
        exposure = Exposure(moment.timestamp(), user, arm, "v", "fused", 4, (), items)
        write_exposures(to_table([exposure]), folder / f"day={exposure.day}" / f"a-{number:06}.parquet")
    return folder


def read(
    folder: Path, *, shares: Mapping[str, float] = SHARES, reward_days: int = WINDOW, num_days: int = 1
) -> ExposureFeedback:
    return read_exposure_feedback(
        folder / "exposures",
        folder / "tables",
        first_day=DAY,
        end_day=DAY + dt.timedelta(days=num_days),
        reward_days=reward_days,
        shares=shares,
        user_ids=USERS,
        item_ids=ITEMS,
    )


def test_each_item_shown_is_a_row_with_its_reward_and_the_share_of_its_arm(tmp_path: Path) -> None:
    log(
        tmp_path / "exposures",
        (NOON, "ann", "old", ["bread", "apple"]),
        (NOON + SECOND, "bob", "new", ["cheese", "bread"]),
    )
    write_events(tmp_path / "tables", [(NOON + 60 * SECOND, "ann", "apple"), (NOON + TWO_DAYS, "bob", "cheese")])
    found = read(tmp_path)
    assert found.users.tolist() == [0, 0, 1, 1]
    assert found.items.tolist() == [1, 0, 2, 1]
    assert found.rewards.tolist() == [0, 1, 1, 0]
    assert found.propensities.tolist() == [0.75, 0.75, 0.25, 0.25]
    noon = int(NOON.timestamp()) * 1_000_000
    assert found.moments.tolist() == [noon, noon, noon + 1_000_000, noon + 1_000_000]
    assert (found.num_lists, found.other_arms, found.num_unknown_users, found.num_unknown_items) == (2, {}, 0, 0)


@pytest.mark.parametrize(
    ("after", "reward"),
    [
        (-SECOND, 0),
        (0 * SECOND, 0),
        (dt.timedelta(microseconds=1), 1),
        (TWO_DAYS, 1),
        (TWO_DAYS + dt.timedelta(microseconds=1), 0),
    ],
)
def test_a_purchase_counts_after_the_list_and_up_to_the_last_moment(
    after: dt.timedelta, reward: int, tmp_path: Path
) -> None:
    # Late in the day: the window ends on the third day after it.
    late = NOON + dt.timedelta(hours=11, minutes=59)
    log(tmp_path / "exposures", (late, "ann", "old", ["apple"]))
    write_events(tmp_path / "tables", [(late + after, "ann", "apple")])
    assert read(tmp_path).rewards.tolist() == [reward]


def test_a_purchase_of_another_item_or_by_another_user_earns_nothing(tmp_path: Path) -> None:
    log(tmp_path / "exposures", (NOON, "ann", "old", ["apple"]))
    events = [(NOON + SECOND, "bob", "apple"), (NOON + SECOND, "ann", "bread"), (NOON + SECOND, "eve", "apple")]
    write_events(tmp_path / "tables", events)
    assert read(tmp_path).rewards.tolist() == [0]


def test_rewards_are_those_of_a_loop(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    hours = [dt.timedelta(hours=int(hour)) for hour in rng.integers(0, 72, 60)]
    start = dt.datetime(2024, 1, 10, tzinfo=dt.UTC)
    lists = [(start + hour, str(rng.choice(USERS)), "old", rng.permutation(ITEMS)[:2].tolist()) for hour in hours]
    events = [
        (start + dt.timedelta(hours=int(hour)), str(rng.choice(USERS)), str(rng.choice(ITEMS)))
        for hour in rng.integers(0, 100, 12)
    ]
    log(tmp_path / "exposures", *lists)
    write_events(tmp_path / "tables", events)
    found = read(tmp_path, num_days=3, reward_days=1)
    expected = {
        (user, item, moment): any(
            (who, what) == (user, item) and moment < when <= moment + dt.timedelta(days=1) for when, who, what in events
        )
        for moment, user, _, items in lists
        for item in items
    }
    assert len(found.users) == 120
    for user, item, moment, reward in zip(found.users, found.items, found.moments, found.rewards, strict=True):
        shown = dt.datetime.fromtimestamp(moment / 1e6, dt.UTC)
        assert reward == expected[USERS[user], ITEMS[item], shown]
    assert 0 < found.rewards.sum() < 120


def test_excluded_rows_are_counted(tmp_path: Path) -> None:
    log(
        tmp_path / "exposures",
        (NOON, "ann", "old", ["apple", "drill"]),
        (NOON, "eve", "old", ["apple", "drill"]),
        (NOON, "bob", "canary", ["apple"]),
        (NOON, "eve", "canary", ["apple"]),
        (NOON, "bob", "new", []),
        (NOON - dt.timedelta(days=1), "bob", "new", ["apple"]),
        (NOON + dt.timedelta(days=1), "bob", "new", ["apple"]),
    )
    write_events(tmp_path / "tables", [(NOON, "ann", "apple")])
    found = read(tmp_path)
    assert found.users.tolist() == [0]
    assert (found.num_lists, found.other_arms) == (5, {"canary": 2})
    assert (found.num_unknown_users, found.num_unknown_items) == (1, 1)


def test_days_without_lists_give_no_rows(tmp_path: Path) -> None:
    (tmp_path / "exposures").mkdir()
    write_events(tmp_path / "tables", [(NOON, "ann", "apple")])
    found = read(tmp_path)
    assert (len(found.users), len(found.rewards), found.num_lists) == (0, 0, 0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"shares": {"old": 1.5}}, r"shares are {'old': 1\.5} and reward_days 2, expected shares above 0 up to 1"),
        ({"shares": {}}, "of at least one arm"),
        ({"reward_days": 0}, "reward_days 0, .* at least 1 day"),
    ],
)
def test_faulty_arguments_are_refused(changed: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read(tmp_path, **changed)  # type: ignore[arg-type]
