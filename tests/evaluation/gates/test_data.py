"""Checks of data: missing, doubled, emptied and renamed data fail, an ordinary day passes."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from evaluation.gates.gates import check

NEWEST, EARLIER = dt.date(2024, 3, 10), dt.date(2024, 3, 9)
DATA = ("volume", "quarantine", "nulls", "new_categories")


@pytest.mark.parametrize("name", DATA)
def test_an_ordinary_day_passes(shop: Any, name: str) -> None:
    assert check(shop.candidate(), name).outcome == "passed"


@pytest.mark.parametrize(("events", "ratio"), [(200, "0.50"), (0, "0.00"), (800, "2.00")])
def test_half_a_day_no_day_and_a_day_delivered_twice_are_noticed(shop: Any, events: int, ratio: str) -> None:
    shop.write_events(NEWEST, events)
    found = check(shop.candidate(), "volume")
    assert found.outcome == "failed"
    assert (
        f"2024-03-10 has {events} events, {ratio} of the 400 that are usual on its weekday; expected 0.65 to 1.75"
        in found.sentence
    )
    assert found.found["events"] == events
    assert found.expected == {"usual": 400.0, "min_ratio": 0.65, "max_ratio": 1.75}
    assert "delivered twice" in found.to_do


def test_a_day_without_its_file_has_no_events(shop: Any) -> None:
    (shop.paths.tables / "events" / f"{NEWEST}.parquet").unlink()
    assert "2024-03-10 has 0 events" in check(shop.candidate(), "volume").sentence


def test_a_quiet_weekday_is_compared_with_its_own_kind(shop: Any) -> None:
    for weeks in range(5):
        shop.write_events(NEWEST - dt.timedelta(days=7 * weeks), 100)
    assert check(shop.candidate(), "volume").outcome == "passed"
    # What any other day has had.
    shop.write_events(NEWEST, 400)
    assert check(shop.candidate(), "volume").found["ratio"] == 4


def test_one_odd_week_does_not_count(shop: Any) -> None:
    shop.write_events(NEWEST - dt.timedelta(days=7), 1)
    assert check(shop.candidate(), "volume").outcome == "passed"


def test_in_the_third_week_all_days_are_compared_with(shop: Any) -> None:
    for file in sorted((shop.paths.tables / "events").iterdir())[:-16]:
        file.unlink()
    shop.write_events(NEWEST - dt.timedelta(days=7), 1)
    assert check(shop.candidate(), "volume").expected["usual"] == 400


def test_few_events_vary_by_chance(shop: Any) -> None:
    for day in range(40):
        shop.write_events(NEWEST - dt.timedelta(days=day), 12)
    shop.write_events(NEWEST, 4)
    assert check(shop.candidate(), "volume").outcome == "passed"


def test_every_day_since_the_previous_night_counts(shop: Any) -> None:
    shop.write_events(EARLIER, 10)
    assert check(shop.candidate(), "volume").outcome == "passed"
    candidate = shop.candidate()
    earlier = type(candidate)(candidate.sections, candidate.paths, candidate.version, f"{EARLIER}-11111111")
    assert "2024-03-09 has 10 events" in check(earlier, "volume").sentence


def test_without_two_weeks_of_days_there_is_nothing_to_compare_with(shop: Any) -> None:
    for file in sorted((shop.paths.tables / "events").iterdir())[:-5]:
        file.unlink()
    found = check(shop.candidate(), "volume")
    assert found.outcome == "not applicable"
    assert "4 days with events before 2024-03-10" in found.sentence


def test_rows_set_aside_among_the_new_ones_are_noticed(shop: Any) -> None:
    # Of all rows .22%, of the 400 new ones 10%.
    shop.write_manifest(read=27_400, aside=60)
    found = check(shop.candidate(), "quarantine")
    assert found.outcome == "failed"
    assert "10.00% of the new rows of events were set aside; expected at most 0.50%" in found.sentence
    assert check(shop.candidate(max_quarantine_share=0.1), "quarantine").outcome == "passed"


def test_a_few_bad_rows_are_no_alarm(shop: Any) -> None:
    shop.write_manifest(read=27_040, aside=21)
    assert check(shop.candidate(), "quarantine").outcome == "passed"


def test_without_a_previous_night_all_rows_are_checked(shop: Any) -> None:
    shop.write_manifest(read=1000, aside=900)
    assert "90.00% of the new rows of events" in check(shop.candidate(parent=False), "quarantine").sentence


def test_a_nulled_column_is_noticed(shop: Any) -> None:
    shop.write_entities(age=[None] * 120)
    found = check(shop.candidate(), "nulls")
    assert found.outcome == "failed"
    assert "100.0% of users.age are null, 0.0% the previous night; expected a rise of at most 2.0%" in found.sentence
    assert found.found["users.country"] == pytest.approx(1 / 3)


def test_nan_counts_as_null(shop: Any) -> None:
    shop.write_entities(size=[float("nan")] * 3 + [1.0] * 27)
    assert "10.0% of items.size are null" in check(shop.candidate(), "nulls").sentence


def test_a_column_that_was_always_half_empty_is_no_alarm(shop: Any) -> None:
    shop.write_entities(country=["NL", None, "DE"] * 40)
    assert check(shop.candidate(), "nulls").outcome == "passed"


def test_a_renamed_value_is_noticed(shop: Any) -> None:
    shop.write_entities(aisle=["fruit", "Tools"] * 15)
    found = check(shop.candidate(), "new_categories")
    assert found.outcome == "failed"
    assert (
        "50.00% of the values of items.aisle are new since the previous night; expected at most 5.00%" in found.sentence
    )
    assert check(shop.candidate(), "nulls").outcome == "passed"


def test_a_first_new_value_is_no_alarm(shop: Any) -> None:
    shop.write_entities(aisle=["fruit", "tools"] * 14 + ["fruit", "garden"])
    found = check(shop.candidate(), "new_categories")
    assert (found.outcome, found.found["items.aisle"]) == ("passed", pytest.approx(1 / 30))


def test_a_report_of_another_version_does_not_fail_the_bundle(shop: Any) -> None:
    shop.before.gates.write_text('{"other": 1}')
    assert check(shop.candidate(), "nulls").outcome == "not applicable"


def test_without_a_previous_night_there_are_no_new_categories(shop: Any) -> None:
    assert check(shop.candidate(parent=False), "new_categories").outcome == "not applicable"
    assert check(shop.candidate(parent=False), "nulls").outcome == "not applicable"
