"""A toy loss, a toy negative source and a toy history encoder reach a fit through the registries alone.

The steps are those of CONTRIBUTING: a function, an entry of its registry, and keys of the
configuration.
"""

from __future__ import annotations

import datetime as dt
import runpy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import tensorflow as tf

from features.columns import ITEM_ID, USER_ID, midnight
from features.encoding import HISTORY, HISTORY_AGE, Encoder, Inputs, fit_encoder
from features.schema import Schema, snapshot_schema
from serving.retrieval.exported_tower import ExportedTower
from towers.history import HISTORY_ENCODERS
from towers.inputs import History, HistoryEncoder
from training.config import TowerConfig, TrainingConfig
from training.data.batches import Span, count_items, load_span
from training.data.training_data import TrainingData
from training.export import export_tower
from training.fit import Fitted, fit_phase
from training.losses import LOSSES
from training.losses.objective import Outputs, Term, weighted_mean
from training.method_checks import check_methods
from training.negatives import NEGATIVE_SOURCES
from training.negatives.known_positives import KnownPositives
from training.negatives.source import Descriptions, Draws, Source

days = runpy.run_path(str(Path(__file__).parents[1] / "training" / "conftest.py"))
NUM_USERS = NUM_ITEMS = 24
EPOCHS, BATCH_SIZE, LENGTH = 2, 16, 4


@dataclass(frozen=True)
class World:
    """Three days of examples, and what is known of their users and items."""

    encoder: Encoder
    data: TrainingData

    @property
    def num_batches(self) -> int:
        return EPOCHS * max(1, round(int(self.data.item_counts.sum()) / BATCH_SIZE))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder, rng = tmp_path_factory.mktemp("toys"), np.random.default_rng(7)
    events = [
        days["Event"](user, int(item), day=place, second=60 * user)
        for user in range(NUM_USERS)
        for place, item in enumerate(rng.permutation(NUM_ITEMS)[:3])
    ]
    written = days["write_days"](folder, sorted(events, key=lambda event: (event.seconds, event.item)))
    encoder = _encoder(events)
    span = load_span(
        folder, written, encoder, only_first=True, user_balance=0, reward="none", reward_power=1.0
    )  # fmt: skip
    users, items = span.users[USER_ID][span.user_row], span.items[ITEM_ID][span.item_row]

    def load_all() -> Iterator[Span]:
        yield span

    return World(
        encoder,
        TrainingData(
            name="final",
            load_all=load_all,
            known=KnownPositives.of(users.astype(np.int64), items.astype(np.int64), num_user_rows=NUM_USERS + 1),
            item_counts=count_items([span], NUM_ITEMS + 1),
            user_counts=np.bincount(users, minlength=NUM_USERS + 1),
            categories=np.zeros(NUM_ITEMS + 1, np.int32),
            mined=None,
            impressions=None,
        ),
    )


def _encoder(events: list[Any]) -> Encoder:
    schema, moment = days["SCHEMA"], midnight(dt.date(2020, 1, 1))
    users = [days["user_row"](user, days["Event"](user, 0), events) for user in range(NUM_USERS)]
    items = [days["item_row"](item, moment) for item in range(NUM_ITEMS)]
    tables = [
        pa.Table.from_pylist(rows, schema=snapshot_schema(schema, tower))
        for tower, rows in (("user", users), ("item", items))
    ]
    samples = list(zip(("user", "item"), tables, strict=True))
    return fit_encoder(schema, *tables, samples, history_length=LENGTH, text_length=8, text_buckets=50)


def fitted(world: World, folder: Path, *, towers: dict[str, Any] | None = None, **training: Any) -> Fitted:
    """A small fit with some keys of the configuration, which is validated as ever."""
    given = {"epochs": EPOCHS, "batch_size": BATCH_SIZE, "negatives": {"num_uniform": 6}, **training}
    shape = TowerConfig.model_validate({"embedding_dim": 6, "factor_dim": 0, **(towers or {})})
    how = TrainingConfig.model_validate(given)
    check_methods(shape, how, world.encoder.schema)
    return fit_phase(
        world.encoder,
        world.data,
        towers=shape,
        training=how,
        seed=1,
        folder=folder,
        unfinished=folder / "unfinished",
        evaluate=lambda pair: {},
        report=lambda title, report: None,
    )


def weights(fit: Fitted) -> list[npt.NDArray[np.float32]]:
    return [variable.numpy() for variable in (*fit.towers.user.weights, *fit.towers.item.weights)]


def differ(one: Fitted, other: Fitted) -> bool:
    return any(not np.array_equal(*pair) for pair in zip(weights(one), weights(other), strict=True))


@pytest.fixture(scope="module")
def plain(world: World, tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    return fitted(world, tmp_path_factory.mktemp("plain"))


def squared_distance(*, scale: float) -> Term:
    """Mean squared distance of users from their own items; the toy loss."""

    def term(outputs: Outputs) -> tf.Tensor:
        own = outputs.items["vector"][: outputs.num_rows]
        distances = tf.reduce_sum(tf.math.squared_difference(outputs.users["vector"], own), axis=1)
        return scale * weighted_mean(distances, outputs.weight)

    return term


def test_a_loss_is_minimised_with_its_weight_and_arguments(
    world: World, plain: Fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LOSSES, "squared_distance", squared_distance)
    config = {"squared_distance": {"weight": 0.5, "arguments": {"scale": 3.0}}}
    found = fitted(world, tmp_path / "both", extra_losses=config)
    assert differ(found, plain)
    # Alone, it brings users to their items: vectors of length one that all come together.
    alone = fitted(world, tmp_path / "alone", extra_losses=config, softmax_weight=0)
    assert alone.reports[0].loss <= 0.5 * 3.0 * 4
    assert alone.reports[-1].loss < alone.reports[0].loss
    # Of the same weight in all.
    twin = {"squared_distance": {"weight": 1.5, "arguments": {"scale": 1.0}}}
    again = fitted(world, tmp_path / "twin", extra_losses=twin, softmax_weight=0)
    assert again.reports[0].loss == pytest.approx(alone.reports[0].loss, rel=1e-4)


def test_a_negative_source_brings_columns_that_are_masked_and_corrected(
    world: World, plain: Fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[npt.NDArray[np.int64]] = []
    asked: Counter[int] = Counter()

    def popular(*, num: int) -> Source:
        """Items drawn as often as examples have them; the toy source."""

        def begin(descriptions: Descriptions, rng: np.random.Generator) -> Draws:
            shares = np.bincount(descriptions.items[: descriptions.num_of_examples], minlength=NUM_ITEMS + 1)

            def shared() -> npt.NDArray[np.int64]:
                drawn.append(rng.integers(descriptions.num_of_examples, size=num))
                return drawn[-1]

            def absence(item_rows: npt.NDArray[np.int64], shared_items: npt.NDArray[np.int64]) -> Any:
                asked[len(shared_items)] += 1
                return (1 - shares[item_rows] / shares.sum()) ** num

            return Draws(shared=shared, absence=absence)

        return begin

    monkeypatch.setitem(NEGATIVE_SOURCES, "popular", popular)
    negatives = {"num_uniform": 6, "extra_sources": {"popular": {"num": 5}}}
    found = fitted(world, tmp_path, negatives=negatives)
    assert len(drawn) == world.num_batches
    assert asked == {5: world.num_batches}
    assert differ(found, plain)
    # A source that brings nothing leaves the fit as it is, to the bit.
    monkeypatch.setitem(NEGATIVE_SOURCES, "popular", lambda *, num: lambda descriptions, rng: Draws())
    nothing = fitted(
        world, tmp_path / "nothing", negatives={"num_uniform": 6, "extra_sources": {"popular": {"num": 5}}}
    )
    assert not differ(nothing, plain)


def latest(*, num_items: int) -> HistoryEncoder:
    """The vectors of the latest items, side by side; the toy encoder."""

    def encode(history: History) -> tf.Tensor:
        vectors = history.vectors(num_items)
        return tf.reshape(vectors, [-1, num_items * vectors.shape[-1]])

    return encode


def test_a_history_encoder_is_fitted_and_exported(
    world: World, plain: Fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(HISTORY_ENCODERS, "latest", latest)
    towers = {"history_encoder": "latest", "history_settings": {"num_items": 2}}
    found = fitted(world, tmp_path, towers=towers)
    assert found.reports[-1].loss < found.reports[0].loss
    table = next(world.data.load_all()).users
    inputs: Inputs = {name: values[:3].copy() for name, values in table.items()}
    inputs[HISTORY][:] = [1, 2, 3, 4]
    inputs[HISTORY_AGE][:] = 1.0

    def vectors(fit: Fitted, name: str, history: list[int]) -> npt.NDArray[np.float32]:
        path = tmp_path / f"{name}.tflite"
        export_tower(fit.towers.user, path)
        inputs[HISTORY][:] = history
        return np.asarray(ExportedTower(path).embed(inputs))

    before = vectors(found, "latest", [1, 2, 3, 4])
    np.testing.assert_array_equal(vectors(found, "latest", [1, 2, 5, 6]), before)
    assert np.abs(vectors(found, "latest", [3, 2, 5, 6]) - before).max() > 1e-4
    # The mean, as it is by default, reads all of them.
    assert np.abs(vectors(plain, "mean", [1, 2, 5, 6]) - vectors(plain, "mean", [1, 2, 3, 4])).max() > 1e-4


@pytest.mark.parametrize(
    ("towers", "training", "message"),
    [
        (
            {},
            {"extra_losses": {"huber": {}}},
            r"training\.extra_losses names 'huber', which is not registered; expected one of: softmax, hard_in_batch,",
        ),
        (
            {},
            {"extra_losses": {"hard_in_batch": {"arguments": {"num_hard": 1}}}},
            r"extra_losses: hard_in_batch takes .*margin.*found \{'num_hard': 1\}: missing .*'margin'",
        ),
        (
            {"interests": {"num": 1}},
            {"extra_losses": {"interests": {"arguments": {"temperature": 0.3}}}},
            r"extra_losses names 'interests', which reads what towers\.interests adds to the towers; set towers",
        ),
        (
            {},
            {"extra_losses": {"positions": {"arguments": {"log_q": "none"}}}},
            r"extra_losses names 'positions', which reads what training\.positions adds to the towers",
        ),
        ({}, {"softmax_weight": 0}, r"training\.softmax_weight is 0 and extra_losses names no loss; set one of them"),
        (
            {},
            {"negatives": {"extra_sources": {"populer": {"num": 1}}}},
            r"negatives\.extra_sources names 'populer', which is not registered; expected one of: uniform, random",
        ),
        (
            {},
            {"negatives": {"extra_sources": {"random": {"nmu": 1}}}},
            r"extra_sources: random takes .*num.*found \{'nmu': 1\}",
        ),
        (
            {"history_encoder": "transformer"},
            {},
            r"history_encoder names 'transformer', which is not registered; expected one of: mean, attention, gru",
        ),
        (
            {"history_settings": {"decay": 3}},
            {},
            r"towers\.history_settings has decay, and history_encoder is mean, which takes history_power and",
        ),
    ],
)
def test_unregistered_names_and_unknown_arguments_are_refused_by_the_configuration(
    towers: dict[str, Any], training: dict[str, Any], message: str
) -> None:
    shape, fit = TowerConfig.model_validate(towers), TrainingConfig.model_validate(training)
    with pytest.raises(ValueError, match=message):
        check_methods(shape, fit, Schema())
