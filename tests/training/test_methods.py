"""Every method trains by configuration alone and makes towers of its own."""

from __future__ import annotations

import datetime as dt
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from artefacts.config import pick
from artefacts.paths import RunPaths
from beam_jobs.config import IndexSections, MineSections
from beam_jobs.snapshot_days import write_snapshots
from beam_jobs.steps import embed_catalogue, index_catalogue, mine
from features.config import FeaturesSections, IngestSections
from features.encoding import Encoder
from features.steps import make_features, make_tables
from serving.retrieval.exported_tower import ExportedTower
from serving.retrieval.vectors import PARTS_FILE
from training.config import StreamingConfig, TeachSections, TrainSections
from training.data.training_data import catalogue_inputs
from training.held_out import Parent, state_file
from training.negatives.sampling_bias import StreamingFrequency
from training.steps import train
from training.teach import teach
from training.warm_start import load_state
from twinspire.config import Config
from twinspire.load_config import load

pytestmark = pytest.mark.slow

FIRST, NUM_DAYS, NUM_USERS, NUM_ITEMS = dt.date(2024, 1, 1), 14, 24, 40
AS_OF = FIRST + dt.timedelta(days=NUM_DAYS)
NOW = dt.datetime(2024, 3, 1, tzinfo=dt.UTC)
CONFIG = """
name: stall
as_of: {as_of}
dataset:
  user_columns: {{country: categorical}}
  item_columns: {{kind: categorical, title: text}}
  item_category: kind
ingest:
  source:
    kind: tables
    events: {{path: {data}/orders.csv}}
    users: {{path: {data}/users.csv}}
    items: {{path: {data}/items.csv}}
features: {{history_length: 6, example_days: 12, join_days: 12}}
towers: {{embedding_dim: 6, factor_dim: 3, text_length: 4, text_buckets: 16, temperature: 0.2}}
training:
  epochs: 2
  batch_size: 32
  optimizer: adagrad
  learning_rate: 0.1
  negatives: {{num_uniform: 6}}
  example_days: 12
  shuffle_days: 6
  validation_days: 0
index: {{m: 4, ef_construction: 40, ef_search: 40, num_queries: 10, min_recall: 0.01}}
serving: {{max_fetch: 40, fusion_depth: 10}}
evaluation: {{ks: [5]}}
beam: {{shards: 1}}
"""

MINED = "training.negatives.easy_per_hard=20"
TAUGHT = "training.distillation={temperature: 0.5, refresh_days: 3, lists: 10}"
COUNTERPART = "towers.counterpart={user_fields: [country], item_fields: [kind]}"
STATISTIC = [
    COUNTERPART,
    "towers.counterpart.source=statistic",
    "dataset.user_statistics_of=[kind]",
    "dataset.item_statistics_of=[country]",
]
SELF_ATTENTION = [
    "towers.history_encoder=self_attention",
    "towers.history_settings={blocks: 2, heads: 2, dropout: 0.1, length: 4, means: [null, 7]}",
    "training.positions=3",
    "training.optimizer=adam",
    "training.learning_rate=0.01",
]
MANY = [
    MINED,
    COUNTERPART,
    "towers.dual_augmented={}",
    "towers.hidden_units=[8]",
    "towers.id_buckets=3",
    "towers.id_dropout=0.3",
    "training.item_dropout=0.3",
    "training.log_q=khrylchenko2025",
    "training.negatives.queue_size=20",
]
"""Methods that go together, with a queue and hash buckets."""
METHODS: dict[str, list[str]] = {
    "dssm": ["towers.head=mlp", "towers.activation=tanh", "towers.hidden_units=[8]"],
    "id buckets": ["towers.id_buckets=3", "towers.id_dropout=0.3"],
    "khrylchenko": ["training.log_q=khrylchenko2025"],
    "streaming": ["training.frequency=streaming"],
    "item dropout": ["training.item_dropout=0.5"],
    "queue": ["training.negatives.queue_size=20"],
    "random": ["training.negatives.num_random=3"],
    "impressions": ["training.negatives.impressions={data}/shown.parquet", "training.negatives.num_impressions=2"],
    "hard in batch": ["training.negatives.num_hard_in_batch=2"],
    "mined": [MINED],
    "hard model": [MINED, "training.hard_model_weight=0.5"],
    "augmented": ["towers.dual_augmented={}"],
    "generated": [COUNTERPART, "towers.counterpart.decay=0.5"],
    "statistic": STATISTIC,
    "mobius": ["training.mobius={}"],
    "learned temperature": ["towers.learn_temperature=true"],
    "value": ["training.reward=value", "training.reward_power=0.5"],
    "positions": ["training.positions=5", "training.position_weight=0.5"],
    "attention": ["towers.history_encoder=attention", "towers.history_settings={heads: 2}", *SELF_ATTENTION[2:]],
    "gru": ["towers.history_encoder=gru", *SELF_ATTENTION[2:]],
    "self attention": SELF_ATTENTION,
    "self attention, mobius": [*SELF_ATTENTION, "training.mobius={}"],
    "self attention, hard model": [*SELF_ATTENTION, MINED, "training.hard_model_weight=0.5"],
    "self attention, sparcode": [*SELF_ATTENTION, "sparcode={codes: 8, interest_tokens: 2, epochs: 1}"],
    "self attention, combined": [
        *SELF_ATTENTION,
        *MANY,
        "training.validation_days=3",
    ],
    "interests": ["towers.interests={num: 3}", *SELF_ATTENTION[3:]],
    "interests of sessions": [
        "towers.interests={num: 2}",
        "towers.history_encoder=gru",
        "sparcode={codes: 8, interest_tokens: 2, epochs: 1}",
        *SELF_ATTENTION[3:],
    ],
    "interests, combined": [
        "towers.interests={num: 2, local_weight: 0.3}",
        "towers.history_encoder=self_attention",
        "towers.history_settings={blocks: 1, length: 4}",
        *MANY,
        "training.negatives.num_hard_in_batch=1",
        "training.validation_days=3",
        *SELF_ATTENTION[3:],
    ],
    **{
        f"distillation, {loss}": [TAUGHT, f"training.distillation.loss={loss}"]
        for loss in ("kl", "reverse_kl", "margin_mse", "rank")
    },
    "distillation, combined": [
        "towers.interests={num: 2, local_weight: 0.3}",
        *MANY,
        TAUGHT,
        "training.distillation.denoise_above=0.5",
        "training.validation_days=3",
        *SELF_ATTENTION[3:],
    ],
    "distillation, hard model": [TAUGHT, *SELF_ATTENTION, MINED, "training.hard_model_weight=0.5"],
    "combined": [
        "towers.dual_augmented={}",
        COUNTERPART,
        "training.frequency=streaming",
        "training.negatives.queue_size=20",
        "training.negatives.num_hard_in_batch=1",
        "training.validation_days=3",
    ],
}


def features_at(config: Config, paths: RunPaths) -> str:
    """The step `features`: snapshots, then what is made of them."""
    sections = pick(FeaturesSections, config)
    written = write_snapshots(sections, config.beam, paths)
    return f"{written.outcome()}; {make_features(sections, paths)}"


@dataclass(frozen=True)
class Trained:
    """What a configuration gave.

    Attributes:
        model: Its folder.
        outcome: The line for people.
        reports: Of each phase.
        vectors: Of all users and of all items, as the exported towers give them.
    """

    model: Path
    outcome: str
    reports: dict[str, list[dict[str, Any]]]
    vectors: dict[str, np.ndarray]


def write_stall(folder: Path) -> None:
    """Users and items of two tastes; nearly all orders are of the user's own, dear and cheap ones."""
    rng = np.random.default_rng(5)
    folder.mkdir()
    orders = []
    for day in range(NUM_DAYS):
        for user in range(NUM_USERS):
            item = 2 * int(NUM_ITEMS / 2 * rng.random() ** 2) + (user + (rng.random() < 0.05)) % 2
            moment = dt.datetime.combine(FIRST + dt.timedelta(days=day), dt.time(int(rng.integers(24))), dt.UTC)
            orders.append((f"u{user}", f"i{item}", moment.isoformat(), round(1 + 20 * rng.random(), 2)))
    frame = pd.DataFrame(orders, columns=["user_id", "item_id", "timestamp", "value"])
    frame.to_csv(folder / "orders.csv", index=False)
    users = [(f"u{user}", ("NL", "DE", "FR")[user % 3]) for user in range(NUM_USERS)]
    pd.DataFrame(users, columns=["user_id", "country"]).to_csv(folder / "users.csv", index=False)
    items = [(f"i{item}", ("fruit", "tool")[item % 2], f"thing {item}") for item in range(NUM_ITEMS)]
    pd.DataFrame(items, columns=["item_id", "kind", "title"]).to_csv(folder / "items.csv", index=False)
    # The second half of the users was shown the other taste; one user and one item are not known.
    shown = [(f"u{user}", f"i{2 * place + 1 - user % 2}") for user in range(12, 25) for place in range(21)]
    pd.DataFrame(shown, columns=["user_id", "item_id"]).to_parquet(folder / "shown.parquet")


@pytest.fixture(scope="module")
def stall(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the data, its configuration, its tables and its features."""
    folder = tmp_path_factory.mktemp("stall")
    write_stall(folder / "data")
    file = folder / "stall.yaml"
    file.write_text(CONFIG.format(as_of=AS_OF, data=folder / "data"))
    config, paths = load(file, ["training.validation_days=3", *STATISTIC]), RunPaths(folder / "runs", AS_OF)
    make_tables(pick(IngestSections, config), paths, now=NOW)
    features_at(config, paths)
    return folder


@pytest.fixture(scope="module")
def trained(stall: Path) -> Callable[[str], Trained]:
    """What a method gave, by its name; each is trained once."""
    made: dict[str, Trained] = {}

    def fit(name: str) -> Trained:
        if name not in made:
            overrides = [override.replace("{data}", str(stall / "data")) for override in METHODS.get(name, [])]
            made[name] = train_one(stall, name, overrides)
        return made[name]

    return fit


@pytest.fixture(scope="module")
def mined(stall: Path, trained: Callable[[str], Trained]) -> Path:
    """Hard negatives from the lists of the plain fit."""
    trained("plain")
    config = load(stall / "stall.yaml", [MINED, "training.negatives.mined_band=[2, 30]"])
    paths = RunPaths(stall / "runs", AS_OF, "plain")
    embed_catalogue(config.beam, paths)
    index_catalogue(pick(IndexSections, config), config.beam, paths)
    mine(pick(MineSections, config), config.beam, paths)
    return paths.mined


def train_one(stall: Path, name: str, overrides: list[str]) -> Trained:
    config, paths = load(stall / "stall.yaml", overrides), RunPaths(stall / "runs", AS_OF, name)
    if MINED in overrides:
        shutil.copytree(RunPaths(stall / "runs", AS_OF, "plain").mined, paths.mined)
    if TAUGHT in overrides:
        teach(pick(TeachSections, config), paths)
    outcome = train(pick(TrainSections, config), paths)
    encoder = Encoder.load(paths.model / "encoder")
    inputs = catalogue_inputs(encoder, paths.catalogue(AS_OF))
    vectors = {
        tower: ExportedTower(paths.model / f"{tower}_tower.tflite").embed(rows)
        for tower, rows in zip(("user", "item"), inputs, strict=True)
    }
    return Trained(paths.model, outcome, json.loads((paths.model / "epochs.json").read_text()), vectors)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_trains_by_configuration_alone_and_makes_towers_of_its_own(
    name: str, trained: Callable[[str], Trained], mined: Path
) -> None:
    plain, found = trained("plain"), trained(name)
    best = [report["epoch"] for report in next(iter(found.reports.values())) if report["is_kept"]]
    assert [report["epoch"] for report in found.reports["final"]] == [*range(1, best[0] + 1)]
    for phase, reports in found.reports.items():
        losses = [report["loss"] for report in reports]
        assert losses == sorted(losses, reverse=True), phase
    for tower, vectors in found.vectors.items():
        assert len(vectors) == (NUM_USERS if tower == "user" else NUM_ITEMS)
        of_each = vectors.reshape(-1, found.vectors["item"].shape[1])
        np.testing.assert_allclose(np.linalg.norm(of_each, axis=1), 1, atol=1e-5)
    cosines, plain_cosines = (best_cosines(made) for made in (found, plain))
    assert np.abs(cosines - plain_cosines).max() > 1e-3
    assert cosines.std() > 1e-2


def best_cosines(made: Trained) -> np.ndarray:
    """Of each user and each item, by the nearest of the user's vectors."""
    items = made.vectors["item"]
    users = made.vectors["user"].reshape(NUM_USERS, -1, items.shape[1])
    return np.einsum("ukd,nd->ukn", users, items).max(axis=1)


def test_interests_are_reported_and_one_of_them_is_one_vector(stall: Path, trained: Callable[[str], Trained]) -> None:
    metrics = trained("interests, combined").reports["validation"][-1]["metrics"]
    assert metrics["interest_1_share"] + metrics["interest_2_share"] == pytest.approx(1)
    assert -1 <= metrics["interest_cosine"] <= 1
    one = train_one(stall, "one interest", ["towers.interests={num: 1}"])
    for tower, vectors in trained("plain").vectors.items():
        np.testing.assert_array_equal(one.vectors[tower], vectors)
    assert "interest_cosine" not in one.reports["final"][-1]["metrics"]


def test_the_same_configuration_gives_the_same_towers(stall: Path, trained: Callable[[str], Trained]) -> None:
    again = train_one(stall, "augmented again", METHODS["augmented"])
    for tower, vectors in trained("augmented").vectors.items():
        np.testing.assert_array_equal(again.vectors[tower], vectors)


def test_days_held_out_are_evaluated_before_all_days_are_fitted(trained: Callable[[str], Trained]) -> None:
    plain, found = trained("plain"), trained("combined")
    assert (list(plain.reports), list(found.reports)) == (["final"], ["validation", "final"])
    assert 0 < found.reports["validation"][-1]["metrics"]["recall_at_5"] < 1
    assert "of new items" not in plain.outcome
    assert "on 3 days held out, loss" in found.outcome


def test_how_many_examples_were_taught_and_what_was_dropped_is_told(
    trained: Callable[[str], Trained], mined: Path
) -> None:
    assert "of the examples have a list of the teacher" not in trained("plain").outcome
    assert re.search(r"\d+% of the examples have a list of the teacher(?!;)", trained("distillation, kl").outcome)
    told = (
        r"\d+% of the examples have a list of the teacher; the teacher drops \d+\.\d% of the mined negatives; of what"
    )
    assert re.search(told, trained("distillation, combined").outcome)


def streaming_estimate(model: Path) -> tuple[dict[str, float], int, int]:
    """Share of each item of a fit by its id, the steps that the estimate has seen, and those of the fit."""
    state, items = load_state(state_file(model, "")), Encoder.load(model / "encoder").item_ids
    settings = StreamingConfig().model_dump()
    estimate = StreamingFrequency(items.stable_numbers(), **settings)
    estimate.restore(state)
    rows = np.arange(1, len(items))
    draws = dict(zip(items.ids(rows), estimate.shares(rows).tolist(), strict=True))
    return draws, int(state["@frequency/step"]), int(state["@iterations"])


def test_the_streaming_estimate_is_saved_with_what_it_has_seen(trained: Callable[[str], Trained]) -> None:
    draws, seen, taken = streaming_estimate(trained("streaming").model)
    assert seen == taken > 0
    # The first items of each taste are the popular ones.
    assert sum(draws[f"i{item}"] for item in range(8)) > sum(draws[f"i{item}"] for item in range(32, 40))
    assert not [name for name in load_state(state_file(trained("plain").model, "")) if "frequency" in name]


def test_a_warm_start_keeps_the_streaming_estimate_although_rows_move(
    stall: Path, trained: Callable[[str], Trained], tmp_path: Path
) -> None:
    trained("streaming")
    night = Path(shutil.copytree(stall, tmp_path / "stall"))
    day_after = AS_OF + dt.timedelta(days=1)
    (night / "stall.yaml").write_text(CONFIG.format(as_of=day_after, data=night / "data"))
    items, orders = (pd.read_csv(night / "data" / f"{name}.csv") for name in ("items", "orders"))
    # New items come first, and all orders of the new day are of the first of them and of a known one.
    new = pd.DataFrame({"item_id": ["a0", "a1"], "kind": "fruit", "title": "new thing"})
    pd.concat([new, items]).to_csv(night / "data" / "items.csv", index=False)
    bought = [(f"u{user}", item, f"{AS_OF}T12:00:00+00:00", 3.0) for user in range(NUM_USERS) for item in ("a0", "i39")]
    pd.concat([orders, pd.DataFrame(bought, columns=orders.columns)]).to_csv(night / "data" / "orders.csv", index=False)
    overrides = [*METHODS["streaming"], "daily.replay_days=0", "daily.holdout_share=0"]
    config, paths = load(night / "stall.yaml", overrides), RunPaths(night / "runs", day_after, "streaming")
    make_tables(pick(IngestSections, config), paths, now=NOW)
    features_at(config, paths)
    parent = Parent.open(RunPaths(night / "runs", AS_OF, "streaming"))
    train(pick(TrainSections, config), paths, parent=parent, is_warm_start=True)

    (before, seen, taken), (after, seen_now, taken_now) = map(streaming_estimate, (parent.model, paths.model))
    rows = [Encoder.load(model / "encoder").item_ids.rows(["i0"])[0] for model in (parent.model, paths.model)]
    assert rows[0] != rows[1]
    # The cells are kept, and steps with them: the one new batch has two items only.
    assert seen_now - seen == taken_now - taken > 0
    # What has not come for long counts a little less with each step that it does not come in.
    untouched = sorted(before.keys() - {"i39"})
    kept, was = ([found[name] for name in untouched] for found in (after, before))
    np.testing.assert_allclose(kept, was, rtol=0.1)
    assert (np.array(kept) <= was).all()
    assert after["a0"] > 0
    assert after["a1"] == 0
    assert after["i39"] > before["i39"]


def test_parts_of_vectors_are_exported_separately(trained: Callable[[str], Trained]) -> None:
    for name, parts in (("plain", [6, 4]), ("hard model", [6, 6, 4]), ("mobius", [4, 4])):
        found = trained(name)
        assert json.loads((found.model / PARTS_FILE).read_text()) == parts
        assert found.vectors["user"].shape[1] == found.vectors["item"].shape[1] == sum(parts)


def test_a_temperature_is_fitted_only_where_asked(trained: Callable[[str], Trained]) -> None:
    temperatures = []
    for name in ("plain", "learned temperature"):
        state = load_state(state_file(trained(name).model, ""))
        temperatures.append(float(np.exp(state["log_temperature"])))
    assert temperatures[0] == pytest.approx(0.2)
    assert abs(temperatures[1] - 0.2) > 1e-3


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["training.negatives={{impressions: {data}/none.parquet, num_impressions: 1}}"],
            r"training\.negatives\.impressions is .*none\.parquet, which does not exist; expected a Parquet file with",
        ),
        (
            ["training.negatives={{impressions: {data}/views.parquet, num_impressions: 1}}"],
            r"views\.parquet has the columns visitor, item_id; expected user_id too",
        ),
        ([MINED], r"/mined/.*: has 0 of 1 files; mine the negatives again"),
    ],
)
def test_missing_negatives_are_reported_before_anything_is_fitted(
    stall: Path, overrides: list[str], message: str
) -> None:
    pd.DataFrame({"visitor": ["u1"], "item_id": ["i1"]}).to_parquet(stall / "data" / "views.parquet")
    config = load(stall / "stall.yaml", [override.format(data=stall / "data") for override in overrides])
    paths = RunPaths(stall / "runs", AS_OF, "nothing")
    with pytest.raises(ValueError, match=message):
        train(pick(TrainSections, config), paths)
    assert not paths.model.exists()
