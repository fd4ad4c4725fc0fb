"""The report of the gates as JSON, as an error and on the screen."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from evaluation.config import CHECK_NAMES, GatesConfig
from evaluation.gates.gates import LIMITS, LOOKS
from evaluation.gates.report import Check, GateError, GateReport
from twinspire.show import print_gates

REPORT = GateReport(
    "2024-03-11",
    "2024-03-11-00000000",
    "2024-03-10-11111111",
    (
        Check("volume", "passed", "as many as ever", found={"ratio": 1.0}),
        Check("nulls", "failed", "[/bold] is null", "look at [/bold]", {"users.age": 0.5}, {"users.age": 0.1}),
        Check("parity", "failed", "users differ", "run features again"),
        Check("changed_lists", "warned", "all the same"),
        Check("sparcode", "not applicable", "not configured"),
    ),
)


def test_the_error_has_a_line_for_each_failed_check() -> None:
    error = GateError(REPORT)
    assert str(error) == "nulls: [/bold] is null; look at [/bold]\nparity: users differ; run features again"
    assert error.report is REPORT


def test_a_report_is_read_back_as_it_was_written() -> None:
    assert GateReport.from_json(REPORT.to_json()) == REPORT
    assert [check["group"] for check in json.loads(REPORT.to_json())["checks"]][:3] == ["data", "data", "features"]


def test_numbers_that_json_lacks_are_text() -> None:
    check = Check("freshness", "failed", "", found={"users": float("inf")})
    text = GateReport("2024-03-11", "", None, (check,)).to_json()
    assert json.loads(text)["checks"][0]["found"] == {"users": "inf"}


def test_a_warning_lets_the_bundle_pass() -> None:
    assert not REPORT.passed
    assert GateReport("2024-03-11", "", None, REPORT.checks[3:]).passed


def test_the_outcome_counts() -> None:
    assert REPORT.outcome() == "2 checks failed, 1 passed, 1 warned, 1 not applicable"
    assert GateReport("2024-03-11", "", None, REPORT.checks[:1]).outcome() == "1 check passed"


def test_a_check_that_did_not_apply_is_named_wherever_the_report_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    unchecked = Check.not_applicable("held_out_recall", "60 users, expected 100", "hold out more")
    quiet = Check.not_applicable("sparcode", "not configured")
    report = GateReport("2024-03-11", "", None, (REPORT.checks[0], quiet, unchecked))
    assert report.passed
    assert report.unchecked == (unchecked,)
    assert report.outcome() == "1 check passed, 2 not applicable; NOT CHECKED: held_out_recall"
    print_gates(report)
    shown = capsys.readouterr().out
    assert shown.index("held_out_recall") < shown.index("volume") < shown.index("sparcode")
    assert "To do: hold out more" in shown


def test_the_terminal_shows_failures_first_with_their_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    print_gates(REPORT)
    shown = capsys.readouterr().out
    assert shown.index("nulls") < shown.index("changed_lists") < shown.index("volume") < shown.index("sparcode")
    for expected in (
        "[/bold] is null",
        "To do: look at [/bold]",
        "compared with 2024-03-10-11111111",
        "The bundle is not published",
    ):
        assert expected in " ".join(shown.split())
    assert max(map(len, shown.splitlines())) <= 80


def test_an_unknown_check_cannot_be_skipped() -> None:
    with pytest.raises(ValidationError, match="there is no check 'volum'; expected some of: volume, quarantine, nulls"):
        GatesConfig(skip=("volum",))


def test_every_check_is_implemented_and_every_limit_is_configured() -> None:
    assert set(LOOKS) == set(CHECK_NAMES)
    assert set(LIMITS) <= set(CHECK_NAMES)
    limits = {limit for names in LIMITS.values() for limit in names}
    assert limits <= set(GatesConfig.model_fields)
    optional = {name for name, field in GatesConfig.model_fields.items() if "None" in str(field.annotation)}
    # Without that limit, the check reports all the same.
    assert optional == limits | {"max_cold_rank"}
