"""Training examples, joined point-in-time: one immutable partition per event day.

A partition is a small star, because a basket shares its user's features and their history is long:

    examples/2017-11-30/events.parquet   user_row, item_row, timestamp, reward, value, first_meeting, event columns
                        users.parquet    one row per distinct (user, timestamp): the user view as known then
                        items.parquet    one row per distinct (item, timestamp): the item view as known then
                        uniform.parquet  items drawn evenly from the catalogue, as known at the start of the day

The even draws are the pool of uniform negatives. They are joined like everything else, so that a negative is described
as it was on the day, not as it turned out to be. Mined hard negatives are a table of their own (`NEGATIVES_SCHEMA`).
"""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from artefacts.files import all_files
from features import columns, encoding, schema
from features.store import JoinError, Store

PARTS = ("events", "users", "items", "uniform")
USER_ROW, ITEM_ROW, FIRST_MEETING = "user_row", "item_row", "first_meeting"
Ints = npt.NDArray[np.int64]
RANK, SCORE = "rank", "score"
NEGATIVES_SCHEMA = pa.schema(
    [(columns.USER_ID, pa.string()), (columns.ITEM_ID, pa.string()), (RANK, pa.int32()), (SCORE, pa.float32())]
)


@dataclass(frozen=True)
class Day:
    """The examples of one day.

    Attributes:
        events: One row per event; `user_row` and `item_row` point into the two tables.
        users: Features of users at the moments of the events.
        items: Features of items at the moments of the events.
        uniform: Features of evenly drawn items at the start of the day.
    """

    events: pa.Table
    users: pa.Table
    items: pa.Table
    uniform: pa.Table

    @classmethod
    def load(cls, folder: Path) -> Day:
        """Reads a partition."""
        return cls(*(pq.read_table(folder / f"{part}.parquet") for part in PARTS))


def missing_days(folder: Path, days: Sequence[dt.date]) -> list[dt.date]:
    """Days that have no partition yet."""
    return [day for day in days if not (folder / str(day)).is_dir()]


def batches_of(days: Sequence[dt.date], size: int) -> Iterator[list[dt.date]]:
    """Consecutive runs of at most `size` days, to be joined in one call each."""
    for start in range(0, len(days), size):
        yield list(days[start : start + size])


def join_days(
    store: Store, events: pa.Table, *, met: pd.Series, item_ids: npt.NDArray[np.object_], seed: int, folder: Path
) -> int:
    """Joins events with the features known at their moments and writes a partition for each of their days.

    Args:
        store: The feature store.
        events: Canonical events of some days, in order of time; what they have besides `EVENT_COLUMNS` comes along.
        met: First meeting of each pair, Unix seconds, indexed by (user_id, item_id); those that met on no day of the
            events may be left out.
        item_ids: The catalogue, from which as many uniform negatives are drawn for a day as it has events.
        seed: Of those draws; each day has its own stream, whichever days are joined together.
        folder: Where the partitions go.

    Returns:
        Number of examples written; equal to the number of events.

    Raises:
        FileExistsError: A day has a partition already; those are never changed.
        JoinError: An example was lost or doubled, or a feature value is younger than its example.
    """
    frame = (
        events.select(columns.EVENT_COLUMNS).to_pandas().rename(columns={columns.TIMESTAMP: columns.EVENT_TIMESTAMP})
    )
    days = frame[columns.EVENT_TIMESTAMP].dt.date
    for day in days.unique():
        if (folder / str(day)).exists():
            raise FileExistsError(
                f"{folder / str(day)}: this partition is there already and is never changed; join others"
            )
    seconds = frame[columns.EVENT_TIMESTAMP].astype("datetime64[s, UTC]").astype("int64")
    pairs = pd.MultiIndex.from_frame(frame[[columns.USER_ID, columns.ITEM_ID]])
    # A second can hold more than one event of a pair; only the first of them is the meeting.
    frame[FIRST_MEETING] = (met.reindex(pairs).to_numpy() == seconds.to_numpy()) & ~pairs.duplicated()
    joined: dict[str, pa.Table] = {}
    for tower, row in zip(schema.TOWERS, (USER_ROW, ITEM_ROW), strict=True):
        keys = [schema.ENTITY_KEY[tower], columns.EVENT_TIMESTAMP]
        frame[row] = frame.groupby(keys, sort=False).ngroup()
        joined[tower] = store.join(tower, frame[keys].drop_duplicates(ignore_index=True))
    num_draws = {day: len(part) for day, part in frame.groupby(days)}
    uniform = _join_uniform(store, num_draws, item_ids, seed)
    more = events.drop_columns(list(columns.EVENT_COLUMNS))
    written = 0
    for day, part in frame.groupby(days):
        written += _write(folder / str(day), part, more, {**joined, "uniform": uniform[day]})
    if written != events.num_rows:
        raise JoinError(f"{events.num_rows} events gave {written} examples; expected one each")
    return written


def _join_uniform(
    store: Store, num_draws: dict[dt.date, int], item_ids: npt.NDArray[np.object_], seed: int
) -> dict[dt.date, pa.Table]:
    """Draws items for each day without replacement and joins them at its midnight."""
    parts = []
    for day, count in num_draws.items():
        rng = np.random.default_rng([seed, columns.number_of(day)])
        drawn = rng.choice(item_ids, size=min(count, len(item_ids)), replace=False)
        parts.append(pd.DataFrame({columns.ITEM_ID: drawn, columns.EVENT_TIMESTAMP: columns.midnight(day)}))
    joined = store.join("item", pd.concat(parts, ignore_index=True))
    ends = np.cumsum([len(part) for part in parts])
    return {
        day: joined.slice(end - len(part), len(part)) for day, part, end in zip(num_draws, parts, ends, strict=True)
    }


def _write(target: Path, part: pd.DataFrame, more: pa.Table, joined: dict[str, pa.Table]) -> int:
    """Writes the partition of a day: the rows of `part` among all events, whose further columns are `more`."""
    tables: dict[str, pa.Table] = {"uniform": joined["uniform"]}
    local = {}
    for tower, row in (("user", USER_ROW), ("item", ITEM_ROW)):
        used, local[row] = np.unique(part[row].to_numpy(), return_inverse=True)
        tables[f"{tower}s"] = joined[tower].take(pa.array(used))
    events = part.assign(**local).drop(columns=[columns.USER_ID, columns.ITEM_ID])
    tables["events"] = pa.Table.from_pandas(
        events.rename(columns={columns.EVENT_TIMESTAMP: columns.TIMESTAMP}), preserve_index=False
    )
    for name in more.column_names:
        # By position: a round trip through pandas would make other types of lists and nulls.
        tables["events"] = tables["events"].append_column(name, more.column(name).take(pa.array(part.index)))
    _check_rows_match(part, tables)
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name, table in tables.items():
        pq.write_table(table, temporary / f"{name}.parquet", compression="zstd")
    temporary.rename(target)
    return len(part)


def _check_rows_match(part: pd.DataFrame, tables: dict[str, pa.Table]) -> None:
    """The row numbers must lead back to the event's own user and item at its own moment."""
    for name, row, key in (("users", USER_ROW, columns.USER_ID), ("items", ITEM_ROW, columns.ITEM_ID)):
        side = tables[name].select([key, columns.EVENT_TIMESTAMP]).take(tables["events"].column(row))
        same_id = pc.equal(side.column(key), pa.array(part[key], pa.string()))
        same_moment = pc.equal(
            side.column(columns.EVENT_TIMESTAMP).cast(pa.timestamp("us", tz="UTC")),
            pa.array(part[columns.EVENT_TIMESTAMP], pa.timestamp("us", tz="UTC")),
        )
        wrong = np.flatnonzero(~pc.and_(same_id, same_moment).to_numpy())
        if len(wrong):
            shown = part.iloc[wrong[:3]][[key, columns.EVENT_TIMESTAMP]].to_dict("records")
            raise JoinError(f"{len(wrong)} examples got the features of another {key}, such as {shown}")


def event_samples(
    folder: Path, days: Sequence[dt.date], names: Sequence[str], *, before: dt.date
) -> Iterator[pa.Table]:
    """Timestamps and declared columns of the events of some days.

    Args:
        folder: Where the partitions are.
        days: Which; none takes all before a day that have a partition.
        names: The columns; without any, nothing is read.
        before: That day.
    """
    there = [dt.date.fromisoformat(path.name) for path in sorted(folder.glob("????-??-??"))] if names else []
    for day in days or [day for day in there if day < before]:
        if names:
            yield pq.read_table(folder / str(day) / "events.parquet", columns=[columns.TIMESTAMP, *names])


def read_negatives(path: Path, encoder: encoding.Encoder) -> tuple[Ints, Ints]:
    """Mined negatives as rows of an encoder's id maps, by user, then rank.

    Args:
        path: Folder that the job has written.
        encoder: Its ids may be others than those mined with; pairs of which it does not know both are left out.

    Returns:
        user_rows [P] and item_rows [P] int64, from 1 on.

    Raises:
        ValueError: A file is missing.
    """
    files = all_files(path, advice="mine the negatives again")
    table = pq.read_table(files, columns=[columns.USER_ID, columns.ITEM_ID, RANK])
    users = encoder.user_ids.rows(table.column(columns.USER_ID).to_numpy()).astype(np.int64)
    items = encoder.item_ids.rows(table.column(columns.ITEM_ID).to_numpy()).astype(np.int64)
    order = np.lexsort((table.column(RANK).to_numpy(), users))
    order = order[(users[order] > 0) & (items[order] > 0)]
    return users[order], items[order]
