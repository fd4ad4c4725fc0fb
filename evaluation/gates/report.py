"""The report of the gates: what each check found, for people and for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from artefacts.files import json_text
from evaluation.config import CHECKS, Group

Outcome = Literal["passed", "warned", "failed", "skipped", "not applicable"]
Number = float | int | str | None
GROUP_OF: dict[str, Group] = {name: group for group, names in CHECKS.items() for name in names}


@dataclass(frozen=True)
class Check:
    """What one check found.

    Attributes:
        name: Of the check, one of `CHECK_NAMES`.
        outcome: A warning lets the bundle pass.
        sentence: What was found and what was expected, in words.
        to_do: What to do about it; empty where nothing is to be done. A check that does not apply has it unless there
            is nothing to check, such as a part that is not configured.
        found: What was measured -> number.
        expected: Limit -> number.
    """

    name: str
    outcome: Outcome
    sentence: str
    to_do: str = ""
    found: Mapping[str, Number] = field(default_factory=dict)
    expected: Mapping[str, Number] = field(default_factory=dict)

    @property
    def group(self) -> Group:
        """What it looks at."""
        return GROUP_OF[self.name]

    @classmethod
    def measured(
        cls,
        name: str,
        holds: bool,
        sentence: str,
        to_do: str,
        *,
        found: Mapping[str, Number] | None = None,
        expected: Mapping[str, Number] | None = None,
    ) -> Check:
        """A check that passes where it `holds`, with nothing to do then."""
        outcome: Outcome = "passed" if holds else "failed"
        return cls(name, outcome, sentence, "" if holds else to_do, found or {}, expected or {})

    @classmethod
    def not_applicable(
        cls, name: str, why: str, to_do: str = "", *, found: Mapping[str, Number] | None = None
    ) -> Check:
        """A check that does not apply: with something to do where it could, such as on a first night."""
        return cls(name, "not applicable", why, to_do, found or {})


@dataclass(frozen=True)
class GateReport:
    """All checks of a night.

    Attributes:
        as_of: Day of the bundle, such as `2017-12-01`.
        bundle: Version of the bundle that was checked.
        parent: Version of the bundle of the previous night; None where there is none.
        checks: In the order in which they ran.
    """

    as_of: str
    bundle: str
    parent: str | None
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether the bundle may be published."""
        return not self.failed

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that forbid it."""
        return tuple(check for check in self.checks if check.outcome == "failed")

    @property
    def unchecked(self) -> tuple[Check, ...]:
        """The checks that did not apply although there is something to check."""
        return tuple(check for check in self.checks if check.outcome == "not applicable" and check.to_do)

    def found(self, name: str) -> Mapping[str, Number]:
        """What a check measured; nothing where it is not there."""
        return next((check.found for check in self.checks if check.name == name), {})

    def outcome(self) -> str:
        """One line for people."""
        counts = {outcome: 0 for outcome in ("failed", "passed", "warned", "skipped", "not applicable")}
        for check in self.checks:
            counts[check.outcome] += 1
        counted = [f"{count} {outcome}" for outcome, count in counts.items() if count]
        first, *rest = counted or ["0 passed"]
        number, _, word = first.partition(" ")
        unchecked = ", ".join(check.name for check in self.unchecked)
        line = ", ".join([f"{number} check{'' if number == '1' else 's'} {word}", *rest])
        return f"{line}; NOT CHECKED: {unchecked}" if unchecked else line

    def to_json(self) -> str:
        """Text that `from_json` reads back."""
        checks = [{"name": check.name, "group": check.group, **asdict(check)} for check in self.checks]
        plain = {"as_of": self.as_of, "bundle": self.bundle, "parent": self.parent, "passed": self.passed}
        return json_text(_json({**plain, "checks": checks}), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> GateReport:
        """Reads what `to_json` wrote."""
        raw: dict[str, Any] = json.loads(text)
        checks = tuple(
            Check(**{name: value for name, value in check.items() if name != "group"}) for check in raw["checks"]
        )
        return cls(raw["as_of"], raw["bundle"], raw["parent"], checks)


def _json(value: Any) -> Any:
    """Infinities and nan, which JSON has not, as text."""
    if isinstance(value, dict):
        return {name: _json(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_json(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


class GateError(ValueError):
    """A bundle must not be published; the message has a line for each failed check."""

    def __init__(self, report: GateReport) -> None:
        """Takes what was found."""
        lines = [f"{check.name}: {check.sentence}; {check.to_do}" for check in report.failed]
        super().__init__("\n".join(lines))
        self.report = report
