"""Every code has the items that score highest, for any block size and after changes of the catalogue."""

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

from beam_jobs import score_codes
from beam_jobs.score_codes import (
    POSTINGS_SCHEMA,
    RunningLists,
    ScoreBlock,
    ScoreCodes,
    ScoringFiles,
    ScoringSettings,
    collect,
    read_blocks,
    run,
)
from serving.sparcode.codebook import Codebook
from serving.sparcode.interactions import load_interaction, save_interaction
from serving.sparcode.postings import Postings, PostingsWriter, read_postings

NUM_ITEMS, NUM_ITEM_TOKENS, WIDTH, HIDDEN = 150, 2, 4, 3
CATALOGUE = "0" * 64
# Codes with gaps; 36 there are.
KEYS = np.array([0, 1, 4, 5, 9, 14, 20, 22, 23, 30, 35], np.int64)
SETTINGS = ScoringSettings(bias=-6.0, cap=12)
TABLE_FILES = ("keys.npy", "starts.npy", "items.npy", "scores.npy", "postings.json")
Arrays = dict[str, npt.NDArray[np.float32]]


def whole(rng: np.random.Generator, *shape: int) -> npt.NDArray[np.float32]:
    """Small whole numbers, with which sums are exact in any order, and equal scores are many."""
    return rng.integers(-2, 3, shape).astype(np.float32)


def real(rng: np.random.Generator, *shape: int) -> npt.NDArray[np.float32]:
    return rng.normal(size=shape).astype(np.float32) * np.float32(1.5)


Draw = Callable[..., npt.NDArray[np.float32]]


def draw_items(draw: Draw, seed: int, num_items: int = NUM_ITEMS) -> npt.NDArray[np.float32]:
    return draw(np.random.default_rng([5, seed]), num_items, NUM_ITEM_TOKENS * WIDTH)


def write_model(folder: Path, draw: Draw) -> ScoringFiles:
    rng = np.random.default_rng(4)
    Codebook(draw(rng, 2, 6, WIDTH // 2)).save(folder / "codebook.npy")
    arrays = {
        "products": draw(rng, NUM_ITEM_TOKENS, WIDTH),
        "hidden": draw(rng, NUM_ITEM_TOKENS, HIDDEN, WIDTH),
        "hidden_bias": draw(rng, HIDDEN),
        "output": draw(rng, HIDDEN),
    }
    save_interaction(folder / "interaction.npz", "mlp", arrays)
    np.save(folder / "items.npy", draw_items(draw, 0))
    return ScoringFiles(folder / "codebook.npy", folder / "interaction.npz", folder / "items.npy")


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> ScoringFiles:
    return write_model(tmp_path_factory.mktemp("whole"), whole)


@pytest.fixture(scope="module")
def rough(tmp_path_factory: pytest.TempPathFactory) -> ScoringFiles:
    return write_model(tmp_path_factory.mktemp("real"), real)


@pytest.fixture
def build(options: PipelineOptions, tmp_path: Path) -> Callable[..., Postings]:
    counter = iter(range(100))

    def build(
        files: ScoringFiles, settings: ScoringSettings = SETTINGS, *, keys: npt.NDArray[np.int64] = KEYS, block_size=4
    ) -> Postings:
        number = next(counter)
        scored = tmp_path / f"scored{number}"
        run(ScoreCodes(files, settings), keys, block_size=block_size, out=scored, options=options)
        collect(scored, keys, writer(tmp_path / f"table{number}", files, settings))
        return read_postings(tmp_path / f"table{number}")

    return build


def writer(folder: Path, files: ScoringFiles, settings: ScoringSettings = SETTINGS) -> PostingsWriter:
    return PostingsWriter(
        folder,
        num_items=len(np.load(files.items)),
        bias=settings.bias,
        cap=settings.cap,
        codebook=Codebook.load(files.codebook).digest,
        catalogue=CATALOGUE,
        interaction=load_interaction(files.interaction).digest,
    )


def slow_scores(files: ScoringFiles, keys: npt.NDArray[np.int64], bias: float) -> npt.NDArray[np.float64]:
    """Every code with every item, one pair after another, by the formula."""
    arrays = dict(np.load(files.interaction))
    codebooks, items = np.load(files.codebook), np.load(files.items)
    found = np.zeros((len(keys), len(items)))
    for row, key in enumerate(keys.tolist()):
        code = np.concatenate([codebooks[0, key % 6], codebooks[1, key // 6]]).astype(np.float64)
        for item, tokens in enumerate(items.astype(np.float64).reshape(-1, NUM_ITEM_TOKENS, WIDTH)):
            hidden = arrays["hidden_bias"].astype(np.float64)
            for weights, token in zip(arrays["hidden"], tokens, strict=True):
                hidden = hidden + weights @ (code * token)
            products = sum(weights @ (code * token) for weights, token in zip(arrays["products"], tokens, strict=True))
            found[row, item] = products + arrays["output"] @ np.maximum(hidden, 0) + bias
    return found


def slow_lists(scores: npt.NDArray[np.float64], cap: int) -> list[list[tuple[int, float]]]:
    """Item and score, by item; of equal scores the lower item is better."""
    found = []
    for row in scores.tolist():
        best = sorted((-score, item) for item, score in enumerate(row) if score > 0)[:cap]
        found.append(sorted((item, -score) for score, item in best))
    return found


def lists(postings: Postings) -> list[list[tuple[int, float]]]:
    found: list[list[tuple[int, float]]] = [[] for _ in postings.keys]
    for owner, item, score in zip(*postings.lists(np.arange(len(found))), strict=True):
        found[owner].append((int(item), float(score)))
    return found


def assert_same(found: Postings, expected: Postings) -> None:
    for name in TABLE_FILES:
        assert (found.folder / name).read_bytes() == (expected.folder / name).read_bytes(), name


@pytest.mark.parametrize(("bias", "cap"), [(-6.0, 12), (-6.0, 1), (3.0, 40), (-6.0, 10_000), (1000.0, 10_000)])
def test_lists_are_the_best_items_of_all_pairs(exact: ScoringFiles, build: Callable, bias: float, cap: int) -> None:
    scores = slow_scores(exact, KEYS, bias)
    found = build(exact, ScoringSettings(bias=bias, cap=cap))
    assert found.keys.tolist() == KEYS.tolist()
    assert lists(found) == slow_lists(scores, cap)


def test_the_reference_has_ties_at_the_end_of_its_lists_and_codes_without_items(exact: ScoringFiles) -> None:
    scores = slow_scores(exact, KEYS, SETTINGS.bias)
    ends = [min(score for _, score in kept) for kept in slow_lists(scores, SETTINGS.cap) if len(kept) == SETTINGS.cap]
    full = scores[(scores > 0).sum(axis=1) > SETTINGS.cap]
    assert len(full) > 3
    assert sum(((row == end).sum() > 1) for row, end in zip(full, ends, strict=False)) > 2
    assert ((scores > 0).sum(axis=1) < SETTINGS.cap).sum() > 0


def test_scores_of_reals_are_those_of_the_formula(rough: ScoringFiles, build: Callable) -> None:
    expected = slow_scores(rough, KEYS, SETTINGS.bias)
    for row, kept in enumerate(lists(build(rough, replace(SETTINGS, cap=NUM_ITEMS)))):
        positive = np.flatnonzero(expected[row] > 0)
        assert [item for item, _ in kept] == positive.tolist()
        np.testing.assert_allclose([score for _, score in kept], expected[row, positive], rtol=2e-3)


@pytest.mark.parametrize("item_block", [7, 64, 1024])
@pytest.mark.parametrize("block_size", [1, 3, 11, 100])
def test_block_sizes_do_not_change_the_bytes_of_the_table(
    rough: ScoringFiles, build: Callable, block_size: int, item_block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = build(rough)
    monkeypatch.setattr(score_codes, "ITEM_BLOCK", item_block)
    assert_same(build(rough, block_size=block_size), expected)


@pytest.mark.parametrize("cap", [12, 1, 10_000])
def test_excluded_items_have_no_postings_and_do_not_count_towards_the_cap(
    exact: ScoringFiles, build: Callable, tmp_path: Path, cap: int
) -> None:
    scores = slow_scores(exact, KEYS, SETTINGS.bias)
    # The best item of each code, for a start.
    left_out = np.union1d(scores.argmax(axis=1), [3, 60, 149])
    files = leaving_out(exact, left_out, tmp_path)
    found = build(files, replace(SETTINGS, cap=cap))
    scores[:, left_out] = 0
    assert lists(found) == slow_lists(scores, cap)
    assert found.num_items == NUM_ITEMS


def leaving_out(files: ScoringFiles, rows: npt.NDArray[np.int64], folder: Path) -> ScoringFiles:
    """Scores the other items."""
    np.save(folder / "offered.npy", np.setdiff1d(np.arange(len(np.load(files.items))), rows))
    return replace(files, rows=folder / "offered.npy")


def test_lists_do_not_depend_on_the_other_codes(rough: ScoringFiles, build: Callable) -> None:
    expected = dict(zip(KEYS.tolist(), lists(build(rough)), strict=True))
    few = build(rough, keys=KEYS[2:5])
    assert lists(few) == [expected[key] for key in KEYS[2:5].tolist()]


def test_running_lists_keep_the_best_over_many_cuts() -> None:
    rng = np.random.default_rng(3)
    scores = rng.choice(np.array([-1, 0, 0.5, 1, 2, 1e-9, 700], np.float32), (5, 4000)) * np.linspace(1, 2, 4000)
    scores = scores.astype(np.float32)
    running = RunningLists(5, cap=30, block=50)
    for begin in range(0, 4000, 50):
        running.add(scores[:, begin : begin + 50], np.arange(begin, begin + 50, dtype=np.int32))
    found = running.result()
    halves = np.where(scores > 0, np.maximum(scores.astype(np.float16), 2.0**-24), -1).astype(np.float64)
    for row, expected in enumerate(slow_lists(halves, 30)):
        own = slice(found.starts[row], found.starts[row + 1])
        assert list(zip(found.items[own].tolist(), found.scores[own].tolist(), strict=True)) == expected


def test_the_transform_gives_a_table_a_block(exact: ScoringFiles, options: PipelineOptions) -> None:
    def check(tables: list[tuple[int, pa.Table]]) -> None:
        found = {number: table["key"].to_pylist() for number, table in tables}
        if found != {0: KEYS[:6].tolist(), 7: KEYS[6:].tolist()} or tables[0][1].schema != POSTINGS_SCHEMA:
            raise BeamAssertException(f"tables of {found} with {tables[0][1].schema}")

    with test_pipeline.TestPipeline(options=options) as pipeline:
        blocks = pipeline | beam.Create([(0, KEYS[:6]), (7, KEYS[6:])])
        assert_that(blocks | ScoreCodes(exact, SETTINGS), check)


def test_half_a_job_is_refused(exact: ScoringFiles, options: PipelineOptions, tmp_path: Path) -> None:
    scored, table = tmp_path / "scored", tmp_path / "table"
    run(ScoreCodes(exact, SETTINGS), KEYS, block_size=4, out=scored, options=options)
    names = [f"postings-{number:05d}-of-00003.parquet" for number in range(3)]
    assert sorted(path.name for path in scored.iterdir()) == names
    with pytest.raises(ValueError, match=r"has 11 codes, expected 12; score the codes again"):
        list(read_blocks(scored, np.append(KEYS, 36)))
    with pytest.raises(ValueError, match=r"postings-00001-of.*4 codes from \[9\] on, expected those from \[10\] on"):
        list(read_blocks(scored, np.sort(np.append(np.delete(KEYS, 4), 10))))
    (scored / names[1]).unlink()
    with pytest.raises(ValueError, match="has 2 of 3 files; score the codes again"):
        collect(scored, KEYS, writer(table, exact))
    with pytest.raises(ValueError, match="table"):
        read_postings(table)


def test_a_file_that_was_cut_leaves_no_table(exact: ScoringFiles, options: PipelineOptions, tmp_path: Path) -> None:
    run(ScoreCodes(exact, SETTINGS), KEYS, block_size=4, out=tmp_path, options=options)
    last = tmp_path / "postings-00002-of-00003.parquet"
    pq.write_table(pq.read_table(last).slice(0, 2), last)
    with pytest.raises(ValueError, match="has 10 codes, expected 11"):
        collect(tmp_path, KEYS, writer(tmp_path / "table", exact))
    assert not (tmp_path / "table" / "postings.json").exists()


def test_a_model_whose_parts_do_not_fit_is_refused(exact: ScoringFiles, tmp_path: Path) -> None:
    np.save(tmp_path / "items.npy", np.ones((3, WIDTH), np.float32))
    with pytest.raises(ValueError, match=r"items are \[3, 4\] .* scores 2 tokens of width 4"):
        ScoreBlock(replace(exact, items=tmp_path / "items.npy"), SETTINGS).setup()


@pytest.mark.parametrize(("value", "message"), [(np.nan, "a score of item 2 is not finite"), (1e6, "has the score")])
def test_a_score_that_no_table_can_hold_is_refused(
    exact: ScoringFiles, tmp_path: Path, value: float, message: str
) -> None:
    items = np.load(exact.items)
    items[2] = value
    np.save(tmp_path / "items.npy", items)
    block = ScoreBlock(replace(exact, items=tmp_path / "items.npy"), replace(SETTINGS, cap=500))
    block.setup()
    with pytest.raises(ValueError, match=message):
        next(block.process((0, np.arange(36))))


@pytest.mark.parametrize(("bias", "cap"), [(0.0, 0), (np.inf, 5)])
def test_invalid_settings_are_refused(bias: float, cap: int) -> None:
    with pytest.raises(ValueError, match=f"cap is {cap} and bias {bias}"):
        ScoringSettings(bias=bias, cap=cap)
