"""The fit that hard negatives are mined with, and the business values that the index step reads."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from artefacts.config import pick
from artefacts.paths import RunPaths
from beam_jobs.config import IndexSections, MineSections
from beam_jobs.steps import index_catalogue, mine, previous_fit
from features.examples import NEGATIVES_SCHEMA
from features.ids import IdMap
from serving.retrieval.index import INDEXES, read_shape
from serving.retrieval.vectors import vector_schema
from serving.retrieval.weights import load_weights, weighted
from twinspire.config import Config

TODAY, YESTERDAY = dt.date(2024, 6, 2), dt.date(2024, 6, 1)
NUM_USERS, NUM_ITEMS, DIMENSION = 5, 40, 6


def unit(num_rows: int, seed: int) -> npt.NDArray[np.float32]:
    vectors = np.random.default_rng(seed).normal(size=(num_rows, DIMENSION))
    scaled: npt.NDArray[np.float32] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return scaled


def configured(**index: object) -> Config:
    return Config.model_validate(
        {
            "name": "shop",
            "as_of": TODAY,
            "ingest": {"source": {"kind": "complete_journey"}},
            "training": {"negatives": {"mined_band": [3, 12], "mined_per_user": 4, "near_duplicate": 1.0}},
            "evaluation": {"ks": [10]},
            "index": {"num_queries": 5, **index},
        }
    )


def build_index_of(config: Config, paths: RunPaths) -> str:
    return index_catalogue(pick(IndexSections, config), config.beam, paths)


def mine_with(config: Config, paths: RunPaths) -> str:
    return mine(pick(MineSections, config), config.beam, paths)


@pytest.fixture
def fit(tmp_path: Path) -> Callable[..., RunPaths]:
    """Writes vectors, catalogue and pairs of a day, and builds its index."""

    def fit(day: dt.date, *, prices: list[float | None] | None = None, **index: object) -> RunPaths:
        paths = RunPaths(tmp_path, day)
        for name, vectors in (("items", unit(NUM_ITEMS, day.day)), ("users", unit(NUM_USERS, day.day + 50))):
            (paths.vectors / name).mkdir(parents=True)
            listed = pa.FixedSizeListArray.from_arrays(vectors.ravel(), DIMENSION)
            table = pa.table([pa.array(np.arange(len(vectors))), listed], schema=vector_schema(DIMENSION))
            pq.write_table(table, paths.vectors / name / "vectors-00000-of-00001.parquet")
        paths.catalogue(day).mkdir(parents=True)
        item_ids = pa.array([f"i{number}" for number in range(NUM_ITEMS)])
        priced = pa.array(prices or [1.0] * NUM_ITEMS, pa.float32())
        events = pa.array([0 if number == 7 else 3 for number in range(NUM_ITEMS)])
        items = pa.table({"item_id": item_ids, "item_price": priced, "item_num_events": events})
        pq.write_table(items, paths.catalogue(day) / "items.parquet")
        users = pa.table({"user_id": [f"u{number}" for number in range(NUM_USERS)]})
        pq.write_table(users, paths.catalogue(day) / "users.parquet")
        paths.pairs.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"user_id": ["u0", "u1"], "item_id": ["i3", "i5"]}), paths.pairs)
        paths.model.mkdir(parents=True)
        (paths.model / "parts.json").write_text(json.dumps([4, 2]))
        config = configured(**index).model_copy(update={"as_of": day})
        build_index_of(config, paths)
        return paths

    return fit


def mined(paths: RunPaths) -> pa.Table:
    table = pq.read_table(paths.mined, schema=NEGATIVES_SCHEMA)
    return table.sort_by([("user_id", "ascending"), ("rank", "ascending")])


def test_the_fit_of_the_same_day_comes_before_earlier_ones_and_later_ones_never(
    fit: Callable[..., RunPaths], tmp_path: Path
) -> None:
    tomorrow = fit(TODAY + dt.timedelta(days=1))
    with pytest.raises(ValueError, match=r"no fit of 2024-06-02 or before .* run once with training\.negatives"):
        previous_fit(RunPaths(tmp_path, TODAY))
    fit(YESTERDAY)
    assert previous_fit(RunPaths(tmp_path, TODAY)).as_of == YESTERDAY
    fit(TODAY)
    assert previous_fit(RunPaths(tmp_path, TODAY)).as_of == TODAY
    assert previous_fit(tomorrow).as_of == TODAY + dt.timedelta(days=1)


def test_a_half_finished_fit_is_passed_over(fit: Callable[..., RunPaths], tmp_path: Path) -> None:
    fit(YESTERDAY)
    (fit(TODAY).index / "index.hnsw").unlink()
    (tmp_path / "vectors" / ".2024-06-02.tmp").mkdir()
    (tmp_path / "vectors" / "not-a-d-ay").mkdir()
    assert previous_fit(RunPaths(tmp_path, TODAY)).as_of == YESTERDAY


def test_an_index_over_other_vectors_than_those_of_its_fit_is_passed_over(
    fit: Callable[..., RunPaths], tmp_path: Path
) -> None:
    fit(YESTERDAY)
    index = fit(TODAY).index / "item_vectors.npy"
    # As when a second fit of the day was broken off between its vectors and its index.
    np.save(index, np.load(index)[:, ::-1])
    assert previous_fit(RunPaths(tmp_path, TODAY)).as_of == YESTERDAY


def test_mining_uses_yesterdays_lists_and_todays_known_items(fit: Callable[..., RunPaths], tmp_path: Path) -> None:
    fit(YESTERDAY)
    today = RunPaths(tmp_path, TODAY)
    # Since yesterday u0 has met more.
    known = {"user_id": ["u0"] * 3, "item_id": ["i3", "i4", "i9"]}
    pq.write_table(pa.table(known), today.pairs)
    outcome = mine_with(configured(ef_search=NUM_ITEMS), today)
    assert outcome == "20 hard negatives of 5 users from ranks 3 to 12 of the fit of 2024-06-01"
    scores = unit(NUM_USERS, YESTERDAY.day + 50) @ unit(NUM_ITEMS, YESTERDAY.day).T
    scores[0, [3, 4, 9]] = -2
    for row in mined(today).to_pylist():
        user, item = int(row["user_id"][1:]), int(row["item_id"][1:])
        assert (scores[user] > scores[user, item]).sum() + 1 == row["rank"]


def test_hardness_is_the_cosine_where_the_index_is_weighted(fit: Callable[..., RunPaths]) -> None:
    prices = np.exp(np.random.default_rng(1).normal(0, 1, NUM_ITEMS)).tolist()
    weighted_paths = fit(TODAY, prices=prices, weight="value", weight_power=1.0)
    mine_with(configured(), weighted_paths)
    by_weighted = mined(weighted_paths)
    scores = unit(NUM_USERS, TODAY.day + 50) @ unit(NUM_ITEMS, TODAY.day).T
    scores[0, 3] = scores[1, 5] = -2
    for row in by_weighted.to_pylist():
        user, item = int(row["user_id"][1:]), int(row["item_id"][1:])
        assert (scores[user] > scores[user, item]).sum() + 1 == row["rank"]


def test_a_catalogue_without_these_ranks_is_refused_and_leaves_no_folder(fit: Callable[..., RunPaths]) -> None:
    paths = fit(TODAY)
    config = configured()
    negatives = config.training.negatives.model_copy(update={"mined_band": (101, 500)})
    config = config.model_copy(update={"training": config.training.model_copy(update={"negatives": negatives})})
    with pytest.raises(ValueError, match=r"mined_band is \(101, 500\), and none of 5 users has an item there among 40"):
        mine_with(config, paths)
    assert not paths.mined.exists()


def test_mined_negatives_lie_next_to_the_other_artefacts_of_a_fit() -> None:
    assert RunPaths(Path("runs/shop"), TODAY).mined == Path("runs/shop/mined/2024-06-02")
    assert RunPaths(Path("runs/shop"), TODAY, "hard").mined == Path("runs/shop/arms/hard/mined/2024-06-02")


def test_the_index_ranks_by_tempered_values_where_they_are_configured(fit: Callable[..., RunPaths]) -> None:
    prices = np.exp(np.random.default_rng(1).normal(0, 1, NUM_ITEMS))
    prices[7] = 0
    paths = fit(TODAY, prices=prices.tolist(), weight="value", weight_power=0.5)
    weights = load_weights(paths.index / "item_weights.npy", num_items=NUM_ITEMS)
    # Item 7 has no events: it is worth the median of the others, not nothing.
    others = np.delete(prices, 7)
    assert weights[7] == pytest.approx((np.median(others) / others.max()) ** 0.5, rel=1e-5)
    assert weights[np.argsort(prices)[-1]] == 1
    report = json.loads((paths.index / "index_report.json").read_text())
    assert (report["parts"], report["form"]) == ([4, 2], "augmented")
    vectors = np.load(paths.index / "item_vectors.npy")
    index = INDEXES[report["form"]].load(paths.index / "index.hnsw", weighted(vectors, weights))
    queries = unit(NUM_USERS, TODAY.day + 50)
    rows, _ = index.search(queries, k=5, ef=NUM_ITEMS)
    expected = np.argsort(-(queries @ vectors.T) * weights, axis=1)[:, :5]
    np.testing.assert_array_equal(rows, expected)


def withdraw(paths: RunPaths, *items: str) -> None:
    """Has the tables say that some items left the source's table; the fit has an encoder with the ids."""
    paths.tables.mkdir(exist_ok=True)
    pq.write_table(pa.table({"item_id": items}), paths.tables / "withdrawn_items.parquet")
    (paths.model / "encoder").mkdir()
    for tower, number in (("user", NUM_USERS), ("item", NUM_ITEMS)):
        ids = IdMap([f"{tower[0]}{row}" for row in range(number)])
        ids.save(paths.model / "encoder" / f"{tower}_ids.parquet")


@pytest.mark.parametrize("index", [{}, {"weight": "value", "weight_power": 1.0}])
def test_items_that_left_the_table_are_in_no_index_and_are_no_negatives(
    fit: Callable[..., RunPaths], index: dict[str, object]
) -> None:
    prices = np.exp(np.random.default_rng(1).normal(0, 1, NUM_ITEMS)).tolist()
    paths = fit(TODAY, prices=prices, **index)
    assert not (paths.index / "withdrawn.npy").exists()
    assert read_shape(paths.index / "index.hnsw")[0] == NUM_ITEMS
    # "i99" came after the fit.
    withdraw(paths, "i30", "i2", "i99", "i17")
    build_index_of(configured(**index).model_copy(update={"as_of": TODAY}), paths)
    assert np.load(paths.index / "withdrawn.npy").tolist() == [2, 17, 30]
    assert read_shape(paths.index / "index.hnsw")[0] == NUM_ITEMS - 3
    mine_with(configured(ef_search=NUM_ITEMS), paths)
    scores = unit(NUM_USERS, TODAY.day + 50) @ unit(NUM_ITEMS, TODAY.day).T
    scores[0, 3] = scores[1, 5] = scores[:, [2, 17, 30]] = -2
    for row in mined(paths).to_pylist():
        user, item = int(row["user_id"][1:]), int(row["item_id"][1:])
        assert item not in (2, 17, 30)
        assert (scores[user] > scores[user, item]).sum() + 1 == row["rank"]


def test_a_catalogue_without_offered_items_is_refused_with_a_message(fit: Callable[..., RunPaths]) -> None:
    paths = fit(TODAY)
    withdraw(paths, *(f"i{number}" for number in range(NUM_ITEMS)))
    with pytest.raises(ValueError, match="all 40 items of the catalogue are withdrawn, expected at least one"):
        build_index_of(configured().model_copy(update={"as_of": TODAY}), paths)


def test_a_margin_must_be_a_column_of_the_items(fit: Callable[..., RunPaths]) -> None:
    with pytest.raises(ValueError, match=r"items\.parquet: has no numeric column 'margin', which index\.weight names"):
        fit(TODAY, weight="margin")


def test_the_margin_of_each_item_is_its_weight(fit: Callable[..., RunPaths]) -> None:
    paths = fit(TODAY)
    items = paths.catalogue(TODAY) / "items.parquet"
    margins = np.linspace(0.5, 2, NUM_ITEMS)
    pq.write_table(pq.read_table(items).append_column("margin", pa.array(margins, pa.float32())), items)
    outcome = build_index_of(configured(weight="margin", weight_power=1.0), paths)
    assert "weighted by margin^1, 0 of 40 missing" in outcome
    weights = load_weights(paths.index / "item_weights.npy", num_items=NUM_ITEMS)
    np.testing.assert_allclose(weights[1:], margins[1:] / 2, rtol=1e-5)


def test_a_fit_whose_features_were_rebuilt_for_other_ids_is_mined_by_the_ids_of_its_encoder(
    fit: Callable[..., RunPaths],
) -> None:
    yesterday = fit(YESTERDAY)
    expected = mined_of(yesterday)
    (yesterday.model / "encoder").mkdir()
    for tower, number in (("user", NUM_USERS), ("item", NUM_ITEMS)):
        ids = IdMap([f"{tower[0]}{row}" for row in range(number)])
        ids.save(yesterday.model / "encoder" / f"{tower}_ids.parquet")
    shutil.rmtree(yesterday.features / "catalogue")
    assert mined_of(yesterday).equals(expected)


def mined_of(yesterday: RunPaths) -> pa.Table:
    """Negatives of today, mined with yesterday's fit."""
    today = RunPaths(yesterday.root, TODAY)
    shutil.copyfile(yesterday.pairs, today.pairs)
    mine_with(configured(), today)
    return mined(today)
