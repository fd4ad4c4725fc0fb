"""The configuration refuses invalid values, and its messages name the valid ones."""

from __future__ import annotations

import ast
import datetime as dt
import inspect
import textwrap
import typing
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from pydantic import BaseModel

from artefacts.config import ConfigError
from twinspire.config import Config
from twinspire.load_config import dump, load

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
JOURNEY = next(path for path in CONFIGS if path.name == "complete_journey.yaml")
TABLES = next(path for path in CONFIGS if path.name == "tables_example.yaml")


def models_in(kind: object) -> Iterator[type[BaseModel]]:
    """Every model that a type speaks of."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
        for field in kind.model_fields.values():
            yield from models_in(field.annotation)
    for part in typing.get_args(kind):
        yield from models_in(part)


def fields_without_docstring(model: type[BaseModel]) -> list[str]:
    """Annotated names of a class body that no string follows."""
    [definition] = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    assert isinstance(definition, ast.ClassDef)
    body = [*definition.body, ast.Pass()]
    return [
        statement.target.id
        for statement, after in pairwise(body)
        if isinstance(statement, ast.AnnAssign)
        and isinstance(statement.target, ast.Name)
        and not (isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant))
    ]


@pytest.mark.parametrize("model", sorted(set(models_in(Config)), key=lambda model: model.__name__))
def test_every_field_is_documented_frozen_and_closed(model: type[BaseModel]) -> None:
    assert fields_without_docstring(model) == []
    assert model.model_config.get("frozen")
    assert model.model_config.get("extra") == "forbid"


def test_the_walk_over_the_models_reaches_the_deepest() -> None:
    names = {model.__name__ for model in models_in(Config)}
    assert {"Config", "Schema", "TableFile", "MovieLensSource", "BeamConfig"} <= names


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_configuration_loads_and_comes_back_from_its_dump(path: Path, tmp_path: Path) -> None:
    config = load(path)
    again = tmp_path / "again.yaml"
    again.write_text(dump(config))
    assert load(again) == config
    assert load(again).digest() == config.digest()


def test_a_configuration_without_any_default_comes_back_from_its_dump(tmp_path: Path) -> None:
    config = load(
        TABLES,
        [
            "as_of=2031-02-03",
            "seed=5",
            "features={history_length: 7, user_refresh_days: 3, example_days: 50, online_store: redis}",
            "towers={embedding_dim: 5, factor_dim: 0, hidden_units: [9, 4], history_decay_days: 2.5}",
            "training={epochs: 4, log_q: none, examples: all, example_days: 44, keep_in_memory: false}",
            "serving={port: 0, retriever: popularity, fusion_weights: {popularity: 2.5}}",
            "evaluation={ks: [3], window_days: 2}",
            "beam={runner: DirectRunner, options: [--direct_num_workers=2]}",
        ],
    )
    again = tmp_path / "again.yaml"
    again.write_text(dump(config))
    assert load(again) == config


def test_the_digest_is_of_the_values_only() -> None:
    plain = load(JOURNEY)
    assert load(JOURNEY, ["training.epochs=6"]).digest() == plain.digest()
    assert load(JOURNEY, ["training.epochs=3"]).digest() != plain.digest()
    assert len(plain.digest()) == 12


def test_overrides_are_read_as_yaml_and_the_last_one_counts() -> None:
    config = load(
        TABLES,
        [
            "training.epochs=5",
            "training.epochs=7",
            "evaluation.ks=[1, 2]",
            "towers.history_decay_days=[null, 5]",
            "dataset.value_meaning=a=b",
            "ingest.source.events.columns.value=paid",
            "as_of=2024-02-29",
        ],
    )
    assert config.training.epochs == 7
    assert config.evaluation.ks == (1, 2)
    assert config.towers.history_decay_days == (None, 5.0)
    assert config.dataset.value_meaning == "a=b"
    assert config.ingest.source.kind == "tables"
    assert config.ingest.source.events.columns["value"] == "paid"
    assert config.as_of == dt.date(2024, 2, 29)


def test_an_override_reaches_into_a_section_that_the_file_leaves_empty(tmp_path: Path) -> None:
    path = tmp_path / "empty_section.yaml"
    path.write_text("name: shop\nas_of: 2024-01-01\ntraining:\ningest: {source: {kind: complete_journey}}\n")
    assert load(path, ["training.epochs=9"]).training.epochs == 9


@pytest.mark.parametrize(
    ("override", "unknown", "near"),
    [
        ("trainig.epochs=1", "trainig", "training"),
        ("training.epoch=1", "training.epoch", "epochs"),
        ("dataset.item_categry=brand", "dataset.item_categry", "item_category"),
        ("ingest.chunk_row=1", "ingest.chunk_row", "chunk_rows"),
        ("ingest.source.timestamp_units=s", "ingest.source.timestamp_units", "timestamp_unit"),
        ("ingest.source.users.delimeter=;", "ingest.source.users.delimeter", "delimiter"),
        ("ingest.source.events.colums={}", "ingest.source.events.colums", "columns"),
    ],
)
def test_an_unknown_key_at_any_depth_names_the_nearest_one(override: str, unknown: str, near: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(TABLES, [override])
    assert f"unknown key '{unknown}'; did you mean '{near}'? Valid here: " in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epochs=many", "training.epochs: Input should be a valid integer, unable to parse"),
        ("training.epochs=many", "(found 'many')"),
        ("training.epochs=0", "training.epochs: Input should be greater than or equal to 1 (found 0)"),
        ("training=3", "training: expected a section with keys, such as epochs, patience, batch_size (found 3)"),
        ("evaluation.ks=5", "evaluation.ks: expected a list (found 5)"),
        ("evaluation.ks=[]", "evaluation.ks: Tuple should have at least 1 item"),
        ("evaluation.ks=[0]", "evaluation.ks.0: Input should be greater than or equal to 1 (found 0)"),
        ("towers.temperature=.inf", "towers.temperature: Input should be a finite number (found inf)"),
        ("towers.hidden_units=[0]", "towers.hidden_units.0: Input should be greater than or equal to 1"),
        (
            "serving.retriever=best",
            "serving.retriever is 'best', expected one of: two_tower, exact, sparcode, cascade, sparse, hybrid, "
            "repeat, popularity, hnsw, fused",
        ),
        (
            "serving.arms=[{name: a, share: 1, retriever: poplarity}]",
            "serving.arms.0.retriever is 'poplarity', expected one of: two_tower, exact, sparcode, cascade, sparse, "
            "hybrid, repeat, popularity, hnsw, fused, second_look; did you mean 'popularity'?",
        ),
        (
            "serving.fusion_weights={fused: 1}",
            "serving.fusion_weights names 'fused', expected some of: two_tower, exact, sparcode, cascade, sparse, "
            "hybrid, repeat, popularity",
        ),
        ("serving.retriever=hybrid", "serving names the retriever hybrid, and sparse is null; set sparse: {} to build"),
        ("serving.fusion_weights={sparse: 1}", "serving names the retriever sparse, and sparse is null"),
        ("serving.cold_share=0.1", "serving.cold_share is 0.1, and sparse is null; set sparse: {} to build what fills"),
        ("sparse={fields: {flavour: 1}}", "sparse.fields names 'flavour', expected some of: item_name, department, "),
        ("sparse={b: 2}", "sparse.b: Input should be less than or equal to 1 (found 2)"),
        ("serving.fusion_weights={repeat: -1}", "serving.fusion_weights.repeat: Input should be greater than 0"),
        ("serving.fusion_weights={}", "at least 1 item"),
        ("serving.fusion_rank_constant=0", "serving.fusion_rank_constant: Input should be greater than 0 (found 0)"),
        ("serving.fusion_rank_constant=best", "serving.fusion_rank_constant: Input should be a valid number"),
        ("serving.exclude_known=maybe", "serving.exclude_known: Input should be a valid boolean"),
        ("serving.choice_metric=auc", "serving.choice_metric: Input should be 'ndcg', 'recall' or 'mrr'"),
        ("ingest.source={}", "expected a key `kind` with one of: complete_journey, lightgcn, movielens, tables"),
        ("ingest.source.kind=excel", "'complete_journey', 'lightgcn', 'movielens', 'tables'"),
        ("name=My Shop", "name: String should match pattern '^[a-z0-9_]+$' (found 'My Shop')"),
        ("as_of=2017-12-01 12:00:00", "as_of: expected a day such as 2017-12-01, without a time"),
        ("as_of=2017-12-01T00:00:00Z", "as_of: expected a day such as 2017-12-01, without a time"),
        ("as_of=20171201", "as_of: expected a day such as 2017-12-01, without a time"),
        ("as_of=tomorrow", "as_of: expected a day such as 2017-12-01, without a time"),
        ("dataset.item_category=colour", "item_category is 'colour', which is not an item column"),
        ("dataset.user_columns.item_id=numeric", "column 'item_id' is used twice"),
        ("training.example_days=731", "training.example_days is 731, more than features.example_days, 730"),
        (
            "training.validation_days=730",
            "training.validation_days is 730, expected less than training.example_days, 730",
        ),
        ("serving.fusion_depth=99", "serving.fusion_depth is 99, expected at least the longest of evaluation.ks, 100"),
    ],
)
def test_a_value_that_cannot_be_used_is_named_with_what_was_expected(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(JOURNEY, [override])
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{JOURNEY}: ")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epochs", "--set 'training.epochs': expected key=value, such as training.epochs=3"),
        ("=3", "--set '=3': expected key=value"),
        ("training..epochs=3", "expected key=value"),
        ("name.short=x", "--set 'name.short=x': 'name' holds a value, not a section"),
        ("evaluation.ks=[1", "--set 'evaluation.ks=[1': the value is not valid YAML"),
    ],
)
def test_an_invalid_override_is_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(JOURNEY, [override])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name: [", "not valid YAML"),
        (b"", "holds NoneType, expected a mapping with the keys name, as_of, ingest"),
        (b"- name", "holds list, expected a mapping"),
        (b"name: caf\xe9", "cannot be read as a text file"),
        (b"name: shop\nname: other\n", "key 'name' is given twice"),
        (b"name: shop\n", "as_of: Field required"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert message in str(caught.value)


def test_several_mistakes_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load(JOURNEY, ["training.epoch=1", "towers.temperature=0"])
    assert "did you mean 'epochs'" in str(caught.value)
    assert "towers.temperature: Input should be greater than 0 (found 0)" in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: no such file; pass --config"):
        load(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot be read as a text file"):
        load(tmp_path)


def test_a_file_that_extends_another_one_has_what_is_different(tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_text(TABLES.read_text())
    (tmp_path / "tuned").mkdir()
    tuned = tmp_path / "tuned" / "shop.yaml"
    tuned.write_text("extends: ../shop.yaml\ntraining: {batch_size: 77, negatives: {num_uniform: 7}}\n")
    base, found = load(TABLES), load(tuned)
    assert (found.training.batch_size, found.training.negatives.num_uniform) == (77, 7)
    assert found.model_copy(update={"training": base.training}) == base
    again = tmp_path / "again.yaml"
    again.write_text("extends: tuned/shop.yaml\ntraining: {batch_size: 78}\n")
    assert load(again, ["seed=3"]).training == found.training.model_copy(update={"batch_size": 78})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: ./circle.yaml", r"circle.yaml: extends itself, by way of circle.yaml"),
        ("extends: [shop.yaml]", r"circle.yaml: extends is \['shop.yaml'\], expected the name of a YAML file"),
        ("extends: nowhere.yaml", r"nowhere.yaml: no such file"),
    ],
)
def test_a_file_that_extends_nothing_to_build_on_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "circle.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load(tmp_path / "circle.yaml")
