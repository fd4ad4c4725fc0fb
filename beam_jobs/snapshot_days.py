"""Snapshots: the rows of the midnights that are missing, from the latest saved state that still holds.

    state.json        what is there: the newest midnight, of which settings, from which events
    user/, item/      rows; a file ends with the midnight it is called after
    pairs/            who had met what
    state/            totals at the midnights of the last days, from which a run starts

What `state.json` does not tell is removed before anything is written, so a run that was killed leaves no trace.
"""

from __future__ import annotations

import datetime as dt
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from artefacts import console, files
from artefacts.paths import RunPaths
from beam_jobs import snapshot_state, snapshots
from beam_jobs.config import BeamConfig
from features import columns, config, schema, tables
from features.sources.summary import DayFacts


@dataclass(frozen=True)
class DayChanges:
    """Days whose events changed.

    Attributes:
        days: In order.
        num_more: Events that they have now and had not; negative where there are fewer.
    """

    days: tuple[dt.date, ...]
    num_more: int

    def __str__(self) -> str:
        """In words, such as '2017-11-28 and 1 later day changed (3 events more)'."""
        later = len(self.days) - 1
        and_later = f" and {later} later day{'s' if later > 1 else ''}" if later else ""
        events = "event" if abs(self.num_more) == 1 else "events"
        number = f"{abs(self.num_more):,} {events} {'more' if self.num_more > 0 else 'fewer'}"
        return f"{self.days[0]}{and_later} changed ({number if self.num_more else 'the same number of events'})"


def day_changes(
    before: Mapping[dt.date, DayFacts], now: Mapping[dt.date, DayFacts], *, until: dt.date
) -> DayChanges | None:
    """What changed between two readings.

    Args:
        before: The days of the earlier one.
        now: Those of the later one.
        until: Days from this one on do not count: they are new, not changed.

    Returns:
        The changes; None where there are none.
    """
    days = sorted(day for day in {*before, *now} if day < until and _digest(before, day) != _digest(now, day))
    if not days:
        return None
    return DayChanges(tuple(days), sum(_number(now, day) - _number(before, day) for day in days))


def _digest(days: Mapping[dt.date, DayFacts], day: dt.date) -> str | None:
    return days[day].digest if day in days else None


def _number(days: Mapping[dt.date, DayFacts], day: dt.date) -> int:
    return days[day].num_events if day in days else 0


@dataclass(frozen=True)
class Written:
    """What is there, `state.json`.

    Attributes:
        first: The earliest day whose events can be joined.
        end: The newest midnight.
        settings: What rows depend on besides the events.
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
        files.replace_text(path, files.json_text(plain, indent=2))

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


# Events that a run takes in at once at most, unless one day has more.
BLOCK_EVENTS = 2_000_000
DAY = dt.timedelta(days=1)


@dataclass(frozen=True)
class Brought:
    """What a run did.

    Attributes:
        num_midnights: Midnights that got rows.
        changed: What of the past was computed again, in words; empty where nothing was.
    """

    num_midnights: int
    changed: str

    def outcome(self) -> str:
        """In words."""
        changed = f"{self.changed}; " if self.changed else ""
        return f"{changed}{self.num_midnights} days of snapshots"


def write_snapshots(sections: config.FeaturesSections, beam: BeamConfig, paths: RunPaths) -> Brought:
    """Brings rows, pairs and state up to `as_of`.

    Where events of the past changed, the days from there on are computed again and everything derived from them is
    removed: rows, pairs, examples, catalogues.

    Args:
        sections: What the step reads of the configuration.
        beam: Where Beam runs.
        paths: Where things lie.
    """
    facts = tables.day_facts(paths.tables)
    # No example is older than the first event.
    first = max(sections.first_day, min(facts, default=sections.first_day))
    written, changed = _what_holds(sections, paths, first, facts)
    _remove_after(paths.snapshots, written.end if written else dt.date.min)
    if written is None:
        start = min([first, *(day for day in facts if day < sections.as_of)])
        written = Written(first, start, _settings(sections), {})
    begun = written.end if paths.state(written.end).exists() else None
    blocks = list(_blocks(sections, written, facts))
    with console.progress("daily snapshots", total=len(blocks)) as advance:
        for days in blocks:
            saved = None if begun is None else saved_state(paths, begun)
            _run(sections, beam, paths, days, saved=saved, rows_from=_rows_from(sections, written.first))
            begun = days[1]
            written = replace(written, end=begun, days={day: facts[day] for day in sorted(facts) if day < begun})
            written.save(paths.snapshots_record)
            advance(1)
    if not paths.pairs.exists():
        _write_pairs(sections, beam, paths, facts)
    replace(written, cuts=tuple(sorted({*written.cuts, sections.as_of}))).save(paths.snapshots_record)
    _forget(sections, paths)
    rows_from = _rows_from(sections, written.first)
    num_midnights = sum((end - max(begin, rows_from - DAY)).days for begin, end in blocks if end >= rows_from)
    return Brought(num_midnights, changed)


def saved_state(paths: RunPaths, moment: dt.date) -> snapshot_state.SavedState:
    """The files of the state at a midnight."""
    folder = paths.state(moment)
    return snapshot_state.SavedState(folder / "user.parquet", folder / "item.parquet", paths.pairs_at(moment))


def _what_holds(
    sections: config.FeaturesSections, paths: RunPaths, first: dt.date, facts: Mapping[dt.date, DayFacts]
) -> tuple[Written | None, str]:
    """What still holds of what is there, None where nothing does, and what changed in words."""
    written = Written.load(paths.snapshots_record)
    is_whole = written is not None and written.end in _saved_midnights(paths)
    if written is None or not is_whole or written.first > first or written.settings != _settings(sections):
        # Snapshots of another schema must never be joined.
        _start_over(paths)
        return None, ""
    changes = day_changes(written.days, facts, until=written.end)
    if changes is None:
        return written, ""
    day = changes.days[0]
    starts = [moment for moment in _saved_midnights(paths) if moment <= day]
    if not starts:
        _start_over(paths)
        states = f"the states kept of the last {sections.features.late_days} days"
        return None, f"{changes}, before {states}: all computed again"
    _remove_made_of(paths, day)
    kept = {before: known for before, known in written.days.items() if before < max(starts)}
    num_days = (written.end - day).days
    written = replace(written, end=max(starts), days=kept)
    # Only now: killed before, the next run finds the same changes again.
    written.save(paths.snapshots_record)
    return written, f"{changes}: {num_days} day{'s' if num_days > 1 else ''} computed again"


def _start_over(paths: RunPaths) -> None:
    # First: a record of folders that are half removed must not be trusted.
    paths.snapshots_record.unlink(missing_ok=True)
    for path in paths.features.glob("*"):
        # Versions of the online features belong to the bundles that name them.
        if path.is_dir() and path != paths.online:
            shutil.rmtree(path, ignore_errors=True)


def _settings(sections: config.FeaturesSections) -> dict[str, Any]:
    return {
        "dataset": sections.dataset.model_dump(mode="json"),
        "history": sections.features.history_length,
        "refresh": [sections.features.user_refresh_days, sections.features.item_refresh_days],
        # The uniform negatives of a partition are drawn with it.
        "seed": sections.seed,
    }


def _rows_from(sections: config.FeaturesSections, first: dt.date) -> dt.date:
    """The first midnight whose rows are wanted: from there on everybody's turn comes before the first join."""
    return first - (max(sections.features.user_refresh_days, sections.features.item_refresh_days) - 1) * DAY


def _blocks(
    sections: config.FeaturesSections, written: Written, facts: Mapping[dt.date, DayFacts]
) -> Iterator[tuple[dt.date, dt.date]]:
    """Cuts the missing midnights into runs: one for each midnight whose state is kept, longer ones before."""
    begin, num_events = written.end, 0
    rows_from = _rows_from(sections, written.first)
    kept_from = sections.as_of - sections.features.late_days * DAY
    for day in columns.day_range(begin, sections.as_of):
        until = day + DAY
        num_events += facts[day].num_events if day in facts else 0
        num_midnights = (until - max(begin, rows_from)).days
        is_full = num_events >= BLOCK_EVENTS or num_midnights >= sections.features.join_days
        if is_full or until >= kept_from or until == sections.as_of:
            yield begin, until
            begin, num_events = until, 0


def _run(
    sections: config.FeaturesSections,
    beam: BeamConfig,
    paths: RunPaths,
    days: tuple[dt.date, dt.date],
    *,
    saved: snapshot_state.SavedState | None,
    rows_from: dt.date,
) -> None:
    """Computes the midnights of a block and puts the files to their places."""
    temporary = paths.features / ".snapshots.tmp"
    _compute(sections, beam, paths, days, saved=saved, rows_from=rows_from, out=temporary)
    state = paths.state(days[1])
    for folder in (paths.snapshots / "user", paths.snapshots / "item", paths.snapshots / "pairs", state):
        folder.mkdir(parents=True, exist_ok=True)
    for tower in schema.TOWERS:
        (temporary / f"{tower}_state.parquet").rename(state / f"{tower}.parquet")
        if pq.read_metadata(temporary / f"{tower}.parquet").num_rows:
            (temporary / f"{tower}.parquet").rename(paths.snapshots / tower / f"{days[1]}.parquet")
    (temporary / "pairs.parquet").rename(paths.pairs_at(days[1]))
    shutil.rmtree(temporary)


def _compute(
    sections: config.FeaturesSections,
    beam: BeamConfig,
    paths: RunPaths,
    days: tuple[dt.date, dt.date],
    *,
    saved: snapshot_state.SavedState | None,
    rows_from: dt.date,
    out: Path,
) -> None:
    transform = snapshots.DailySnapshots(
        paths.tables,
        sections.dataset,
        days=days,
        rows_from=rows_from,
        num_shards=beam.shards,
        history_length=sections.features.history_length,
        user_refresh_days=sections.features.user_refresh_days,
        item_refresh_days=sections.features.item_refresh_days,
        saved=saved,
    )
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    stored = [paths.tables / "events" / f"{day}.parquet" for day in columns.day_range(*days)]
    there = [str(file) for file in stored if file.exists()]
    snapshots.run(transform, there, out=out, schema=sections.dataset, options=beam.pipeline_options())


def _write_pairs(
    sections: config.FeaturesSections, beam: BeamConfig, paths: RunPaths, facts: Mapping[dt.date, DayFacts]
) -> None:
    """The pairs at a cut before the newest one, whose state is gone: from the latest earlier state, or from nothing."""
    earlier = [moment for moment in _saved_midnights(paths) if moment <= sections.as_of]
    saved = saved_state(paths, max(earlier)) if earlier else None
    start = max(earlier) if earlier else min([sections.as_of, *facts])
    temporary = paths.features / ".snapshots.tmp"
    _compute(sections, beam, paths, (start, sections.as_of), saved=saved, rows_from=dt.date.max, out=temporary)
    paths.pairs.parent.mkdir(parents=True, exist_ok=True)
    (temporary / "pairs.parquet").rename(paths.pairs)
    shutil.rmtree(temporary)


def _saved_midnights(paths: RunPaths) -> list[dt.date]:
    """Midnights whose state is there, whole, in order."""
    found = sorted(dt.date.fromisoformat(folder.name) for folder in paths.states.glob("????-??-??"))
    return [moment for moment in found if all(file.exists() for file in vars(saved_state(paths, moment)).values())]


def _remove_made_of(paths: RunPaths, day: dt.date) -> None:
    """Removes the examples of a day and later ones, and the catalogues of the midnights after it."""
    stale = [folder for folder in paths.examples.glob("????-??-??") if folder.name >= str(day)]
    stale += [folder for folder in paths.catalogue(day).parent.glob("????-??-??") if folder.name > str(day)]
    for folder in stale:
        # At once: half a partition would be taken for a whole one.
        gone = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(gone, ignore_errors=True)
        folder.rename(gone)
        shutil.rmtree(gone)


def _remove_after(folder: Path, end: dt.date) -> None:
    """Removes what is not recorded: of a run that was killed, or of a past that has changed."""
    for part in ("user", "item", "pairs", "state"):
        for path in (folder / part).glob("????-??-??*"):
            if path.name[:10] > str(end):
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()


def _forget(sections: config.FeaturesSections, paths: RunPaths) -> None:
    """Removes the states of midnights before the last `late_days`, and their pairs unless a cut asked for them."""
    written = Written.load(paths.snapshots_record)
    if written is None:
        return
    oldest = written.end - sections.features.late_days * DAY
    for folder in paths.states.iterdir():
        if dt.date.fromisoformat(folder.name) < oldest:
            shutil.rmtree(folder)
    for path in paths.pairs.parent.glob("????-??-??.parquet"):
        moment = dt.date.fromisoformat(path.stem)
        if moment < oldest and moment not in written.cuts:
            path.unlink()
