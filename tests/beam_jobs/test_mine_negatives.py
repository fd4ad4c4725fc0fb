"""Mined negatives rank high in the model, lie in the configured band, and are never known items of the user."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing import test_pipeline
from apache_beam.testing.util import BeamAssertException, assert_that

from beam_jobs.mine_negatives import MineBlock, MineNegatives, MiningFiles, MiningSettings, run
from features.encoding import Encoder
from features.examples import read_negatives
from features.ids import IdMap
from features.schema import Schema
from serving.retrieval.distinct import build_index
from serving.retrieval.index import HnswIndex
from serving.retrieval.vectors import vector_schema

NUM_USERS, NUM_ITEMS, DIMENSION = 9, 60, 6
SETTINGS = MiningSettings(band=(4, 23), per_user=5, near_duplicate=1.0, ef=NUM_ITEMS, max_fetch=1000, seed=3)
Vectors = npt.NDArray[np.float32]
USERS = [f"u{number}" for number in range(NUM_USERS)]
ITEMS = [f"i{number}" for number in range(NUM_ITEMS)]


def unit(num_rows: int, seed: int) -> Vectors:
    vectors = np.random.default_rng(seed).normal(size=(num_rows, DIMENSION))
    scaled: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return scaled


USER_VECTORS, ITEM_VECTORS = unit(NUM_USERS, 1), unit(NUM_ITEMS, 2)
# User 0 has met nothing, user 8 all but twelve items, the others some.
KNOWN = {
    user: np.random.default_rng(user).permutation(NUM_ITEMS)[: [0, 3, 10, 1, 7, 2, 20, 5, NUM_ITEMS - 12][user]]
    for user in range(NUM_USERS)
}


def write_vectors(folder: Path, vectors: Vectors) -> Path:
    folder.mkdir()
    listed = pa.FixedSizeListArray.from_arrays(vectors.ravel(), DIMENSION)
    table = pa.table([pa.array(np.arange(len(vectors))), listed], schema=vector_schema(DIMENSION))
    pq.write_table(table, folder / "vectors-00000-of-00001.parquet")
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> MiningFiles:
    folder = tmp_path_factory.mktemp("fit")
    np.save(folder / "item_vectors.npy", ITEM_VECTORS)
    HnswIndex.build(ITEM_VECTORS, m=8, ef_construction=100, seed=1).save(folder / "index.hnsw")
    pq.write_table(pa.table({"user_id": USERS}), folder / "users.parquet")
    pq.write_table(pa.table({"item_id": ITEMS}), folder / "items.parquet")
    pairs = [(f"u{user}", f"i{item}") for user, items in KNOWN.items() for item in items]
    # Somebody and something that came after the fit.
    pairs += [("new user", "i1"), ("u1", "new item")]
    table = pa.table({"user_id": [pair[0] for pair in pairs], "item_id": [pair[1] for pair in pairs]})
    pq.write_table(table, folder / "pairs.parquet")
    return MiningFiles(
        user_vectors=write_vectors(folder / "users", USER_VECTORS),
        item_vectors=folder / "item_vectors.npy",
        index=folder / "index.hnsw",
        users=folder / "users.parquet",
        items=folder / "items.parquet",
        pairs=folder / "pairs.parquet",
    )


@pytest.fixture
def mine(files: MiningFiles, options: PipelineOptions, tmp_path: Path) -> Callable[..., dict[int, list[tuple]]]:
    """User -> list of (item, rank, score) in the order of ranks."""
    counter = iter(range(100))

    def mine(
        settings: MiningSettings = SETTINGS, *, block_size: int = 4, using: MiningFiles = files
    ) -> dict[int, list[tuple]]:
        out = tmp_path / str(next(counter))
        out.mkdir()
        run(MineNegatives(using, settings), num_users=NUM_USERS, block_size=block_size, out=out, options=options)
        table = pq.read_table(sorted(out.glob("*.parquet"))).sort_by([("user_id", "ascending"), ("rank", "ascending")])
        found: dict[int, list[tuple]] = {user: [] for user in range(NUM_USERS)}
        for row in table.to_pylist():
            found[int(row["user_id"][1:])].append((int(row["item_id"][1:]), row["rank"], row["score"]))
        return found

    return mine


def slow_list(user: int) -> list[int]:
    """All items that a user has not met, best first."""
    scores = ITEM_VECTORS @ USER_VECTORS[user]
    return [item for item in np.argsort(-scores, kind="stable") if item not in KNOWN[user]]


def test_items_come_with_their_rank_among_what_the_user_has_not_met(mine: Callable) -> None:
    for user, found in mine().items():
        ranked = slow_list(user)
        for item, rank, score in found:
            assert ranked[rank - 1] == item
            assert 4 <= rank <= 23
            assert score == pytest.approx(ITEM_VECTORS[item] @ USER_VECTORS[user], abs=1e-5)


def test_as_many_as_asked_come_where_the_band_has_them(mine: Callable) -> None:
    counts = [len(found) for found in mine().values()]
    assert counts == [5] * NUM_USERS
    # User 8 has 12 items left: ranks 4 to 12 are nine of them.
    everything = mine(replace(SETTINGS, per_user=100))
    assert [len(found) for found in everything.values()] == [20] * 8 + [9]
    assert [item for item, _, _ in everything[8]] == slow_list(8)[3:]


def test_a_known_item_never_comes(mine: Callable) -> None:
    for user, found in mine(replace(SETTINGS, band=(1, NUM_ITEMS), per_user=NUM_ITEMS)).items():
        assert sorted(item for item, _, _ in found) == sorted(set(range(NUM_ITEMS)) - set(KNOWN[user].tolist()))


def test_near_duplicates_of_known_items_are_dropped_and_leave_the_ranks_of_others(mine: Callable) -> None:
    whole = mine(replace(SETTINGS, per_user=100))
    for user, found in mine(replace(SETTINGS, per_user=100, near_duplicate=0.7)).items():
        cosines = ITEM_VECTORS @ ITEM_VECTORS[KNOWN[user]].T
        closest = cosines.max(axis=1) if len(KNOWN[user]) else np.full(NUM_ITEMS, -1)
        expected = [row[:2] for row in whole[user] if closest[row[0]] < 0.7]
        assert [row[:2] for row in found] == expected
    assert sum(map(len, mine(replace(SETTINGS, per_user=100, near_duplicate=0.7)).values())) < 169


@pytest.mark.parametrize("by_index", [True, False])
@pytest.mark.parametrize("max_fetch", [1000, 30])
def test_withdrawn_items_are_no_negatives_and_take_no_rank(
    mine: Callable, files: MiningFiles, tmp_path: Path, by_index: bool, max_fetch: int
) -> None:
    # The best of everybody, so that every list had some of them.
    withdrawn = np.unique([slow_list(user)[:4] for user in range(NUM_USERS)]).astype(np.int32)
    np.save(tmp_path / "withdrawn.npy", withdrawn)
    index = HnswIndex.build(ITEM_VECTORS, m=8, ef_construction=100, seed=1, left_out=withdrawn)
    index.save(tmp_path / "index.hnsw")
    used = replace(files, index=tmp_path / "index.hnsw" if by_index else None, withdrawn=tmp_path / "withdrawn.npy")
    whole = mine(replace(SETTINGS, band=(1, 20), per_user=100, max_fetch=max_fetch), using=used)
    for user, found in whole.items():
        expected = [item for item in slow_list(user) if item not in withdrawn][:20]
        assert [item for item, _, _ in found] == expected
        assert [rank for _, rank, _ in found] == list(range(1, len(expected) + 1))


@pytest.mark.parametrize("block_size", [1, NUM_USERS, 100])
def test_block_sizes_do_not_change_the_negatives(mine: Callable, block_size: int) -> None:
    expected = mine()
    for user, found in mine(block_size=block_size).items():
        assert [row[:2] for row in found] == [row[:2] for row in expected[user]]


def test_another_seed_draws_others_of_the_band_and_all_are_equally_likely(files: MiningFiles) -> None:
    drawn = []
    for seed in range(12):
        block = MineBlock(files, replace(SETTINGS, seed=seed))
        block.setup()
        drawn.append(next(block.process((0, 8))).column("rank").to_numpy())
    assert not np.array_equal(drawn[0], drawn[1])
    # 12 * 8 * 5 draws over 20 ranks: 24 each, with a deviation of 4.2.
    times = np.bincount(np.concatenate(drawn), minlength=24)
    assert times[:4].sum() == 0
    assert (np.abs(times[4:] - 24) < 5 * 4.3).all()


def test_without_an_index_the_search_is_exact_and_the_same(files: MiningFiles, mine: Callable) -> None:
    exact = mine(using=replace(files, index=None))
    for user, found in mine().items():
        assert [row[:2] for row in found] == [row[:2] for row in exact[user]]


def test_the_transform_gives_a_table_a_block(files: MiningFiles, options: PipelineOptions) -> None:
    def check(tables: list[pa.Table]) -> None:
        blocks = sorted(sorted(set(table.column("user_id").to_pylist())) for table in tables)
        if blocks != [USERS[:4], USERS[4:]]:
            raise BeamAssertException(f"blocks of {blocks}")

    with test_pipeline.TestPipeline(options=options) as pipeline:
        assert_that(pipeline | beam.Create([(0, 4), (4, 9)]) | MineNegatives(files, SETTINGS), check)


def test_negatives_are_read_as_rows_of_another_encoder(
    files: MiningFiles, schema: Schema, options: PipelineOptions, mine: Callable, tmp_path: Path
) -> None:
    out = tmp_path / "mined"
    out.mkdir()
    run(MineNegatives(files, SETTINGS), num_users=NUM_USERS, block_size=2, out=out, options=options)
    # In another order, with a newcomer, and without u3 and everything above i39.
    encoder = Encoder(
        schema=schema,
        user_ids=IdMap(["new user", *[name for name in reversed(USERS) if name != "u3"]]),
        item_ids=IdMap(list(reversed(ITEMS[:40]))),
        vocabularies={},
        scaling={},
        history_length=4,
        text_length=5,
        text_buckets=50,
    )
    user_rows, item_rows = read_negatives(out, encoder)
    assert (user_rows.dtype, item_rows.dtype) == (np.int64, np.int64)
    assert (np.diff(user_rows) >= 0).all()
    read = [(int(name[1:]), int(item[1:])) for name, item in zip(
        encoder.user_ids.ids(user_rows), encoder.item_ids.ids(item_rows), strict=True
    )]  # fmt: skip
    expected = [(user, item) for user, found in mine().items() for item, _, _ in found if user != 3 and item < 40]
    assert sorted(read) == sorted(expected)
    of_one_user = [item for user, item in read if user == 6]
    assert of_one_user == [item for user, item in expected if user == 6]


def test_missing_files_are_noticed(schema: Schema, tmp_path: Path) -> None:
    (tmp_path / "negatives-00000-of-00002.parquet").touch()
    with pytest.raises(ValueError, match="has 1 of 2 files; mine the negatives again"):
        read_negatives(tmp_path, None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="has 0 of 1 files"):
        read_negatives(tmp_path / "nothing", None)  # type: ignore[arg-type]


def test_ids_of_another_fit_are_refused(files: MiningFiles, mine: Callable, tmp_path: Path) -> None:
    pq.write_table(pa.table({"item_id": ITEMS[:-1]}), tmp_path / "items.parquet")
    with pytest.raises(ValueError, match="has 59 rows and the model 60 vectors"):
        mine(using=replace(files, items=tmp_path / "items.parquet"))


@pytest.mark.parametrize("band", [(0, 5), (6, 5)])
def test_an_empty_band_is_refused(band: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"band is {band[0]} to {band[1]}"):
        replace(SETTINGS, band=band)


@pytest.mark.parametrize("form", ["ip", "exact"])
def test_an_index_over_equal_vectors_is_mined_as_exact_search_does(
    mine: Callable[..., dict[int, list[tuple]]], files: MiningFiles, tmp_path: Path, form: str
) -> None:
    vectors = np.where(np.arange(NUM_ITEMS)[:, None] % 2 == 0, ITEM_VECTORS[:1], ITEM_VECTORS)
    np.save(tmp_path / "equal.npy", vectors)
    build_index(form, vectors, m=8, ef_construction=100, seed=1).save(tmp_path / "index.hnsw")
    using = replace(files, item_vectors=tmp_path / "equal.npy", index=tmp_path / "index.hnsw", form=form)
    for found, wanted in zip(mine(using=using).values(), mine(using=replace(using, index=None)).values(), strict=True):
        assert [pair[:2] for pair in found] == [pair[:2] for pair in wanted]
