"""How is what the checks of a night found shown to a person? What failed first, with what to do."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from artefacts.console import console
from twinspire.gate_report import GateReport, Outcome

ORDER: tuple[Outcome, ...] = ("failed", "warned", "passed", "skipped", "not applicable")
STYLES: dict[Outcome, str] = {"failed": "bold red", "warned": "yellow", "passed": "green"}


def print_gates(report: GateReport) -> None:
    """Prints a row for each check, and whether the bundle may be published."""
    against = f", beside {report.parent}" if report.parent else ""
    out = console()
    out.print(Text(f"\nChecks of {report.bundle}{against}", style="bold"))
    table = Table("", "check", "found, and expected", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for check in sorted(report.checks, key=lambda check: ORDER.index(check.outcome)):
        told = Text(check.sentence)
        if check.to_do:
            told.append(f"\nTo do: {check.to_do}", style="bold")
        # Text, because names of columns may hold what rich takes for markup.
        outcome = Text(check.outcome, style=STYLES.get(check.outcome, "dim"), no_wrap=True)
        table.add_row(outcome, Text(f"{check.group}: {check.name}", no_wrap=True), told)
    out.print(table, soft_wrap=False)
    out.print(Text(report.outcome()))
    out.print(Text("The bundle may be published." if report.passed else "The bundle is not published: what was stays."))
