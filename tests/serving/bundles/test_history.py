"""The publication history and the rollback target, also after killed processes."""

from __future__ import annotations

import datetime as dt
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.bundles.folder import (
    FILE_NAME,
    Publication,
    Reason,
    append,
    published,
    read,
    rollback_target,
    version_before,
)
from serving.bundles.manifest import BundleError
from serving.bundles.publish import publish

MOMENT = dt.datetime(2017, 12, 2, 4, tzinfo=dt.UTC)
A, B, C, D = (f"2017-12-0{number}-0000000{number}" for number in range(1, 5))


def line(before: str | None, version: str, reason: Reason = "bundle") -> Publication:
    return Publication(version=version, before=before, moment=MOMENT, reason=reason)


@pytest.mark.parametrize(
    ("lines", "current", "expected"),
    [
        ([], None, None),
        ([], A, None),
        ([line(None, A)], A, None),
        ([line(None, A), line(A, B)], B, A),
        # Rollbacks go further back, and what was left is out of the way of the next publication.
        ([line(None, A), line(A, B), line(B, C), line(C, B, "rollback")], B, A),
        ([line(None, A), line(A, B), line(B, A, "rollback")], A, None),
        ([line(None, A), line(A, B), line(B, A, "rollback"), line(A, C)], C, A),
        # A promotion of an old one is a publication.
        ([line(None, A), line(A, B), line(B, A, "promote")], A, B),
        # The pointer never moved to C, nor did the rollback happen.
        ([line(None, A), line(A, B), line(B, C)], B, A),
        ([line(None, A), line(A, B), line(B, C), line(B, D)], D, B),
        ([line(None, A), line(A, B), line(B, A, "rollback")], B, A),
        # Moved by hand, or with its line lost.
        ([line(None, A)], D, A),
        ([line(None, A), line(C, D)], D, C),
        ([line(B, A, "rollback")], A, None),
    ],
)
def test_the_version_published_before(lines: list[Publication], current: str | None, expected: str | None) -> None:
    assert version_before(lines, current) == expected


def test_lines_come_back_as_they_were_written(tmp_path: Path) -> None:
    assert read(tmp_path) == []
    lines = [line(None, A), line(A, B, "promote"), line(B, A, "rollback")]
    for publication in lines:
        append(tmp_path, publication)
    assert read(tmp_path) == lines


@pytest.mark.parametrize("length", range(0, 60, 7))
def test_a_half_written_line_is_ignored_and_does_not_spoil_the_next(tmp_path: Path, length: int) -> None:
    append(tmp_path, line(None, A))
    whole = (tmp_path / FILE_NAME).read_bytes()
    (tmp_path / FILE_NAME).write_bytes(whole + whole[:length])
    assert read(tmp_path) == [line(None, A)]
    append(tmp_path, line(A, B))
    assert read(tmp_path) == [line(None, A), line(A, B)]


def test_foreign_lines_are_ignored(tmp_path: Path) -> None:
    append(tmp_path, line(None, A))
    with (tmp_path / FILE_NAME).open("ab") as file:
        file.write(b'\xff\xfe\n\n[]\n{"version": "../../etc"}\n')
    append(tmp_path, line(A, B))
    assert read(tmp_path) == [line(None, A), line(A, B)]


def test_a_rollback_without_a_target_is_an_error(tmp_path: Path, hollow: Callable[..., str]) -> None:
    with pytest.raises(BundleError, match="nothing is published, so there is nothing to go back from"):
        rollback_target(tmp_path)
    first, second = hollow(tmp_path, 1), hollow(tmp_path, 2)
    publish(tmp_path, first, moment=MOMENT, reason="bundle")
    with pytest.raises(BundleError, match=rf"published\.jsonl has nothing published before {first}"):
        rollback_target(tmp_path)
    publish(tmp_path, second, moment=MOMENT, reason="bundle")
    (tmp_path / first).rename(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match=f"{first}, which was published before {second}, was removed; promote"):
        rollback_target(tmp_path)


MOVES = st.lists(st.tuples(st.sampled_from(["1", "2", "3", "back"]), st.none() | st.integers(0, 12)), max_size=12)


@given(moves=MOVES)
def test_rollbacks_retrace_the_way_whichever_process_was_killed_at_whichever_step(
    hollow: Callable[..., str], dying: Any, moves: list[tuple[str, int | None]]
) -> None:
    """Against a list that knows when the pointer moved."""
    with tempfile.TemporaryDirectory() as folder:
        bundles = Path(folder)
        versions = {str(number): hollow(bundles, number) for number in (1, 2, 3)}
        way: list[str] = []
        for move, step in moves:
            if move == "back" and len(way) < 2:
                continue
            version = rollback_target(bundles) if move == "back" else versions[move]
            before = published(bundles)
            with dying(10_000 if step is None else step):
                publish(bundles, version, moment=MOMENT, reason="rollback" if move == "back" else "bundle")
            served = published(bundles)
            assert served in (before, version)
            if served != before:
                way[len(way) - (move == "back") :] = [] if move == "back" else [version]
            assert served == (way[-1] if way else None)
            assert version_before(read(bundles), served) == (way[-2] if len(way) > 1 else None)
