"""Changes of past days are found by their digests and described in a message."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from beam_jobs.snapshot_days import day_changes
from features.sources.summary import DayFacts
from features.tables import day_facts


def days(**found: tuple[str, int]) -> dict[dt.date, DayFacts]:
    """Day of November, such as `d28`, and its digest and number of events."""
    return {dt.date(2017, 11, int(name[1:])): DayFacts(*facts, 0) for name, facts in found.items()}


BEFORE = days(d27=("a", 5), d28=("b", 6), d30=("c", 7))
UNTIL = dt.date(2017, 12, 1)


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (days(d27=("a", 5), d28=("x", 9), d30=("c", 7)), "2017-11-28 changed (3 events more)"),
        (days(d27=("a", 5), d28=("x", 5), d30=("c", 7)), "2017-11-28 changed (1 event fewer)"),
        (days(d27=("a", 5), d28=("x", 6), d30=("c", 7)), "2017-11-28 changed (the same number of events)"),
        (days(d27=("x", 1_234), d28=("b", 6)), "2017-11-27 and 1 later day changed (1,222 events more)"),
        (
            days(d28=("b", 6), d29=("y", 1), d30=("z", 7)),
            "2017-11-27 and 2 later days changed (4 events fewer)",
        ),
    ],
)
def test_changes_are_reported_with_the_first_day_and_the_number_of_events(
    now: dict[dt.date, DayFacts], expected: str
) -> None:
    assert str(day_changes(BEFORE, now, until=UNTIL)) == expected


def test_new_days_and_the_same_days_are_no_change() -> None:
    later = days(d30=("other", 1)) | {UNTIL: DayFacts("new", 3, 0)}
    assert day_changes(BEFORE, BEFORE | {UNTIL: DayFacts("new", 3, 0)}, until=UNTIL) is None
    assert day_changes(BEFORE, BEFORE | later, until=dt.date(2017, 11, 30)) is None


def test_tables_without_digests_are_an_error_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"format": 1}')
    with pytest.raises(ValueError, match=r"manifest.json: has no digests of days; run `twinspire ingest --force` once"):
        day_facts(tmp_path)
