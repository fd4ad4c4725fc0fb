"""Posting lists of codes.

Tables of random lists over a catalogue of two blocks and a bit, against dictionaries.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.sparcode import postings as module
from serving.sparcode.codebook import Codebook
from serving.sparcode.postings import Postings, PostingsWriter, catalogue_digest, read_postings, truncated

NUM_ITEMS = 2 * 65_536 + 5
CODEBOOK = Codebook(np.random.default_rng(1).normal(size=(2, 40, 3)).astype(np.float32))
CATALOGUE = catalogue_digest(["a", "b"])
ABOUT = {"num_items": NUM_ITEMS, "bias": 0.5, "cap": 60, "codebook": CODEBOOK.digest, "catalogue": CATALOGUE}
Table = dict[int, dict[int, float]]


def random_table(num_codes: int = 30, *, seed: int = 2, num_items: int = NUM_ITEMS) -> Table:
    """Key -> item -> score, exact in float16; some codes have no postings."""
    rng = np.random.default_rng(seed)
    table: Table = {}
    for key in sorted(rng.choice(1600, num_codes, replace=False).tolist()):
        size = int(rng.choice([0, 1, 7, 60]))
        # The ends of the blocks are where an item is easily lost.
        ends = [0, 65_535, 65_536, 131_071, 131_072, num_items - 1]
        items = np.unique(np.concatenate([rng.integers(0, num_items, size), ends if size > 6 else []]).astype(int))
        items = np.sort(rng.permutation(items[items < num_items])[:size])
        table[key] = dict(zip(items.tolist(), (rng.integers(1, 800, len(items)) / 64).tolist(), strict=True))
    return table


def arrays_of(table: Table) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray]:
    starts = np.cumsum([0, *(len(items) for items in table.values())])
    items = np.array([item for items in table.values() for item in items], np.int32)
    scores = np.array([score for items in table.values() for score in items.values()], np.float32)
    return np.array([*table], np.int64), starts, items, scores


def write(folder: Path, table: Table, *, runs: int = 1, **about: object) -> Path:
    with PostingsWriter(folder, **({**ABOUT, "interaction": "scorer"} | about)) as writer:
        for keys in np.array_split([*table], runs):
            writer.add(*arrays_of({key: table[key] for key in keys.tolist()}))
    return folder


def opened(folder: Path) -> Postings:
    return Postings.open(folder, codebook=CODEBOOK, catalogue=CATALOGUE)


def read(postings: Postings) -> Table:
    owners, items, scores = postings.lists(np.arange(len(postings.keys)))
    table: Table = {key: {} for key in postings.keys.tolist()}
    for owner, item, score in zip(owners.tolist(), items.tolist(), scores.tolist(), strict=True):
        table[int(postings.keys[owner])][item] = score
    return table


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "postings", random_table())


@pytest.mark.parametrize("runs", [1, 4, 45])
@pytest.mark.parametrize("num_items", [1, 50, 65_536, 65_537, NUM_ITEMS])
def test_saved_postings_are_read_back(tmp_path: Path, runs: int, num_items: int) -> None:
    table = random_table(num_items=num_items)
    postings = opened(write(tmp_path / "postings", table, runs=runs, num_items=num_items))
    assert sum(map(len, table.values())) > 10
    assert read(postings) == table
    assert postings.counts().tolist() == [len(items) for items in table.values()]
    assert (postings.num_items, postings.bias, postings.cap) == (num_items, 0.5, 60)
    assert postings.about.interaction == "scorer"


def test_lists_come_in_the_order_asked_and_as_often(folder: Path) -> None:
    postings, table = opened(folder), random_table()
    rows = np.array([7, 0, 7, 29, 3])
    owners, items, scores = postings.lists(rows)
    assert (owners.dtype, items.dtype, scores.dtype) == (np.int64, np.int32, np.float32)
    for place, row in enumerate(rows.tolist()):
        expected = table[int(postings.keys[row])]
        assert items[owners == place].tolist() == [*expected]
        assert scores[owners == place].tolist() == [*expected.values()]
    assert owners.tolist() == sorted(owners.tolist())
    nothing = postings.lists(rows[:0])
    assert [(len(array), str(array.dtype)) for array in nothing] == [(0, "int64"), (0, "int32"), (0, "float32")]


@pytest.mark.parametrize("row", [-1, 30])
def test_a_missing_row_is_refused(folder: Path, row: int) -> None:
    with pytest.raises(ValueError, match=rf"rows run from {min(row, 4)} to {max(row, 4)}, expected 0 to 29"):
        opened(folder).lists(np.array([4, row]))


def test_keys_are_found_where_they_are_and_nowhere_else(folder: Path) -> None:
    postings = opened(folder)
    asked = np.arange(-3, 1700)
    row_of = {key: row for row, key in enumerate(postings.keys.tolist())}
    assert postings.find(asked).tolist() == [row_of.get(key, -1) for key in asked.tolist()]


def test_a_table_without_codes_holds_nothing(tmp_path: Path) -> None:
    postings = opened(write(tmp_path / "postings", {}))
    assert postings.find(np.array([0, 5])).tolist() == [-1, -1]
    assert read(postings) == {}
    assert len(postings.counts()) == 0


def test_a_posting_takes_four_bytes(tmp_path: Path) -> None:
    small, large = (
        opened(write(tmp_path / str(size), {1: dict.fromkeys(range(size), 1.0)}, cap=10**6)) for size in (1_000, 9_000)
    )
    # Neither the heads nor, up to a digit, the header grow.
    assert large.size_bytes - small.size_bytes - 4 * 8_000 in range(3)


@given(st.lists(st.floats(2**-30, 60_000, width=32), min_size=1, max_size=60))
def test_scores_are_rounded_to_half_precision_and_stay_above_zero(
    tmp_path_factory: pytest.TempPathFactory, scores: list[float]
) -> None:
    folder = write(tmp_path_factory.mktemp("rounded") / "postings", {3: dict(enumerate(scores))})
    _, _, found = opened(folder).lists(np.array([0]))
    assert (found > 0).all()
    np.testing.assert_allclose(found, scores, rtol=2**-11, atol=2**-24)


@pytest.mark.parametrize("bias", [0.5, 0.0, -3.0, -11.0, -100.0])
@pytest.mark.parametrize("copied", [1, 50, 10**6])
def test_a_lower_bias_leaves_what_it_would_have_left(
    folder: Path, tmp_path: Path, bias: float, copied: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_COPIED", copied)
    truncated(folder, tmp_path / "lower", bias)
    # Sixty-fourths below 13 have an exact half.
    lower = {
        key: {item: score - (0.5 - bias) for item, score in items.items() if score - (0.5 - bias) > 0}
        for key, items in random_table().items()
    }
    found = opened(tmp_path / "lower")
    assert read(found) == lower
    assert found.about == dataclasses.replace(
        opened(folder).about, bias=bias, num_postings=sum(map(len, lower.values()))
    )


def test_a_higher_bias_has_no_postings_to_take(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"bias is 0\.75, expected at most 0\.5, with which .*postings was made"):
        truncated(folder, tmp_path / "higher", 0.75)


def test_postings_of_another_codebook_are_refused(folder: Path) -> None:
    other = Codebook(np.ones((2, 40, 3), np.float32))
    digests = f"made with codebook {CODEBOOK.digest[:12]}, expected {other.digest[:12]}"
    with pytest.raises(ValueError, match=digests):
        Postings.open(folder, codebook=other, catalogue=CATALOGUE)


def test_postings_of_another_catalogue_are_refused(folder: Path) -> None:
    other = catalogue_digest(["b", "a"])
    with pytest.raises(ValueError, match=f"made with catalogue {CATALOGUE[:12]}, expected {other[:12]}"):
        Postings.open(folder, codebook=CODEBOOK, catalogue=other)


def test_a_catalogue_is_its_ids_in_order() -> None:
    catalogues = [[], [""], ["ab"], ["a", "b"], ["b", "a"], ["a", "b", ""], ["a\0b"], ["é"]]
    assert len({catalogue_digest(ids) for ids in catalogues}) == len(catalogues)


@pytest.mark.parametrize("name", ["keys", "starts", "items", "scores"])
@pytest.mark.parametrize("change", [-1, -100, 2])
def test_a_file_of_another_length_is_refused(folder: Path, name: str, change: int) -> None:
    path = folder / f"{name}.npy"
    with path.open("ab") as file:
        size = path.stat().st_size
        os.truncate(file.fileno(), size + change)
    with pytest.raises(ValueError, match=rf"{name}\.npy: .*; copy the postings again"):
        opened(folder)


@pytest.mark.parametrize("name", ["keys", "starts", "items", "scores"])
def test_a_file_of_other_numbers_or_none_is_refused(folder: Path, name: str) -> None:
    path = folder / f"{name}.npy"
    right = np.load(path)
    np.save(path, right[:-1])
    shapes = rf"holds {right.dtype} of shape \[{len(right) - 1}\], expected {right.dtype} of shape \[{len(right)}\]"
    with pytest.raises(ValueError, match=rf"{name}\.npy: {shapes}"):
        opened(folder)
    np.save(path, right.astype(np.float64))
    with pytest.raises(ValueError, match=rf"{name}\.npy: holds float64"):
        opened(folder)
    with path.open("wb") as file:
        np.savez(file, right)
    with pytest.raises(ValueError, match=rf"{name}\.npy: cannot be read"):
        opened(folder)
    path.unlink()
    with pytest.raises(ValueError, match=rf"{name}\.npy: cannot be read"):
        opened(folder)


def test_keys_that_do_not_ascend_are_refused(folder: Path) -> None:
    keys = np.load(folder / "keys.npy")
    keys[4] = keys[3]
    np.save(folder / "keys.npy", keys)
    with pytest.raises(ValueError, match=r"keys\.npy: keys do not ascend"):
        opened(folder)


@pytest.mark.parametrize(("place", "change"), [(0, 1), (-1, -1), (40, 10**6)])
def test_starts_that_fall_are_refused(folder: Path, place: int, change: int) -> None:
    starts = np.load(folder / "starts.npy")
    starts[place] += change
    np.save(folder / "starts.npy", starts)
    with pytest.raises(ValueError, match=r"starts\.npy: starts do not rise from 0 to"):
        opened(folder)


@pytest.mark.parametrize("change", [{"bias": None}, {"more": 1}])
def test_a_header_with_other_fields_is_refused(folder: Path, change: dict[str, object]) -> None:
    path = folder / "postings.json"
    about = json.loads(path.read_text()) | change
    path.write_text(json.dumps({name: value for name, value in about.items() if value is not None}))
    with pytest.raises(ValueError, match=r"postings\.json: describes no postings"):
        opened(folder)


def test_a_header_that_is_no_json_is_refused(folder: Path) -> None:
    (folder / "postings.json").write_text("{")
    with pytest.raises(ValueError, match=r"postings\.json: describes no postings"):
        opened(folder)


def test_postings_that_were_not_finished_are_refused_and_can_be_written_again(tmp_path: Path) -> None:
    table, folder = random_table(), tmp_path / "postings"

    def fail() -> None:
        with PostingsWriter(folder, **ABOUT, interaction="scorer") as writer:
            writer.add(*arrays_of(table))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with pytest.raises(ValueError, match=r"postings\.json: missing; the postings were never finished"):
        read_postings(folder)
    assert read(opened(write(folder, table))) == table
    with pytest.raises(ValueError, match="holds finished postings, which are never changed"):
        write(folder, table)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keys": [5, 5]}, "keys must ascend and lie above 3, the last one added"),
        ({"keys": [3, 5]}, "keys must ascend and lie above 3"),
        ({"starts": [0, 4]}, "starts must be 3 numbers that rise from 0 to 4"),
        ({"starts": [1, 2, 4]}, "starts must be 3 numbers that rise from 0 to 4"),
        ({"starts": [0, 2, 3]}, "starts must be 3 numbers that rise from 0 to 4"),
        ({"starts": [0, 5, 4]}, "starts must be 3 numbers that rise from 0 to 4"),
        ({"starts": [0, 0, 4]}, "a code has 4 postings, expected at most 3, the cap"),
        ({"scores": [1, 1, 1]}, "4 items and 3 scores"),
        ({"items": [1, 5, -1, 7]}, "items run from -1 to 7, expected 0 to 131076"),
        ({"items": [1, 5, 2, 131_077]}, "items run from 1 to 131077, expected 0 to 131076"),
        ({"items": [5, 1, 2, 7]}, "the items of a code must ascend without repeats"),
        ({"items": [1, 5, 7, 7]}, "the items of a code must ascend without repeats"),
        ({"scores": [1, 1, 0, 1]}, r"scores run from 0\.0 to 1\.0, expected above 0"),
        ({"scores": [1, 1, np.nan, 1]}, "scores run from nan to nan, expected above 0"),
        ({"scores": [1, 1, 70_000, 1]}, r"to 70000\.0, expected above 0 and up to 65504\.0"),
    ],
)
def test_an_invalid_run_of_lists_is_refused(tmp_path: Path, change: dict[str, list[float]], message: str) -> None:
    right = {"keys": [5, 9], "starts": [0, 2, 4], "items": [1, 5, 2, 7], "scores": [1, 1, 1, 1]}
    types = {"keys": np.int64, "starts": np.int64, "items": np.int32, "scores": np.float32}
    run = {name: np.array(values, types[name]) for name, values in (right | change).items()}
    with PostingsWriter(tmp_path / "postings", **(ABOUT | {"cap": 3}), interaction="scorer") as writer:
        writer.add(*arrays_of({3: {0: 1.0}}))
        with pytest.raises(ValueError, match=message):
            writer.add(**run)
    # What was refused has left nothing behind.
    assert read(opened(tmp_path / "postings")) == {3: {0: 1.0}}
