"""A fit that is interrupted resumes at the same batch and gives the same bits; the best epoch is restored."""

from __future__ import annotations

import json
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from features.encoding import Encoder
from towers.dual_augmented import AugmentedTable, augmented, refresh_fallbacks
from towers.history import weighted_means
from towers.two_tower import TwoTower, build_two_tower
from training import trainer
from training.checkpoints import POSITION, Position
from training.data.batches import Batch
from training.epochs import EarlyStopping, EpochReport
from training.fit_loop import fit
from training.losses.dual_augmented import mimic_term
from training.losses.objective import DecayingWeight
from training.losses.softmax import softmax_term
from training.negatives.queue import VectorQueue
from training.optimizers import make_optimizer

SMALL = runpy.run_path(str(Path(__file__).with_name("fit_for_tests.py")))
pytestmark = pytest.mark.slow
EPOCHS = 3
MEASURE = "recall_at_4"


class KilledError(BaseException):
    """Stands for the end of the process."""


class Counter:
    """What batches are drawn with: how many there were, which changes what their rows count."""

    def __init__(self) -> None:
        self.count = np.zeros(1, np.int64)

    def state(self) -> dict[str, Any]:
        return {"count": self.count}

    def restore(self, state: Any) -> None:
        self.count = np.array(state["count"])

    def passed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            self.count += 1
            factors = 1 + np.arange(len(batch["weight"])) % (1 + self.count % 3)
            yield {**batch, "weight": batch["weight"] * factors.astype(np.float32)}


class Done(NamedTuple):
    """A fit that has come to its end.

    Attributes:
        state: Everything that it has fitted, by name.
        reports: Of its epochs.
        losses: Of the steps that were taken since it was started last.
        resumed: Where it resumed.
    """

    state: dict[str, Any]
    reports: list[EpochReport]
    losses: list[float]
    resumed: list[Position]


def everything(encoder: Encoder, weight: DecayingWeight) -> trainer.RetrievalModel:
    """A model with all that changes from step to step: what is dropped of ids and vectors, a queue, a weight."""

    def table(name: str, num_rows: int) -> AugmentedTable:
        trained, groups = np.arange(num_rows) > 0, np.zeros(num_rows, np.int32)
        return AugmentedTable(num_rows=num_rows, width=8, trained=trained, groups=groups, dropout=0.3, name=name)

    users, items = len(encoder.user_ids), len(encoder.item_ids)
    towers = build_two_tower(
        encoder.input_specs("user"), encoder.input_specs("item"), embedding_dim=8, hidden_units=(6,), id_dropout=0.2,
        history=weighted_means(decay_days=[None, 7.0], power=0.5, dropout=0.3),
        bucket_of_user_row=np.zeros(users, np.int32), bucket_of_item_row=np.zeros(items, np.int32),
        user_adds=[augmented(table("user_augmented", users), id_name="user_id")],
        item_adds=[augmented(table("item_augmented", items), id_name="item_id")],
    )  # fmt: skip
    terms = [(1.0, softmax_term("yi2019")), (weight, mimic_term("user")), (0.5, mimic_term("item"))]
    return trainer.RetrievalModel(
        towers, terms=terms, temperature=0.2, learn_temperature=True, queue=VectorQueue(16, 8)
    )


def run(folder: Path, out: Path, *, kill_after: int | None = None, **changes: Any) -> Done:
    """A fit on the groups, which is saved after each step unless that is changed, and killed after some steps."""
    encoder = Encoder.load(folder / "encoder")
    trainer.make_deterministic(1)
    weight, counter = DecayingWeight(0.5, decay=0.5), Counter()
    model = everything(encoder, weight)
    negatives = {"queue_size": 16, "num_random": 2}
    batches_of = SMALL["batches_for"](folder, encoder, seed=1, negatives=negatives, batch_size=24)
    losses: list[float] = []
    resumed: list[Position] = []

    def on_step(loss: float) -> None:
        losses.append(loss)
        if len(losses) == kill_after:
            raise KilledError

    def evaluate(towers: TwoTower) -> dict[str, float]:
        return {MEASURE: float(np.sin(sum(float(values.sum()) for values in towers.user.get_weights())))}

    def after_steps() -> None:
        weight.step()
        refresh_fallbacks(model.fitted)

    settings: dict[str, Any] = {"checkpoint_every_minutes": 0.0, "evaluate": evaluate} | changes
    reports = fit(
        model,
        settings.pop("epochs", EPOCHS),
        batches_of=lambda epoch: counter.passed(batches_of(epoch)),
        optimizer=make_optimizer("adam", 0.01),
        folder=out,
        after_steps=after_steps,
        on_step=on_step,
        on_resume=resumed.append,
        saved={"weight": weight},
        draws=counter,
        **settings,
    )
    state: dict[str, Any] = {name: values.tobytes() for name, values in SMALL["weights_of"](model).items()}
    state |= {"weight": float(weight.value), "count": counter.count.tolist(), "temperature": float(model.temperature)}
    return Done(state, reports, losses, resumed)


@pytest.fixture(scope="module")
def whole(groups_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """The fit that nothing interrupts, and that saves nothing."""
    return run(groups_folder, tmp_path_factory.mktemp("whole"), checkpoint_every_minutes=None)


@pytest.fixture(scope="module")
def num_steps(whole: Done) -> int:
    """Of an epoch."""
    return len(whole.losses) // EPOCHS


@pytest.mark.parametrize("kills", [[(0, 1)], [(0, 2)], [(1, 0)], [(2, -1)], [(1, 1), (0, 1), (0, 2)]])
def test_a_fit_that_is_killed_in_any_epoch_resumes_at_the_same_batch_with_the_same_bits(
    kills: list[tuple[int, int]], whole: Done, num_steps: int, groups_folder: Path, tmp_path: Path
) -> None:
    num_taken = 0
    for epochs, steps in kills:
        with pytest.raises(KilledError):
            run(groups_folder, tmp_path, kill_after=epochs * num_steps + steps)
        # The step after which it was killed is not saved.
        num_taken += epochs * num_steps + steps - 1
        assert not num_taken or json.loads((tmp_path / POSITION).read_text())["num_steps"] == num_taken
    found = run(groups_folder, tmp_path)
    assert found.losses == whole.losses[num_taken:]
    assert found.state == whole.state
    assert found.reports == whole.reports
    assert bool(found.resumed) == (num_taken > 0)


def test_a_fit_resumes_with_the_graphs_that_it_had(groups_folder: Path, tmp_path: Path) -> None:
    """The first graph is for 22 examples alone, the next one for any number, and they round differently."""

    def plain(out: Path, *, kill_after: int | None = None) -> tuple[list[float], list[bytes]]:
        losses: list[float] = []

        def on_step(loss: float) -> None:
            losses.append(loss)
            if len(losses) == kill_after:
                raise KilledError

        model, _ = SMALL["fit_small"](
            groups_folder, out, seed=1, epochs=4, batch_size=20, on_step=on_step, checkpoint_every_minutes=0.0
        )
        return losses, [values.tobytes() for values in SMALL["weights_of"](model).values()]

    whole, weights = plain(tmp_path / "whole")
    with pytest.raises(KilledError):
        plain(tmp_path / "killed", kill_after=3)
    assert plain(tmp_path / "killed") == (whole[2:], weights)


def test_a_fit_that_is_killed_while_it_is_evaluated_takes_no_step_twice(
    whole: Done, num_steps: int, groups_folder: Path, tmp_path: Path
) -> None:
    def evaluate(towers: TwoTower) -> dict[str, float]:
        raise KilledError

    with pytest.raises(KilledError):
        run(groups_folder, tmp_path, evaluate=evaluate)
    found = run(groups_folder, tmp_path)
    assert found.losses == whole.losses[num_steps:]
    assert (found.state, found.reports) == (whole.state, whole.reports)


def test_a_fit_that_is_killed_as_it_is_saved_resumes_from_the_checkpoint_before(
    whole: Done, groups_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        made: list[str] = []

        def replace_text(path: Path, text: str) -> None:
            made.append(text)
            if len(made) == 3:
                raise KilledError
            path.write_text(text)

        patch.setattr("training.checkpoints.replace_text", replace_text)
        with pytest.raises(KilledError):
            run(groups_folder, tmp_path)
    found = run(groups_folder, tmp_path)
    assert (found.losses, found.state) == (whole.losses[2:], whole.state)


def test_a_finished_fit_is_restored_without_a_step_and_keeps_one_checkpoint(
    whole: Done, groups_folder: Path, tmp_path: Path
) -> None:
    first, again = (run(groups_folder, tmp_path) for _ in range(2))
    assert first.losses == whole.losses
    assert again.losses == []
    assert again.resumed[0].is_finished
    assert first.state == again.state == whole.state
    assert first.reports == again.reports == whole.reports
    assert len(list(tmp_path.glob("epoch-*.index"))) == len(list(tmp_path.glob("epoch-*.npz"))) == 1


def test_the_best_epoch_is_restored_and_a_fit_ends_when_none_is_better(
    whole: Done, num_steps: int, groups_folder: Path, tmp_path: Path
) -> None:
    recalls = iter([0.1, 0.3, 0.2, 0.25, 0.9])
    two = run(groups_folder, tmp_path / "two", epochs=2)
    found = run(
        groups_folder, tmp_path / "stopped", epochs=6, stopping=EarlyStopping(MEASURE, patience=2),
        evaluate=lambda towers: {MEASURE: next(recalls)}, checkpoint_every_minutes=None,
    )  # fmt: skip
    assert [report.metrics[MEASURE] for report in found.reports] == [0.1, 0.3, 0.2, 0.25]
    assert found.losses[: 3 * num_steps] == whole.losses
    assert found.state == two.state


@pytest.mark.parametrize("kill_after_epochs", [1, 3])
def test_an_early_stopped_fit_resumes_to_the_same_best_epoch(
    kill_after_epochs: int, num_steps: int, groups_folder: Path, tmp_path: Path
) -> None:
    recalls = [0.1, 0.3, 0.2, 0.25, 0.9]
    epoch: list[int] = []

    def evaluate(towers: TwoTower) -> dict[str, float]:
        epoch.append(1)
        return {MEASURE: recalls[len(epoch) - 1]}

    settings: dict[str, Any] = {"epochs": 6, "stopping": EarlyStopping(MEASURE, patience=2), "evaluate": evaluate}
    whole = run(groups_folder, tmp_path / "whole", **settings)
    epoch.clear()
    with pytest.raises(KilledError):
        run(groups_folder, tmp_path / "killed", kill_after=kill_after_epochs * num_steps + 2, **settings)
    found = run(groups_folder, tmp_path / "killed", **settings)
    assert (found.state, found.reports) == (whole.state, whole.reports)
    assert len(found.losses) == (4 - kill_after_epochs) * num_steps - 1
    again = run(groups_folder, tmp_path / "killed", **settings)
    assert (again.state, again.losses) == (whole.state, [])


def test_a_metric_that_is_no_number_survives_an_interruption(groups_folder: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"stopping": EarlyStopping(MEASURE, patience=2), "evaluate": lambda towers: {}}
    first, again = (run(groups_folder, tmp_path, epochs=2, **settings) for _ in range(2))
    assert [np.isnan(report.metrics[MEASURE]) for report in again.reports] == [True, True]
    assert first.state == again.state


def test_a_checkpoint_of_another_model_is_refused(groups_folder: Path, tmp_path: Path) -> None:
    run(groups_folder, tmp_path, epochs=1)
    message = r"epoch-1-step-\d+: the checkpoint of an interrupted fit is of another model.*remove its folder"
    with pytest.raises(ValueError, match=message):
        SMALL["fit_small"](groups_folder, tmp_path, seed=1, checkpoint_every_minutes=0.0)
