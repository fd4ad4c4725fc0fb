"""Which snapshots are there, of which settings, from which events? The record that is written last."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from artefacts.files import replace_text
from features.sources.summary import DayFacts


@dataclass(frozen=True)
class Written:
    """What is there, `state.json`.

    Attributes:
        first: The earliest day whose events can be joined.
        end: The newest midnight.
        settings: What rows depend on beside the events.
        days: The days before `end` and what was in them.
        cuts: Midnights whose pairs were asked for; those of the others go with their state.
    """

    first: dt.date
    end: dt.date
    settings: dict[str, Any]
    days: dict[dt.date, DayFacts]
    cuts: tuple[dt.date, ...] = ()

    def save(self, path: Path) -> None:
        """Writes it, whole or not at all."""
        plain = {
            "format": 2,
            "first": str(self.first),
            "end": str(self.end),
            "settings": self.settings,
            "days": {str(day): asdict(facts) for day, facts in self.days.items()},
            "cuts": [str(cut) for cut in self.cuts],
        }
        replace_text(path, json.dumps(plain, indent=2))

    @classmethod
    def load(cls, path: Path) -> Written | None:
        """Reads it; None where there is none, or one of an earlier version."""
        plain = json.loads(path.read_text()) if path.exists() else {}
        if plain.get("format") != 2:
            return None
        return cls(
            dt.date.fromisoformat(plain["first"]),
            dt.date.fromisoformat(plain["end"]),
            plain["settings"],
            {dt.date.fromisoformat(day): DayFacts(**facts) for day, facts in plain["days"].items()},
            tuple(dt.date.fromisoformat(cut) for cut in plain["cuts"]),
        )
