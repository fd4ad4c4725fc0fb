"""A published split is read unchanged, and every defect in it is reported with its line."""

import numpy as np
import pytest

from features.sources.lightgcn import read_published_split
from features.sources.raw import SourceError


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


@pytest.mark.parametrize(("train", "has_order"), [("1 2 3 4\n2 1 5 9\n", False), ("1 4 2 3\n2 9 5 1\n", True)])
def test_lines_sorted_by_id_have_no_order_in_time(write, train, has_order):
    assert read_published_split(write(train)).has_order is has_order


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
