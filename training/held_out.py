"""Held-out users: who is kept out of a fit so that it can be compared with the earlier fit that it starts from."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq
from scipy import sparse

from artefacts.files import json_text
from artefacts.paths import RunPaths
from evaluation.metrics import find_hits, recall_at_k
from evaluation.statistics import users_needed
from features import columns, encoding, schema
from features.ids import stable_number
from serving.retrieval import exact
from serving.retrieval.vectors import read_vectors
from towers.two_tower import TwoTower
from training import lineage, trainer, warm_start
from training.data import training_data

STATE, TRAINED = "state", "trained"
HELD_OUT = "held_out.npz"
# Of the hash of a user and a day, so that shares are exact to a hundredth of a percent.
GRAIN = 10_000
MOST_SHARE = 0.5
# What the gate asks for by default: gates.min_held_out_users.
FEWEST_USERS = 100
# Where no earlier comparison says how many users are needed, and how many users have to say it.
USUAL_USERS, FEWEST_FOR_SPREAD = 400, 30

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Floats64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Parent:
    """An earlier fit.

    Attributes:
        as_of: Everything before this day was known to it.
        model: Its folder, with the state that a later fit starts from.
        vectors: Of all users and items then.
        catalogue: Features of all users and items then.
        encoder: Of its tables.
    """

    as_of: dt.date
    model: Path
    vectors: Path
    catalogue: Path
    encoder: encoding.Encoder

    @classmethod
    def open(cls, paths: RunPaths) -> Parent:
        """The fit of a day."""
        encoder = encoding.Encoder.load(paths.model / "encoder")
        return cls(paths.as_of, paths.model, paths.vectors, paths.catalogue(paths.as_of), encoder)


@dataclass(frozen=True)
class WarmStart:
    """What a fit starts from.

    Attributes:
        parent: The earlier fit.
        growth: Where its rows are in today's tables.
    """

    parent: Parent
    growth: warm_start.Growth

    def state(self, name: str) -> warm_start.Arrays:
        """Of one of its models."""
        return warm_start.load_state(state_file(self.parent.model, name))

    def trained(self) -> tuple[Bools, Bools]:
        """Users and items that have had an example in any fit so far, by today's rows of the catalogue."""
        kept = self.state(TRAINED)
        masks = []
        for tower, column in (("users", columns.USER_ID), ("items", columns.ITEM_ID)):
            rows = self.growth.rows[column][: len(kept[tower])]
            found = np.zeros(len(self.growth.inherits[column]), bool)
            found[rows[(rows >= 0) & kept[tower].astype(bool)]] = True
            masks.append(found)
        return masks[0], masks[1]


def state_file(model: Path, name: str) -> Path:
    """Where the state of one of a fit's models is."""
    return model / STATE / f"{name or 'towers'}.npz"


@dataclass(frozen=True)
class HeldOut:
    """Users whose examples since a day are kept out of a fit: other ones after each day.

    Attributes:
        since: The day.
        share: Of the users, from 0 to below 1.
    """

    since: dt.date
    share: float

    @classmethod
    def with_power(cls, parent: Parent, paths: RunPaths, *, fall: float) -> HeldOut:
        """Holds out as many as a comparison with the earlier fit needs, of those who have met something new since.

            n = ( (z_.975 + z_.8) sd / (fall * recall) )^2

        The standard deviation of the users' differences and the recall are those of the earlier fit's own comparison.
        At most half of the users are held out: the examples of the others are what is fitted.

        Args:
            parent: The earlier fit.
            paths: Of the new fit.
            fall: Part of the earlier fit's recall whose loss the comparison has to show four times in five.
        """
        relevant, _ = _pairs(parent, paths)
        active = _all_ids(parent.encoder)[np.diff(relevant.indptr) > 0]
        needed = max(_users_for(parent.model / HELD_OUT, fall), FEWEST_USERS)
        drawn = np.sort(_drawn(parent.as_of, active))
        share = MOST_SHARE if needed > len(drawn) else min((int(drawn[needed - 1]) + 1) / GRAIN, MOST_SHARE)
        return cls(parent.as_of, share)

    def of(self, user_ids: npt.NDArray[np.object_]) -> Bools:
        """Who is held out: [n] bool. A hash of day and id decides, the same in every process."""
        return np.asarray(_drawn(self.since, user_ids) < round(self.share * GRAIN))

    def keep(self, encoder: encoding.Encoder) -> Callable[[dt.date, Ints], Bools]:
        """Which examples of a day are fitted, by the user rows of an encoder: day, [E] int64 -> [E] bool."""
        held = np.zeros(encoder.user_ids.num_table_rows, bool)
        held[1 : len(encoder.user_ids)] = self.of(_all_ids(encoder))
        return lambda day, rows: np.ones(len(rows), bool) if day < self.since else ~held[rows]


def _drawn(since: dt.date, user_ids: npt.NDArray[np.object_]) -> npt.NDArray[Any]:
    """[n] from 0 to below `GRAIN`."""
    return np.asarray(stable_number(f"{since}:{user_id}" for user_id in user_ids) % GRAIN)


def _users_for(comparison: Path, fall: float) -> int:
    """Users that show a fall of recall four times in five, by the users of an earlier comparison."""
    if not comparison.exists():
        return USUAL_USERS
    with np.load(comparison, allow_pickle=False) as file:
        differences, recall = file["fit"] - file["parent"], float(file["parent"].sum()) / max(len(file["parent"]), 1)
    # Of a few users, or of users who all have the same, the spread is not known.
    if len(differences) < FEWEST_FOR_SPREAD or not recall > 0 or not differences.std() > 0:
        return USUAL_USERS
    return users_needed(differences, fall * recall)


def compare(
    towers: TwoTower, parent: Parent, encoder: encoding.Encoder, paths: RunPaths, held: HeldOut, *, folder: Path, k: int
) -> str:
    """Evaluates the earlier fit on what users have met since, and both on those who were held out of the new one.

    Both see what was known at the earlier one's moment. Writes the recall of each user to `held_out.npz`, and means.

    Args:
        towers: The new fit's, with factors as of the parent's moment, so that these do not know the answers.
        parent: The earlier fit.
        encoder: The new fit's.
        paths: Of the new fit.
        held: Who was held out.
        folder: Of the new fit's model; gets the file.
        k: Length of the lists.

    Returns:
        A line for people.
    """
    relevant, seen = _pairs(parent, paths)
    evaluated = np.flatnonzero(np.diff(relevant.indptr) > 0)
    is_held = held.of(_all_ids(parent.encoder))[evaluated]
    users, items = _as_known_to(parent, encoder)

    def recall(vectors: tuple[Floats, Floats], rows: Ints) -> Floats64:
        ranked, _ = exact.search(*vectors, k=k, exclude=seen[rows])
        return recall_at_k(find_hits(ranked, relevant[rows]), k)

    before = np.zeros(0)
    fit = np.zeros(0)
    if len(evaluated):
        before = recall(
            (read_vectors(parent.vectors / "users")[evaluated], read_vectors(parent.vectors / "items")), evaluated
        )
    if is_held.any():
        some = {name: values[evaluated[is_held]] for name, values in users.items()}
        fit = recall((trainer.embed(towers.user, some), trainer.embed(towers.item, items)), evaluated[is_held])
    with (folder / HELD_OUT).open("wb") as file:
        np.savez(
            file, allow_pickle=False, users=evaluated[is_held], fit=fit, parent=before[is_held], next_day=before,
            k=np.asarray(k),
        )  # fmt: skip
    summary = {
        "k": k,
        "next_day": float(before.mean()) if len(before) else None,
        "num_users": len(before),
        "fit": float(fit.mean()) if len(fit) else None,
        "parent": float(before[is_held].mean()) if len(fit) else None,
        "num_held_out": len(fit),
    }
    (folder / lineage.HELD_OUT_SUMMARY).write_text(json_text(summary, indent=2))
    if not len(before):
        return f"no user met anything new since {parent.as_of}"
    line = f"recall@{k} of the previous fit on {len(before):,} users since {parent.as_of} {before.mean():.4f}"
    if len(fit):
        line += f"; on {len(fit):,} of them, held out, {before[is_held].mean():.4f} and now {fit.mean():.4f}"
    return line


def _as_known_to(parent: Parent, encoder: encoding.Encoder) -> tuple[encoding.Inputs, encoding.Inputs]:
    """Model inputs of the parent's users and items at its moment, by its rows, even if the tables have grown."""
    inputs = training_data.catalogue_inputs(encoder, parent.catalogue)
    found = []
    for tower, values, ids in zip(
        schema.TOWERS, inputs, (parent.encoder.user_ids, parent.encoder.item_ids), strict=True
    ):
        table = pq.read_table(parent.catalogue / f"{tower}s.parquet", columns=[schema.ENTITY_KEY[tower]])
        names = pd.Index(table.column(0).to_numpy(zero_copy_only=False))
        rows = names.get_indexer(np.asarray(ids.ids(np.arange(1, len(ids))), dtype=object))
        # Who is gone from the tables has met nothing, so that any row will do.
        found.append({name: value[np.maximum(rows, 0)] for name, value in values.items()})
    return found[0], found[1]


def _pairs(parent: Parent, paths: RunPaths) -> tuple[sparse.csr_array, sparse.csr_array]:
    """What each user met first since the parent's moment, and before it: [users, items] bool and float32, its rows."""
    table = pq.read_table(paths.pairs)
    users, items = (
        ids.rows(table.column(name).to_numpy(zero_copy_only=False)).astype(np.int64) - 1
        for ids, name in ((parent.encoder.user_ids, columns.USER_ID), (parent.encoder.item_ids, columns.ITEM_ID))
    )
    is_new = table.column("first_seconds").to_numpy() >= columns.seconds_of(parent.as_of)
    known = (users >= 0) & (items >= 0)
    shape = (len(parent.encoder.user_ids) - 1, len(parent.encoder.item_ids) - 1)

    def matrix(chosen: Bools, dtype: type) -> sparse.csr_array:
        return sparse.csr_array((np.ones(chosen.sum(), dtype), (users[chosen], items[chosen])), shape=shape)

    return matrix(known & is_new, bool), matrix(known & ~is_new, np.float32)


def _all_ids(encoder: encoding.Encoder) -> npt.NDArray[np.object_]:
    return np.asarray(encoder.user_ids.ids(np.arange(1, len(encoder.user_ids))), dtype=object)
