"""`twinspire benchmark lightgcn`: the daily job on a published split; validation chooses whether order counts."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests import forking

pytestmark = [pytest.mark.end_to_end, pytest.mark.slow, pytest.mark.timeout(600)]

NOW = "2024-03-01"
K = 20
USERS, GROUPS, GROUP_SIZE, TRAIN, TEST = 250, 12, 15, 14, 3
SHORT_FITS = ["--set", "training.epochs=12", "--set", "training.batch_size=64", "--set", "training.learning_rate=0.01"]


def write_split(folder: Path) -> None:
    """Users who stay with a group of items for a while; the test goes on in the last one."""
    rng = np.random.default_rng(1)
    lines: dict[str, list[str]] = {"train": [], "test": []}
    for user in range(USERS):
        left = {group: rng.permutation(GROUP_SIZE).tolist() for group in range(GROUPS)}
        group, items = int(rng.integers(GROUPS)), []
        for place in range(TRAIN + TEST):
            if place < TRAIN and (rng.random() < 0.15 or len(left[group]) <= TEST):
                group = int(rng.choice([one for one in left if len(left[one]) > TEST]))
            items.append(group * GROUP_SIZE + left[group].pop())
        lines["train"].append(" ".join(map(str, [user, *items[:TRAIN]])))
        lines["test"].append(" ".join(map(str, [user, *items[TRAIN:]])))
    folder.mkdir()
    for name, of_part in lines.items():
        (folder / f"{name}.txt").write_text("\n".join(of_part) + "\n")


def read_split(path: Path) -> dict[int, list[int]]:
    rows = [list(map(int, line.split())) for line in path.read_text().splitlines()]
    return {row[0]: row[1:] for row in rows}


def benchmark(folder: Path, *flags: object) -> Any:
    command = [sys.executable, "-m", "twinspire", "benchmark", "lightgcn", "--runs", folder / "runs", "--now", NOW]
    return forking.run(list(map(str, [*command, *flags])), check=False, capture_output=True, text=True)


@dataclass(frozen=True)
class Benchmarked:
    """A split, and what the command made of it."""

    folder: Path
    flags: list[str]
    ran: Any
    found: dict[str, Any]


@pytest.fixture(scope="module")
def benchmarked(tmp_path_factory: pytest.TempPathFactory) -> Benchmarked:
    folder = tmp_path_factory.mktemp("published")
    write_split(folder / "Groups, 1st")
    flags = ["--data", str(folder / "Groups, 1st"), "--test", "later", "--dim", "16", *SHORT_FITS]
    ran = benchmark(folder, *flags, "--json", folder / "found.json", "--out", folder / "out")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return Benchmarked(folder, flags, ran, json.loads((folder / "found.json").read_text()))


def test_the_order_of_the_lines_is_taken_where_it_helps(benchmarked: Benchmarked) -> None:
    found = benchmarked.found
    assert found["order"] == "line"
    by_order = {order: one["recall@20"] for order, one in found["by_order"].items()}
    assert by_order["line"] > by_order["random"] + 0.05
    assert found["recall@20"] == by_order["line"]
    assert [(one["order"], one["held_out"]) for one in found["validation"]] == [("line", "last"), ("random", "last")]
    assert "recall@20" in benchmarked.ran.stdout


def test_the_written_lists_have_the_recall_that_is_reported(benchmarked: Benchmarked) -> None:
    train, test = (read_split(benchmarked.folder / "Groups, 1st" / f"{name}.txt") for name in ("train", "test"))
    for order in ("line", "random"):
        lists = pq.read_table(benchmarked.folder / "out" / order / "lists.parquet").to_pylist()
        recalls = [len({*one["item_ids"]} & {*test[one["user_id"]]}) / TEST for one in lists]
        assert len(recalls) == USERS
        assert np.mean(recalls) == pytest.approx(benchmarked.found["by_order"][order]["recall@20"])
        assert not any({*one["item_ids"]} & {*train[one["user_id"]]} for one in lists)


def test_the_lists_are_those_of_the_written_vectors(benchmarked: Benchmarked) -> None:
    out, train = benchmarked.folder / "out" / "line", read_split(benchmarked.folder / "Groups, 1st" / "train.txt")
    users, items = (pq.read_table(out / f"{name}s.parquet").to_pydict() for name in ("user", "item"))
    vectors = np.array(items["vector"])
    assert vectors.shape == (GROUPS * GROUP_SIZE, 16)
    scores = np.array(users["vector"]) @ vectors.T
    place = {item: row for row, item in enumerate(items["item_id"])}
    for one, row in zip(pq.read_table(out / "lists.parquet").to_pylist()[:20], scores[:20], strict=True):
        row[[place[item] for item in train[one["user_id"]]]] = -np.inf
        np.testing.assert_allclose(row[[place[item] for item in one["item_ids"]]], np.sort(row)[::-1][:K], atol=1e-5)


def test_a_further_call_fits_nothing(benchmarked: Benchmarked) -> None:
    again = benchmark(benchmarked.folder, *benchmarked.flags, "--json", benchmarked.folder / "again.json")
    assert again.returncode == 0, again.stdout + again.stderr
    assert " epoch 1: " not in again.stdout
    assert json.loads((benchmarked.folder / "again.json").read_text()) == benchmarked.found


def test_a_malformed_line_is_named(tmp_path: Path) -> None:
    write_split(tmp_path / "groups")
    with (tmp_path / "groups" / "train.txt").open("a") as file:
        file.write("999 3 four\n")
    ran = benchmark(tmp_path, "--data", tmp_path / "groups")
    assert ran.returncode == 1
    assert "train.txt, line 251: found 'four'" in " ".join(ran.stderr.split())
