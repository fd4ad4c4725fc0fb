"""How are the towers fitted?"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
import tf_keras
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from features.encoding import Encoder, Inputs
from towers.two_tower import TwoTower, build_two_tower
from training.dataset import Batch, Span
from training.trainer import EpochReport, RetrievalModel, embed, fit, make_deterministic

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
GROUP_SIZE, EPOCHS = 12, 12
SMALL = runpy.run_path(str(HERE / "fit_for_tests.py"))


class Fitted(NamedTuple):
    """A model fitted on the two groups."""

    model: RetrievalModel
    reports: list[EpochReport]
    folder: Path
    recall_before: float


def last_moments(span: Span) -> Inputs:
    """The user inputs at each user's last basket, by user."""
    last = {int(user): row for row, user in enumerate(span.users["user_id"])}
    rows = [last[user] for user in sorted(last)]
    return {name: values[rows] for name, values in span.users.items()}


@pytest.fixture(scope="module")
def catalogue(groups_span: Span) -> Inputs:
    _, first = np.unique(groups_span.uniform["item_id"], return_index=True)
    return {name: values[first] for name, values in groups_span.uniform.items()}


@pytest.fixture(scope="module")
def recall(groups_span: Span, catalogue: Inputs) -> Callable[[TwoTower], dict[str, float]]:
    """Recall in the top 4 of the 4 items of the own group that a user has not met; 1/4 by chance."""
    met = np.zeros((2 * GROUP_SIZE, 2 * GROUP_SIZE), bool)
    met[
        groups_span.users["user_id"][groups_span.user_row] - 1, groups_span.items["item_id"][groups_span.item_row] - 1
    ] = True
    group = np.arange(2 * GROUP_SIZE) // GROUP_SIZE
    relevant = (group[:, None] == group[None, :]) & ~met

    def look(towers: TwoTower) -> dict[str, float]:
        users = embed(towers.user, last_moments(groups_span))
        scores = np.where(met, -np.inf, users @ embed(towers.item, catalogue).T)
        best = np.argsort(-scores, axis=1)[:, :4]
        return {"recall_at_4": float(np.take_along_axis(relevant, best, axis=1).mean())}

    return look


@pytest.fixture(scope="module")
def fitted(
    groups_folder: Path,
    encoder: Encoder,
    recall: Callable[[TwoTower], dict[str, float]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Fitted:
    folder = tmp_path_factory.mktemp("fitted")
    make_deterministic(1)
    untrained = build_two_tower(encoder.input_specs("user"), encoder.input_specs("item"), embedding_dim=8)
    model, reports = SMALL["fit_small"](groups_folder, folder, seed=1, epochs=EPOCHS, look=recall)
    return Fitted(model, reports, folder, recall(untrained)["recall_at_4"])


def test_the_loss_falls_and_users_get_the_items_of_their_group(fitted: Fitted) -> None:
    losses = [report.loss for report in fitted.reports]
    assert [report.epoch for report in fitted.reports] == [*range(1, EPOCHS + 1)]
    assert losses[-1] < 0.75 * losses[0]
    assert fitted.recall_before < 0.5
    assert fitted.reports[-1].metrics["recall_at_4"] > 0.95


def test_the_same_seed_gives_the_same_bits_and_another_one_does_not(groups_folder: Path, tmp_path: Path) -> None:
    def weights(run: str, seed: int) -> dict[str, npt.NDArray[np.float32]]:
        model, _ = SMALL["fit_small"](groups_folder, tmp_path / run, seed=seed)
        found: dict[str, npt.NDArray[np.float32]] = SMALL["weights_of"](model)
        return found

    first, again, other = weights("first", 1), weights("again", 1), weights("other", 2)
    assert [values.tobytes() for values in first.values()] == [values.tobytes() for values in again.values()]
    assert not any(np.array_equal(left, right) for left, right in zip(first.values(), other.values(), strict=True))

    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONHASHSEED": "7"}
    command = [sys.executable, str(HERE / "fit_for_tests.py"), str(groups_folder), str(tmp_path / "elsewhere"), "1"]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    with np.load(tmp_path / "elsewhere" / "weights.npz") as arrays:
        assert [arrays[name].tobytes() for name in arrays.files] == [values.tobytes() for values in first.values()]


def test_a_checkpoint_gives_the_weights_back(fitted: Fitted, encoder: Encoder) -> None:
    folder = fitted.folder / "checkpoints"
    latest = tf.train.latest_checkpoint(str(folder))
    assert latest == str(folder / f"ckpt-{EPOCHS}")
    assert len(list(folder.glob("*.index"))) == 2
    towers = build_two_tower(
        encoder.input_specs("user"),
        encoder.input_specs("item"),
        embedding_dim=8,
        hidden_units=(6,),
        history_decay_days=30.0,
        history_power=0.5,
    )
    restored = RetrievalModel(towers, temperature=0.2)
    tf.train.Checkpoint(model=restored).restore(latest).expect_partial().assert_existing_objects_matched()
    found, expected = SMALL["weights_of"](restored), SMALL["weights_of"](fitted.model)
    assert [values.tobytes() for values in found.values()] == [values.tobytes() for values in expected.values()]


def test_tensorboard_shows_the_loss_and_what_was_looked_at(fitted: Fitted) -> None:
    events = EventAccumulator(str(fitted.folder / "logs"), size_guidance={"tensors": 0})
    events.Reload()
    assert set(events.Tags()["tensors"]) == {"loss", "recall_at_4"}
    for tag, figures in (
        ("loss", [report.loss for report in fitted.reports]),
        ("recall_at_4", [report.metrics["recall_at_4"] for report in fitted.reports]),
    ):
        logged = events.Tensors(tag)
        assert [entry.step for entry in logged] == [*range(1, EPOCHS + 1)]
        np.testing.assert_allclose([tf.make_ndarray(entry.tensor_proto) for entry in logged], figures, rtol=1e-6)


@pytest.mark.parametrize("block", [1, 5, 24, 100])
def test_the_size_of_blocks_does_not_change_vectors(fitted: Fitted, catalogue: Inputs, block: int) -> None:
    whole = embed(fitted.model.item_tower, catalogue)
    assert (whole.shape, whole.dtype) == ((24, 8), np.float32)
    np.testing.assert_allclose(embed(fitted.model.item_tower, catalogue, block=block), whole, atol=1e-6)
    np.testing.assert_allclose(whole, fitted.model.item_tower(catalogue), atol=1e-6)


def vector_towers(width: int) -> TwoTower:
    """Towers that pass a vector through a scale: their outputs are what a test says."""

    def tower(name: str) -> tf_keras.Model:
        vector = tf_keras.Input((width,), name="vector")
        scale = tf_keras.layers.EinsumDense("bd,d->bd", (width,), kernel_initializer="ones")
        return tf_keras.Model({"vector": vector}, scale(vector), name=name)

    return TwoTower(tower("user_tower"), tower("item_tower"))


def vector_batch(users: npt.ArrayLike, items: npt.ArrayLike, **changes: Any) -> Batch:
    users, items = np.asarray(users, np.float32), np.asarray(items, np.float32)
    return {
        "user/vector": users,
        "item/vector": items,
        "mask": np.zeros((len(users), len(items)), bool),
        "log_q": np.zeros(len(items), np.float32),
        "weight": np.ones(len(users), np.float32),
        **changes,
    }


def test_scores_are_divided_by_the_temperature_before_the_correction() -> None:
    users, items = [[1.0, 0.0], [0.0, 1.0]], [[0.6, 0.8], [0.8, 0.6], [1.0, 0.0]]
    q, weight, temperature = np.array([4.0, 0.5, 2.0], np.float32), np.array([3.0, 1.0], np.float32), 0.25
    mask = np.array([[False, True, False], [False, False, False]])
    # s / tau: 2.4, 3.2 (masked), 4 for the first user; 3.2, 2.4, 0 for the second.
    first = np.exp(2.4) / 4 / (np.exp(2.4) / 4 + np.exp(4) / 2)
    second = np.exp(2.4) / 0.5 / (np.exp(3.2) / 4 + np.exp(2.4) / 0.5 + 1 / 2)
    expected = -(3 * np.log(first) + np.log(second)) / (3 + 1)
    model = RetrievalModel(vector_towers(2), temperature=temperature)
    batch = vector_batch(users, items, log_q=np.log(q), mask=mask, weight=weight)
    assert float(model.compute_loss(batch)) == pytest.approx(expected, rel=1e-6)


def run_fit(tmp_path: Path, batches: list[Batch], **changes: Any) -> list[EpochReport]:
    model = RetrievalModel(vector_towers(2), temperature=1.0)
    settings = {"batches_of": lambda epoch: iter(batches), "learning_rate": 0.1, "folder": tmp_path}
    return fit(model, changes.pop("epochs", 1), look=changes.pop("look", lambda towers: {}), **(settings | changes))


def test_a_loss_that_is_no_number_stops_the_fit_and_says_what_to_do(tmp_path: Path) -> None:
    good = vector_batch(np.eye(2), np.eye(2))
    bad = vector_batch(np.eye(2) * np.nan, np.eye(2))
    steps: list[float] = []
    message = r"epoch 1, step 2: the loss is nan; lower training\.learning_rate or raise towers\.temperature"
    with pytest.raises(FloatingPointError, match=message):
        run_fit(tmp_path, [good, bad, good], on_step=steps.append)
    assert len(steps) == 1
    assert not list(tmp_path.glob("checkpoints/*.index"))


def test_an_epoch_without_examples_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"epoch 1 has no examples; take more days \(training\.example_days\)"):
        run_fit(tmp_path, [])


def test_steps_and_epochs_are_told_and_checkpoints_follow_their_period(tmp_path: Path) -> None:
    batch = vector_batch(np.eye(2), np.eye(2))
    steps: list[float] = []
    told: list[EpochReport] = []
    looked: list[TwoTower] = []

    def look(towers: TwoTower) -> dict[str, float]:
        looked.append(towers)
        return {"seen": float(len(looked))}

    reports = run_fit(
        tmp_path,
        [batch, batch],
        epochs=5,
        look=look,
        on_step=steps.append,
        on_epoch=told.append,
        checkpoint_every_epochs=2,
    )
    assert told == reports
    assert [report.metrics["seen"] for report in reports] == [1, 2, 3, 4, 5]
    np.testing.assert_allclose([report.loss for report in reports], np.reshape(steps, (5, 2)).mean(axis=1))
    assert sorted(path.stem for path in tmp_path.glob("checkpoints/*.index")) == ["ckpt-2", "ckpt-4"]


def test_a_step_moves_only_the_rows_of_the_tables_that_a_batch_has(encoder: Encoder, tmp_path: Path) -> None:
    table = tf_keras.layers.Embedding(10, 2, name="table")
    row = tf_keras.Input((), dtype="int32", name="row")
    towers = TwoTower(tf_keras.Model({"row": row}, table(row)), tf_keras.Model({"row": row}, table(row)))
    before = table.get_weights()[0]
    batch = vector_batch(np.eye(2), np.eye(2))
    batch = {name: values for name, values in batch.items() if "vector" not in name}
    batch |= {"user/row": np.array([1, 2], np.int32), "item/row": np.array([3, 4], np.int32)}
    model = RetrievalModel(towers, temperature=0.1)
    fit(model, 1, batches_of=lambda epoch: iter([batch]), learning_rate=0.1, folder=tmp_path, look=lambda towers: {})
    moved = (table.get_weights()[0] != before).any(axis=1)
    assert moved.tolist() == [False, True, True, True, True] + [False] * 5
