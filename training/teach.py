"""The step teach: lists of a teacher for the users of the examples, each of what was known before the examples.

The days of the examples are cut into blocks. The teacher of a block is fitted on what happened before the block began,
and scores the items that a user had not met by then. Lists of blocks in which nothing has changed are kept from run to
run, and shared by all fits.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from artefacts import console, steps
from artefacts.paths import RunPaths
from evaluation import foreign_tables
from evaluation.baselines import ease, item_knn, tuning
from evaluation.split import make_split
from features import columns, tables
from training.config import TeacherConfig, TeachSections
from training.data import teacher_lists, training_data

TEACHERS: Mapping[str, tuning.Tunable] = {"ease": ease.TUNABLE_EASE, "item_knn": item_knn.TUNABLE_ITEM_KNN}
"""Teachers that are fitted here, with the settings that their tuning starts from."""
FORMAT = 1
"""Of the lists; another number makes all of them again."""


def teach(sections: TeachSections, paths: RunPaths) -> str:
    """Makes the lists that are missing; returns one line of outcome.

    Raises:
        ValueError: No teacher is configured, or a file of scores cannot be used.
        LeakageError: A file of scores knows what happened after all examples.
    """
    settings = sections.distillation
    if settings is None:
        raise ValueError("training.distillation is null: there is no teacher; set it, {teacher: ease} for instance")
    days = training_data.days_with_examples(paths, num_days=sections.example_days, num_events=sections.example_events)
    folder = teacher_lists.folder_of(paths, settings)
    if isinstance(settings.teacher, Path):
        return _take_given(settings.teacher, folder, days, num_places=settings.lists)
    return _make(settings, TEACHERS[settings.teacher], paths, folder, blocks_of(days, size=settings.refresh_days))


def blocks_of(days: Sequence[dt.date], *, size: int) -> dict[dt.date, list[dt.date]]:
    """Days by the block that they are in; blocks begin on the same days whichever days there are.

    Args:
        days: In time order.
        size: Days of a block.

    Returns:
        First day of each block, which need not be one of the days -> the days.
    """
    blocks: dict[dt.date, list[dt.date]] = {}
    for day in days:
        blocks.setdefault(day - dt.timedelta(days=day.toordinal() % size), []).append(day)
    return blocks


def _make(
    settings: TeacherConfig,
    teacher: tuning.Tunable,
    paths: RunPaths,
    folder: Path,
    blocks: Mapping[dt.date, Sequence[dt.date]],
) -> str:
    facts, kinds = tables.day_facts(paths.tables), tables.event_kinds_of(paths.tables)
    made_of = {
        begin: steps.digest_of(
            {
                "format": FORMAT,
                "settings": teacher.start,
                "positives": None if kinds is None else kinds.positives,
                "events": [facts[day].digest for day in sorted(facts) if day <= days[-1]],
            }
        )
        for begin, days in blocks.items()
    }
    files = {begin: folder / f"{begin}.parquet" for begin in blocks}
    stale = [begin for begin in blocks if teacher_lists.facts_of(files[begin]).get("made_of") != made_of[begin]]
    if stale:
        last = blocks[stale[-1]][-1]
        events = tables.read_events(paths.tables, first_day=min(facts), end_day=last + dt.timedelta(days=1))
        item_ids = tables.read_items(paths.tables).column(columns.ITEM_ID).to_numpy(zero_copy_only=False)
        with console.progress("teacher", total=len(stale)) as advance:
            for begin in stale:
                lists = _lists(teacher, events, item_ids, begin, blocks[begin][-1], num_places=settings.lists)
                teacher_lists.write_lists(files[begin], lists, known_until=begin, made_of=made_of[begin])
                advance(1)
    first = next(iter(blocks))
    return (
        f"lists of {teacher.title} from {first} on, fitted again every {settings.refresh_days} days on what happened "
        f"before: {len(stale)} of {len(blocks)} fits made, the others kept"
    )


def _lists(
    teacher: tuning.Tunable,
    events: pa.Table,
    item_ids: npt.NDArray[np.object_],
    begin: dt.date,
    last: dt.date,
    *,
    num_places: int,
) -> pa.Table:
    """Lists for those who have a past at the first day of a block, and an event in it up to its last day."""
    split = make_split(events, item_ids, cut=columns.midnight(begin), window_days=(last - begin).days + 1)
    users = np.flatnonzero((np.diff(split.relevant.indptr) > 0) & (np.diff(split.history.indptr) > 0))
    if not len(users):
        return teacher_lists.LISTS_SCHEMA.empty_table()
    fit, _ = teacher.prepare(split, True)
    rows, scores = fit(teacher.start)(users, num_places, True)
    owner, place = np.nonzero(rows >= 0)
    found = (split.user_ids[users[owner]], item_ids[rows[owner, place]], scores[owner, place])
    kinds = teacher_lists.LISTS_SCHEMA.types
    return pa.table(
        [pa.array(values, kind) for values, kind in zip(found, kinds, strict=True)], schema=teacher_lists.LISTS_SCHEMA
    )


def _take_given(path: Path, folder: Path, days: Sequence[dt.date], *, num_places: int) -> str:
    """Keeps the scores of another ranker as lists, by the first midnight at which it knew no more."""
    names = {columns.USER_ID: (), columns.ITEM_ID: (), teacher_lists.SCORE: (), teacher_lists.KNOWN_UNTIL: ("day",)}
    table = foreign_tables.read_table(path, names)
    moments = foreign_tables.moments_of(path, table, teacher_lists.KNOWN_UNTIL)
    scores = foreign_tables.numbers_of(path, table, teacher_lists.SCORE)
    of_a_day = 86_400_000_000
    usable = np.isfinite(scores) & (moments > np.iinfo(np.int64).min)
    given = pa.table(
        {
            columns.USER_ID: foreign_tables.ids_of(path, table, columns.USER_ID),
            columns.ITEM_ID: foreign_tables.ids_of(path, table, columns.ITEM_ID),
            "day": -(-moments // of_a_day),
            teacher_lists.SCORE: scores,
        }
    )
    given = given.filter(pa.array(usable)).drop_null()
    if not given.num_rows:
        raise ValueError(f"{path}: none of its {table.num_rows:,} rows has a user, an item, a score and a moment")
    earliest = columns.day_of(int(np.min(given.column("day").to_numpy())))
    teacher_lists.check_not_later(path, earliest, days)
    keys = ["day", columns.USER_ID]
    best = given.group_by([*keys, columns.ITEM_ID]).aggregate([(teacher_lists.SCORE, "max")])
    best = best.rename_columns([*keys, columns.ITEM_ID, teacher_lists.SCORE])
    best = best.sort_by([*((key, "ascending") for key in keys), (teacher_lists.SCORE, "descending")])
    list_rows = _numbered(best, keys)
    starts = np.flatnonzero(np.diff(list_rows, prepend=-1))
    best = best.filter(pa.array(np.arange(len(list_rows)) - starts[list_rows] < num_places))
    numbers = best.column("day").to_numpy()
    with steps.fresh_folder(folder) as temporary:
        for number in np.unique(numbers):
            day = columns.day_of(int(number))
            of_day = best.filter(pa.array(numbers == number)).drop_columns(["day"])
            teacher_lists.write_lists(temporary / f"{day}.parquet", of_day, known_until=day)
    num_left_out = table.num_rows - given.num_rows
    plural = " has" if num_left_out == 1 else "s have"
    return (
        f"lists of {path} from {earliest} on, {best.num_rows:,} scores of {len(starts):,} lists"
        f"{f'; {num_left_out:,} row{plural} no user, item, score or moment' if num_left_out else ''}"
    )


def _numbered(table: pa.Table, keys: Sequence[str]) -> npt.NDArray[np.int64]:
    """Number of each row's combination of keys, rising: [n] int64; rows of a combination follow each other."""
    changes = np.zeros(table.num_rows, bool)
    for key in keys:
        values = table.column(key).to_numpy(zero_copy_only=False)
        changes[1:] |= values[1:] != values[:-1]
    return np.cumsum(changes)
