"""A warm start from a state is the fit that was not interrupted, and rows stay with their ids."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from features.encoding import Encoder
from features.ids import IdMap
from training.optimizers import make_optimizer
from training.trainer import RetrievalModel
from training.warm_start import (
    CarryOverError,
    Growth,
    _inherited,
    _moved,
    carry_over,
    load_state,
    moved_rows,
    save_state,
    state_of,
)

tools = runpy.run_path(str(Path(__file__).parent / "fit_for_tests.py"))
batches_for, plain_model, weights_of = (tools[name] for name in ("batches_for", "plain_model", "weights_of"))
TABLE, SLOT = "item_id_table/embeddings", "item_id_table/embeddings@accumulator"


def grown(encoder: Encoder, *, new: str = "a-new-one", gone: str = "i3") -> Encoder:
    """The same dataset a day later: an item more at the front, one less, another order, a new value of a column."""
    kept = [name for name in reversed(encoder.item_ids.ids(range(1, len(encoder.item_ids)))) if name != gone]
    aisles = encoder.vocabularies["aisle"]
    values = ["a-new-aisle", *aisles.ids(range(1, len(aisles)))]
    return replace(
        encoder,
        item_ids=IdMap([new, *kept], encoder.item_ids.num_buckets),
        vocabularies={**encoder.vocabularies, "aisle": IdMap(values)},
    )


def steps(model: RetrievalModel, optimizer: object, folder: Path, encoder: Encoder, epochs: range) -> list[float]:
    model.compile(optimizer=optimizer)
    batches_of = batches_for(folder, encoder, seed=1)
    return [float(model.train_step(batch)["loss"]) for epoch in epochs for batch in batches_of(epoch)]


@pytest.fixture(scope="module")
def fitted(groups_folder: Path, encoder: Encoder) -> tuple[RetrievalModel, dict[str, np.ndarray]]:
    model, optimizer = plain_model(encoder), make_optimizer("adagrad", 0.1)
    steps(model, optimizer, groups_folder, encoder, range(2))
    return model, state_of({"": model.variables}, optimizer)


def test_a_warm_start_is_the_fit_that_was_not_interrupted(
    groups_folder: Path, encoder: Encoder, tmp_path: Path
) -> None:
    whole, optimizer = plain_model(encoder), make_optimizer("adagrad", 0.1)
    start = state_of_new(whole)
    expected = steps(whole, optimizer, groups_folder, encoder, range(3))

    first, optimizer = plain_model(encoder), make_optimizer("adagrad", 0.1)
    carry_over(start, Growth.between(encoder, encoder), {"": first.variables}, optimizer)
    losses = steps(first, optimizer, groups_folder, encoder, range(2))
    save_state(state_of({"": first.variables}, optimizer), tmp_path / "state.npz")
    second, optimizer = plain_model(encoder), make_optimizer("adagrad", 0.1)
    carry_over(load_state(tmp_path / "state.npz"), Growth.between(encoder, encoder), {"": second.variables}, optimizer)
    losses += steps(second, optimizer, groups_folder, encoder, range(2, 3))

    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    for name, values in weights_of(whole).items():
        np.testing.assert_allclose(weights_of(second)[name], values, rtol=1e-4, atol=1e-6, err_msg=name)


def state_of_new(model: RetrievalModel) -> dict[str, np.ndarray]:
    optimizer = make_optimizer("adagrad", 0.1)
    optimizer._create_all_weights(model.trainable_variables)
    return state_of({"": model.variables}, optimizer)


def test_rows_stay_with_their_ids_and_new_ones_are_as_in_a_new_table(
    fitted: tuple[RetrievalModel, dict[str, np.ndarray]], encoder: Encoder
) -> None:
    _, state = fitted
    later = grown(encoder)
    growth = Growth.between(encoder, later)
    model, optimizer = plain_model(later), make_optimizer("adagrad", 0.1)
    fresh = state_of_new(model)
    carry_over(state, growth, {"": model.variables}, optimizer)
    now = state_of({"": model.variables}, optimizer)
    for name in ("i0", "i7", "i23"):
        old, new = encoder.item_ids.rows([name])[0], later.item_ids.rows([name])[0]
        assert old != new
        for array in (TABLE, SLOT):
            np.testing.assert_array_equal(now[array][new], state[array][old])
    [added] = later.item_ids.rows(["a-new-one"])
    # An item without events has the vector of its other features, and its first step is as large as any first one.
    assert not now[TABLE][added].any()
    np.testing.assert_array_equal(now[SLOT][added], fresh[SLOT][added])
    aisle = "aisle_table/embeddings"
    np.testing.assert_array_equal(now[aisle][2:], state[aisle][1:])
    np.testing.assert_array_equal(now[aisle][1], fresh[aisle][1])
    assert growth.num_new("item_id") == 1
    assert growth.num_new("aisle") == 1
    assert growth.num_new("user_id") == 0


def test_vectors_of_known_ids_do_not_change_with_the_catalogue(
    fitted: tuple[RetrievalModel, dict[str, np.ndarray]], groups_folder: Path, encoder: Encoder
) -> None:
    model, state = fitted
    later = grown(encoder, gone="not-there")
    carried, optimizer = plain_model(later), make_optimizer("adagrad", 0.1)
    carry_over(state, Growth.between(encoder, later), {"": carried.variables}, optimizer)
    before, after = (next(batches_for(groups_folder, some, seed=1)(0)) for some in (encoder, later))

    def vectors(model: RetrievalModel, batch: dict[str, np.ndarray], some: Encoder) -> dict[str, np.ndarray]:
        inputs = {name.removeprefix("item/"): values for name, values in batch.items() if name.startswith("item/")}
        ids = some.item_ids.ids(inputs["item_id"])
        return dict(zip(ids, model.item_tower(inputs).numpy(), strict=True))

    old, new = vectors(model, before, encoder), vectors(carried, after, later)
    assert len(old) > 10
    for name in old.keys() & new.keys():
        np.testing.assert_allclose(new[name], old[name], rtol=1e-5, atol=1e-6)


def test_a_new_id_takes_over_what_its_bucket_has_learned() -> None:
    old, new = IdMap(["a", "b"], num_buckets=2), IdMap(["b", "c", "a"], num_buckets=2)
    values = np.arange(5.0)[:, None]
    rows = _moved(old, new)
    assert rows.tolist() == [0, 3, 1, 4, 5]
    inherits = _inherited(old, new, rows)
    bucket = int(old.table_rows(["c"])[0])
    assert inherits.tolist() == [-1, -1, bucket, -1, -1, -1]
    assert moved_rows(values, rows, fresh=np.full((6, 1), -1.0)).ravel().tolist() == [0, 2, -1, 1, 3, 4]


def test_a_state_of_another_shape_is_refused_with_the_name(
    fitted: tuple[RetrievalModel, dict[str, np.ndarray]], encoder: Encoder
) -> None:
    _, state = fitted
    growth = Growth.between(encoder, encoder)
    model, optimizer = plain_model(encoder), make_optimizer("adagrad", 0.1)
    name = next(name for name in state if name.endswith("kernel"))
    with pytest.raises(CarryOverError, match=rf"{name} has shape \[1, 2\]"):
        carry_over({**state, name: np.zeros((1, 2))}, growth, {"": model.variables}, optimizer)
    with pytest.raises(CarryOverError, match="is not in the state"):
        carry_over(
            {key: value for key, value in state.items() if key != name}, growth, {"": model.variables}, optimizer
        )
    short = {**dict(growth.rows), "item_id": np.zeros(3, np.int64)}
    with pytest.raises(CarryOverError, match=r"expected tables of 3 and 25 rows for item_id"):
        carry_over(state, replace(growth, rows=short), {"": model.variables}, optimizer)
