"""Fits of the trainer: what is learned, logged, saved and refused."""

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
from towers.counterpart import generated_fields
from towers.dual_augmented import AugmentedTable, augmented, refresh_fallbacks
from towers.mobius import with_three_parts
from towers.two_tower import TwoTower, build_two_tower
from training.data.batches import Batch, Span
from training.epochs import EpochReport
from training.fit_loop import fit
from training.losses.counterpart import counterpart_term
from training.losses.dual_augmented import category_alignment_term, mimic_term
from training.losses.hard_in_batch import hard_in_batch_term
from training.losses.mobius import ThreeClassLoss
from training.losses.objective import DecayingWeight
from training.losses.softmax import softmax_term
from training.negatives.queue import VectorQueue
from training.optimizers import make_optimizer
from training.trainer import RetrievalModel, embed, make_deterministic

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


def model_of(towers: TwoTower, **changes: Any) -> RetrievalModel:
    """A model with the softmax alone."""
    settings = {"terms": [(1.0, softmax_term("yi2019"))], "temperature": 0.2, "learn_temperature": False}
    return RetrievalModel(towers, **(settings | changes))


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

    def evaluate(towers: TwoTower) -> dict[str, float]:
        users = embed(towers.user, last_moments(groups_span))
        scores = np.where(met, -np.inf, users @ embed(towers.item, catalogue).T)
        best = np.argsort(-scores, axis=1)[:, :4]
        return {"recall_at_4": float(np.take_along_axis(relevant, best, axis=1).mean())}

    return evaluate


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
    model, reports = SMALL["fit_small"](groups_folder, folder, seed=1, epochs=EPOCHS, evaluate=recall)
    return Fitted(model, reports, folder, recall(untrained)["recall_at_4"])


def test_the_loss_falls_and_users_get_the_items_of_their_group(fitted: Fitted) -> None:
    losses = [report.loss for report in fitted.reports]
    assert [report.epoch for report in fitted.reports] == [*range(1, EPOCHS + 1)]
    assert losses[-1] < 0.75 * losses[0]
    assert fitted.recall_before < 0.5
    assert fitted.reports[-1].metrics["recall_at_4"] > 0.95


def build(encoder: Encoder, **changes: Any) -> TwoTower:
    return build_two_tower(encoder.input_specs("user"), encoder.input_specs("item"), **({"embedding_dim": 9} | changes))


def augmented_model(encoder: Encoder) -> RetrievalModel:
    """DAT with category alignment."""

    def table(num_rows: int) -> AugmentedTable:
        trained, groups = np.arange(num_rows) > 0, np.zeros(num_rows, np.int32)
        return AugmentedTable(num_rows=num_rows, width=9, trained=trained, groups=groups, dropout=0.1)

    towers = build(
        encoder,
        user_adds=[augmented(table(len(encoder.user_ids)), id_name="user_id")],
        item_adds=[augmented(table(len(encoder.item_ids)), id_name="item_id")],
    )
    softmax = softmax_term("yi2019")
    terms = [(1.0, softmax), (0.5, mimic_term("user")), (0.5, mimic_term("item"))]
    return model_of(towers, terms=[*terms, (1.0, category_alignment_term("aisle"))])


def guessing_model(encoder: Encoder) -> RetrievalModel:
    """Each tower guesses a field of the other side."""
    towers = build(
        encoder, user_adds=[generated_fields(["aisle"])], item_adds=[generated_fields(["age"])], hidden_units=(6,)
    )
    guesses = counterpart_term(user_fields=["age"], item_fields=["aisle"])
    return model_of(towers, terms=[(1.0, softmax_term("yi2019")), (0.1, guesses)])


def queue_model(encoder: Encoder) -> RetrievalModel:
    """All sources of negatives, a margin for the hard ones, a temperature that is learned."""
    terms = [(1.0, softmax_term("yi2019")), (1.0, hard_in_batch_term(num_hard=2, margin=0.1))]
    return model_of(
        build(encoder, head="mlp", activation="tanh"), terms=terms, learn_temperature=True, queue=VectorQueue(16, 9)
    )


METHODS: dict[str, tuple[Callable[[Encoder], RetrievalModel], dict[str, int]]] = {
    "dual augmented": (augmented_model, {}),
    "counterpart": (guessing_model, {}),
    "queue and private negatives": (queue_model, {"queue_size": 16, "num_random": 3}),
}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_the_groups_and_the_same_bits_from_the_same_seed(
    method: str,
    groups_folder: Path,
    encoder: Encoder,
    recall: Callable[[TwoTower], dict[str, float]],
    tmp_path: Path,
) -> None:
    make, negatives = METHODS[method]
    settings = {"seed": 1, "make": make, "negatives": negatives, "evaluate": recall}
    model, reports = SMALL["fit_small"](groups_folder, tmp_path / "first", epochs=EPOCHS, **settings)
    refresh_fallbacks(model.fitted)
    assert recall(model.fitted)["recall_at_4"] > 0.8
    _, again = SMALL["fit_small"](groups_folder, tmp_path / "again", epochs=1, **settings)
    assert again == reports[:1]


def test_three_classes_learn_the_groups_from_a_teacher(
    fitted: Fitted, groups_folder: Path, recall: Callable[[TwoTower], dict[str, float]], tmp_path: Path
) -> None:
    taught = [values.copy() for values in fitted.model.item_tower.get_weights()]

    def make(encoder: Encoder) -> RetrievalModel:
        classes = ThreeClassLoss(
            fitted.model.fitted, irrelevant_quantile=0.5, bad_per_click=1, unclick_per_click=8, seed=1
        )
        return model_of(with_three_parts(build(encoder), bad_weight=0.5), terms=[(1.0, classes)])

    settings = {"seed": 1, "make": make, "evaluate": recall}
    _, reports = SMALL["fit_small"](groups_folder, tmp_path / "first", epochs=2 * EPOCHS, **settings)
    assert reports[-1].metrics["recall_at_4"] > 0.9
    _, again = SMALL["fit_small"](groups_folder, tmp_path / "again", epochs=1, **settings)
    assert again == reports[:1]
    for before, after in zip(taught, fitted.model.item_tower.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_the_learning_rate_decays_after_each_epoch(groups_folder: Path, tmp_path: Path) -> None:
    def weights(run: str, **settings: Any) -> dict[str, npt.NDArray[np.float32]]:
        model, _ = SMALL["fit_small"](groups_folder, tmp_path / run, seed=1, **settings)
        found: dict[str, npt.NDArray[np.float32]] = SMALL["weights_of"](model)
        return found

    once, twice = weights("once", epochs=1), weights("twice", epochs=2)
    stopped = weights("stopped", epochs=2, learning_rate_decay=1e-20)
    assert all(np.array_equal(stopped[name], values) for name, values in once.items())
    assert not any(np.array_equal(twice[name], values) for name, values in once.items())


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


def test_tensorboard_shows_the_loss_and_the_held_out_metrics(fitted: Fitted) -> None:
    events = EventAccumulator(str(fitted.folder / "logs"), size_guidance={"tensors": 0})
    events.Reload()
    assert set(events.Tags()["tensors"]) == {"loss", "recall_at_4", "loss_by_step"}
    by_step = events.Tensors("loss_by_step")
    assert [entry.step for entry in by_step] == [*range(10, len(by_step) * 10 + 1, 10)]
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
    """Towers that pass a vector through a scale: a test sets their outputs."""

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
    model = model_of(vector_towers(2), temperature=temperature)
    batch = vector_batch(users, items, log_q=np.log(q), mask=mask, weight=weight)
    assert float(model.compute_loss(batch)) == pytest.approx(expected, rel=1e-6)


def run_fit(tmp_path: Path, batches: list[Batch], **changes: Any) -> list[EpochReport]:
    model = changes.pop("model", None) or model_of(vector_towers(2), temperature=1.0)
    settings = {
        "batches_of": lambda epoch: iter(batches),
        "optimizer": make_optimizer("adagrad", 0.1),
        "folder": tmp_path,
    }
    return fit(
        model, changes.pop("epochs", 1), evaluate=changes.pop("evaluate", lambda towers: {}), **(settings | changes)
    )


def test_a_loss_that_is_not_finite_stops_the_fit_with_advice(tmp_path: Path) -> None:
    good = vector_batch(np.eye(2), np.eye(2))
    bad = vector_batch(np.eye(2) * np.nan, np.eye(2))
    steps: list[float] = []
    message = r"epoch 1, step 2: the loss is nan; lower the learning rate, or raise the temperature"
    with pytest.raises(FloatingPointError, match=message):
        run_fit(tmp_path, [good, bad, good], on_step=steps.append)
    assert len(steps) == 1


def test_a_loss_that_is_not_finite_is_explained_by_its_batch_or_the_one_before(tmp_path: Path) -> None:
    good = vector_batch(np.eye(2), np.eye(2))
    bad = vector_batch(np.eye(2) * np.nan, np.eye(2))
    causes = {id(bad): "the column income is nan", id(good): None}
    with pytest.raises(FloatingPointError, match=r"epoch 1, step 2: the loss is nan; the column income is nan$"):
        run_fit(tmp_path / "itself", [good, bad], cause_of=lambda batch: causes[id(batch)])
    causes = {id(good): "the column age is 1e+30", id(bad): None}
    with pytest.raises(FloatingPointError, match=r"step 2: the loss is nan; the column age is 1e\+30$"):
        run_fit(tmp_path / "before", [good, bad], cause_of=lambda batch: causes[id(batch)])
    with pytest.raises(FloatingPointError, match=r"step 2: the loss is nan; lower the learning rate, or"):
        run_fit(tmp_path / "neither", [good, bad], cause_of=lambda batch: None)


def test_an_epoch_without_examples_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"epoch 1 has no examples; take more days \(training\.example_days\)"):
        run_fit(tmp_path, [])


def test_steps_and_epochs_are_reported(tmp_path: Path) -> None:
    batch = vector_batch(np.eye(2), np.eye(2))
    steps: list[float] = []
    reported: list[EpochReport] = []
    looked: list[TwoTower] = []

    def evaluate(towers: TwoTower) -> dict[str, float]:
        looked.append(towers)
        return {"seen": float(len(looked))}

    reports = run_fit(
        tmp_path,
        [batch, batch],
        epochs=5,
        evaluate=evaluate,
        on_step=steps.append,
        on_epoch=reported.append,
    )
    assert reported == reports
    assert [report.metrics["seen"] for report in reports] == [1, 2, 3, 4, 5]
    np.testing.assert_allclose([report.loss for report in reports], np.reshape(steps, (5, 2)).mean(axis=1))


def test_a_step_moves_only_the_rows_of_the_tables_that_a_batch_has(encoder: Encoder, tmp_path: Path) -> None:
    table = tf_keras.layers.Embedding(10, 2, name="table")
    row = tf_keras.Input((), dtype="int32", name="row")
    towers = TwoTower(tf_keras.Model({"row": row}, table(row)), tf_keras.Model({"row": row}, table(row)))
    before = table.get_weights()[0]
    batch = vector_batch(np.eye(2), np.eye(2))
    batch = {name: values for name, values in batch.items() if "vector" not in name}
    batch |= {"user/row": np.array([1, 2], np.int32), "item/row": np.array([3, 4], np.int32)}
    model = model_of(towers, temperature=0.1)
    fit(
        model,
        1,
        batches_of=lambda epoch: iter([batch]),
        optimizer=make_optimizer("adagrad", 0.1),
        folder=tmp_path,
        evaluate=lambda towers: {},
    )
    moved = (table.get_weights()[0] != before).any(axis=1)
    assert moved.tolist() == [False, True, True, True, True] + [False] * 5


def test_a_learned_temperature_moves_stays_positive_and_is_saved(tmp_path: Path) -> None:
    users, items = np.eye(2), np.array([[0.6, 0.8], [0.8, 0.6]])
    model = model_of(vector_towers(2), temperature=0.5, learn_temperature=True)
    assert float(model.temperature) == pytest.approx(0.5)
    settings = {"epochs": 3, "checkpoint_every_minutes": 0.0}
    reports = run_fit(tmp_path, [vector_batch(users, items)] * 5, model=model, **settings)
    # The other item is nearer than the own one: what lowers the loss is a higher temperature.
    assert float(model.temperature) > 0.6
    assert reports[-1].loss < reports[0].loss
    restored = model_of(vector_towers(2), temperature=0.1, learn_temperature=True)
    assert run_fit(tmp_path, [], model=restored, **settings) == reports
    assert float(restored.temperature) == float(model.temperature)


def test_a_fixed_temperature_is_no_weight_that_is_fitted(tmp_path: Path) -> None:
    model = model_of(vector_towers(2), temperature=0.5)
    run_fit(tmp_path, [vector_batch(np.eye(2), np.eye(2))], model=model)
    assert model.temperature == 0.5
    assert len(model.trainable_variables) == 2


class LastItems(tf.Module):
    """A queue of two vectors that counts how often it is reset."""

    def __init__(self) -> None:
        super().__init__()
        self.vectors = tf.Variable(tf.zeros((2, 2)), trainable=False)
        self.num_clears = 0

    def read(self) -> tf.Tensor:
        return self.vectors.read_value()

    def push(self, vectors: tf.Tensor) -> None:
        self.vectors.assign(tf.concat([self.vectors, vectors], axis=0)[-2:])

    def clear(self) -> None:
        self.num_clears += 1
        self.vectors.assign(tf.zeros((2, 2)))


def test_the_queue_is_read_before_it_moves_on_and_is_reset_at_each_epoch(tmp_path: Path) -> None:
    queue = LastItems()
    model = model_of(vector_towers(2), temperature=1.0, queue=queue)
    users, items = np.eye(2), np.array([[3.0, 0.0], [0.0, 4.0]])
    batch = vector_batch(users, items, mask=np.zeros((2, 4), bool), log_q=np.zeros(4, np.float32))
    first = float(model.compute_loss(batch))
    # Row 0: its own item at 3, the other and two empty places at 0; row 1 likewise at 4.
    assert first == pytest.approx(-np.mean([3 - np.log(np.exp(3) + 3), 4 - np.log(np.exp(4) + 3)]), rel=1e-5)
    assert not queue.vectors.numpy().any()
    assert float(model.compute_loss(batch, training=True)) == pytest.approx(first)
    assert queue.vectors.numpy().tolist() == items.tolist()
    assert float(model.compute_loss(batch)) > first
    run_fit(tmp_path, [batch, batch], model=model, epochs=3)
    assert queue.num_clears == 3
    assert queue.vectors.numpy().any()


def test_state_is_advanced_before_each_evaluation(tmp_path: Path) -> None:
    weight = DecayingWeight(1.0, decay=0.5)
    terms = [(1.0, softmax_term("yi2019")), (weight, lambda outputs: tf.constant(2.0))]
    model = model_of(vector_towers(2), temperature=1.0, terms=terms)
    seen: list[float] = []

    def evaluate(towers: TwoTower) -> dict[str, float]:
        seen.append(float(weight.value))
        return {}

    batch = vector_batch(np.eye(2), np.eye(2))
    reports = run_fit(tmp_path, [batch], model=model, epochs=3, evaluate=evaluate, after_steps=weight.step)
    assert seen == [0.5, 0.25, 0.125]
    # What the constant term adds: 2, then 1, then 1/2.
    assert reports[0].loss - reports[1].loss > 1


def test_a_model_without_terms_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no term to minimise"):
        model_of(vector_towers(2), terms=[])
