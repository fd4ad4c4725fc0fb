"""A source that has grown by a day costs that day only, and its new users and items are known at once."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from artefacts.config import pick
from artefacts.paths import RunPaths
from beam_jobs import snapshot_days as snapshot_runs
from beam_jobs.snapshot_days import write_snapshots
from features import steps as feature_runs
from features.columns import seconds_of
from features.config import FeaturesSections, IngestSections
from features.examples import PARTS
from features.online_versions import open_filled
from features.steps import find_schema_changes, make_features, make_tables
from features.store import Store
from twinspire.config import Config
from twinspire.load_config import load

FIRST, DAY, NEXT = dt.date(2024, 1, 1), dt.date(2024, 1, 9), dt.date(2024, 1, 10)
NOW = dt.datetime(2024, 3, 1, tzinfo=dt.UTC)
CONFIG = """
name: stall
as_of: 2024-01-09
dataset: {{item_columns: {{kind: categorical}}}}
ingest:
  source:
    kind: tables
    events: {{path: {data}/orders.csv}}
    items: {{path: {data}/items.csv}}
features: {{history_length: 5, example_days: 6, join_days: 3, item_refresh_days: 28, late_days: 4}}
training: {{example_days: 6, validation_days: 2}}
beam: {{shards: 2}}
"""


def features_at(config: Config, paths: RunPaths) -> str:
    """The step `features`: snapshots, then what is made of them."""
    sections = pick(FeaturesSections, config)
    written = write_snapshots(sections, config.beam, paths)
    return f"{written.outcome()}; {make_features(sections, paths)}"


def write_source(folder: Path, *, end: dt.date, items: int) -> None:
    days = [FIRST + dt.timedelta(days=number) for number in range((end - FIRST).days)]
    orders = [
        (f"u{user}", f"i{(user + number) % 4}", f"{day}T1{user}:00:00")
        for number, day in enumerate(days)
        for user in range(4)
    ]
    pd.DataFrame(orders, columns=["user_id", "item_id", "timestamp"]).to_csv(folder / "orders.csv", index=False)
    kinds = [(f"i{item}", "old" if item < 4 else "new") for item in range(items)]
    pd.DataFrame(kinds, columns=["item_id", "kind"]).to_csv(folder / "items.csv", index=False)


def run_day(config_file: Path, runs: Path, day: dt.date) -> tuple[Config, RunPaths, str]:
    config = load(config_file, [f"as_of={day}"])
    paths = RunPaths(runs / config.name, config.as_of)
    make_tables(pick(IngestSections, config), paths, now=NOW)
    return config, paths, features_at(config, paths)


def partitions(paths: RunPaths) -> dict[str, tuple[int, int]]:
    files = {str(file.relative_to(paths.examples)): file.stat() for file in paths.examples.rglob("*.parquet")}
    return {name: (found.st_ino, found.st_mtime_ns) for name, found in files.items()}


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    file = tmp_path / "stall.yaml"
    file.write_text(CONFIG.format(data=tmp_path / "data"))
    return file


def online_store(paths: RunPaths) -> Store:
    return open_filled(paths.features, paths.features_version.read_text())


def test_one_more_day_joins_that_day_only_and_a_new_item_is_described_at_once(
    config_file: Path, tmp_path: Path
) -> None:
    write_source(tmp_path / "data", end=DAY, items=4)
    _, paths, _ = run_day(config_file, tmp_path / "runs", DAY)
    before = partitions(paths)
    write_source(tmp_path / "data", end=NEXT, items=6)
    _, paths, outcome = run_day(config_file, tmp_path / "runs", NEXT)
    assert outcome.startswith("1 days of snapshots; 4 examples joined for 1 new days")
    after = partitions(paths)
    assert {name: after[name] for name in before} == before
    assert {name.split("/")[0] for name in after.keys() - before.keys()} == {str(DAY)}
    items = pq.read_table(paths.catalogue(NEXT) / "items.parquet").to_pydict()
    assert items["item_id"] == ["i0", "i1", "i2", "i3", "i4", "i5"]
    assert items["kind"] == ["old"] * 4 + ["new"] * 2


def test_a_new_user_without_a_past_is_in_the_online_store(config_file: Path, tmp_path: Path) -> None:
    write_source(tmp_path / "data", end=NEXT, items=4)
    run_day(config_file, tmp_path / "runs", DAY)
    # On the very day of the next cut: the tables know them, and no row before it does.
    change_orders(tmp_path / "data", ("", "u7,i1,2024-01-10T09:00:00\n"))
    _, paths, _ = run_day(config_file, tmp_path / "runs", NEXT)
    [known, new] = online_store(paths).read_online(["u0", "u7"]).to_pylist()
    assert (known["user_num_events"], new["user_num_events"]) == (9, 0)
    assert new["user_as_of_seconds"] <= seconds_of(DAY)


def test_a_past_that_changed_before_the_states_that_are_kept_starts_over(config_file: Path, tmp_path: Path) -> None:
    write_source(tmp_path / "data", end=NEXT, items=4)
    _, paths, _ = run_day(config_file, tmp_path / "runs", DAY)
    before = partitions(paths)
    change_orders(tmp_path / "data", ("u3,i3,2024-01-01T13", "u3,i1,2024-01-01T13"))
    _, paths, outcome = run_day(config_file, tmp_path / "runs", NEXT)
    assert outcome.startswith(
        "2024-01-01 changed (the same number of events), before the states kept of the last 4 days: all computed "
        "again; "
    )
    assert "24 examples joined for 6 new days" in outcome
    after = partitions(paths)
    assert not any(after.get(name) == written for name, written in before.items())


def change_orders(folder: Path, *changes: tuple[str, str]) -> None:
    """Replaces text in the orders; '' means their end."""
    text = (folder / "orders.csv").read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new) if old else text + new
    (folder / "orders.csv").write_text(text)


LATE = [
    pytest.param([("", "u0,i3,2024-01-08T23:00:00\n")], "2024-01-08 changed (1 event more): 1 day", id="yesterday"),
    pytest.param(
        [("", "u0,i3,2024-01-05T00:00:00\nu0,i2,2024-01-05T12:00:00\nu1,i0,2024-01-05T12:00:00\n")],
        "2024-01-05 changed (3 events more): 4 days",
        id="four days ago",
    ),
    pytest.param(
        [("u3,i3,2024-01-05T13:00:00\n", ""), ("u0,i1,2024-01-06T10", "u0,i2,2024-01-06T10")],
        "2024-01-05 and 1 later day changed (1 event fewer): 4 days",
        id="one gone, one other",
    ),
    pytest.param(
        [("", "u9,i9,2024-01-06T07:00:00\n")],
        "2024-01-06 changed (1 event more): 3 days",
        id="somebody and something new",
    ),
]


@pytest.mark.parametrize(("changes", "expected"), LATE)
def test_a_late_change_computes_the_days_from_it_on_again_and_equals_a_rebuild(
    changes: list[tuple[str, str]], expected: str, config_file: Path, tmp_path: Path
) -> None:
    write_source(tmp_path / "data", end=NEXT, items=4)
    _, paths, _ = run_day(config_file, tmp_path / "runs", DAY)
    before = partitions(paths)
    change_orders(tmp_path / "data", *changes)
    _, paths, outcome = run_day(config_file, tmp_path / "runs", NEXT)
    assert outcome.startswith(f"{expected} computed again; ")
    day = expected[:10]
    after = partitions(paths)
    assert {name: after[name] for name in before if name < day} == {name: before[name] for name in before if name < day}
    assert not any(after.get(name) == before[name] for name in before if name >= day)
    _, rebuilt, _ = run_day(config_file, tmp_path / "rebuilt", NEXT)
    has_newcomers = "u9" in str(changes)
    for folder in sorted(rebuilt.examples.glob("????-??-??")):
        for name in PARTS:
            if name == "uniform" and has_newcomers and folder.name < day:
                # Drawn from the catalogue of the day it was joined on.
                continue
            found, fresh = (pq.read_table(one.examples / folder.name / f"{name}.parquet") for one in (paths, rebuilt))
            assert found.equals(fresh), (folder.name, name)
    assert pq.read_table(paths.pairs).equals(pq.read_table(rebuilt.pairs))
    for tower in ("user", "item"):
        found, fresh = (pq.read_table(one.state(NEXT) / f"{tower}.parquet") for one in (paths, rebuilt))
        assert found.equals(fresh)
        found, fresh = (pq.read_table(one.catalogue(NEXT) / f"{tower}s.parquet") for one in (paths, rebuilt))
        assert found.equals(fresh)
        if not has_newcomers:
            # Of newcomers a rebuild has rows that nothing reads any more.
            assert rows_of(paths, tower) == rows_of(rebuilt, tower)
    users = ["u0", "u1", "u2", "u3", "u9"]
    online = [online_store(one).read_online(users) for one in (paths, rebuilt)]
    assert online[0].equals(online[1])


def rows_of(paths: RunPaths, tower: str) -> list[dict[str, object]]:
    table = pq.read_table(paths.snapshots / tower)
    return table.sort_by([("event_timestamp", "ascending"), (f"{tower}_id", "ascending")]).to_pylist()


def test_a_day_at_a_time_gives_the_files_of_a_run_over_all_days(config_file: Path, tmp_path: Path) -> None:
    write_source(tmp_path / "data", end=NEXT, items=4)
    days = [DAY - dt.timedelta(days=number) for number in range(2, -1, -1)]
    for day in days:
        _, paths, _ = run_day(config_file, tmp_path / "runs", day)
    _, rebuilt, _ = run_day(config_file, tmp_path / "rebuilt", DAY)
    for folder in rebuilt.examples.glob("????-??-??"):
        for name in PARTS:
            found, fresh = ((one.examples / folder.name / f"{name}.parquet") for one in (paths, rebuilt))
            assert found.read_bytes() == fresh.read_bytes()
    assert paths.pairs.read_bytes() == rebuilt.pairs.read_bytes()
    states = [{folder.name for folder in one.states.iterdir()} for one in (paths, rebuilt)]
    assert states[0] == states[1] == {str(DAY - dt.timedelta(days=number)) for number in range(5)}
    for name in states[0]:
        for tower in ("user", "item"):
            found, fresh = (one.states / name / f"{tower}.parquet" for one in (paths, rebuilt))
            assert found.read_bytes() == fresh.read_bytes()


def test_an_earlier_cut_has_the_pairs_known_then(config_file: Path, tmp_path: Path) -> None:
    write_source(tmp_path / "data", end=NEXT, items=4)
    early = dt.date(2024, 1, 2)
    fresh = load(config_file, ["as_of=2024-01-02", "features.example_days=6"])
    expected = RunPaths(tmp_path / "early" / fresh.name, early)
    make_tables(pick(IngestSections, fresh), expected, now=NOW)
    features_at(fresh, expected)
    # The first run decides which days can be joined: it must not be later than the requested moment.
    config = load(config_file, ["as_of=2024-01-10", "features.example_days=20"])
    make_tables(pick(IngestSections, config), paths := RunPaths(tmp_path / "runs" / config.name, NEXT), now=NOW)
    features_at(config, paths)
    config = load(config_file, ["as_of=2024-01-02"])
    back = RunPaths(paths.root, early)
    outcome = features_at(config, back)
    assert outcome.startswith("0 days of snapshots; 0 examples joined for 0 new days")
    assert back.pairs.read_bytes() == expected.pairs.read_bytes()
    assert json.loads(back.snapshots_record.read_text())["end"] == str(NEXT)


@pytest.mark.parametrize(
    "place", ["before the rows", "before the record", "after the record", "before the online store"]
)
def test_the_next_run_repairs_a_killed_one(
    place: str, config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_source(tmp_path / "data", end=NEXT, items=4)
    run_day(config_file, tmp_path / "runs", DAY)
    change_orders(tmp_path / "data", ("", "u0,i3,2024-01-07T23:00:00\n"))

    class Killed(BaseException):
        pass

    def kill(*_: object, **__: object) -> None:
        raise Killed

    computed = snapshot_runs._run

    def kill_after(*arguments: Any, **named: Any) -> None:
        computed(*arguments, **named)
        raise Killed

    where = {
        "before the rows": (snapshot_runs, "_run", kill),
        "before the record": (snapshot_runs, "_run", kill_after),
        "after the record": (snapshot_runs, "_forget", kill),
        "before the online store": (feature_runs, "_fill_online_store", kill),
    }[place]
    with monkeypatch.context() as patched:
        patched.setattr(*where)
        with pytest.raises(Killed):
            run_day(config_file, tmp_path / "runs", NEXT)
    _, paths, _ = run_day(config_file, tmp_path / "runs", NEXT)
    _, rebuilt, _ = run_day(config_file, tmp_path / "rebuilt", NEXT)
    for tower in ("user", "item"):
        assert rows_of(paths, tower) == rows_of(rebuilt, tower)
    for folder in rebuilt.examples.glob("????-??-??"):
        for name in PARTS:
            found, fresh = ((one.examples / folder.name / f"{name}.parquet") for one in (paths, rebuilt))
            assert pq.read_table(found).equals(pq.read_table(fresh))
    online = [online_store(one).read_online(["u0", "u1"]) for one in (paths, rebuilt)]
    assert online[0].equals(online[1])


def test_a_change_of_columns_is_reported_before_and_in_the_outcome(config_file: Path, tmp_path: Path) -> None:
    write_source(tmp_path / "data", end=DAY, items=4)
    config = load(config_file)
    paths = RunPaths(tmp_path / "runs" / config.name, config.as_of)
    assert find_schema_changes(pick(IngestSections, config), paths) == []
    make_tables(pick(IngestSections, config), paths, now=NOW)
    assert find_schema_changes(pick(IngestSections, config), paths) == []
    changed = load(config_file, ["dataset.item_columns={kind: numeric}"])
    [found] = find_schema_changes(pick(IngestSections, changed), paths)
    assert found.needs_full
    items = (tmp_path / "data" / "items.csv").read_text().replace("old", "1").replace("new", "2")
    (tmp_path / "data" / "items.csv").write_text(items)
    assert make_tables(pick(IngestSections, changed), paths, now=NOW).endswith(f"; {found}")
    assert find_schema_changes(pick(IngestSections, changed), paths) == []
