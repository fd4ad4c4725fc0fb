"""The gates as a whole: every check is made, and can be turned off, skipped or fail."""

from __future__ import annotations

from typing import Any

import pytest

from evaluation.config import CHECK_NAMES
from evaluation.gates import gates
from evaluation.gates.gates import LIMITS, check, check_gates
from evaluation.gates.report import Check, GateError, GateReport


def finds(outcome: str) -> Any:
    return lambda candidate: Check("volume", outcome, "observed", "to do")  # type: ignore[arg-type]


@pytest.fixture
def _all_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "LOOKS", {name: finds("passed") for name in CHECK_NAMES})


def run(shop: Any, parent: str | None = None, **limits: Any) -> str:
    shop.paths.bundle_name.parent.mkdir(parents=True, exist_ok=True)
    shop.paths.bundle_name.write_text("2024-03-11-00000000")
    return check_gates(shop.candidate(**limits).sections, shop.paths, parent=parent)


@pytest.mark.usefixtures("_all_pass")
def test_a_night_that_passes_prints_a_line_and_writes_its_report(shop: Any) -> None:
    assert run(shop, "2024-03-10-11111111") == f"{len(CHECK_NAMES)} checks passed"
    report = GateReport.from_json(shop.paths.gates.read_text())
    assert (report.as_of, report.bundle, report.parent) == ("2024-03-11", "2024-03-11-00000000", "2024-03-10-11111111")
    assert [path.name for path in shop.paths.gates.parent.iterdir() if path.suffix == ".tmp"] == []


@pytest.mark.usefixtures("_all_pass")
def test_a_failed_check_stops_the_night_after_all_were_made(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gates.LOOKS, "quarantine", finds("failed"))  # type: ignore[arg-type]
    with pytest.raises(GateError, match="observed; to do"):
        run(shop)
    report = GateReport.from_json(shop.paths.gates.read_text())
    assert (len(report.checks), len(report.failed)) == (len(CHECK_NAMES), 1)


def test_a_check_that_cannot_run_has_failed(shop: Any) -> None:
    (shop.paths.tables / "users.parquet").write_bytes(b"torn")
    found = check(shop.candidate(), "nulls")
    assert found.outcome == "failed"
    assert "could not be made (ArrowInvalid: " in found.sentence


def test_a_skipped_check_runs_and_does_not_count(shop: Any) -> None:
    shop.write_events(shop.candidate().new_days[0], 0)
    assert check(shop.candidate(), "volume").outcome == "failed"
    found = check(shop.candidate(skip=("volume",)), "volume")
    assert (found.outcome, found.to_do) == ("skipped", "")
    assert found.sentence.startswith("skipped by gates.skip: 2024-03-10 has 0 events")


@pytest.mark.parametrize("name", sorted(LIMITS))
def test_a_check_without_limits_is_off(shop: Any, name: str) -> None:
    found = check(shop.candidate(**dict.fromkeys(LIMITS[name])), name)
    assert found.outcome == "skipped"
    assert f"gates.{LIMITS[name][0]}" in found.sentence


def test_one_limit_of_two_can_be_off(shop: Any) -> None:
    shop.write_events(shop.candidate().new_days[0], 0)
    assert check(shop.candidate(min_volume_ratio=None), "volume").outcome == "passed"
