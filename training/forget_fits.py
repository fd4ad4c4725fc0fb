"""Erasure of people from the fits on disk (GDPR): their rows are cut out of every table of users.

    models/<day>/encoder/user_ids.parquet    names them
    models/<day>/state/*.npz                 rows of users, which a later warm start reads
    vectors/<day>/users/                     a row for each user
    models/<day>/user_tower.tflite, sparcode/, checkpoints, held_out.npz, validation_vectors.npz, codes/<day>/
                                             rows of users that cannot be cut out: removed, as no later night reads them
    models/<day>/cutting.json                the rows that are being cut, by number, as long as they are

A call that was killed is finished by the next one, by these numbers: what is cut already has another length.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from artefacts.files import json_text, replace_text
from artefacts.paths import CUTTING, RunPaths
from features import columns, ids, schema
from serving.retrieval.vectors import ROW, VALIDATION_FILE, VECTOR
from serving.sparcode.files import FOLDER
from training import held_out, warm_start

# Where one file holds what several did.
ONE_FILE = "vectors-00000-of-00001.parquet"
IDS = Path("encoder") / "user_ids.parquet"


@dataclass(frozen=True)
class Cut:
    """Which users are being cut out of a fit.

    Attributes:
        rows: Of the encoder's table, from 1 on, ascending.
        num_rows: The table's, the unknown user included, before.
        num_buckets: Rows of the table behind them.
    """

    rows: list[int]
    num_rows: int
    num_buckets: int

    def length(self, found: int, expected: int, what: str) -> bool:
        """Whether something with a row for each user is still to be cut.

        Raises:
            ValueError: It has neither the rows of before nor those of after.
        """
        if found not in (expected, expected - len(self.rows)):
            raise ValueError(
                f"{what} has {found} rows of users, expected {expected} as in the encoder of the fit, which is "
                "damaged: remove its folder, and the next night does a full retrain"
            )
        return found == expected


def forget_in_fit(paths: RunPaths, people: Sequence[str]) -> int:
    """Cuts some people out of a day's fit; returns how many of them it knew.

    Raises:
        ValueError: A state has another number of users than the encoder of the fit.
    """
    marker = paths.model / CUTTING
    if marker.exists():
        _cut(paths, Cut(**json.loads(marker.read_text())))
    users = ids.IdMap.load(paths.model / IDS)
    rows = users.rows(list(people))
    gone = np.unique(rows[rows > 0]).tolist()
    if gone:
        cut = Cut(gone, len(users), users.num_buckets)
        replace_text(marker, json_text(asdict(cut)))
        _cut(paths, cut)
    return len(gone)


def _cut(paths: RunPaths, cut: Cut) -> None:
    for path in (paths.model / name for name in ("user_tower.tflite", held_out.HELD_OUT, VALIDATION_FILE)):
        path.unlink(missing_ok=True)
    for folder in (paths.model / FOLDER, paths.codes, *paths.model.glob("*/checkpoints")):
        shutil.rmtree(folder, ignore_errors=True)
    for state in sorted((paths.model / held_out.STATE).glob("*.npz")):
        _cut_state(state, cut)
    _cut_vectors(paths.vectors / "users", cut)
    file = paths.model / IDS
    users = ids.IdMap.load(file)
    if cut.length(len(users), cut.num_rows, str(file)):
        kept = np.setdiff1d(np.arange(1, len(users)), cut.rows)
        temporary = file.with_name(f".{file.name}.tmp")
        ids.IdMap(np.asarray(users.ids(kept), dtype=object), users.num_buckets).save(temporary)
        temporary.replace(file)
    (paths.model / CUTTING).unlink(missing_ok=True)


def _cut_state(path: Path, cut: Cut) -> None:
    """Takes rows out of every array of a state that has a row for each user."""
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file.items())
    # Marks of who was trained, unlike tables, have no rows for buckets.
    is_marks = path.stem == held_out.TRAINED
    expected = cut.num_rows if is_marks else cut.num_rows + cut.num_buckets
    changed = {}
    for name, values in arrays.items():
        axis = (0 if name == "users" else None) if is_marks else _axis_of_users(name)
        if axis is not None and cut.length(values.shape[axis], expected, f"{path}: {name}"):
            changed[name] = np.delete(values, cut.rows, axis=axis)
    if changed:
        temporary = path.with_name(f".{path.name}.tmp")
        with temporary.open("wb") as out:
            np.savez(out, allow_pickle=False, **(arrays | changed))
        temporary.replace(path)


def _axis_of_users(name: str) -> int | None:
    """The axis of a variable's rows where they belong to users."""
    for pattern, axis in warm_start.OWNERS:
        if match := pattern.match(name.split(warm_start.SLOT)[0]):
            groups = match.groupdict()
            owner = groups["column"] if "column" in groups else schema.ENTITY_KEY[groups["tower"]]  # type: ignore[index]
            return axis if owner == columns.USER_ID else None
    return None


def _cut_vectors(folder: Path, cut: Cut) -> None:
    """Takes rows out of the vectors of users; those of another number of users are of another fit, and go."""
    files = sorted(folder.glob("*.parquet"))
    whole = folder / ONE_FILE
    if whole in files:
        # Of a call that was killed: it was put there at once, and is whole.
        for file in files:
            if file != whole:
                file.unlink()
        files = [whole]
    num_users = cut.num_rows - 1
    num_rows = sum(pq.read_metadata(file).num_rows for file in files)
    if not files or num_rows == num_users - len(cut.rows):
        return
    if num_rows != num_users:
        shutil.rmtree(folder)
        return
    table = pq.read_table(files).sort_by(ROW)
    kept = pa.array(np.setdiff1d(np.arange(num_users), np.asarray(cut.rows) - 1))
    fields = table.schema.remove_metadata()
    cut_table = pa.table([pa.array(np.arange(len(kept))), table.column(VECTOR).take(kept)], schema=fields)
    temporary = folder / f".{ONE_FILE}.tmp"
    pq.write_table(cut_table, temporary, compression="zstd")
    temporary.replace(whole)
    for file in files:
        if file != whole:
            file.unlink()
