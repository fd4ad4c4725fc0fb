"""Lists of a teacher: how they are kept, which list an example gets, and what it gives the candidates of a batch.

    teachers/ease-1a2b3c4d/2024-01-31.parquet    user_id, item_id, score; for examples of that day and later ones

Each file carries the day before which its teacher knows events. An example gets its user's latest list of its own day
or earlier.

Shape letters: B rows of a batch, C candidates, L lists, N places of a list, P places of all lists.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from artefacts.files import replaced
from artefacts.paths import RunPaths
from artefacts.steps import digest_of
from evaluation.leakage import LeakageError
from features import columns
from features.encoding import Encoder
from features.ids import IdMap
from training.config import TeacherConfig

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
SCORE, KNOWN_UNTIL, MADE_OF = "score", "known_until", "made_of"
LISTS_SCHEMA = pa.schema([(columns.USER_ID, pa.string()), (columns.ITEM_ID, pa.string()), (SCORE, pa.float32())])


def folder_of(paths: RunPaths, settings: TeacherConfig) -> Path:
    """Where the lists of a teacher are: fits that ask for the same ones share them."""
    asked = {name: getattr(settings, name) for name in TeacherConfig.model_fields}
    name = "given" if isinstance(settings.teacher, Path) else settings.teacher
    return paths.teachers / f"{name}-{digest_of(asked)[:8]}"


def write_lists(path: Path, lists: pa.Table, *, known_until: dt.date, made_of: str = "") -> None:
    """Writes lists, `LISTS_SCHEMA`, with the day before which their teacher knows events and a hash of what it was."""
    table = lists.cast(LISTS_SCHEMA).replace_schema_metadata({KNOWN_UNTIL: str(known_until), MADE_OF: made_of})
    with replaced(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def facts_of(path: Path) -> dict[str, str]:
    """What a file of lists carries besides them; nothing where there is no such file."""
    if not path.exists():
        return {}
    found = pq.read_schema(path).metadata or {}
    return {name: found[name.encode()].decode() for name in (KNOWN_UNTIL, MADE_OF) if name.encode() in found}


@dataclass(frozen=True)
class TeacherLists:
    """Lists of a teacher as rows of an encoder's id maps, their scores in units of the softmax.

    Attributes:
        keys: [L] int64, rising: user row * 2^32 + number of the day that the list counts from.
        starts: [L + 1] int64, where each list begins.
        items: [P] int64 item rows, rising within a list.
        scores: [P] float32.
        thresholds: [L] float32, the score above which the teacher takes an item for a positive; infinite where nothing
            is denoised.
    """

    keys: Ints
    starts: Ints
    items: Ints
    scores: Floats
    thresholds: Floats

    @classmethod
    def of(
        cls,
        user_rows: Ints,
        days: Ints,
        item_rows: Ints,
        scores: npt.NDArray[np.floating],
        *,
        temperature: float,
        denoise_above: float | None = None,
    ) -> TeacherLists:
        """Lists from pairs in any order.

            T_j = (score_j - mean) / (standard deviation * temperature),   mean and deviation of the list

        Args:
            user_rows: [P] rows of users.
            days: [P] number of the day that the pair's list counts from.
            item_rows: [P] rows of items, each once in a list.
            scores: [P] on any scale.
            temperature: Above 0.
            denoise_above: Quantile of a list above which an item is taken for a positive; None denoises nothing.
        """
        by_pair = _key(user_rows, days)
        order = np.lexsort((item_rows, by_pair))
        keys, starts = np.unique(by_pair[order], return_index=True)
        starts = np.append(starts, len(order)).astype(np.int64)
        owners, counts = np.repeat(np.arange(len(keys)), np.diff(starts)), np.diff(starts)
        values = scores[order].astype(np.float64)
        values -= (np.bincount(owners, values, len(keys)) / np.maximum(counts, 1))[owners]
        deviation = np.sqrt(np.bincount(owners, values**2, len(keys)) / np.maximum(counts, 1))
        # A list of equal scores says nothing about their order.
        scaled = (values / (np.where(deviation > 0, deviation, np.inf) * temperature)[owners]).astype(np.float32)
        thresholds = np.full(len(keys), np.inf, np.float32)
        if denoise_above is not None:
            rising = scaled[np.lexsort((scaled, owners))]
            thresholds = rising[starts[:-1] + np.floor(denoise_above * (counts - 1)).astype(np.int64)]
        return cls(keys, starts, item_rows[order].astype(np.int64), scaled, thresholds)

    @property
    def user_rows(self) -> Ints:
        """[L] whose list each is."""
        return self.keys >> 32

    @property
    def days(self) -> Ints:
        """[L] number of the day that each counts from."""
        return self.keys & (2**32 - 1)

    @cached_property
    def lowest(self) -> Floats:
        """[L] float32, the lowest score of each list."""
        if not len(self.keys):
            return np.zeros(0, np.float32)
        return np.asarray(np.minimum.reduceat(self.scores, self.starts[:-1]))

    def rows_of(self, day: dt.date, user_rows: Ints) -> Ints:
        """The list of each of some users at a day: [n] int64, -1 for who has none that counts by then."""
        if not len(self.keys):
            return np.full(len(user_rows), -1, np.int64)
        found = np.searchsorted(self.keys, _key(user_rows, columns.number_of(day)), side="right") - 1
        return np.where((found >= 0) & (self.user_rows[found] == user_rows), found, -1)

    def scores_of(self, list_rows: Ints, item_rows: Ints) -> Floats:
        """Scores of items, for arrays that broadcast: the list's lowest for what is not on it, 0 without one."""
        list_rows, item_rows = np.broadcast_arrays(list_rows, item_rows)
        scores: Floats = self._lowest_of(list_rows)
        wanted = (list_rows << 31) + item_rows
        if len(self.keys):
            found = np.minimum(np.searchsorted(self._pairs, wanted), len(self._pairs) - 1)
            scores = np.where(self._pairs[found] == wanted, self.scores[found], scores)
        return scores

    def scores_of_candidates(self, list_rows: Ints, candidate_rows: Ints) -> Floats:
        """Scores of the candidates that all rows share, and of each row's own item.

        Args:
            list_rows: [B] lists of the rows, -1 for none.
            candidate_rows: [C] item rows; column i is row i's own.

        Returns:
            [B, C] float32: of an item that comes more than once, at its first column and at that of its own row; the
            list's lowest elsewhere, and 0 for a row without a list.
        """
        num_rows = len(list_rows)
        scores = np.repeat(self._lowest_of(list_rows)[:, None], len(candidate_rows), axis=1)
        items, columns_of = np.unique(candidate_rows, return_index=True)
        place = np.full(max(int(self.items.max(initial=0)), int(items[-1])) + 1, -1, np.int64)
        place[items] = columns_of
        listed = np.flatnonzero(list_rows >= 0)
        begin, end = self.starts[list_rows[listed]], self.starts[list_rows[listed] + 1]
        row, index = np.repeat(listed, end - begin), _stretches(begin, end)
        column = place[self.items[index]]
        scores[row[column >= 0], column[column >= 0]] = self.scores[index[column >= 0]]
        scores[np.arange(num_rows), np.arange(num_rows)] = self.scores_of(list_rows, candidate_rows[:num_rows])
        return scores

    def are_above(self, list_rows: Ints, item_rows: Ints) -> npt.NDArray[np.bool_]:
        """Whether lists take items for positives, for arrays that broadcast; False where there is no list."""
        thresholds = np.append(self.thresholds, np.float32(np.inf))[list_rows]
        return np.asarray(self.scores_of(list_rows, item_rows) > thresholds)

    @cached_property
    def _pairs(self) -> Ints:
        """[P] rising: list * 2^31 + item row."""
        return (np.repeat(np.arange(len(self.keys)), np.diff(self.starts)) << 31) + self.items

    def _lowest_of(self, list_rows: Ints) -> Floats:
        return np.append(self.lowest, np.float32(0))[list_rows]


def read_teacher_lists(
    folder: Path,
    encoder: Encoder,
    days: Sequence[dt.date],
    *,
    temperature: float,
    denoise_above: float | None,
) -> TeacherLists:
    """The lists that count on some days.

    Args:
        folder: Where they are.
        encoder: Whose rows are given; users and items that it does not know are left out.
        days: Of the examples, in time order.
        temperature: What scores are divided by once they have a deviation of one in their list.
        denoise_above: As in `TeacherLists.of`.

    Raises:
        ValueError: There are no lists.
        LeakageError: A teacher knows what happened on the days that its lists count for, or all lists count for later
            days.
    """
    files = {dt.date.fromisoformat(path.stem): path for path in sorted(folder.glob("????-??-??.parquet"))}
    if not files:
        raise ValueError(f"{folder}: no lists of training.distillation.teacher; make them with `twinspire teach`")
    check_not_later(folder, min(files), days)
    # Of those before the examples, the last ones alone.
    first = max((day for day in files if day <= days[0]), default=min(files))
    found: list[tuple[Ints, Ints, Ints, Floats]] = []
    for day, path in files.items():
        if not first <= day <= days[-1]:
            continue
        known_until = facts_of(path).get(KNOWN_UNTIL)
        if known_until is None or dt.date.fromisoformat(known_until) > day:
            raise LeakageError(
                f"{path}: its teacher knows events up to {known_until or 'no day that it names'}, expected up to {day} "
                f"at most: lists of {day} are for examples from that day on; make them again with `twinspire teach`"
            )
        table = pq.read_table(path, columns=LISTS_SCHEMA.names)
        users, items = (
            _rows(ids, table.column(name))
            for ids, name in ((encoder.user_ids, columns.USER_ID), (encoder.item_ids, columns.ITEM_ID))
        )
        known = (users > 0) & (items > 0)
        scores = table.column(SCORE).to_numpy()[known]
        found.append((users[known], np.full(int(known.sum()), columns.number_of(day)), items[known], scores))
    pairs = [np.concatenate(parts) for parts in zip(*found, strict=True)]
    return TeacherLists.of(*pairs, temperature=temperature, denoise_above=denoise_above)


def check_not_later(where: Path, earliest: dt.date, days: Sequence[dt.date]) -> None:
    """Refuses a teacher that knows what happened after all examples.

    Args:
        where: Its file or folder, for the message.
        earliest: The day before which the teacher of the earliest lists knows events.
        days: Of the examples, in time order.

    Raises:
        LeakageError: It does.
    """
    if earliest > days[-1]:
        raise LeakageError(
            f"{where}: the teacher knows events up to {earliest}, and the examples are of {days[0]} to {days[-1]}: it "
            "has seen what it would teach; give scores of a ranker that was fitted before them"
        )


def _key(user_rows: Ints, days: Ints | int) -> Ints:
    return np.asarray((np.asarray(user_rows, np.int64) << 32) + days)


def _stretches(begin: Ints, end: Ints) -> Ints:
    """The numbers from each begin to the one before its end, one stretch after the other."""
    counts = end - begin
    return np.asarray(np.arange(counts.sum()) + np.repeat(begin - (np.cumsum(counts) - counts), counts))


def _rows(ids: IdMap, names: pa.ChunkedArray) -> Ints:
    """Rows of names, each distinct one looked up once: [n] int64."""
    encoded = names.combine_chunks().dictionary_encode()
    rows = ids.rows(encoded.dictionary.to_numpy(zero_copy_only=False)).astype(np.int64)
    return np.asarray(rows[encoded.indices.to_numpy()])
