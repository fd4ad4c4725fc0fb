"""The step teach: lists of what was known before the examples, kept as long as that is the same."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from artefacts.config import pick
from artefacts.paths import RunPaths
from evaluation.baselines.ease import TUNABLE_EASE
from evaluation.leakage import LeakageError
from evaluation.split import make_split
from features.columns import midnight
from features.config import IngestSections
from features.steps import make_tables
from features.tables import read_events, read_items
from training.config import TeachSections
from training.data.teacher_lists import facts_of, folder_of
from training.teach import blocks_of, teach
from twinspire.config import Config

FIRST, NUM_DAYS = dt.date(2024, 1, 1), 14
AS_OF = FIRST + dt.timedelta(days=NUM_DAYS)
NOW = dt.datetime(2024, 3, 1, tzinfo=dt.UTC)
Order = tuple[str, str, dt.date]


def days(first: int, end: int) -> list[dt.date]:
    return [FIRST + dt.timedelta(days=number) for number in range(first, end)]


def orders(seed: int = 1) -> list[Order]:
    """Of twelve users with two tastes, each day one item each; the last user comes on the last day alone."""
    rng = np.random.default_rng(seed)
    made = [
        (f"u{user}", f"i{2 * int(rng.integers(8)) + user % 2}", day) for day in days(0, NUM_DAYS) for user in range(12)
    ]
    return [*made, ("new", "i0", days(0, NUM_DAYS)[-1])]


def shop(folder: Path, events: Iterable[Order], **distillation: Any) -> tuple[TeachSections, RunPaths]:
    """Tables, and days of examples from the sixth on."""
    frame = pd.DataFrame(
        [(*pair, f"{day}T12:00:00Z") for *pair, day in events], columns=["user_id", "item_id", "timestamp"]
    )
    folder.mkdir(exist_ok=True)
    frame.to_csv(folder / "orders.csv", index=False)
    config = Config.model_validate(
        {
            "name": "shop",
            "as_of": AS_OF,
            "ingest": {"source": {"kind": "tables", "events": {"path": folder / "orders.csv"}}},
            "training": {"distillation": {"lists": 5, "refresh_days": 4, **distillation}, "example_days": 8},
        }
    )
    paths = RunPaths(folder / "runs", AS_OF)
    make_tables(pick(IngestSections, config), paths, now=NOW)
    for day in days(5, NUM_DAYS):
        (paths.examples / str(day)).mkdir(parents=True, exist_ok=True)
    return pick(TeachSections, config), paths


def lists_in(sections: TeachSections, paths: RunPaths) -> dict[str, pa.Table]:
    assert sections.distillation is not None
    return {path.stem: pq.read_table(path) for path in sorted(folder_of(paths, sections.distillation).iterdir())}


def test_blocks_begin_on_the_same_days_whichever_days_there_are() -> None:
    every = blocks_of(days(0, 14), size=5)
    assert [day for block in every.values() for day in block] == days(0, 14)
    assert all(begin <= block[0] and (block[-1] - begin).days < 5 for begin, block in every.items())
    assert len(every) in (3, 4)
    later = blocks_of(days(6, 14), size=5)
    assert later == {begin: block for begin, block in every.items() if begin in later} | {
        begin: [day for day in every[begin] if day in days(6, 14)] for begin in list(later)[:1]
    }
    assert blocks_of(days(3, 5), size=1) == {day: [day] for day in days(3, 5)}


@pytest.mark.parametrize("teacher", ["ease", "item_knn"])
def test_a_list_has_what_its_user_had_not_met_before_the_block_and_nothing_of_later(
    tmp_path: Path, teacher: str
) -> None:
    sections, paths = shop(tmp_path, orders(), teacher=teacher)
    outcome = teach(sections, paths)
    found = lists_in(sections, paths)
    assert f"{len(found)} of {len(found)} fits made" in outcome
    assert len(found) in (2, 3)
    for begin, lists in found.items():
        frame = lists.to_pandas()
        assert set(frame["user_id"]) <= {f"u{user}" for user in range(12)}
        assert frame.groupby("user_id").size().max() <= 5
        met = {(user, item) for user, item, day in orders() if day < dt.date.fromisoformat(begin)}
        assert not met & set(zip(frame["user_id"], frame["item_id"], strict=True))
        assert facts_of(folder_of(paths, sections.distillation) / f"{begin}.parquet")["known_until"] == begin  # type: ignore[arg-type]


def test_lists_are_those_of_the_baseline_on_the_past(tmp_path: Path) -> None:
    sections, paths = shop(tmp_path, orders())
    teach(sections, paths)
    events = read_events(paths.tables, first_day=FIRST, end_day=AS_OF)
    ids = read_items(paths.tables).column("item_id").to_numpy(zero_copy_only=False)
    for begin, lists in lists_in(sections, paths).items():
        split = make_split(events, ids, cut=midnight(dt.date.fromisoformat(begin)), window_days=1)
        fit, _ = TUNABLE_EASE.prepare(split, True)
        rows, scores = fit(TUNABLE_EASE.start)(np.arange(len(split.user_ids)), 5, True)
        expected = {
            (split.user_ids[user], ids[row]): score
            for user, (some, theirs) in enumerate(zip(rows, scores, strict=True))
            for row, score in zip(some, theirs, strict=True)
            if row >= 0
        }
        listed = {(row["user_id"], row["item_id"]): row["score"] for row in lists.to_pylist()}
        assert {user for user, _ in listed} == {user for user, _ in expected}
        np.testing.assert_allclose(
            np.sort([*listed.values()]), np.sort([*expected.values()]), atol=1e-4
        )  # where two items tie, either one may be listed


def test_what_happens_from_a_blocks_beginning_on_changes_nothing_in_its_lists(tmp_path: Path) -> None:
    sections, paths = shop(tmp_path / "one", orders())
    teach(sections, paths)
    found = lists_in(sections, paths)
    begins = sorted(found)
    cut = dt.date.fromisoformat(begins[1])
    # From the second block on, everybody buys one and the same item.
    changed = [(user, item if day < cut else "i3", day) for user, item, day in orders()]
    others, other_paths = shop(tmp_path / "other", changed)
    teach(others, other_paths)
    after = lists_in(others, other_paths)
    assert [after[begin].equals(found[begin]) for begin in begins[:3]] == [True, True, *[False] * (len(begins) - 2)][:3]


def test_lists_are_kept_until_what_they_are_made_of_changes(tmp_path: Path) -> None:
    sections, paths = shop(tmp_path, orders())
    teach(sections, paths)
    folder = folder_of(paths, sections.distillation)  # type: ignore[arg-type]
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    # An arm of a comparison shares them.
    assert f"0 of {len(before)} fits made" in teach(sections, RunPaths(paths.root, AS_OF, "arm"))
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    last = max(before)
    shop(tmp_path, [*orders(), ("u1", "i4", AS_OF - dt.timedelta(days=1))])
    assert f"1 of {len(before)} fits made" in teach(sections, paths)
    again = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert {name for name in before if again[name] != before[name]} == {last}


def given(folder: Path, rows: Sequence[Sequence[object]], names: Sequence[str]) -> Path:
    path = folder / "scores.csv"
    folder.mkdir(exist_ok=True)
    pd.DataFrame(rows, columns=list(names)).to_csv(path, index=False)
    return path


def test_scores_of_another_ranker_count_from_the_midnight_at_which_it_knew_no_more(tmp_path: Path) -> None:
    rows = [
        ("u1", "i1", 0.5, "2024-01-08T00:00:00"), ("u1", "i2", 0.7, "2024-01-08"), ("u1", "i2", 0.6, "2024-01-08"),
        ("u1", "i3", 0.1, "2024-01-08"), ("u2", "i1", 2, "2024-01-09T03:00:00Z"), ("u2", "i2", "", "2024-01-09"),
    ]  # fmt: skip
    path = given(tmp_path / "data", rows, ["user_id", "item_id", "score", "known_until"])
    sections, paths = shop(tmp_path, orders(), teacher=path, lists=2)
    assert teach(sections, paths) == (
        f"lists of {path} from 2024-01-08 on, 3 scores of 2 lists; 1 row has no user, item, score or moment"
    )
    found = lists_in(sections, paths)
    assert list(found) == ["2024-01-08", "2024-01-10"]
    assert found["2024-01-08"].to_pydict() == {
        "user_id": ["u1", "u1"], "item_id": ["i2", "i1"], "score": [pytest.approx(0.7), 0.5]
    }  # fmt: skip
    assert found["2024-01-10"].num_rows == 1


@pytest.mark.parametrize("name", ["known_until", "day"])
def test_scores_that_have_seen_the_examples_or_do_not_tell_are_refused(tmp_path: Path, name: str) -> None:
    late = given(tmp_path / "late", [("u1", "i1", 1.0, "2024-01-15")], ["user_id", "item_id", "score", name])
    sections, paths = shop(tmp_path, orders(), teacher=late)
    with pytest.raises(LeakageError, match=r"scores\.csv: the teacher knows events up to 2024-01-15, and the examples"):
        teach(sections, paths)
    plain = given(tmp_path / "plain", [("u1", "i1", 1.0)], ["user_id", "item_id", "score"])
    sections, paths = shop(tmp_path, orders(), teacher=plain)
    with pytest.raises(ValueError, match=r"has the columns user_id, item_id, score; expected known_until \(or day\)"):
        teach(sections, paths)
    empty = given(tmp_path / "empty", [("u1", "i1", "", "2024-01-08")], ["user_id", "item_id", "score", name])
    sections, paths = shop(tmp_path, orders(), teacher=empty)
    with pytest.raises(ValueError, match="none of its 1 rows has a user, an item, a score and a moment"):
        teach(sections, paths)


def test_without_a_teacher_there_is_nothing_to_make(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"training\.distillation is null: there is no teacher; set it"):
        teach(TeachSections(None, 8, None), RunPaths(tmp_path, AS_OF))
