"""Events of several kinds are ingested with the reward of their kind, and read by what their kind is for."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from features import tables
from features.ingest import SourceError, ingest
from features.schema import Schema
from features.sources.movielens import open_movielens
from features.sources.tables import open_tables

KINDS = {"event_kinds": {"view": 0.1, "hide": 0, "order": 2.0}}
HEADER = "user_id,item_id,timestamp,kind,reward\n"
NOW = dt.datetime(2024, 6, 1, tzinfo=dt.UTC)
DAY = 86_400


@pytest.fixture
def kinds_shop(shop: Any) -> Any:
    return type(shop)(shop.folder, Schema.model_validate(KINDS))


def rewards(shop: Any, **which: Any) -> list[float]:
    events = tables.read_events(shop.out, first_day=dt.date.min, end_day=dt.date.max, **which)
    assert events.column_names == ["user_id", "item_id", "timestamp", "reward", "value"]
    return [round(reward, 6) for reward in events.column("reward").to_pylist()]


def test_an_event_without_a_reward_has_that_of_its_kind(kinds_shop: Any) -> None:
    kinds_shop.ingest(HEADER + "u,i,1,view,\nu,i,2, order ,\nu,i,3,order,7\nu,i,4,view,0\nu,i,5,hide,\n")
    # Positives are the kinds with a reward, even where an event of theirs has none.
    assert rewards(kinds_shop) == [0.1, 2, 7, 0]
    assert rewards(kinds_shop, purpose="histories") == [0.1, 2, 7, 0, 0]


def test_an_unknown_kind_and_none_are_set_aside(kinds_shop: Any) -> None:
    summary = kinds_shop.ingest(HEADER + "u,i,1,view,\nu,i,2,viewed,\nu,i,3,,\n,i,4,viewed,\n")
    assert summary.quarantined["events"] == {"null_id": 1, "unknown_kind": 2}
    assert [row["source_row"] for row in kinds_shop.quarantine()] == [2, 3, 4]


def test_of_one_moment_events_of_other_kinds_are_kept_and_of_the_same_are_not(kinds_shop: Any) -> None:
    summary = kinds_shop.ingest(HEADER + "u,i,1,view,\nu,i,1,order,\nu,i,1,order,3\n")
    assert summary.quarantined["events"] == {"duplicate": 1}
    assert rewards(kinds_shop) == [2, 0.1]  # by timestamp, user, item and kind


def test_a_table_without_the_column_is_refused_with_the_nearest_one(kinds_shop: Any) -> None:
    with pytest.raises(SourceError, match=r"events.csv: has no column 'kind'; the nearest existing column is 'knd'"):
        kinds_shop.ingest("user_id,item_id,timestamp,knd\nu,i,1,view\n")


def test_without_declared_kinds_the_column_is_not_read(shop: Any) -> None:
    summary = shop.ingest(HEADER + "u,i,1,whatever,\n")
    assert summary.unused_columns["events"] == ("kind",)
    assert rewards(shop) == [1]


def test_a_source_whose_events_have_no_kinds_refuses_them(tmp_path: Path) -> None:
    (tmp_path / "u.data").write_text("1\t2\t3\t4\n")
    (tmp_path / "u.item").write_text("")
    (tmp_path / "u.user").write_text("")
    with pytest.raises(SourceError, match=r"its events have no kinds, but dataset.event_kinds declares: view, hide"):
        open_movielens(schema=Schema.model_validate(KINDS), path=tmp_path)


def test_days_become_examples_by_their_positives(shop: Any) -> None:
    schema = Schema.model_validate({**KINDS, "positive_kinds": ["order"]})
    orders = type(shop)(shop.folder, schema)
    days = {1: "order", 2: "view", 3: "order", 4: "view"}
    rows = [f"u{user},i,{day * DAY + user},{kind},\n" for day, kind in days.items() for user in range(3)]
    orders.ingest(HEADER + "".join(rows) + f"u,i,{3 * DAY},view,\n")
    first = dt.date(1970, 1, 1)
    found = {num: tables.example_days(orders.out, first=first, end=dt.date(1970, 1, 9), num_events=num)
             for num in (3, 4)}  # fmt: skip
    # The day of views alone has no example, and its events do not count as enough.
    assert found == {3: [dt.date(1970, 1, 4)], 4: [dt.date(1970, 1, 2), dt.date(1970, 1, 4)]}
    assert [tables.num_positives(orders.out, dt.date(1970, 1, day)) for day in (4, 5, 9)] == [3, 0, 0]
    assert tables.has_other_histories(orders.out)


def test_other_rewards_read_unchanged_files_again(shop: Any, tmp_path: Path) -> None:
    folder = tmp_path / "orders"
    folder.mkdir()
    for day in (1, 2):
        (folder / f"{day}.csv").write_text(f"{HEADER}u,i,{day * DAY},view,\n")

    def run(reward: float) -> list[float]:
        schema = Schema.model_validate({"event_kinds": {"view": reward}})
        source = open_tables(schema=schema, events=type(shop.table("x", pa.table({"a": [1]})))(folder))
        ingest(source, schema=schema, out=shop.out, chunk_rows=9, max_quarantine_share=0, now=NOW)
        return rewards(shop)

    assert run(0.5) == [0.5, 0.5]
    assert run(0.25) == [0.25, 0.25]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"positive_kinds": ["order"]}, "names positive_kinds or history_kinds and no event_kinds"),
        ({"event_kinds": {"view": 0}}, "event_kinds are view without any reward"),
        ({**KINDS, "positive_kinds": ["buy"]}, "positive_kinds are buy, expected some of view, hide, order, each once"),
        ({**KINDS, "history_kinds": ["order", "order"]}, "history_kinds are order, order, expected some of view"),
        ({**KINDS, "history_kinds": ["order"]}, "history_kinds are order, without the positive kind view"),
        ({"event_kinds": {"view": -1}}, "greater than or equal to 0"),
    ],
)
def test_kinds_that_contradict_each_other_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Schema.model_validate(keys)


def test_by_default_kinds_with_a_reward_are_positives_and_all_make_histories() -> None:
    kinds = Schema.model_validate(KINDS).kinds_of_events()
    assert kinds is not None
    assert (kinds.positives, kinds.histories) == (("view", "order"), ("view", "hide", "order"))
    assert Schema().kinds_of_events() is None


def test_columns_of_events_are_read_by_their_kinds(shop: Any) -> None:
    declared = {"device": "categorical", "paid": "numeric", "app": "boolean", "spot": "geo", "likes": "categories"}
    described = type(shop)(shop.folder, Schema.model_validate({"event_columns": declared}))
    summary = described.ingest(
        "user_id,item_id,timestamp,device,paid,app,spot,likes\n"
        'u,i,1,tv,1.5,yes,"1,2",a|b\n'
        "u,i,2,,,,,\n"
        'u,i,3,tv,1.5,perhaps,"1,2",a\n'
        'u,i,4,tv,much,yes,"1,2",a\n'
        'u,i,5,tv,1,yes,"91,2",a\n'
    )
    assert summary.quarantined["events"] == {"unparsable_number": 1, "unparsable_value": 2}
    events = tables.read_events(shop.out, first_day=dt.date.min, end_day=dt.date.max, more=list(declared))
    assert events.select(list(declared)).to_pylist() == [
        {"device": "tv", "paid": 1.5, "app": True, "spot": [1, 2], "likes": ["a", "b"]},
        dict.fromkeys(declared),
    ]
    assert events.schema.field("paid").type == pa.float64()


def test_a_source_without_further_columns_of_events_refuses_them(tmp_path: Path) -> None:
    (tmp_path / "u.data").write_text("1\t2\t3\t4\n")
    (tmp_path / "u.item").write_text("")
    (tmp_path / "u.user").write_text("")
    with pytest.raises(SourceError, match=r"no further columns, but dataset.event_columns declares: device"):
        open_movielens(schema=Schema.model_validate({"event_columns": {"device": "categorical"}}), path=tmp_path)
