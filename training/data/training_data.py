"""Training data of a phase: examples, known positives and listed negatives, read from what the features step wrote."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy import sparse

from artefacts.paths import RunPaths
from features import columns, encoding, examples, schema
from features.ids import IdMap
from features.tables import dated_facts, example_days
from serving.exposures.files import ITEM_IDS, are_exposures, read_exposures
from towers.lookups import Fact
from training import config
from training.data import batches
from training.data.denoising import later_meetings
from training.data.example_weights import Fade
from training.data.teacher_lists import TeacherLists, folder_of, read_teacher_lists
from training.negatives import private
from training.negatives.known_positives import KnownPositives

Ints = npt.NDArray[np.int64]
# Pairs that wait to be counted among the distinct ones: 32 MB.
MERGE_PAIRS = 4_000_000


def read_impressions(path: Path, encoder: encoding.Encoder, *, before: dt.date) -> tuple[Ints, Ints]:
    """Pairs of a user and an item that the user was shown; unknown users and items are left out.

    Args:
        path: A Parquet file with `user_id` and `item_id`, read whole and as it is, or a folder of exposures, of which
            each pair comes once, by user and item.
        encoder: Whose rows the pairs are given as.
        before: Exposures are read up to this day, UTC, so that none of what a phase is evaluated on is fitted.

    Returns:
        User rows [P] and item rows [P].

    Raises:
        ValueError: The path is not there, or has not these columns.
    """
    if are_exposures(path):
        return _of_exposures(path, encoder, before)
    if not path.exists():
        raise ValueError(
            f"training.negatives.impressions is {path}, which does not exist; expected a Parquet file with "
            f"{columns.USER_ID} and {columns.ITEM_ID}, or the exposures that a server has logged"
        )
    table = pq.read_table(path)
    missing = [name for name in (columns.USER_ID, columns.ITEM_ID) if name not in table.column_names]
    if missing:
        raise ValueError(
            f"{path} has the columns {', '.join(table.column_names)}; expected {' and '.join(missing)} too"
        )
    users, items = (
        ids.rows(table.column(name).cast("string").to_numpy(zero_copy_only=False)).astype(np.int64)
        for ids, name in ((encoder.user_ids, columns.USER_ID), (encoder.item_ids, columns.ITEM_ID))
    )
    known = (users > 0) & (items > 0)
    return users[known], items[known]


def _of_exposures(folder: Path, encoder: encoding.Encoder, before: dt.date) -> tuple[Ints, Ints]:
    """Memory goes with the distinct pairs, not with how often they were shown."""
    num_item_rows = len(encoder.item_ids)
    distinct = np.empty(0, np.int64)
    waiting: list[Ints] = []
    num_waiting = 0
    for batch in read_exposures(folder, dt.date.min, before, columns=[columns.USER_ID, ITEM_IDS]):
        lists = batch.column(ITEM_IDS)
        users = _rows(encoder.user_ids, batch.column(columns.USER_ID))[pc.list_parent_indices(lists).to_numpy()]
        items = _rows(encoder.item_ids, pc.list_flatten(lists))
        known = (users > 0) & (items > 0)
        waiting.append(np.unique(users[known] * num_item_rows + items[known]))
        num_waiting += len(waiting[-1])
        # As many as there are already, so that all merges together cost a few passes.
        if num_waiting >= max(MERGE_PAIRS, len(distinct)):
            distinct, waiting, num_waiting = np.unique(np.concatenate([distinct, *waiting])), [], 0
    distinct = np.unique(np.concatenate([distinct, *waiting]))
    return distinct // num_item_rows, distinct % num_item_rows


def _rows(ids: IdMap, names: pa.Array) -> Ints:
    """Rows of names, each distinct one looked up once: [n] int64."""
    encoded = names.dictionary_encode()
    rows: Ints = ids.rows(encoded.dictionary.to_numpy(zero_copy_only=False)).astype(np.int64)
    return np.asarray(rows[encoded.indices.to_numpy()])


@dataclass(frozen=True)
class TrainingData:
    """What a phase is fitted on.

    Attributes:
        name: Of the phase, `validation` or `final`.
        load_all: The phase's spans, oldest first.
        known: What each user had met at the phase's moment.
        item_counts: [rows of items] int64, examples of each item.
        user_counts: [rows of users] int64, examples of each user.
        categories: [rows of items] int32, category of each item, 0 for the unknown one and where there is none.
        mined: Hard negatives of each user; None where none are asked for.
        impressions: What each user was shown and did not click; None where none are asked for.
        facts: What the items of a history are known by besides their ids.
        teacher: Lists that the towers imitate; None has none.
        taught: How many examples these teach, in words; empty without a teacher.
    """

    name: str
    load_all: Callable[[], Iterator[batches.Span]]
    known: KnownPositives
    item_counts: npt.NDArray[np.int64]
    user_counts: npt.NDArray[np.int64]
    categories: npt.NDArray[np.int32]
    mined: private.UserNegatives | None
    impressions: private.UserNegatives | None
    facts: Sequence[Fact] = ()
    teacher: TeacherLists | None = None
    taught: str = ""


def read_training_data(
    paths: RunPaths,
    encoder: encoding.Encoder,
    *,
    training: config.TrainingConfig,
    phase: str,
    days: Sequence[dt.date],
    known: KnownPositives,
    before: dt.date,
    keep: batches.Keep | None = None,
) -> TrainingData:
    """Reads the examples of a phase's days, and the listed negatives that the configuration names.

    Args:
        paths: Where the features are.
        encoder: Of users and items.
        training: How to fit.
        phase: `validation` or `final`.
        days: Those that are fitted.
        known: What each user had met at the phase's moment.
        before: That moment: of what servers have logged, only earlier days are read, and examples are as old as they
            were then.
        keep: Which examples are fitted; None takes all.
    """
    negatives = training.negatives
    held: dict[dt.date, batches.Span] | None = {} if training.keep_in_memory else None
    teacher = _teacher(paths, encoder, training, days)

    def load(some: Sequence[dt.date]) -> batches.Span:
        return read_days(paths, encoder, training=training, days=some, before=before, keep=keep, teacher=teacher)

    def load_all() -> Iterator[batches.Span]:
        return batches.spans(days, training.shuffle_days, load, held=held)

    facts = _facts(paths, encoder)
    user_counts, item_counts = (np.zeros(len(ids), np.int64) for ids in (encoder.user_ids, encoder.item_ids))
    num_taught = 0
    # All in one pass: without keep_in_memory each pass reads and encodes all days.
    for span in load_all():
        num_taught += int((span.list_row >= 0).sum())
        user_counts += np.bincount(span.users[columns.USER_ID][span.user_row], minlength=len(user_counts))
        item_counts += batches.count_items([span], len(item_counts))
        del span  # before the next one is read
    mined = None
    if negatives.easy_per_hard is not None:
        mined = _lists(encoder, *examples.read_negatives(paths.mined, encoder))
    taught = ""
    if teacher is not None:
        taught = f"{num_taught / max(int(user_counts.sum()), 1):.0%} of the examples have a list of the teacher"
        if mined is not None and training.distillation is not None and training.distillation.denoise_above is not None:
            pairs = met_before(encoder, paths, before=before)
            taught += f"; {later_meetings(teacher, mined, *pairs, num_items=len(encoder.item_ids) - 1)}"
    return TrainingData(
        name=phase,
        load_all=load_all,
        known=known,
        item_counts=item_counts,
        user_counts=user_counts,
        categories=_categories(facts, encoder),
        mined=mined,
        impressions=None
        if negatives.impressions is None
        else _lists(encoder, *read_impressions(negatives.impressions, encoder, before=before)),
        facts=facts,
        teacher=teacher,
        taught=taught,
    )


def _teacher(
    paths: RunPaths, encoder: encoding.Encoder, training: config.TrainingConfig, days: Sequence[dt.date]
) -> TeacherLists | None:
    settings = training.distillation
    if settings is None:
        return None
    return read_teacher_lists(
        folder_of(paths, settings),
        encoder,
        days,
        temperature=settings.temperature,
        denoise_above=settings.denoise_above,
    )


def read_days(
    paths: RunPaths,
    encoder: encoding.Encoder,
    *,
    training: config.TrainingConfig,
    days: Sequence[dt.date],
    before: dt.date,
    keep: batches.Keep | None = None,
    teacher: TeacherLists | None = None,
) -> batches.Span:
    """The examples of some days, chosen and weighted as configured; ages are those at the start of `before`."""
    fade_days = training.example_fade_days
    return batches.load_span(
        paths.examples,
        days,
        encoder,
        only_first=training.examples == "first_meetings",
        user_balance=training.user_balance,
        reward=training.reward,
        reward_power=training.reward_power,
        fade=None if fade_days is None else Fade(before, fade_days),
        keep=keep,
        teacher=teacher,
    )


def grown_encoder(
    paths: RunPaths,
    parent: encoding.Encoder,
    *,
    dataset: schema.Schema,
    towers: config.TowerConfig,
    history_length: int,
) -> encoding.Encoder:
    """The encoder of an earlier fit with today's ids and values; numbers are scaled as they were then.

    Raises:
        ValueError: Vectors have another width than they had.
    """
    today = fit_encoder_on(paths, [], dataset=dataset, towers=towers, history_length=history_length)
    for spec in (spec for tower in schema.TOWERS for spec in today.input_specs(tower) if spec.kind == "vector"):
        before, now = parent.measures[spec.name].length, today.measures[spec.name].length
        if before != now:
            raise ValueError(
                f"the vectors of column {spec.name} have {now} numbers, expected {before} as in the fit that this one "
                "would start from; correct the source, or do a full retrain, with --full"
            )
    measures = {
        name: replace(measure, scale=parent.measures[name].scale) if name in parent.measures else measure
        for name, measure in today.measures.items()
    }
    return replace(today, scaling=parent.scaling, measures=measures)


def fit_encoder_on(
    paths: RunPaths, days: Sequence[dt.date], *, dataset: schema.Schema, towers: config.TowerConfig, history_length: int
) -> encoding.Encoder:
    """The encoder of a dataset, with moments and vocabularies of the examples of some days.

    Args:
        paths: Where tables and examples are.
        days: Those whose examples are sampled.
        dataset: Its columns.
        towers: How texts and unknown ids are hashed.
        history_length: Items of a user's history that are kept (T).
    """

    def samples() -> Iterator[tuple[schema.Tower, pa.Table]]:
        for day in days:
            loaded = examples.Day.load(paths.examples / str(day))
            yield "user", loaded.users
            yield "item", loaded.items
            yield "item", loaded.uniform

    return encoding.fit_encoder(
        dataset,
        pq.read_table(paths.tables / "users.parquet"),
        pq.read_table(paths.tables / "items.parquet"),
        samples(),
        history_length=history_length,
        text_length=towers.text_length,
        text_buckets=towers.text_buckets,
        id_buckets=towers.id_buckets,
        events=examples.event_samples(paths.examples, days, list(dataset.event_columns), before=paths.as_of),
        dated=dated_facts(paths.tables, list(dataset.dated_columns)),
    )


def catalogue_inputs(encoder: encoding.Encoder, folder: Path) -> tuple[encoding.Inputs, encoding.Inputs]:
    """Model inputs of every user and item at one moment, by row of the canonical tables."""
    users, items = pq.read_table(folder / "users.parquet"), pq.read_table(folder / "items.parquet")
    return (
        encoder.encode_users(users, as_of_seconds=encoding.moments_of(users)),
        encoder.encode_items(items, as_of_seconds=encoding.moments_of(items)),
    )


def _pairs(
    encoder: encoding.Encoder, paths: RunPaths
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """User row, item row and first meeting (Unix seconds) of every pair before `as_of`."""
    table = pq.read_table(paths.pairs)
    users = encoder.user_ids.rows(table.column(columns.USER_ID).to_numpy(zero_copy_only=False))
    items = encoder.item_ids.rows(table.column(columns.ITEM_ID).to_numpy(zero_copy_only=False))
    return users.astype(np.int64), items.astype(np.int64), pc.cast(table.column("first_seconds"), "int64").to_numpy()


def met_before(encoder: encoding.Encoder, paths: RunPaths, *, before: dt.date) -> tuple[Ints, Ints, Ints]:
    """User row, item row and first meeting (Unix seconds) of every pair that met before a day."""
    pairs = _pairs(encoder, paths)
    chosen = pairs[2] < columns.seconds_of(before)
    return pairs[0][chosen], pairs[1][chosen], pairs[2][chosen]


def known_positives(encoder: encoding.Encoder, paths: RunPaths, *, before: dt.date) -> KnownPositives:
    """What each user had met before a day."""
    users, items, _ = met_before(encoder, paths, before=before)
    return KnownPositives.of(users, items, num_user_rows=len(encoder.user_ids))


def seen_items(encoder: encoding.Encoder, known: KnownPositives) -> sparse.csr_array:
    """The same as a matrix by row of the canonical tables: [users, items] float32."""
    return sparse.csr_array(
        (np.ones(len(known.items), np.float32), known.items - 1, known.starts[1:]),
        shape=(len(encoder.user_ids) - 1, len(encoder.item_ids) - 1),
    )


def first_meetings(encoder: encoding.Encoder, paths: RunPaths, *, since: dt.date) -> sparse.csr_array:
    """What each user met first from a day on, up to `as_of`: [users, items] bool."""
    users, items, first = _pairs(encoder, paths)
    chosen = first >= columns.seconds_of(since)
    return sparse.csr_array(
        (np.ones(chosen.sum(), bool), (users[chosen] - 1, items[chosen] - 1)),
        shape=(len(encoder.user_ids) - 1, len(encoder.item_ids) - 1),
    )


def _categories(facts: Sequence[Fact], encoder: encoding.Encoder) -> npt.NDArray[np.int32]:
    """Category of each row of items, 0 for the unknown item and where there is none: [rows of items] int32.

    Of items with several categories, all of them together are one.
    """
    num_rows, category = len(encoder.item_ids), encoder.schema.item_category
    for fact in facts:
        if fact.name == category:
            return fact.values[:num_rows].astype(np.int32)
        if category is not None and fact.name == category + encoding.VALUES_SUFFIX:
            # Sorted, so that no category, in row 0 at least, comes first.
            _, together = np.unique(fact.values[:num_rows], axis=0, return_inverse=True)
            return np.asarray(together.ravel(), np.int32)
    return np.zeros(num_rows, np.int32)


LARGEST_VECTORS_BYTES = 2**26
"""Vectors of all items up to which those of a history are known by them: they are part of the exported user tower."""


def _facts(paths: RunPaths, encoder: encoding.Encoder) -> list[Fact]:
    """What is known of each item besides its id; unknown where the id has a bucket only."""
    num_rows = encoder.item_ids.num_table_rows
    facts = []
    for spec, inputs in encoder.facts_of(pq.read_table(paths.tables / "items.parquet")):
        by_row = {}
        for name, values in inputs.items():
            by_row[name] = np.zeros((num_rows, *values.shape[1:]), values.dtype)
            if spec.kind == "vector":
                # The mark of what is missing.
                by_row[name][:, -1] = 1.0
            by_row[name][1 : len(values) + 1] = values
        if spec.kind == "vector" and by_row[spec.name].nbytes > LARGEST_VECTORS_BYTES:
            continue
        weights = by_row[spec.weights] if spec.weights else None
        is_mean, is_place = spec.kind == "categories", spec.kind == "cells"
        facts.append(Fact(spec.name, by_row[spec.name], weights, is_mean=is_mean, is_place=is_place))
    return facts


def _lists(
    encoder: encoding.Encoder, users: npt.NDArray[np.int64], items: npt.NDArray[np.int64]
) -> private.UserNegatives:
    return private.UserNegatives.of(users, items, num_user_rows=len(encoder.user_ids))


def days_with_examples(paths: RunPaths, *, num_days: int, num_events: int | None) -> list[dt.date]:
    """Those of the last days before `as_of`, in time order.

    Args:
        paths: Where tables and examples are.
        num_days: How far back.
        num_events: See `features.tables.example_days`.

    Raises:
        ValueError: There is none.
    """
    first = paths.as_of - dt.timedelta(days=num_days)
    days = example_days(paths.tables, first=first, end=paths.as_of, num_events=num_events)
    days = [day for day in days if (paths.examples / str(day)).exists()]
    if not days:
        there = sorted(folder.name for folder in paths.examples.glob("????-??-??"))
        known = f"there are examples of {there[0]} to {there[-1]}" if there else "run features"
        raise ValueError(
            f"{paths.examples}: no examples from {first} up to {paths.as_of}; {known}. Set as_of to a day behind them, "
            "or raise training.example_days"
        )
    return days


def split_validation_days(days: Sequence[dt.date], *, as_of: dt.date, num_days: int) -> tuple[list[dt.date], dt.date]:
    """Holds the last days out for validation.

    Args:
        days: All days, in time order.
        as_of: The day after the last one.
        num_days: How many are held out; 0 validates nothing.

    Returns:
        The days that are fitted for validation, none if nothing is validated, and the first day that is held out.
    """
    held_out = as_of - dt.timedelta(days=num_days)
    return [day for day in days if day < held_out] if num_days else [], held_out
