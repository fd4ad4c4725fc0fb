"""Finding a bundle by its version or the beginning of one."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from serving.bundles.folder import find_version, list_bundles, published
from serving.bundles.manifest import BundleError

Hollow = Callable[..., str]


def test_a_version_is_found_by_an_unambiguous_prefix(tmp_path: Path, hollow: Hollow) -> None:
    first, second = hollow(tmp_path, 1), hollow(tmp_path, 12)
    assert find_version(tmp_path, first) == first
    assert find_version(tmp_path, "2017-12-01") == first
    assert find_version(tmp_path, "2017-12-12-0") == second


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("2017-12", "'2017-12' is the beginning of 2017-12-12-0000000c, 2017-12-01-00000001; give more characters"),
        ("2017-12-03", r"no bundle '2017-12-03'; did you mean 2017-12-\d\d-\w+\? There are 2017-12-12-0000000c, 2017"),
        ("best", "no bundle 'best'; there are 2017-12-12-0000000c, 2017-12-01-00000001"),
        ("", "no bundle ''; there are"),
        ("../bundles", "no bundle '../bundles'; there are"),
    ],
)
def test_an_unknown_or_ambiguous_version_is_an_error_with_the_existing_ones(
    tmp_path: Path, hollow: Hollow, asked: str, message: str
) -> None:
    hollow(tmp_path, 1)
    hollow(tmp_path, 12)
    with pytest.raises(BundleError, match=message):
        find_version(tmp_path, asked)


def test_an_empty_folder_is_distinguished_from_a_missing_one(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="holds no bundle; make one with `twinspire bundle`"):
        find_version(tmp_path, "2017-12-01")
    assert list_bundles(tmp_path) == []
    for ask in (list_bundles, lambda folder: find_version(folder, "2017-12-01")):
        with pytest.raises(BundleError, match="nowhere: no such folder; make a bundle with"):
            ask(tmp_path / "nowhere")


def test_a_long_list_is_cut(tmp_path: Path, hollow: Hollow) -> None:
    for number in range(1, 9):
        hollow(tmp_path, number)
    with pytest.raises(BundleError, match=r"2017-12-04-00000004 and 3 more$"):
        find_version(tmp_path, "best")


def test_bundles_are_listed_by_when_they_were_written(tmp_path: Path, hollow: Hollow) -> None:
    moment = dt.datetime(2018, 1, 1, tzinfo=dt.UTC)
    # The first day was done again later; the third was written by a clock without a zone, which is taken for UTC.
    first = hollow(tmp_path, 1, created=moment + dt.timedelta(hours=2), size_bytes=5_000)
    second = hollow(tmp_path, 2, created=moment)
    third = hollow(tmp_path, 3, created=(moment + dt.timedelta(hours=1)).replace(tzinfo=None))
    (tmp_path / "current").symlink_to(second)
    (tmp_path / ".writing-abc").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "2017-12-09-00000009").symlink_to(first)
    entries = list_bundles(tmp_path)
    assert [entry.version for entry in entries] == [first, third, second]
    assert [entry.as_of for entry in entries] == [dt.date(2017, 12, number) for number in (1, 3, 2)]
    manifest_bytes = (tmp_path / first / "manifest.json").stat().st_size
    assert entries[0].size_bytes == 5_000 + manifest_bytes
    assert published(tmp_path) == second


def test_a_bundle_that_cannot_be_read_is_listed_by_the_time_of_its_folder(tmp_path: Path, hollow: Hollow) -> None:
    broken, whole = hollow(tmp_path, 2), hollow(tmp_path, 1)
    (tmp_path / broken / "manifest.json").write_text('{"format_version": 1}')
    os.utime(tmp_path / broken, (1_500_000_000, 1_500_000_000))
    newer, older = list_bundles(tmp_path)
    assert (newer.version, newer.problem) == (whole, None)
    assert older.created == dt.datetime(2017, 7, 14, 2, 40, tzinfo=dt.UTC)
    assert older.manifest is None
    assert "manifest.json: format version 1, expected 6; serve it with the code that made it" in str(older.problem)
