"""Retention removes exactly the bundles that expired, each at once, and never one that is needed."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artefacts.locks import locked
from serving.bundles.folder import list_bundles, published, rollback_target
from serving.bundles.manifest import BundleError, Facts, read_manifest
from serving.bundles.publish import Parts, current, publish, write
from serving.bundles.retention import expired, prune, remove

Hollow = Callable[..., str]
NOW = dt.datetime(2018, 1, 1, tzinfo=dt.UTC)


def ago(days: float) -> dt.datetime:
    return NOW - dt.timedelta(days=days)


def serve(bundles: Path, *versions: str) -> None:
    for version in versions:
        publish(bundles, version, moment=NOW, reason="bundle")


@pytest.fixture
def bundles(tmp_path: Path, hollow: Hollow) -> Path:
    """Bundles 1 to 6, written 6, 5, ... 1 days ago; 5 is published, and 2 was before it."""
    versions = [hollow(tmp_path, number, created=ago(7 - number)) for number in range(1, 7)]
    serve(tmp_path, versions[0], versions[1], versions[4])
    return tmp_path


def numbers(bundles: Path) -> list[int]:
    """Which bundles are there."""
    return sorted(int(entry.version[-8:], 16) for entry in list_bundles(bundles))


@pytest.mark.parametrize(
    ("keep", "max_age_days", "left"),
    [
        (None, None, [1, 2, 3, 4, 5, 6]),
        (6, None, [1, 2, 3, 4, 5, 6]),
        (4, None, [2, 3, 4, 5, 6]),
        (3, None, [2, 4, 5, 6]),
        (1, None, [2, 5, 6]),
        (None, 6, [1, 2, 3, 4, 5, 6]),
        (None, 3, [2, 4, 5, 6]),
        (None, 0, [2, 5]),
        (3, 1, [2, 5, 6]),
        (1, 30, [2, 5, 6]),
    ],
)
def test_bundles_beyond_either_limit_are_removed_and_needed_ones_stay(
    bundles: Path, keep: int | None, max_age_days: int | None, left: list[int]
) -> None:
    before = numbers(bundles)
    planned = prune(bundles, keep=keep, max_age_days=max_age_days, now=NOW, dry_run=True)
    assert numbers(bundles) == before
    assert prune(bundles, keep=keep, max_age_days=max_age_days, now=NOW) == planned
    assert numbers(bundles) == left
    assert len(planned) == len(before) - len(left)
    assert rollback_target(bundles).startswith("2017-12-02")


def test_a_removal_has_its_reason_and_its_bytes(bundles: Path) -> None:
    manifest_bytes = (bundles / "2017-12-01-00000001" / "manifest.json").stat().st_size
    [first, third] = prune(bundles, keep=4, max_age_days=3, now=NOW)[::-1]
    assert (first.name, first.reason) == ("2017-12-01-00000001", "beyond the 4 latest")
    assert (third.name, third.reason) == ("2017-12-03-00000003", "older than 3 days")
    assert first.size_bytes == 100 + manifest_bytes


def test_without_a_pointer_the_latest_stays(bundles: Path) -> None:
    (bundles / "current").unlink()
    prune(bundles, keep=None, max_age_days=0, now=NOW)
    assert numbers(bundles) == [6]


def test_limits_out_of_range_and_a_missing_folder_are_refused(bundles: Path) -> None:
    with pytest.raises(ValueError, match="keep is 0, expected at least 1"):
        prune(bundles, keep=0, max_age_days=None, now=NOW)
    with pytest.raises(ValueError, match="max_age_days is -1, expected 0 or more"):
        prune(bundles, keep=None, max_age_days=-1, now=NOW)
    with pytest.raises(BundleError, match="no such folder"):
        prune(bundles / "nowhere", keep=1, max_age_days=None, now=NOW)
    assert len(numbers(bundles)) == 6


def test_leftovers_of_killed_processes_are_removed_and_those_of_live_ones_stay(bundles: Path) -> None:
    for name in (".writing-dead", ".publishing-dead", ".removing-2017-11-01-00000000", ".writing-alive"):
        (bundles / name).mkdir()
        (bundles / name / "file").write_bytes(bytes(7))
    (bundles / ".notes").mkdir()
    with locked(bundles / ".writing-alive"):
        removals = prune(bundles, keep=None, max_age_days=None, now=NOW)
    assert {(removal.name, removal.size_bytes, removal.reason) for removal in removals} == {
        (name, 7, "left by a killed run")
        for name in (".writing-dead", ".publishing-dead", ".removing-2017-11-01-00000000")
    }
    assert {path.name for path in bundles.iterdir() if path.name.startswith(".")} == {".writing-alive", ".notes"}


def test_a_bundle_that_is_being_written_is_left_alone(
    parts: Parts, facts: Facts, bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retention runs in the middle of the write, when all files are there."""
    removals = []

    def card(manifest: Any) -> str:
        removals.extend(prune(bundles, keep=None, max_age_days=None, now=NOW))
        return "card"

    monkeypatch.setattr("serving.bundles.publish.model_card", card)
    version = write(bundles, parts, facts)
    assert removals == []
    assert read_manifest(bundles / version).bundle_version == version


def test_a_removal_that_is_killed_at_any_step_leaves_whole_bundles_and_is_finished_by_the_next(
    tmp_path: Path, hollow: Hollow, dying: Any
) -> None:
    for step in itertools.count():
        bundles = tmp_path / str(step)
        versions = [hollow(bundles, number, created=ago(7 - number)) for number in range(1, 6)]
        serve(bundles, versions[3], versions[4])
        with dying(step) as life:
            prune(bundles, keep=1, max_age_days=None, now=NOW)
        assert current(bundles).name == published(bundles) == versions[4]
        for entry in list_bundles(bundles):
            assert entry.problem is None
            assert {path.name for path in (bundles / entry.version).iterdir()} == {"manifest.json", "vectors"}
        prune(bundles, keep=1, max_age_days=None, now=NOW)
        assert {path.name for path in bundles.iterdir()} == {*versions[3:], "current", "published.jsonl"}
        if not life.ended:
            break
    assert step > 10


@given(
    ages=st.dictionaries(st.text("abcdef", min_size=1), st.floats(0, 100), max_size=12),
    keep=st.none() | st.integers(1, 14),
    max_age_days=st.none() | st.integers(0, 100),
    data=st.data(),
)
def test_limits_hold_for_any_bundles(
    ages: dict[str, float], keep: int | None, max_age_days: int | None, data: st.DataObject
) -> None:
    never = data.draw(st.sets(st.sampled_from(sorted(ages)), max_size=2)) if ages else set()
    created = {version: ago(days) for version, days in ages.items()}
    going = expired(created, keep=keep, max_age_days=max_age_days, now=NOW, never=never)
    left = created.keys() - going.keys()
    assert never <= left
    if keep is not None:
        assert len(left - never) <= keep
    if max_age_days is not None:
        assert all(NOW - created[version] <= dt.timedelta(days=max_age_days) for version in left - never)
    # Nothing is removed without need: a removed bundle has `keep` later ones, or is too old.
    for version in going:
        later = sum((created[other], other) > (created[version], version) for other in created)
        too_old = max_age_days is not None and NOW - created[version] > dt.timedelta(days=max_age_days)
        assert too_old or (keep is not None and later >= keep)


def test_chosen_bundles_go_but_for_the_published_one(bundles: Path) -> None:
    versions = [entry.version for entry in list_bundles(bundles)]
    chosen = [version for version in versions if int(version[-8:], 16) in (1, 2, 5)]
    gone = remove(bundles, [*chosen, "2018-01-01-00000000"], reason="asked for")
    assert sorted(int(removal.name[-8:], 16) for removal in gone) == [1, 2]
    assert {removal.reason for removal in gone} == {"asked for"}
    assert numbers(bundles) == [3, 4, 5, 6]
    with pytest.raises(BundleError, match="no such folder"):
        remove(bundles / "none", chosen, reason="asked for")
