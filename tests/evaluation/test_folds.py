"""A protocol divides past and future, the same for all arms, and nothing of the future is in the past."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import pytest

from artefacts.paths import RunPaths
from evaluation.catalogue import catalogue_of
from evaluation.folds import Folds, NoEventsError, make_folds
from evaluation.report import Protocol
from evaluation.split import Split

CUT, CATEGORY = dt.date(2024, 1, 8), "category"
Pairs = set[tuple[str, str]]


def pairs(folds: Folds, matrix: str, fold: int = 0) -> Pairs:
    split: Split = folds.folds[fold].split
    users, items = getattr(split, matrix).nonzero()
    return {(split.user_ids[user], folds.item_ids[item]) for user, item in zip(users, items, strict=True)}


PAST = {("ann", "apple"), ("ann", "bread"), ("bob", "drill"), ("cid", "bread")}


def test_after_cut_takes_the_days_of_the_window(paths: RunPaths) -> None:
    folds = make_folds(paths.tables, item_category=CATEGORY, protocol="after-cut", cuts=[CUT], window_days=2)
    assert pairs(folds, "history") == PAST
    # The 10th is outside.
    assert pairs(folds, "relevant") == {("ann", "cheese"), ("bob", "nails"), ("ann", "apple")}
    assert pairs(folds, "relevant_new") == {("ann", "cheese"), ("bob", "nails")}


def test_rolling_moves_past_and_future_together(paths: RunPaths) -> None:
    cuts = [CUT, CUT + dt.timedelta(days=1)]
    folds = make_folds(paths.tables, item_category=CATEGORY, protocol="rolling", cuts=cuts, window_days=1)
    assert pairs(folds, "relevant") == {("ann", "cheese"), ("bob", "nails")}
    assert pairs(folds, "history", 1) == PAST | {("ann", "cheese"), ("bob", "nails")}
    assert pairs(folds, "relevant", 1) == {("ann", "apple")}


def test_leave_last_out_holds_out_the_last_event_of_each_user(paths: RunPaths) -> None:
    folds = make_folds(paths.tables, item_category=CATEGORY, protocol="leave-last-out", cuts=[CUT], window_days=1)
    assert pairs(folds, "history") == PAST
    # ann did cheese before apple; dan two things at one moment, of which the last by id counts; cid nothing.
    assert pairs(folds, "relevant") == {("ann", "apple"), ("bob", "drill"), ("dan", "nails")}


def test_given_pairs_are_relevant_and_unusable_ones_are_counted(paths: RunPaths, tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    file.write_text("user,item\nann,cheese\nann,cheese\n,apple\nbob,hammer\ndan,nails\n")
    folds = make_folds(
        paths.tables, item_category="category", protocol="given", cuts=[CUT], window_days=7, relevant=file
    )
    assert pairs(folds, "history") == PAST
    assert pairs(folds, "relevant") == {("ann", "cheese"), ("dan", "nails")}
    found = {problem.kind: (problem.count, problem.rows) for problem in folds.problems}
    assert found == {
        "no user or no item": (1, (3,)),
        "pair given more than once": (1, ()),
        "item outside the catalogue": (1, ()),
    }
    assert folds.folds[0].split.num_unknown_window_pairs == 1


def test_given_pairs_before_the_cut_are_refused(paths: RunPaths, tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    file.write_text("user_id,item_id,timestamp\nann,cheese,2024-01-08T00:00:00Z\nbob,drill,2024-01-07T23:59:59Z\n")
    with pytest.raises(ValueError, match="1 pairs are of before the cut 2024-01-08, the first in row 2"):
        make_folds(paths.tables, item_category=CATEGORY, protocol="given", cuts=[CUT], window_days=7, relevant=file)


def test_given_requires_an_existing_file_with_its_columns(paths: RunPaths, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="name one with --relevant"):
        make_folds(paths.tables, item_category=CATEGORY, protocol="given", cuts=[CUT], window_days=7)
    with pytest.raises(
        ValueError, match=r"nothing\.csv: no such file; expected Parquet or CSV with the columns user_id"
    ):
        make_folds(
            paths.tables,
            item_category="category",
            protocol="given",
            cuts=[CUT],
            window_days=7,
            relevant=tmp_path / "nothing.csv",
        )
    file = tmp_path / "pairs.csv"
    file.write_text("user_id,product\nann,cheese\n")
    with pytest.raises(ValueError, match=r"has the columns user_id, product; expected item_id \(or item\)"):
        make_folds(paths.tables, item_category=CATEGORY, protocol="given", cuts=[CUT], window_days=7, relevant=file)


def test_refuses_a_cut_after_which_nothing_happens(paths: RunPaths) -> None:
    with pytest.raises(NoEventsError, match="no event with an item of the catalogue in the 3 days from 2024-02-01"):
        make_folds(
            paths.tables, item_category="category", protocol="after-cut", cuts=[dt.date(2024, 2, 1)], window_days=3
        )


def test_users_and_items_are_split_into_known_and_new_at_the_cut(paths: RunPaths) -> None:
    fold = make_folds(paths.tables, item_category=CATEGORY, protocol="after-cut", cuts=[CUT], window_days=3).folds[0]
    # apple 2, bread 2, drill 1 events; cheese and nails come later.
    assert fold.item_counts.tolist() == [2, 2, 0, 1, 0]
    about = {groups.about: groups for groups in (*fold.item_groups, *fold.user_groups)}
    novelty = about["novelty"]
    assert [novelty.names[label] for label in novelty.labels] == [
        "warm items",
        "warm items",
        "cold items",
        "warm items",
        "cold items",
    ]
    newness = about["newness of the user"]
    of_user = dict(zip(fold.split.user_ids, (newness.names[label] for label in newness.labels), strict=True))
    assert of_user["dan"] == "new users"
    assert of_user["ann"] == "returning users"


def test_items_without_a_name_go_by_their_id(paths: RunPaths) -> None:
    catalogue = catalogue_of(paths.tables, paths.catalogue(CUT), item_category=CATEGORY)
    assert list(catalogue.names) == ["Apple", "Bread", "cheese", "Drill", "Nails"]
    assert np.array_equal(catalogue.categories, [0, 0, 0, 1, -1])
    assert catalogue.values is None


@pytest.mark.parametrize("protocol", ["leave-last-out", "given"])
def test_protocols_of_one_cut_refuse_several(protocol: Protocol, paths: RunPaths) -> None:
    cuts = [CUT, CUT + dt.timedelta(days=1)]
    with pytest.raises(ValueError, match=f"cuts are 2024-01-08, 2024-01-09, and protocol is {protocol}; give one cut"):
        make_folds(paths.tables, item_category=CATEGORY, protocol=protocol, cuts=cuts, window_days=1)


def test_the_largest_categories_before_the_first_cut_are_slices_of_every_fold(paths: RunPaths) -> None:
    cuts = [CUT, CUT + dt.timedelta(days=1)]
    folds = make_folds(
        paths.tables, item_category="category", protocol="rolling", cuts=cuts, window_days=1, num_categories=1
    )
    for fold in folds.folds:
        category = next(groups for groups in fold.item_groups if groups.about == "category")
        assert category.names == ("food", "other categories")
