"""The fit of the second look: its formula and loss in NumPy, what it learns, and that no user ranks their own lists."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from artefacts.paths import RunPaths
from evaluation import choice
from evaluation.second_looks import SecondLooks
from features.columns import seconds_of
from features.encoding import Encoder
from features.ids import IdMap
from features.numbers import numeric_names
from features.schema import Schema
from features.sources.events import EVENTS_SCHEMA
from serving.config import RankingConfig, SecondLookConfig, SecondLookSections
from serving.retrieval.vectors import ValidationVectors, vector_schema
from serving.second_look import retriever
from serving.second_look.files import NET, SERVED, SecondLookParts
from serving.second_look.inputs import STATISTICS, Inputs
from serving.second_look.net import LIMIT, Net
from serving.served import Choice
from training import second_look, second_look_lists
from training.second_look_lists import Lists
from training.second_look_net import first_net, fit_net, list_loss, net_scores

LOOK = SecondLookConfig(history=3, epochs=10, hidden_units=8, negatives=5, depth=12)
NAMES = ("signal", "noise")


@pytest.fixture(scope="module")
def lists() -> Lists:
    """60 users with two lists each; of ten candidates the one with the largest signal is met."""
    rng = np.random.default_rng(4)
    values = rng.normal(size=(1200, 2)).astype(np.float32) * [3, 1] + [5, 0]
    owners = np.repeat(np.arange(120), 10)
    best = values[:, 0].reshape(120, 10).argmax(axis=1)
    is_met = np.arange(10) == best[:, None]
    there = rng.random((1200, 3)) < 0.7
    pairs = (rng.normal(size=(1200, 3, 4)) * there[..., None]).astype(np.float32)
    return Lists(Inputs(values.astype(np.float32), pairs, there), is_met.ravel(), owners, np.repeat(np.arange(60), 2))


@pytest.mark.parametrize("codes", [0, 1, 3])
def test_the_net_is_the_same_in_tensorflow_as_where_it_is_served(lists: Lists, codes: int) -> None:
    net = first_net(lists, NAMES, replace_config(codes=codes), seed=3)
    assert net.hidden.shape == (2 + codes * 4, 8)
    inputs = lists.inputs
    values = np.clip((inputs.values - net.mean) / net.spread, -LIMIT, LIMIT)
    weights = {name: tf.constant(array) for name, array in net.weights.items()}
    found = net_scores(weights, tf.constant(values), tf.constant(inputs.pairs), tf.cast(inputs.is_met, tf.float32))
    np.testing.assert_allclose(found, net.scores(inputs), rtol=1e-4, atol=1e-5)


def test_the_loss_is_each_item_that_was_met_against_those_that_were_not() -> None:
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(3, 5)).astype(np.float32)
    is_met = np.array([[1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 1, 0, 0]], np.float32)
    is_there = np.array([[1] * 5, [1] * 5, [1, 1, 1, 0, 0]], np.float32)
    expected = []
    for row in range(3):
        others = np.exp(scores[row, (is_met[row] == 0) & (is_there[row] == 1)]).sum()
        own = np.exp(scores[row, is_met[row] == 1])
        expected.append(-np.log(own / (own + others)).mean())
    assert float(list_loss(scores, is_met, is_there)) == pytest.approx(np.mean(expected), rel=1e-5)


def test_without_codes_the_history_counts_nothing(lists: Lists) -> None:
    net = fit_net(lists, NAMES, replace_config(codes=0), seed=1)
    assert not net.counted(lists.inputs)[:, -1].any()


def test_a_fit_finds_what_tells_the_items_that_are_met_and_is_the_same_again(lists: Lists) -> None:
    net = fit_net(lists, NAMES, replace_config(epochs=60, learning_rate=0.03), seed=1)
    best = net.scores(lists.inputs).reshape(120, 10).argmax(axis=1)
    met = lists.is_met.reshape(120, 10).argmax(axis=1)
    assert (best == met).mean() > 0.95
    signal, noise, _ = np.abs(net.counted(lists.inputs)).mean(axis=0)
    assert signal > 5 * noise
    again = fit_net(lists, NAMES, replace_config(epochs=60, learning_rate=0.03), seed=1)
    for name, array in net.weights.items():
        np.testing.assert_array_equal(array, again.weights[name])


def replace_config(**changes: object) -> SecondLookConfig:
    return LOOK.model_copy(update=changes)


def test_lists_are_chosen_put_together_and_kept(lists: Lists, tmp_path: Path) -> None:
    chosen = lists.of(lists.users < 30)
    assert (len(chosen), len(chosen.owners), int(chosen.users.max())) == (60, 600, 29)
    together = Lists.together([chosen, lists])
    assert len(together) == 180
    # Users of different nights are different ones.
    assert len(np.unique(together.users)) == 90
    np.testing.assert_array_equal(together.inputs.values[600:], lists.inputs.values)
    assert np.unique(together.owners).tolist() == [*range(180)]
    together.save(tmp_path / "lists.npz")
    loaded = Lists.load(tmp_path / "lists.npz")
    np.testing.assert_array_equal(loaded.owners, together.owners)
    np.testing.assert_allclose(loaded.inputs.pairs, together.inputs.pairs, atol=2e-3)


def test_of_a_list_all_that_was_met_is_kept_and_some_of_the_rest() -> None:
    owners = np.repeat([0, 1, 2, 3], [6, 6, 6, 2])
    is_met = np.zeros(20, np.bool_)
    is_met[[0, 5, 6, 18, 19]] = True
    kept = second_look_lists._sampled(owners, is_met, 3, np.random.default_rng(1))
    # List 2 has nothing that was met, and list 3 nothing else.
    assert np.bincount(owners[kept], minlength=4).tolist() == [5, 4, 0, 0]
    assert {0, 5, 6} <= {*kept.tolist()}


MOMENT, CUT = dt.date(2024, 1, 8), dt.date(2024, 1, 15)
NUM_USERS, NUM_ITEMS = 90, 12
USERS = [f"u{number:02}" for number in range(NUM_USERS)]
ITEMS = [f"i{number:02}" for number in range(NUM_ITEMS)]


@pytest.fixture
def shop(tmp_path: Path) -> RunPaths:
    """Everybody meets two items before the days, and the item behind the first of them in the days."""
    paths = RunPaths(tmp_path, CUT)
    schema = Schema(item_columns={"kind": "categorical"}, item_category="kind")  # type: ignore[dict-item]
    encoder = Encoder(
        schema=schema,
        user_ids=IdMap(USERS),
        item_ids=IdMap(ITEMS),
        vocabularies={"kind": IdMap(["even", "odd"])},
        scaling={name: (0.0, 1.0) for tower in ("user", "item") for name in numeric_names(schema, tower)},
        history_length=4,
        text_length=3,
        text_buckets=10,
    )
    encoder.save(paths.model / "encoder")
    (paths.model / "parts.json").write_text("[3, 1]")
    rng = np.random.default_rng(5)
    first = rng.integers(0, NUM_ITEMS, NUM_USERS)
    second = (first + 4) % NUM_ITEMS
    bought = [(user, item, day) for user in range(NUM_USERS) for item, day in ((first[user], 2), (second[user], 5))]
    bought += [(user, (first[user] + 1) % NUM_ITEMS, 9) for user in range(NUM_USERS)]
    (paths.tables / "events").mkdir(parents=True)
    (paths.tables / "manifest.json").write_text("{}")
    for day in {day for _, _, day in bought}:
        noon = dt.datetime(2024, 1, day, 12, tzinfo=dt.UTC)
        rows = [
            {"user_id": USERS[user], "item_id": ITEMS[item], "timestamp": noon}
            for user, item, when in bought
            if when == day
        ]
        file = paths.tables / "events" / f"2024-01-{day:02}.parquet"
        pq.write_table(pa.Table.from_pylist(rows, schema=EVENTS_SCHEMA), file)
    kinds = ["odd" if number % 2 else "even" for number in range(NUM_ITEMS)]
    pq.write_table(pa.table({"item_id": ITEMS, "kind": kinds}), paths.tables / "items.parquet")
    for moment in (MOMENT, CUT):
        paths.catalogue(moment).mkdir(parents=True)
        statistics = {"item_id": ITEMS, **{name: rng.random(NUM_ITEMS) for name in STATISTICS}}
        pq.write_table(pa.table(statistics), paths.catalogue(moment) / "items.parquet")
    user_vectors, item_vectors = rng.normal(size=(NUM_USERS, 4)), rng.normal(size=(NUM_ITEMS, 4))
    ValidationVectors(MOMENT, user_vectors.astype(np.float32), item_vectors.astype(np.float32)).save(paths.model)
    pairs = pa.table({"user_id": [USERS[user] for user, _, _ in bought], "num_events": [1] * len(bought)})
    paths.pairs.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pairs, paths.pairs)
    return paths


SECTIONS = SecondLookSections(seed=1, ks=(3, 5), item_category="kind", look=LOOK)


def test_the_step_leaves_what_a_bundle_needs_and_lists_to_choose_by(shop: RunPaths) -> None:
    outcome = second_look.fit_second_look(SECTIONS, shop)
    assert outcome.startswith("180 lists of 90 users since 2024-01-08; what counts most: ")
    parts = SecondLookParts.load(shop.second_look / SERVED, num_items=NUM_ITEMS)
    assert parts.report.lists == ("repeat", "two_tower", "popularity")
    assert parts.groups.tolist() == [0, 1] * 6
    assert [*parts.report.counted] == sorted(parts.report.counted, key=lambda name: -parts.report.counted[name])
    looks = SecondLooks.load(shop)
    assert looks is not None
    assert looks.with_known.shape == (90, 12)
    # Of twelve items two are known.
    assert ((looks.without_known >= 0).sum(axis=1) <= 10).all()
    found = choice.choose(RankingConfig(second_look=LOOK), shop, k=5, seed=1)
    assert "second_look" in {one.retriever for one in found.tried}
    # Without the key, what lies there is not compared.
    found = choice.choose(RankingConfig(second_look=None), shop, k=5, seed=1)
    assert "second_look" not in {one.retriever for one in found.tried}


def test_the_lists_of_a_user_are_ranked_by_a_net_that_has_not_seen_them(
    shop: RunPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted_on = []
    fit = second_look.fit_net

    def remembered(lists: Lists, *arguments: object, **options: object) -> object:
        fitted_on.append(set(lists.users.tolist()))
        return fit(lists, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(second_look, "fit_net", remembered)
    ranked = []
    retrieve = retriever.SecondLook.retrieve

    def watched(self: retriever.SecondLook, users: object, k: int) -> object:
        ranked.append((len(fitted_on) - 1, users.purchases.keys.tobytes()))  # type: ignore[attr-defined]
        return retrieve(self, users, k)  # type: ignore[arg-type]

    monkeypatch.setattr(retriever.SecondLook, "retrieve", watched)
    second_look.fit_second_look(SECTIONS, shop)
    *folds, last = fitted_on
    assert last == {*range(NUM_USERS)}
    fold_of = np.random.default_rng(1).permutation(NUM_USERS) % second_look.FOLDS
    for fold, users in enumerate(folds):
        assert users == {*np.flatnonzero(fold_of != fold).tolist()}
    assert [number for number, _ in ranked] == [0, 0, 1, 1, 2, 2]


def test_a_night_is_fitted_on_its_own_lists_and_those_of_the_nights_before(
    shop: RunPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = RunPaths(shop.root, MOMENT)
    found = ValidationVectors.load(shop.model)
    assert found is not None
    Encoder.load(shop.model / "encoder").save(earlier.model / "encoder")
    (earlier.model / "parts.json").write_text("[3, 1]")
    for name, vectors in (("users", found.users), ("items", found.items)):
        folder = earlier.vectors / name
        folder.mkdir(parents=True)
        table = pa.table([range(len(vectors)), vectors.tolist()], schema=vector_schema(4))
        pq.write_table(table, folder / "vectors-00000-of-00001.parquet")
    # Of the night before; here the same days again.
    second_look.fit_second_look(SECTIONS, shop)
    shop.second_look.rename(earlier.second_look)
    assert second_look.fit_second_look(SECTIONS, shop, earlier=earlier).startswith("360 lists of 180 users")
    alone = replace(SECTIONS, look=replace_config(nights=1))
    assert second_look.fit_second_look(alone, shop, earlier=earlier).startswith("180 lists of 90 users")
    # With too few new lists the net of the night before stays, over the statistics of the day.
    monkeypatch.setattr(choice, "LEAST_USERS", 91)
    outcome = second_look.fit_second_look(SECTIONS, shop, earlier=earlier)
    assert outcome.startswith("that of 2024-01-08 stays: fewer than 91 users met something")
    kept, before = (Net.load(paths.second_look / SERVED / NET) for paths in (shop, earlier))
    np.testing.assert_array_equal(kept.hidden, before.hidden)
    assert SecondLooks.load(shop) is None
    before_it = Choice("second_look", {"repeat": 1.0}, 20.0, exclude_known=True)
    ranking = RankingConfig(second_look=LOOK)
    assert choice.choose(ranking, shop, k=5, seed=1, earlier=earlier, before=before_it).choice == before_it
    # Where there is none any more, what it was served with answers.
    closed = RankingConfig(second_look=None)
    found_now = choice.choose(closed, shop, k=5, seed=1, earlier=earlier, before=before_it)
    assert found_now.choice == replace(before_it, retriever="fused")


def test_where_nobody_met_anything_of_their_lists_nothing_is_fitted(
    shop: RunPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(second_look_lists, "_sampled", lambda *arguments: np.empty(0, np.int64))
    assert second_look.fit_second_look(SECTIONS, shop) == (
        f"none: fewer than {choice.LEAST_USERS} users met something that was in their lists since 2024-01-08"
    )


def test_where_nothing_can_be_fitted_the_step_says_why(shop: RunPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "LEAST_USERS", 91)
    assert second_look.fit_second_look(SECTIONS, shop) == (
        "none: fewer than 91 users met something that was in their lists since 2024-01-08"
    )
    assert SecondLooks.load(shop) is None
    (shop.model / "validation_vectors.npz").unlink()
    assert second_look.fit_second_look(SECTIONS, shop) == "none: no days are held out (training.validation_days)"
    assert json.loads((shop.second_look / second_look.STORY).read_text())["why"]
    assert seconds_of(MOMENT) < seconds_of(CUT)
