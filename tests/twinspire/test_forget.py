"""GDPR erasure leaves the world in which the person never existed, and completes a killed call."""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from artefacts.config import pick
from artefacts.locks import only_run
from artefacts.paths import CUTTING, RunPaths
from beam_jobs.snapshot_days import write_snapshots
from features.config import FeaturesSections, IngestSections
from features.forgotten import Forgotten
from features.ids import IdMap
from features.steps import make_features, make_tables, open_store
from serving.config import ServeSections
from serving.exposures.files import Exposure, read_exposures
from serving.open import exposure_log
from serving.retrieval.vectors import read_vectors, vector_schema
from serving.web.metrics import Metrics
from training.forget_fits import forget_in_fit
from twinspire.cli import app
from twinspire.config import Config
from twinspire.forget_everywhere import bundles_naming, forget, known, remember
from twinspire.load_config import load

FIRST, DAY, NEXT = dt.date(2024, 1, 1), dt.date(2024, 1, 9), dt.date(2024, 1, 10)
FIRST_SECONDS = 1_704_067_200  # 2024-01-01 00:00 UTC
NOW = dt.datetime(2024, 3, 1, tzinfo=dt.UTC)
CONFIG = """
name: stall
as_of: 2024-01-09
dataset: {{user_columns: {{town: categorical}}, item_columns: {{kind: categorical}}, item_category: kind,
  user_statistics_of: [kind], item_statistics_of: [town]}}
ingest:
  source:
    kind: tables
    events: {{path: {data}/orders.csv}}
    users: {{path: {data}/users.csv}}
    items: {{path: {data}/items.csv}}
towers: {{counterpart: {{source: statistic, user_fields: [town], item_fields: [kind]}}}}
features: {{history_length: 5, example_days: 6, join_days: 3, item_refresh_days: 28, late_days: 4}}
training: {{example_days: 6, validation_days: 2}}
beam: {{shards: 2}}
"""


def features_at(config: Config, paths: RunPaths) -> str:
    """The step `features`: snapshots, then what is made of them."""
    sections = pick(FeaturesSections, config)
    written = write_snapshots(sections, config.beam, paths)
    return f"{written.outcome()}; {make_features(sections, paths)}"


def write_stall(folder: Path, users: range) -> Path:
    """Everybody buys each day; u9 never buys. Returns the configuration."""
    folder.mkdir()
    days = [FIRST + dt.timedelta(days=number) for number in range((NEXT - FIRST).days)]
    orders = [
        (f"u{user}", f"i{(user * number) % 4}", f"{day}T1{user}:00:00")
        for number, day in enumerate(days)
        for user in users
        if user != 9
    ]
    pd.DataFrame(orders, columns=["user_id", "item_id", "timestamp"]).to_csv(folder / "orders.csv", index=False)
    towns = [(f"u{user}", f"town {user % 3}") for user in users]
    pd.DataFrame(towns, columns=["user_id", "town"]).to_csv(folder / "users.csv", index=False)
    kinds = [(f"i{item}", f"kind {item % 2}") for item in range(5)]
    pd.DataFrame(kinds, columns=["item_id", "kind"]).to_csv(folder / "items.csv", index=False)
    config = folder / "stall.yaml"
    config.write_text(CONFIG.format(data=folder))
    return config


def run_day(config_file: Path, runs: Path, day: dt.date) -> RunPaths:
    config = load(config_file, [f"as_of={day}"])
    paths = RunPaths(runs / config.name, config.as_of)
    make_tables(pick(IngestSections, config), paths, now=NOW)
    features_at(config, paths)
    return paths


def contents(paths: RunPaths) -> dict[str, list[dict[str, Any]]]:
    """Rows of every table of the features, but for how long ago the first day is that was ever asked for."""
    files = [*paths.features.rglob("*.parquet"), *paths.tables.rglob("*.parquet")]
    return {str(path.relative_to(paths.root)): pq.read_table(path).to_pylist() for path in files}


@pytest.mark.slow
def test_the_next_run_equals_one_in_which_they_never_existed(tmp_path: Path) -> None:
    runs, elsewhere = tmp_path / "runs", tmp_path / "elsewhere"
    config_file = write_stall(tmp_path / "with", range(10))
    paths = run_day(config_file, runs, DAY)
    gone = ["u3", "u9"]
    assert remember(paths, [*gone, "nobody"]) == [*gone, "nobody"]
    assert known(paths, [*gone, "nobody"]) == set(gone)
    places = {removed.where: removed.num_rows for removed in forget(paths, [*gone, "nobody"])}
    assert places.keys() == {"features", "online store", "tables, events", "tables, users"}
    assert (places["online store"], places["tables, events"], places["tables, users"]) == (2, 9, 2)
    assert not paths.snapshots.exists()
    assert not known(paths, gone)
    others = (
        open_store(pick(FeaturesSections, load(config_file)), paths)
        .read_online(["u0", "u3", "u9"])
        .column("user_num_events")
        .to_pylist()
    )
    assert others == [8, None, None]
    assert forget(paths, gone) == []
    again = run_day(config_file, runs, NEXT)

    never = run_day(write_stall(tmp_path / "without", [0, 1, 2, 4, 5, 6, 7, 8]), elsewhere, NEXT)  # type: ignore[arg-type]
    found, expected = contents(again), contents(never)
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []


@pytest.fixture
def fit(tmp_path: Path) -> RunPaths:
    """A fit of seven users with three buckets behind them, whose rows tell their numbers."""
    paths = RunPaths(tmp_path, DAY)
    (paths.model / "encoder").mkdir(parents=True)
    IdMap([f"u{user}" for user in range(7)], 3).save(paths.model / "encoder" / "user_ids.parquet")
    (paths.model / "state").mkdir()
    rows = np.arange(11.0)
    state = {
        "user_id_table/embeddings": rows[:, None] * np.ones(2),
        "user_id_table/embeddings@accumulator": rows[:, None] * np.ones(2),
        "user_augmented/table": rows[:, None] * np.ones(3),
        "item_id_table/embeddings": rows[:, None],
        "town_table/embeddings": rows[:, None],
        "user_bias/bias": rows,
        "@iterations": np.asarray(5),
    }
    np.savez(paths.model / "state" / "towers.npz", **state)
    np.savez(paths.model / "state" / "trained.npz", users=rows[:8], items=rows[:8])
    for number, (begin, end) in enumerate(((0, 4), (4, 7))):
        (paths.vectors / "users").mkdir(parents=True, exist_ok=True)
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.repeat(np.arange(begin, end), 2).astype(np.float32)), 2)
        table = pa.table([pa.array(np.arange(begin, end)), vectors], schema=vector_schema(2))
        pq.write_table(table, paths.vectors / "users" / f"vectors-{number:05d}-of-00002.parquet")
    for name in ("user_tower.tflite", "item_tower.tflite", "held_out.npz", "lineage.json"):
        (paths.model / name).write_text("")
    (paths.model / "final" / "checkpoints").mkdir(parents=True)
    return paths


def assert_cut(fit: RunPaths, kept: list[int]) -> None:
    """Whether everything speaks of these users, by their numbers."""
    ids = IdMap.load(fit.model / "encoder" / "user_ids.parquet")
    assert ids.ids(np.arange(1, len(ids))) == [f"u{user}" for user in kept]
    assert ids.num_buckets == 3
    rows = [0, *(user + 1 for user in kept)]
    with np.load(fit.model / "state" / "towers.npz") as state:
        for name in ("user_id_table/embeddings", "user_id_table/embeddings@accumulator", "user_augmented/table"):
            assert state[name][:, 0].tolist() == [*rows, 8, 9, 10]
        for name in ("item_id_table/embeddings", "town_table/embeddings", "user_bias/bias"):
            assert len(state[name]) == 11
    with np.load(fit.model / "state" / "trained.npz") as trained:
        assert (trained["users"].tolist(), len(trained["items"])) == (rows, 8)
    assert read_vectors(fit.vectors / "users")[:, 1].tolist() == kept
    assert sorted(path.name for path in fit.model.iterdir()) == [
        "encoder", "final", "item_tower.tflite", "lineage.json", "state",
    ]  # fmt: skip


def test_people_are_cut_out_of_a_fit_and_the_rows_of_others_stay_theirs(fit: RunPaths) -> None:
    assert forget_in_fit(fit, ["u2", "u6", "nobody"]) == 2
    assert_cut(fit, [0, 1, 3, 4, 5])
    assert forget_in_fit(fit, ["u2", "u6"]) == 0
    assert_cut(fit, [0, 1, 3, 4, 5])


class Killed(BaseException):
    """Not an error that anybody catches."""


@pytest.mark.parametrize("allowed", range(5))
def test_a_killed_cut_of_a_fit_is_finished_also_when_another_user_is_forgotten(
    fit: RunPaths, monkeypatch: pytest.MonkeyPatch, allowed: int
) -> None:
    real, calls = os.replace, []

    def replace(source: Any, target: Any) -> None:
        if len(calls) == allowed:
            raise Killed
        calls.append(target)
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(Killed):
        forget_in_fit(fit, ["u2", "u6"])
    monkeypatch.setattr(os, "replace", real)
    assert forget_in_fit(fit, ["u0"]) == 1
    # Before the rows were written down, nothing had happened.
    assert_cut(fit, [1, 2, 3, 4, 5, 6] if allowed == 0 else [1, 3, 4, 5])


def test_a_state_of_another_fit_is_reported(fit: RunPaths) -> None:
    np.savez(fit.model / "state" / "towers.npz", **{"user_id_table/embeddings": np.ones((5, 2))})
    with pytest.raises(ValueError, match=r"table/embeddings has 5 rows of users, expected 11 .*remove its folder"):
        forget_in_fit(fit, ["u2"])


def test_vectors_of_another_fit_are_removed(fit: RunPaths) -> None:
    IdMap([f"u{user}" for user in range(9)], 3).save(fit.model / "encoder" / "user_ids.parquet")
    for file in (fit.model / "state").glob("*.npz"):
        file.unlink()
    assert forget_in_fit(fit, ["u8"]) == 1
    assert not (fit.vectors / "users").exists()
    assert CUTTING not in {path.name for path in fit.model.iterdir()}


def test_messages_of_nights_lose_quoted_ids(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path, DAY)
    (tmp_path / "nights").mkdir()
    log = tmp_path / "nights" / f"{DAY}.log"
    lines = [
        '{"event": "night fails", "error": "row u1 is lost"}',
        '{"event": "u1", "error": "row u12 is lost"}',
        '{"er',
    ]
    log.write_text("\n".join(lines))
    [removed] = forget(paths, ["u1"])
    assert (removed.where, removed.num_rows) == ("logs and reports of nights", 1)
    assert log.read_text().splitlines() == [
        '{"event": "night fails", "error": "(removed: it named somebody who is forgotten)"}',
        *lines[1:],
    ]


def test_exposures_lose_their_rows_and_servers_log_none_later(tmp_path: Path) -> None:
    paths, metrics = RunPaths(tmp_path / "stall", DAY), Metrics()
    sections = pick(ServeSections, load(write_stall(tmp_path / "data", range(2)), ["serving.log_exposures=true"]))
    shown = [
        Exposure(FIRST_SECONDS + day * 86_400, user, "a", "v", "fused", 1, (), [f"i{day}"])
        for day in range(3)
        for user in ("u1", "u2")
        if (day, user) != (2, "u1")
    ]
    log = exposure_log(sections, paths, metrics)
    log.add(shown)
    another = exposure_log(sections, paths, metrics)
    log.close()
    assert known(paths, ["u1", "u3"]) == {"u1"}
    remember(paths, ["u1", "u3"])
    [removed] = forget(paths, ["u1", "u3"])
    assert (removed.where, removed.num_rows) == ("exposures", 2)
    assert known(paths, ["u1", "u3"]) == set()
    assert forget(paths, ["u1", "u3"]) == []
    another.add(shown)
    another.close()
    assert known(paths, ["u1", "u3"]) == set()
    found = pa.Table.from_batches(read_exposures(paths.exposures, FIRST, NEXT))
    assert found.column("user_id").to_pylist() == ["u2"] * 6
    assert found.column("item_ids").to_pylist() == [[f"i{day}"] for day in (0, 0, 1, 1, 2, 2)]
    assert metrics.registry.get_sample_value("twinspire_exposures_total") == 5 + 3
    assert metrics.registry.get_sample_value("twinspire_exposures_dropped_total") == 0


def ask(tmp_path: Path, *arguments: str) -> Any:
    config = tmp_path / "data" / "stall.yaml"
    config = config if config.exists() else write_stall(tmp_path / "data", range(2))
    flags = ["--config", str(config), "--runs", str(tmp_path / "runs"), "--now", "2024-03-01"]
    return CliRunner().invoke(app, ["forget", *arguments, *flags])


def test_an_unknown_person_is_remembered_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("# two\nstranger\n\nu77  # and another\n")
    found = ask(tmp_path, "--file", str(tmp_path / "ids.txt"), "--user", "stranger")
    assert (found.exit_code, found.stderr) == (0, "")
    assert found.stdout.splitlines() == [
        f"{name}: not known here, nothing to do; remembered, should a source bring it" for name in ("stranger", "u77")
    ]
    root = tmp_path / "runs" / "stall"
    assert "stranger" in Forgotten.load(root / "forgotten.json")
    assert [path.name for path in root.iterdir() if "stranger" in path.read_text()] == []


@pytest.mark.parametrize("arguments", [[], ["--user", ""]])
def test_no_user_to_forget_is_an_error(tmp_path: Path, arguments: list[str]) -> None:
    found = ask(tmp_path, *arguments)
    assert found.exit_code == 1
    assert "no user to forget, or an empty id; name them with --user ID" in found.stderr


def test_a_held_lock_ends_the_command(tmp_path: Path) -> None:
    with only_run(tmp_path / "runs" / "stall", command="twinspire daily", now=NOW):
        found = ask(tmp_path, "--user", "u1")
    assert found.exit_code == 4
    assert "twinspire daily is at work here" in found.stderr
    assert not (tmp_path / "runs" / "stall" / "forgotten.json").exists()


def test_folders_of_comparisons_with_their_own_features_are_included(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for name in ("stall_0a1b2c", "stall_0a1b2d", "stall_long", "ablations/stall", "ablations/stall_0a1b2c", "ab/other"):
        (runs / name / "tables").mkdir(parents=True)
    (runs / "stall_0a1b2d" / "bundles").mkdir()
    ask(tmp_path, "--user", "u1")
    found = sorted(str(path.parent.relative_to(runs)) for path in runs.rglob("forgotten.json"))
    assert found == ["ablations/stall", "ablations/stall_0a1b2c", "stall", "stall_0a1b2c"]


def test_bundles_that_name_a_user_are_found_by_their_encoders(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path, DAY)
    for version, ids in (("2024-01-08-aaaaaaaa", ["u1"]), ("2024-01-09-bbbbbbbb", ["u2"])):
        (paths.bundles / version / "encoder").mkdir(parents=True)
        IdMap(ids).save(paths.bundles / version / "encoder" / "user_ids.parquet")
    assert bundles_naming(paths, ["u1", "u3"]) == ["2024-01-08-aaaaaaaa"]
