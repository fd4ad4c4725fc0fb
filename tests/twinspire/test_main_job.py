"""A change of the configuration runs the steps again that read it and those behind them, and no others."""

from __future__ import annotations

import copy
import dataclasses
import datetime as dt
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from artefacts.config import as_read, keys_of, pick
from artefacts.paths import RunPaths
from artefacts.steps import Step, finished, run_step
from serving.exposures.files import Exposure, to_table, write_exposures
from towers.history import HISTORY_ENCODERS
from training.lineage import WarmStartPlan
from twinspire.config import Config
from twinspire.load_config import load
from twinspire.main_job import NIGHT_STEP_NAMES, STEP_NAMES, STEPS, plan

TABLES = Path(__file__).parents[2] / "configs" / "tables_example.yaml"
NOW = dt.datetime(2024, 7, 1, tzinfo=dt.UTC)
MINED = "training.negatives.easy_per_hard=100"
SPARCODE = "sparcode={}"
SPARSE = "sparse={}"
TAUGHT = "training.distillation={denoise_above: 0.5}"


@pytest.fixture(autouse=True)
def _orders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data" / "my_shop" / "orders").mkdir(parents=True)
    (tmp_path / "data" / "my_shop" / "orders" / "may.csv").write_text("customer,article,ordered_at\n")
    monkeypatch.chdir(tmp_path)


def planned(
    *overrides: str, code_version: str = "1", now: dt.datetime = NOW, night: WarmStartPlan | None = None
) -> list[Step]:
    config = load(TABLES, overrides)
    paths = RunPaths(Path("runs") / config.name, config.as_of)
    return plan(config, paths, now=now, code_version=code_version, night=night)


def first_changed(steps: list[Step], others: list[Step]) -> str | None:
    """The first step whose digest differs; all after it must differ too."""
    differs = [one.digest != other.digest for one, other in zip(steps, others, strict=True)]
    assert differs == sorted(differs)
    return dict(zip(differs[::-1], [step.name for step in steps[::-1]], strict=True)).get(True)


@pytest.mark.parametrize(
    ("override", "first"),
    [
        ("ingest.chunk_rows=7", "ingest"),
        ("dataset.value_meaning=points", "ingest"),
        ("dataset.event_name=play", "ingest"),
        ("as_of=2024-06-02", "features"),
        ("seed=2", "features"),
        ("features.history_length=7", "features"),
        ("towers.embedding_dim=9", "train"),
        ("training.epochs=9", "train"),
        ("evaluation.ks=[9]", "train"),
        ("index.m=9", "index"),
        ("serving.retriever=repeat", "bundle"),
        ("bundles.keep=9", "publish"),
        ("evaluation.window_days=9", "evaluate"),
        ("serving.port=9", None),
        ("beam.shards=9", None),
        ("daily.keep_exposure_days=9", None),
        ("daily.detectable_fall=0.3", "train"),
    ],
)
def test_a_changed_key_runs_again_from_the_first_step_that_reads_it(override: str, first: str | None) -> None:
    assert first_changed(planned(), planned(override)) == first


def leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key without keys of its own, with its value."""
    for name, value in values.items():
        if isinstance(value, dict) and value and f"{prefix}{name}" not in MAPPINGS:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


# Sections that hold names of the user's own.
MAPPINGS = (
    "dataset.user_columns",
    "dataset.item_columns",
    "dataset.event_columns",
    "dataset.dated_columns",
    "dataset.event_kinds",
    "features.offline_store",
    "serving.fusion_weights",
    *(f"ingest.source.{table}.columns" for table in ("events", "users", "items")),
)
# With every optional section, so that all of their keys are tried; some exclude each other.
DATASET = (
    "dataset={user_columns: {country: categorical, town: categorical, home_north: numeric, home_east: numeric}, "
    "item_columns: {kind: categorical, colour: categorical, north: numeric, east: numeric}, item_category: kind}"
)
BASES = (
    (
        DATASET,
        SPARCODE,
        MINED,
        "towers.dual_augmented={}",
        "towers.counterpart={source: statistic, user_fields: [country], item_fields: [kind]}",
        "dataset.user_statistics_of=[kind]",
        "dataset.item_statistics_of=[country]",
        "towers.id_buckets=4",
        "training.mobius={}",
        "ingest.hidden_past={before: 2024-05-01}",
    ),
    (DATASET, MINED, SPARSE, TAUGHT),
    (DATASET,),
    (DATASET, "towers.interests={}"),
)
# Values of keys that take names, which no type shows.
NAMES: dict[str, Any] = {
    "dataset.user_columns": {"country": "categorical", "town": "categorical", "age": "numeric"},
    "dataset.item_columns": {"kind": "categorical", "colour": "categorical", "price": "numeric"},
    "dataset.item_category": "colour",
    "dataset.item_family": "colour",
    "dataset.user_geo": ["home_north", "home_east"],
    "dataset.item_geo": ["north", "east"],
    "dataset.user_statistics_of": ["kind", "colour"],
    "dataset.item_statistics_of": ["country", "town"],
    "dataset.computed_features": ["user_weekend_events"],
    "dataset.event_columns": {"device": "categorical"},
    "dataset.dated_columns": {"discount": "numeric"},
    "ingest.hidden_past": {"before": "2024-05-01"},
    "ingest.source.dated": {"path": "promotions.csv"},
    "dataset.event_kinds": {"view": 0.1, "order": 1.0},
    "dataset.positive_kinds": ["order"],
    "dataset.history_kinds": ["order"],
    "features.offline_store": {"type": "file"},
    "index.form": "ip",
    "towers.history_encoder": "toy",
    "towers.last_place": True,
    "towers.history_settings": {"width": 3},
    "training.extra_losses": {"hard_in_batch": {"arguments": {"num_hard": 1, "margin": 0.1}}},
    "training.negatives.extra_sources": {"random": {"num": 3}},
    "serving.fusion_weights": {"repeat": 2.0},
    "serving.exclude_known": True,
    "sparse.fields": {"kind": 2.0},
    "serving.arms": [{"name": "a", "share": 1.0}],
    "serving.trusted_proxies": ["10.0.0.1"],
    "gates.skip": ["volume"],
    "towers.counterpart.user_fields": ["town"],
    "towers.counterpart.item_fields": ["colour"],
}
# Keys that only change together.
TOGETHER = {
    "training.negatives.impressions": {"training.negatives.num_impressions": 1},
    "training.negatives.num_impressions": {"training.negatives.impressions": "shown.parquet"},
    "ingest.source.kind": {"ingest.source": {"kind": "complete_journey"}},
    "towers.history_settings": {"towers.history_encoder": "toy"},
    "dataset.positive_kinds": {"dataset.event_kinds": {"view": 0.1, "order": 1.0}},
    "dataset.history_kinds": {
        "dataset.event_kinds": {"view": 0.1, "order": 1.0},
        "dataset.positive_kinds": ["order"],
    },
    "dataset.user_statistics_of": {"towers.counterpart.item_fields": ["kind", "colour"]},
    "dataset.item_statistics_of": {"towers.counterpart.user_fields": ["country", "town"]},
    "towers.counterpart.user_fields": {"dataset.item_statistics_of": ["town"]},
    "towers.counterpart.item_fields": {"dataset.user_statistics_of": ["colour"]},
    "towers.counterpart.source": {"dataset.user_statistics_of": [], "dataset.item_statistics_of": []},
}


def literals(schema: Any) -> Iterator[str]:
    """Every word that some key of the configuration takes."""
    if isinstance(schema, dict):
        yield from (word for word in schema.get("enum", []) if isinstance(word, str))
        for part in schema.values():
            yield from literals(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from literals(part)


WORDS = sorted(set(literals(Config.model_json_schema())))


def candidates(key: str, value: Any) -> Iterator[Any]:
    """Values that a key may take instead of its own."""
    if key in NAMES:
        yield NAMES[key]
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        yield from (value + 1, value - 1, value / 2, value * 1.5, 0.5)
    elif isinstance(value, list):
        yield from ([*value[:-1], *[last + 1 for last in value[-1:] if isinstance(last, int)]], [3], ["x"])
    elif isinstance(value, dict):
        yield {name: f"other_{column}" for name, column in value.items()}
    else:
        yield from ("2024-06-02", 3, 0.5, [0.1, 0.2, 0.3], "localhost:1", "2024-06-01-0f3c9a71")
    yield from (*WORDS, "x", "|")


def value_at(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values[part]
    return values


def changed_config(config: Config, key: str) -> Config | None:
    """The configuration with another value of one key; None where it accepts none."""
    plain = config.model_dump(mode="json")
    value = value_at(plain, key)
    for candidate in candidates(key, value):
        raw = copy.deepcopy(plain)
        for name, other in {key: candidate, **TOGETHER.get(key, {})}.items():
            *parents, last = name.split(".")
            section = value_at(raw, ".".join(parents)) if parents else raw
            if section is None:
                return None
            section[last] = other
        try:
            accepted = Config.model_validate(raw)
        except ValidationError:
            continue
        if value_at(accepted.model_dump(mode="json"), key) != value:
            return accepted
    return None


def reads(name: str, key: str, config: Config) -> bool:
    """Whether a step declares to read a key, or a section that holds it."""
    declared = as_read(pick(STEPS[name].sections, config))
    for section, value in declared.items():
        if section == key:
            return True
        if key.startswith(f"{section}."):
            try:
                value_at(value, key.removeprefix(f"{section}."))
            except KeyError:
                continue
            return True
    return False


def test_every_key_runs_the_steps_again_that_read_it_and_those_behind_them_and_no_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(HISTORY_ENCODERS, "toy", lambda width=1: lambda history: history.age_days)
    night = WarmStartPlan(None, is_warm_start=False, why="the first", parent_bundle=None)
    bases = [load(TABLES, base) for base in BASES]
    all_keys = dict.fromkeys(key for base in bases for key, _ in leaves(base.model_dump(mode="json")))
    # A section that one of them leaves out is tried key by key in another one.
    keys = [key for key in all_keys if not any(other.startswith(f"{key}.") for other in all_keys)]
    never_tried = []
    for key in keys:
        tries = [(base, changed_config(base, key)) for base in bases if has(base, key)]
        config, other = next(((base, changed) for base, changed in tries if changed is not None), (bases[0], None))
        if other is None:
            never_tried.append(key)
            continue
        for how in (None, night):
            before, after = (plan_of(one, night=how) for one in (config, other))
            assert [step.name for step in before] == [step.name for step in after], key
            names = [step.name for step in before]
            changed = [one.digest != two.digest for one, two in zip(before, after, strict=True)]
            together = [key, *TOGETHER.get(key, {})]
            first = next((at for at, name in enumerate(names) if any(reads(name, k, other) for k in together)), None)
            expected = [first is not None and at >= first for at in range(len(names))]
            assert dict(zip(names, changed, strict=True)) == dict(zip(names, expected, strict=True)), key
    assert ", ".join(never_tried) == ""


def has(config: Config, key: str) -> bool:
    try:
        value_at(config.model_dump(mode="json"), key)
    except (KeyError, TypeError):
        return False
    return True


def plan_of(config: Config, *, night: WarmStartPlan | None) -> list[Step]:
    paths = RunPaths(Path("runs") / config.name, config.as_of)
    return plan(config, paths, now=NOW, code_version="1", night=night)


@pytest.mark.parametrize("name", STEPS)
def test_a_step_is_handed_nothing_but_what_it_declares(name: str) -> None:
    sections = pick(STEPS[name].sections, load(TABLES, BASES[0]))
    held = {field.name for field in dataclasses.fields(sections)}
    assert held == set(keys_of(type(sections)))
    assert not any(isinstance(getattr(sections, field), Config) for field in held)


def test_changed_impressions_are_fitted_again(tmp_path: Path) -> None:
    shown = tmp_path / "shown.parquet"
    overrides = (f"training.negatives.impressions={shown}", "training.negatives.num_impressions=1")
    shown.write_bytes(b"first")
    before = planned(*overrides)
    assert first_changed(before, planned(*overrides)) is None
    shown.write_bytes(b"second one")
    assert first_changed(before, planned(*overrides)) == "train"


def test_of_exposures_only_the_days_before_the_cut_are_fitted_again(tmp_path: Path) -> None:
    overrides = (f"training.negatives.impressions={tmp_path / 'exposures'}", "training.negatives.num_impressions=1")
    cut = dt.datetime.combine(load(TABLES, overrides).as_of, dt.time(), dt.UTC).timestamp()

    def log(moment: float, name: str) -> None:
        exposure = Exposure(moment, "u1", "a", "v", "fused", 1, (), ["i1"])
        write_exposures(to_table([exposure]), tmp_path / "exposures" / f"day={exposure.day}" / name)

    log(cut - 1, "a-000000.parquet")
    before = planned(*overrides)
    log(cut, "a-000001.parquet")
    assert first_changed(before, planned(*overrides)) is None
    log(cut - 1, "a-000002.parquet")
    assert first_changed(before, planned(*overrides)) == "train"


def test_hard_negatives_are_mined_between_features_and_training_where_the_file_asks_for_them() -> None:
    always = [name for name in STEP_NAMES if name not in ("mine", "teach", "codes")]
    assert [step.name for step in planned()] == always
    assert [step.name for step in planned(MINED)] == sorted([*always, "mine"], key=STEP_NAMES.index)
    assert STEP_NAMES[:5] == ("ingest", "features", "mine", "teach", "train")


@pytest.mark.parametrize(
    ("override", "first"),
    [
        ("training.negatives.mined_band=[3, 9]", "mine"),
        ("training.negatives.mined_per_user=7", "mine"),
        ("training.negatives.near_duplicate=.5", "mine"),
        ("index.ef_search=99", "mine"),
        ("features.history_length=7", "features"),
        ("training.hard_model_weight=1", "train"),
        ("towers.embedding_dim=9", "train"),
        ("serving.retriever=repeat", "bundle"),
    ],
)
def test_with_mined_negatives_training_depends_on_how_they_are_found(override: str, first: str) -> None:
    assert first_changed(planned(MINED), planned(MINED, override)) == first


@pytest.mark.parametrize(
    ("override", "first"),
    [
        ("training.distillation.teacher=item_knn", "teach"),
        ("training.distillation.lists=7", "teach"),
        ("training.distillation.refresh_days=7", "teach"),
        ("training.example_days=99", "teach"),
        ("training.distillation.loss=rank", "train"),
        ("training.distillation.weight=.5", "train"),
        ("training.distillation.denoise_above=.9", "train"),
        ("training.epochs=9", "train"),
    ],
)
def test_how_a_teacher_is_imitated_makes_no_other_lists(override: str, first: str) -> None:
    assert "teach" in [step.name for step in planned(MINED, TAUGHT)]
    assert first_changed(planned(MINED, TAUGHT), planned(MINED, TAUGHT, override)) == first


def test_changed_scores_of_a_teacher_are_read_again(tmp_path: Path) -> None:
    scores = tmp_path / "scores.parquet"
    asked = f"training.distillation={{teacher: {scores}}}"
    scores.write_bytes(b"first")
    before = planned(asked)
    assert first_changed(before, planned(asked)) is None
    scores.write_bytes(b"second one")
    assert first_changed(before, planned(asked)) == "teach"


def test_an_arm_of_a_comparison_has_a_teacher_too() -> None:
    config = load(TABLES, ["training.distillation={}"])
    steps = plan(config, RunPaths(Path("runs/shop"), config.as_of, "taught-1"), now=NOW, code_version="1")
    assert [step.name for step in steps][2:4] == ["teach", "train"]


def test_sparcodes_tables_are_made_between_the_index_and_the_bundle_where_it_is_configured() -> None:
    names = [step.name for step in planned(SPARCODE)]
    assert names == [name for name in STEP_NAMES if name not in ("mine", "teach")]
    assert names[names.index("index") :] == ["index", "codes", "second_look", "bundle", "publish", "evaluate"]


@pytest.mark.parametrize(
    ("override", "first"),
    [
        ("sparcode.codes=9", "train"),
        ("sparcode.learning_rate=.5", "train"),
        ("sparcode.posting_cap=9", "codes"),
        ("sparcode.target_recall=.5", "codes"),
        ("serving.retriever=repeat", "bundle"),
    ],
)
def test_how_tables_are_cut_is_not_fitted_again(override: str, first: str) -> None:
    assert first_changed(planned(SPARCODE), planned(SPARCODE, override)) == first


def test_an_arm_of_a_comparison_mines_nothing_by_itself() -> None:
    config = load(TABLES, [MINED])
    steps = plan(config, RunPaths(Path("runs/shop"), config.as_of, "hard-1"), now=NOW, code_version="1")
    assert "mine" not in [step.name for step in steps]


def test_negatives_that_are_mined_again_undo_the_records_of_what_was_fitted_with_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As after `twinspire mine --force`: the digests are the same, and the negatives come from another fit.
    monkeypatch.setattr("beam_jobs.steps.mine", lambda sections, beam, paths: "mined")
    steps = {step.name: step for step in planned(MINED)}
    for step in steps.values():
        step.records.mkdir(parents=True, exist_ok=True)
        (step.records / f"{step.name}.json").write_text("{}")
    run_step(steps["mine"])
    kept = {name for name, step in steps.items() if (step.records / f"{name}.json").exists()}
    assert kept == {"ingest", "features", "mine"}


def test_the_moment_of_the_run_alone_changes_nothing() -> None:
    assert first_changed(planned(), planned(now=NOW + dt.timedelta(days=1))) is None


def test_another_version_of_the_code_runs_everything_again() -> None:
    assert first_changed(planned(), planned(code_version="2")) == "ingest"


def test_a_new_or_changed_source_file_is_read_again(tmp_path: Path) -> None:
    before = planned()
    orders = tmp_path / "data" / "my_shop" / "orders"
    os.utime(orders / "may.csv", ns=(1, 1))
    touched = planned()
    assert first_changed(before, touched) == "ingest"
    (orders / "june.csv").write_text("customer,article,ordered_at\n")
    assert first_changed(touched, planned()) == "ingest"


def test_records_shared_by_all_days_are_written_once() -> None:
    """Other days' tables in the same folder must not pass for those of this day."""
    today, tomorrow = planned(), planned("as_of=2024-06-02")
    shared = {one.name: one.records == other.records for one, other in zip(today, tomorrow, strict=True)}
    assert shared == {step.name: step.name == "ingest" for step in today}


def test_a_published_bundle_of_another_day_does_not_count() -> None:
    steps = {step.name: step for step in planned()}
    bundles = Path("runs") / "my_shop" / "bundles"
    bundles.mkdir(parents=True)
    assert not steps["bundle"].is_current()
    written = Path("runs") / "my_shop" / "steps" / "2024-06-01" / "bundle.txt"
    written.parent.mkdir(parents=True)
    written.write_text("2024-06-01-00000000")
    assert not steps["bundle"].is_current()
    assert not steps["publish"].is_current()
    for name in ("2024-06-01-00000000", "2024-06-01-11111111", "2024-06-02-00000000"):
        (bundles / name).mkdir()
    # Another bundle of the day too: the night's own has to be the one that is served.
    for name, is_current in (
        ("2024-06-01-00000000", True),
        ("2024-06-01-11111111", False),
        ("2024-06-02-00000000", False),
    ):
        (bundles / "current").unlink(missing_ok=True)
        (bundles / "current").symlink_to(name)
        assert steps["publish"].is_current() is is_current


def test_online_features_that_were_not_filled_to_the_end_do_not_count() -> None:
    steps, version = {step.name: step for step in planned()}, "2024-06-01-00000000"
    root = Path("runs") / "my_shop"
    filled = root / "features" / "online" / version / "filled.txt"
    filled.parent.mkdir(parents=True)
    assert not steps["features"].is_current()
    (root / "steps" / "2024-06-01").mkdir(parents=True)
    (root / "steps" / "2024-06-01" / "features.txt").write_text(version)
    assert not steps["features"].is_current()
    filled.write_text("2024-06-01")
    assert steps["features"].is_current()


def test_the_paths_of_a_day_lie_below_its_dataset() -> None:
    paths = RunPaths(Path("runs/shop"), dt.date(2024, 6, 1))
    assert paths.pairs == Path("runs/shop/features/snapshots/pairs/2024-06-01.parquet")
    assert paths.catalogue(dt.date(2024, 5, 25)) == Path("runs/shop/features/catalogue/2024-05-25")
    of_the_day = (paths.model, paths.vectors, paths.index, paths.report, paths.steps)
    assert [str(path) for path in of_the_day] == [
        f"runs/shop/{folder}/2024-06-01" for folder in ("models", "vectors", "index", "reports", "steps")
    ]


def test_a_night_publishes_after_its_gates_and_what_is_made_before_the_fit_is_that_of_a_plain_run() -> None:
    night = WarmStartPlan(
        dt.date(2024, 5, 31), is_warm_start=True, why="warm start", parent_bundle="2024-05-31-00000000"
    )
    steps = planned(night=night)
    left_out = {"mine", "teach", "codes"}
    assert [step.name for step in steps] == [name for name in NIGHT_STEP_NAMES if name not in left_out]
    assert [step.name for step in steps][-3:] == ["bundle", "gates", "publish"]
    before = {step.name: step.digest for step in planned()}
    assert [step.digest == before[step.name] for step in steps[:3]] == [True, True, False]


@pytest.mark.parametrize(
    "change",
    [
        {"parent_bundle": "2024-05-31-11111111"},
        {"is_warm_start": False},
        {"parent": dt.date(2024, 5, 30)},
        {"parent": None},
    ],
)
def test_a_fit_from_another_parent_is_made_again(change: dict[str, object]) -> None:
    night = WarmStartPlan(
        dt.date(2024, 5, 31), is_warm_start=True, why="warm start", parent_bundle="2024-05-31-00000000"
    )
    assert first_changed(planned(night=night), planned(night=replace(night, **change))) == "train"  # type: ignore[arg-type]


def test_how_nights_are_fitted_is_read_by_the_fit() -> None:
    night = WarmStartPlan(None, is_warm_start=False, why="the first", parent_bundle=None)
    assert first_changed(planned(night=night), planned("daily.epochs=2", night=night)) == "train"
    assert first_changed(planned(night=night), planned("daily.keep_exposure_days=9", night=night)) is None


def test_gates_run_again_where_their_report_is_of_another_bundle() -> None:
    gates = next(step for step in planned(night=WarmStartPlan(None, is_warm_start=False, why="", parent_bundle=None))
                 if step.name == "gates")  # fmt: skip
    config = load(TABLES)
    paths = RunPaths(Path("runs") / config.name, config.as_of)
    [report] = gates.outputs

    def passes() -> str:
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text('{"bundle": "2024-06-01-00000000"}')
        return "passed"

    run_step(replace(gates, action=passes))
    for version, is_done in (("2024-06-01-00000000", True), ("2024-06-01-11111111", False)):
        (paths.bundles / version).mkdir(parents=True)
        paths.bundle_name.write_text(version)
        assert (finished(gates) is not None) == is_done
