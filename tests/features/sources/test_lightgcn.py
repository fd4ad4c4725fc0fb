"""A published split is read unchanged, and every defect in it is reported with its line."""

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest

from features import columns
from features.computed import DAY_SECONDS
from features.schema import Schema
from features.sources.lightgcn import (
    CUT,
    MOST_DAYS,
    VALIDATION_DAYS,
    Pairs,
    moments,
    open_lightgcn,
    read_published_split,
)
from features.sources.raw import SourceError

EPOCH = dt.date(1970, 1, 1)


@pytest.fixture
def write(tmp_path):
    def write(train: str, test: str = "7 30\n"):
        (tmp_path / "train.txt").write_text(train)
        (tmp_path / "test.txt").write_text(test)
        return tmp_path

    return write


def test_pairs_are_rows_of_ascending_ids(write):
    split = read_published_split(write("9 30 10\n7 20\n", "7 10 40\n"))
    np.testing.assert_array_equal(split.user_ids, [7, 9])
    np.testing.assert_array_equal(split.item_ids, [10, 20, 30, 40])
    np.testing.assert_array_equal(split.train.users, [0, 1, 1])
    np.testing.assert_array_equal(split.train.items, [1, 2, 0])
    np.testing.assert_array_equal(split.test.users, [0, 0])
    np.testing.assert_array_equal(split.test.items, [0, 3])
    assert (split.num_unseen_items, split.num_unseen_users, split.num_repeats, split.num_overlap) == (1, 0, 0, 0)


def test_a_user_without_items_is_allowed_and_users_only_in_test_are_counted(write):
    split = read_published_split(write("1 5\n2 \n", "1 6\n3 5 6\n"))
    np.testing.assert_array_equal(split.user_ids, [1, 3])
    assert split.num_unseen_users == 1
    assert split.num_unseen_items == 1


def test_repeats_and_overlaps_are_counted(write):
    split = read_published_split(write("1 5 5 6\n", "1 6 7\n"))
    assert len(split.train) == 2
    assert (split.num_repeats, split.num_overlap) == (1, 1)


def test_pairs_keep_the_order_of_their_line_and_their_position_from_its_end(write):
    train = read_published_split(write("2 9 3 9 5\n1 8 4\n")).train
    np.testing.assert_array_equal(train.users, [0, 0, 1, 1, 1])
    np.testing.assert_array_equal(train.items, [3, 1, 4, 0, 2])
    np.testing.assert_array_equal(train.from_last, [1, 0, 2, 1, 0])


def pairs_of_long_lines() -> Pairs:
    """Users with 40, 3 and 400 items, in no order of their ids."""
    users = np.repeat([0, 1, 2], [40, 3, 400])
    return Pairs(users, np.random.default_rng(1).permutation(len(users)))


@pytest.mark.parametrize("order", ["line", "random"])
@pytest.mark.parametrize("held_out", ["last", "random"])
def test_the_pairs_held_out_of_each_user_have_the_last_days_before_the_cut(order, held_out):
    pairs = pairs_of_long_lines()
    age_days = (CUT - EPOCH).days - moments(pairs, order=order, held_out=held_out, seed=3) / DAY_SECONDS
    assert age_days.min() > 0
    for user, num_pairs in enumerate([40, 3, 400]):
        mine = np.sort(age_days[pairs.users == user])
        assert len(np.unique(mine)) == num_pairs, "no two pairs of a user are simultaneous"
        one_a_day = np.floor(mine[:MOST_DAYS])
        np.testing.assert_array_equal(one_a_day, np.arange(len(one_a_day)))
        assert mine.max() < MOST_DAYS + 1
    is_out = age_days < VALIDATION_DAYS
    assert np.array_equal(is_out, pairs.from_last < VALIDATION_DAYS) is (held_out == "last")


@pytest.mark.parametrize("held_out", ["last", "random"])
def test_pairs_of_a_part_are_in_the_order_of_the_line_or_in_another(held_out):
    pairs = pairs_of_long_lines()
    by_line = moments(pairs, order="line", held_out=held_out, seed=3)
    shuffled = moments(pairs, order="random", held_out=held_out, seed=3)
    for user in range(3):
        mine = pairs.users == user
        assert_ascend_within_parts(by_line[mine])
    assert not np.array_equal(np.argsort(by_line), np.argsort(shuffled))
    with pytest.raises(AssertionError):
        assert_ascend_within_parts(shuffled[pairs.users == 2])


def assert_ascend_within_parts(seconds):
    is_out = seconds >= columns.midnight(CUT).timestamp() - VALIDATION_DAYS * DAY_SECONDS
    for part in (seconds[is_out], seconds[~is_out]):
        assert (np.diff(part) > 0).all()


def test_the_time_between_two_pairs_of_a_user_varies():
    pairs = pairs_of_long_lines()
    gaps = np.diff(np.sort(moments(pairs, order="line", held_out="last", seed=3)[pairs.users == 0]))
    assert gaps.std() > DAY_SECONDS / 10


def test_a_source_has_the_pairs_of_both_files(write):
    source = open_lightgcn(schema=Schema(), path=write("9 30 10\n7 20\n", "7 10 40\n"))
    assert source.users is None
    assert source.items is None
    rows = pa.concat_tables([chunk.rows for chunk in source.events.read(2)]).to_pydict()
    assert list(zip(rows["user_id"], rows["item_id"], strict=True)) == [(7, 20), (9, 30), (9, 10), (7, 10), (7, 40)]
    cut = columns.midnight(CUT).timestamp()
    assert [moment >= cut for moment in rows["timestamp"]] == [False, False, False, True, True]


def test_a_split_has_no_columns_to_declare(write):
    with pytest.raises(SourceError, match=r"dataset\.item_columns declares: colour"):
        open_lightgcn(schema=Schema(item_columns={"colour": ("categorical",)}), path=write("1 2\n"))


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("1 2\n2 x3\n", r"train\.txt, line 2: found 'x3', expected ids"),
        ("1 2\n2 -3\n", r"train\.txt, line 2: found '-3'"),
        ("1 2\n2 3.5\n", r"train\.txt, line 2: found '3\.5'"),
        ("1 2\n\n2 3\n", r"train\.txt, line 2: the line is empty"),
        ("1 2\n5 3\n1 4\n", r"train\.txt, line 3: user 1 has line 1 too"),
        ("1 99999999999999999999\n", r"train\.txt, line 1: found '99999999999999999999', expected ids from 0 to 9223"),
        ("1\n2\n", r"train\.txt: no user has an item"),
        ("", r"train\.txt: no user has an item"),
    ],
)
def test_a_malformed_file_names_the_line(write, train, message):
    with pytest.raises(SourceError, match=message):
        read_published_split(write(train))


def test_a_missing_file_is_named(tmp_path):
    (tmp_path / "train.txt").write_text("1 2\n")
    with pytest.raises(SourceError, match=r"test\.txt: no such file"):
        read_published_split(tmp_path)
