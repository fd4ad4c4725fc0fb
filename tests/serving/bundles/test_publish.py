"""Writing and publishing bundles."""

from __future__ import annotations

import dataclasses
import datetime as dt
import itertools
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.bundles.bundle import Bundle
from serving.bundles.folder import published, read, rollback_target
from serving.bundles.manifest import BundleError, Facts
from serving.bundles.publish import BundleExistsError, Parts, current, publish, write

MOMENT = dt.datetime(2017, 12, 2, 4, tzinfo=dt.UTC)


def serve(bundles: Path, version: str) -> None:
    publish(bundles, version, moment=MOMENT, reason="bundle")


def test_the_same_contents_have_the_same_version_whenever_they_are_made(
    parts: Parts, facts: Facts, tmp_path: Path
) -> None:
    later = facts.model_copy(
        update={"created": facts.created + dt.timedelta(days=1), "commit": None, "parent": None, "code_version": "9"}
    )
    first, second = write(tmp_path / "first", parts, facts), write(tmp_path / "second", parts, later)
    assert first == second
    assert first.startswith("2017-12-01-")


@pytest.mark.parametrize("changes", [{"seed": 8}, {"configuration_digest": "other"}, {"dataset": "other"}])
def test_another_meaning_has_another_version(
    parts: Parts, facts: Facts, written: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    assert write(tmp_path, parts, facts.model_copy(update=changes)) != written.name


def test_other_vectors_have_another_version(parts: Parts, facts: Facts, written: Path, tmp_path: Path) -> None:
    popularity = parts.popularity.copy()
    popularity[3] += 1
    assert write(tmp_path, dataclasses.replace(parts, popularity=popularity), facts) != written.name


def test_a_bundle_is_never_overwritten(parts: Parts, facts: Facts, tmp_path: Path) -> None:
    version = write(tmp_path, parts, facts)
    with pytest.raises(BundleExistsError, match=f"{version}: exists already") as caught:
        write(tmp_path, parts, facts)
    assert caught.value.version == version
    assert [path.name for path in tmp_path.iterdir()] == [version]
    Bundle.open(tmp_path / version)


def test_a_failed_write_leaves_nothing_behind(parts: Parts, facts: Facts, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write(tmp_path, dataclasses.replace(parts, user_tower=tmp_path / "nowhere.tflite"), facts)
    assert list(tmp_path.iterdir()) == []


def test_others_may_read_a_bundle(written: Path) -> None:
    assert stat.S_IMODE(written.stat().st_mode) == 0o755


def test_the_published_bundle_is_the_current_one_and_can_be_rolled_back(
    parts: Parts, facts: Facts, tmp_path: Path
) -> None:
    with pytest.raises(BundleError, match="current: points to no bundle"):
        current(tmp_path)
    old = write(tmp_path, parts, facts)
    new = write(tmp_path, dataclasses.replace(parts, popularity=np.ones(40, np.float32)), facts)
    for version in (old, new, old):
        serve(tmp_path, version)
        assert current(tmp_path) == tmp_path / version
        assert Bundle.open(tmp_path / "current").version == version
    assert (tmp_path / "current").readlink() == Path(old)
    assert {path.name for path in tmp_path.iterdir()} == {old, new, "current", "published.jsonl"}


def test_only_a_bundle_can_be_published(parts: Parts, facts: Facts, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"2017-12-01-00000000/manifest\.json: missing"):
        serve(tmp_path, "2017-12-01-00000000")
    version = write(tmp_path, parts, facts)
    (tmp_path / "alias").symlink_to(version)
    with pytest.raises(BundleError, match=f"names version {version}, expected alias"):
        serve(tmp_path, "alias")
    (tmp_path / "current").mkdir()
    with pytest.raises(BundleError, match="current: is not a symbolic link"):
        serve(tmp_path, version)
    with pytest.raises(BundleError, match="nowhere: no such folder; make a bundle with `twinspire bundle`"):
        serve(tmp_path / "nowhere", version)
    assert read(tmp_path) == []


def test_publishing_the_published_bundle_again_adds_no_line_to_the_history(
    tmp_path: Path, hollow: Callable[..., str]
) -> None:
    version = hollow(tmp_path, 1)
    for _ in range(3):
        serve(tmp_path, version)
    assert [(line.version, line.before) for line in read(tmp_path)] == [(version, None)]


def test_a_publication_that_is_killed_at_any_step_leaves_the_old_pointer_or_the_new_one(
    tmp_path: Path, hollow: Callable[..., str], dying: Any
) -> None:
    seen = set()
    for step in itertools.count():
        bundles = tmp_path / str(step)
        first, second, third = (hollow(bundles, number) for number in (1, 2, 3))
        serve(bundles, first)
        serve(bundles, second)
        with dying(step) as life:
            serve(bundles, third)
        served = published(bundles)
        assert current(bundles) == bundles / served
        assert rollback_target(bundles) == {second: first, third: second}[served]
        seen.add(served)
        # The next process finds nothing in its way.
        serve(bundles, third)
        assert (published(bundles), rollback_target(bundles)) == (third, second)
        if not life.ended:
            break
    assert step > 5
    assert seen == {second, third}


def test_a_write_that_is_killed_at_any_step_leaves_a_whole_bundle_or_none(
    parts: Parts, facts: Facts, tmp_path: Path, dying: Any
) -> None:
    for step in itertools.count():
        bundles = tmp_path / str(step)
        bundles.mkdir()
        with dying(step) as life:
            write(bundles, parts, facts)
        for path in bundles.iterdir():
            assert path.name.startswith(".writing-") or Bundle.open(path)
        if not life.ended:
            break
    assert step > 5


def test_the_model_card_has_the_figures_of_the_manifest(written: Path) -> None:
    card = (written / "MODEL_CARD.md").read_text()
    for part in (written.name, "48 events", "6 users and 40 items", "| two_tower recall_at_100 | 0.2500 |", "age (cat"):
        assert part in card


def test_the_model_card_names_the_ranking_of_the_index(written: Path, written_weighted: Path) -> None:
    plain, weighed = ((folder / "MODEL_CARD.md").read_text() for folder in (written, written_weighted))
    assert "Vectors of 8 numbers, L2-normalised; the score is their inner product.\n" in plain
    assert "Index of the form `ip`: recall@10 1.000" in plain
    weights = np.load(written_weighted / "item_weights.npy")
    assert "Vectors of 8 numbers, 5 + 3 side by side, L2-normalised" in weighed
    assert "times the item's business weight w = margin^0.5, at most 1; " in weighed
    assert f"the standard deviation of log w is {np.log(weights).std():.3f}.\n" in weighed
    assert "Index of the form `augmented`: " in weighed
