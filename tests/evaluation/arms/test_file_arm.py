"""Lists of another system are ranked by their scores, and every row that cannot be used is counted by its kind."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from artefacts.paths import RunPaths
from evaluation.arms.file_arm import read_lists
from evaluation.folds import Folds, make_folds
from evaluation.leakage import LeakageError
from evaluation.report import Problem
from serving.retrieval.ranking import Rows

CUT = dt.date(2024, 1, 8)


@pytest.fixture
def folds(paths: RunPaths) -> Folds:
    return make_folds(paths.tables, item_category=None, protocol="after-cut", cuts=[CUT], window_days=3)


def read(path: Path, folds: Folds, *, exclude_known: bool = True, k: int = 3) -> tuple[Rows, tuple[Problem, ...]]:
    split = folds.folds[0].split
    return read_lists(path, split, folds.item_ids, k=k, relevant=split.relevant_new, exclude_known=exclude_known)


def named(lists: Rows, folds: Folds) -> dict[str, list[str]]:
    users = folds.folds[0].split.user_ids
    return {user: [folds.item_ids[row] for row in own if row >= 0] for user, own in zip(users, lists, strict=True)}


def test_ranks_by_score_and_equal_scores_by_the_order_of_the_file(folds: Folds, tmp_path: Path) -> None:
    file = tmp_path / "lists.csv"
    file.write_text(
        "user,item,score\nann,nails,.5\nann,drill,.9\nann,cheese,.5\nbob,nails,1\ncid,apple,2\ndan,apple,0\ndan,nails,-1\n"
    )
    lists, problems = read(file, folds)
    assert named(lists, folds) == {
        "ann": ["drill", "nails", "cheese"],
        "bob": ["nails"],
        "cid": ["apple"],
        "dan": ["apple", "nails"],
    }
    assert problems == ()


def test_unusable_rows_are_counted_by_kind(folds: Folds, tmp_path: Path) -> None:
    file = tmp_path / "lists.csv"
    file.write_text(
        "user_id,item_id,score\n"
        "ann,cheese,.5\n"  # 1
        "ann,cheese,.7\n"  # 2: the better one of two
        "ann,hammer,.9\n"  # 3: no such item
        "eve,apple,1\n"  # 4: no such user
        "ann,nails,nan\n"  # 5
        "ann,drill,\n"  # 6
        ",apple,1\n"  # 7
        "ann,apple,3\n"  # 8: bought before
        "bob,nails,1\n"
    )
    lists, problems = read(file, folds)
    assert named(lists, folds) == {"ann": ["cheese"], "bob": ["nails"], "cid": [], "dan": []}
    assert problems == (
        Problem("no user or no item", 1, (7,)),
        Problem("score is no number", 2, (5, 6)),
        Problem("unknown item", 1, (3,)),
        Problem("user who is not in this comparison", 1, (4,)),
        Problem("item given to the user more than once, the best is kept", 1, (1,)),
        Problem("item that the user had met before the cut, left out", 1, (8,)),
        # dan has something to find; cid has not.
        Problem("user without a list, who counts as nothing found", 1),
    )


def test_keeps_known_items_where_everything_counts(folds: Folds, tmp_path: Path) -> None:
    file = tmp_path / "lists.csv"
    file.write_text("user_id,item_id,score\nann,apple,3\nann,cheese,1\n")
    assert named(read(file, folds, exclude_known=False)[0], folds)["ann"] == ["apple", "cheese"]


def test_cuts_lists_and_reads_parquet_with_ids_of_any_type(folds: Folds, tmp_path: Path) -> None:
    file = tmp_path / "lists.parquet"
    items = pa.array(["apple", "cheese", "nails"]).dictionary_encode()
    pq.write_table(pa.table({"user_id": ["bob"] * 3, "item_id": items, "score": pa.array([1, 3, 2])}), file)
    lists, _ = read(file, folds, k=2)
    assert named(lists, folds)["bob"] == ["cheese", "nails"]
    assert lists.dtype == np.int32


def test_rows_after_the_cut_are_refused(folds: Folds, tmp_path: Path) -> None:
    file = tmp_path / "lists.csv"
    file.write_text(
        "user_id,item_id,score,timestamp\nann,cheese,1,2024-01-08T00:00:00Z\nbob,nails,1,2024-01-08T00:00:01Z\n"
    )
    with pytest.raises(LeakageError, match="1 rows are of after the cut 2024-01-08, first row 2; give the lists as"):
        read(file, folds)


def test_reads_the_lists_of_the_day_alone(folds: Folds, tmp_path: Path) -> None:
    file = tmp_path / "lists.csv"
    file.write_text("user_id,item_id,score,day\nann,cheese,1,2024-01-08\nann,nails,2,2024-01-09\n")
    assert named(read(file, folds)[0], folds)["ann"] == ["cheese"]
    file.write_text("user_id,item_id,score,day\nann,nails,2,2024-01-09\n")
    with pytest.raises(ValueError, match="has no row with day 2024-01-08; give the lists of each cut's day"):
        read(file, folds)


def test_scores_that_are_text_are_refused(folds: Folds, tmp_path: Path) -> None:
    file = tmp_path / "lists.csv"
    file.write_text("user_id,item_id,score\nann,cheese,high\n")
    with pytest.raises(ValueError, match="column 'score' is not of numbers"):
        read(file, folds)


def test_a_file_without_a_row_that_can_be_used_is_named_with_ids_of_both_sides(folds: Folds, tmp_path: Path) -> None:
    file = tmp_path / "lists.csv"
    file.write_text("user,item,score\nuser/ann,nothing1,3\nuser/ann,apple,2\nann,nothing1,1\n")
    with pytest.raises(
        ValueError,
        match=r"lists.csv: none of its 3 rows can be used: 2 unknown item, 1 user who is not in this comparison. It "
        r"has users of the file such as 'user/ann', of the tables such as 'ann'; items .* 'nothing1', .* 'apple'",
    ):
        read(file, folds)


@pytest.mark.parametrize("content", ["ann ,\u00a0cheese", '" ann"," cheese "'])
def test_blanks_around_ids_do_not_count(folds: Folds, tmp_path: Path, content: str) -> None:
    file = tmp_path / "lists.csv"
    file.write_text(f"user,item,score\n{content},3\n", encoding="utf-8")
    assert named(read(file, folds)[0], folds)["ann"] == ["cheese"]


def test_times_are_read_as_ingestion_reads_them(folds: Folds, tmp_path: Path) -> None:
    file = tmp_path / "lists.csv"
    head = "user_id,item_id,score,timestamp\n"
    rows = "ann,cheese,1,2024-01-07\nbob,nails,1,2024-01-07T00:00:00+05:00\nbob,cheese,1,1704500000\n"
    file.write_text(head + rows)
    assert named(read(file, folds)[0], folds)["bob"] == ["nails", "cheese"]
    file.write_text(head + "ann,cheese,1,2024-01-07\nbob,nails,1,30/01/2024\n")
    with pytest.raises(
        ValueError,
        match=r"lists.csv: column 'timestamp' has '30/01/2024' in row 2, .*expected a number, or ISO 8601 text",
    ):
        read(file, folds)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"user_id,item_id,score\nann,cheese\n", r"row 1 is no row of 3 fields.*'ann,cheese'"),
        ("user_id,item_id,score\n".encode("utf-16"), "it is UTF-16"),
        (b"user_id,item_id,score\n\xe9,cheese,1\n", "invalid UTF8 data"),
        (b"", "cannot be read"),
    ],
)
def test_a_damaged_file_is_named(folds: Folds, tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "lists.csv"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"lists.csv: .*{said}"):
        read(file, folds)
