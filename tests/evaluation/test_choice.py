"""What is served by default is chosen on days before the cut, of which nothing is known to what is compared."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp

from artefacts.paths import RunPaths
from evaluation import choice, metrics
from evaluation.validation_days import Window, held_out_window, repeated_share, window_since
from features.columns import seconds_of
from features.encoding import fit_encoder
from features.schema import Schema
from features.sources.events import EVENTS_SCHEMA
from serving.config import RankingConfig
from serving.retrieval.purchases import Purchases
from serving.retrieval.retrievers import Fused, Popularity, Repeat, Retriever, UserQueries, lists_of
from serving.retrieval.vector_search import TwoTowerRetriever
from serving.retrieval.vectors import ItemsAsNew, ValidationVectors, vector_schema
from serving.served import DEFAULT, FUSED, NO_REPEATS, Choice, settled

NUM_USERS, NUM_ITEMS, DEPTH = 90, 40, 12
MOMENT, CUT = dt.date(2024, 1, 8), dt.date(2024, 1, 15)
DAY = 86_400
CHOSEN = RankingConfig(fusion_depth=DEPTH)


def window_of(past: np.ndarray, later: np.ndarray, *, seed: int = 3) -> Window:
    """Users who met [U, N] so many times before, and then what is marked; with random vectors and popularity.

    Every vector points a little towards what its user met later.
    """
    rng = np.random.default_rng(seed)
    items = rng.normal(size=(NUM_ITEMS, 8)).astype(np.float32)
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    users = rng.normal(size=(len(past), 8)).astype(np.float32) + later.astype(np.float32) @ items
    owner, item = np.nonzero(past)
    counted = np.repeat(np.arange(len(owner)), past[owner, item])
    seconds = seconds_of(MOMENT) - DAY * (1 + (owner * 7 + item * 3) % 20)
    met = Purchases.from_events(
        owner[counted] + 1, item[counted], seconds=seconds[counted], num_users=len(past) + 1, num_items=NUM_ITEMS
    ).of(np.arange(1, len(past) + 1))
    return Window(
        first_day=MOMENT,
        end_day=CUT,
        users=UserQueries(met, np.full(len(past), seconds_of(MOMENT)), users),
        relevant=sp.csr_array(later.astype(bool)),
        popularity=rng.permutation(NUM_ITEMS).astype(np.float32),
        ranked=items,
    )


def random_window(seed: int = 3) -> Window:
    rng = np.random.default_rng(seed)
    past = rng.poisson(0.15, size=(NUM_USERS, NUM_ITEMS))
    past[np.arange(NUM_USERS), rng.integers(NUM_ITEMS, size=NUM_USERS)] += 1
    later = rng.random((NUM_USERS, NUM_ITEMS)) < 0.08
    later[np.arange(NUM_USERS), rng.integers(NUM_ITEMS, size=NUM_USERS)] = True
    return window_of(past, later, seed=seed)


def chosen_for(window: Window, ranking: RankingConfig = CHOSEN, *, before: Choice | None = None) -> Choice:
    candidates = list(choice.candidates_of(ranking))
    values = choice.evaluate(candidates, window, lambda hits: metrics.ndcg_at_k(hits, 10), k=10, ranking=CHOSEN)
    return choice.pick(candidates, values, metric="ndcg@10", before=before).choice


@pytest.mark.parametrize("exclude_known", [False, True])
def test_every_candidate_is_scored_by_the_list_that_a_server_would_answer_with(exclude_known: bool) -> None:
    window = random_window()
    users = replace(window.users, exclude_known=exclude_known)
    parts: dict[str, Retriever] = {
        "repeat": Repeat(),
        "two_tower": TwoTowerRetriever(window.ranked, None, ef=0, max_fetch=0),
        "popularity": Popularity(window.popularity),
    }
    lists = choice.FusedLists.of(users, window, CHOSEN, DEFAULT.hybrid_weights)
    candidates = [one for one in choice.candidates_of(CHOSEN) if one.exclude_known == exclude_known]
    # Two retrievers alone, and repeat purchases that popular items fill up; three pairs or one, 5 ratios, 4 constants.
    assert len(candidates) == (2 + 20 if exclude_known else 3 + 60)
    for one in candidates:
        fusion = tuple((parts[name], weight) for name, weight in one.fusion_weights.items())
        retrievers = parts | {FUSED: Fused(fusion, rank_constant=one.fusion_rank_constant, depth=DEPTH)}
        served = lists_of(retrievers, users, one.retriever, k=10, can_be_found=np.ones(NUM_USERS, bool)).rows
        expected = metrics.find_hits(served, window.relevant)
        found = lists.hits(one, 10)
        np.testing.assert_array_equal(found.found, expected.found, err_msg=str(one))
        np.testing.assert_array_equal(found.num_relevant, expected.num_relevant)


def test_what_people_never_repeat_is_kept_out_and_what_they_always_repeat_comes_first() -> None:
    rng = np.random.default_rng(5)
    past = (rng.random((NUM_USERS, NUM_ITEMS)) < 0.3).astype(int)
    past[:, 0] = 1
    later = (rng.random(past.shape) < 0.15) & (past == 0)
    later[np.arange(NUM_USERS), past.argmin(axis=1)] = True
    nobody_repeats = chosen_for(window_of(past, later))
    assert nobody_repeats.exclude_known
    assert nobody_repeats.retriever != FUSED or "repeat" not in nobody_repeats.fusion_weights
    everybody_repeats = chosen_for(window_of(past, past > 0))
    assert not everybody_repeats.exclude_known
    assert everybody_repeats.retriever == FUSED
    assert "repeat" in everybody_repeats.fusion_weights


def test_what_was_served_before_stays_unless_it_is_certainly_behind() -> None:
    candidates = [Choice(name, {"repeat": 1.0}, 5.0, exclude_known=False) for name in ("two_tower", "popularity")]
    noise = np.random.default_rng(1).normal(size=400)
    for gap, stays in ((0.02, True), (0.5, False)):
        values = np.stack([np.full(400, 0.5) + gap, 0.5 + noise])
        values[1] += 0.5 - values[1].mean()
        found = choice.pick(candidates, values, metric="ndcg@10", before=candidates[1])
        assert found.retriever == ("popularity" if stays else "two_tower")
        assert ("served before" in found.why) == stays
        assert found.num_users == 400
        assert choice.pick(candidates, values, metric="ndcg@10", before=None).retriever == "two_tower"
    best, second = found.tried
    assert (best.behind, best.behind_low, best.behind_high) == (0, 0, 0)
    assert second.behind == pytest.approx(0.5)
    # 2.576 standard errors of differences with a deviation of about 1.
    assert second.behind_high - second.behind == pytest.approx(2.576 * noise.std(ddof=1) / 20, rel=1e-3)


def test_a_single_retriever_is_preferred_to_a_fused_list_that_chance_may_explain() -> None:
    alone = Choice("two_tower", {"repeat": 1.0, "two_tower": 0.3}, 5.0, exclude_known=False)
    fused = replace(alone, retriever=FUSED, fusion_weights={"repeat": 1.0, "two_tower": 0.1})
    noise = np.random.default_rng(1).normal(size=400)
    noise -= noise.mean()
    values = np.stack([np.full(400, 0.5), 0.51 + noise])
    found = choice.pick([alone, fused], values, metric="ndcg@10", before=None)
    # Whoever asks for the fused list by name gets the best one.
    assert found.choice == replace(alone, fusion_weights=fused.fusion_weights)
    assert "simpler, and chance may explain" in found.why
    assert choice.pick([alone, fused], values + np.array([[0], [1]]), metric="ndcg@10", before=None).choice == fused


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"retriever": "popularity", "exclude_known": False}, {("popularity", False)}),
        ({"retriever": "two_tower"}, {("two_tower", False), ("two_tower", True)}),
        ({"fusion_weights": {"repeat": 1.0, "two_tower": 2.0}, "exclude_known": True}, {(FUSED, True)}),
        # What cannot be asked for on days before the cut is served as configured.
        ({"retriever": "sparcode"}, set()),
        ({"fusion_weights": {"sparcode": 1.0}}, set()),
        ({"retriever": "repeat"}, set()),
    ],
)
def test_what_is_configured_is_not_open_to_choice(given: dict[str, object], expected: set[tuple[str, bool]]) -> None:
    ranking = RankingConfig.model_validate(given)
    candidates = list(choice.candidates_of(ranking))
    assert {(one.retriever, one.exclude_known) for one in candidates} == expected
    for one in candidates:
        assert settled(ranking, one) == one


def test_a_configured_constant_and_weights_are_the_only_ones_tried() -> None:
    ranking = RankingConfig(fusion_weights={"repeat": 1.0, "two_tower": 2.0}, exclude_known=False)
    assert {one.fusion_rank_constant for one in choice.candidates_of(ranking)} == {1, 5, 20, 60}
    assert all(one.fusion_weights == ranking.fusion_weights for one in choice.candidates_of(ranking))
    ranking = RankingConfig(fusion_rank_constant=7)
    assert {one.fusion_rank_constant for one in choice.candidates_of(ranking)} == {7}


USERS, ITEMS = [f"u{number:02}" for number in range(60)], [f"i{number}" for number in range(6)]


@pytest.fixture
def shop(tmp_path: Path) -> RunPaths:
    """Everybody buys i0 and i1 before the moment, i0 twice, and i2 after it; u00 buys for the first time then."""
    paths = RunPaths(tmp_path, CUT)
    (paths.tables / "events").mkdir(parents=True)
    (paths.tables / "manifest.json").write_text("{}")
    before = [(user, item) for user in USERS[1:] for item in ("i0", "i0", "i1")]
    days = {MOMENT - dt.timedelta(days=1): before, MOMENT: [(user, "i2") for user in USERS]}
    for day, pairs in days.items():
        midnight = dt.datetime.combine(day, dt.time(), dt.UTC)
        rows = [
            {"user_id": user, "item_id": item, "timestamp": midnight + dt.timedelta(hours=number % 3)}
            for number, (user, item) in enumerate(pairs)
        ]
        pq.write_table(pa.Table.from_pylist(rows, schema=EVENTS_SCHEMA), paths.tables / "events" / f"{day}.parquet")
    encoder = fit_encoder(
        Schema(), pa.table({"user_id": USERS}), pa.table({"item_id": ITEMS}), iter(()), history_length=3,
        text_length=1, text_buckets=1, id_buckets=0,
    )  # fmt: skip
    for moment in (MOMENT, CUT):
        encoder.save(RunPaths(tmp_path, moment).model / "encoder")
    paths.pairs.parent.mkdir(parents=True)
    pq.write_table(pa.table({"num_events": [2] * 59 + [1] * 60}), paths.pairs)
    catalogue = paths.catalogue(MOMENT)
    catalogue.mkdir(parents=True)
    rates = pa.table({"item_id": ITEMS[::-1], "item_slow_rate": [None, 1.0, 2.0, 3.0, 4.0, 5.0]})
    pq.write_table(rates, catalogue / "items.parquet")
    return paths


def vectors(num_rows: int) -> np.ndarray:
    return np.tile(np.eye(4, dtype=np.float32), (num_rows, 1))[:num_rows]


def save_validation(paths: RunPaths) -> None:
    ValidationVectors(MOMENT, vectors(60), vectors(6)).save(paths.model)


def save_vectors(paths: RunPaths) -> None:
    for name, num_rows in (("users", 60), ("items", 6)):
        folder = paths.vectors / name
        folder.mkdir(parents=True)
        table = pa.table([range(num_rows), vectors(num_rows).tolist()], schema=vector_schema(4))
        pq.write_table(table, folder / "vectors-00000-of-00001.parquet")


@pytest.mark.parametrize("is_warm_start", [False, True])
def test_nothing_of_the_days_is_known_to_the_lists(shop: RunPaths, is_warm_start: bool) -> None:
    if is_warm_start:
        earlier = RunPaths(shop.root, MOMENT)
        save_vectors(earlier)
        window = window_since(earlier, shop, seed=1)
    else:
        save_validation(shop)
        found = held_out_window(shop, seed=1)
        assert found is not None
        window = found
    # u00 has no past, and gets popular items whatever is chosen.
    assert (window.first_day, window.end_day, len(window.users)) == (MOMENT, CUT, 59)
    own = window.users.purchases
    assert own.indices.tolist() == [0, 1] * 59
    assert own.counts.tolist() == [2, 1] * 59
    assert own.last_seconds.max() < seconds_of(MOMENT)
    assert set(window.users.as_of_seconds.tolist()) == {seconds_of(MOMENT)}
    assert window.relevant.indices.tolist() == [2] * 59
    assert window.popularity.tolist() == [5, 4, 3, 2, 1, 0]
    assert window.users.query_embeddings is not None
    np.testing.assert_array_equal(window.users.query_embeddings, vectors(60)[1:])


def test_items_that_are_described_as_new_are_searched_by_what_users_had_not_met(shop: RunPaths) -> None:
    as_new = ItemsAsNew(np.array([1, 2]), -vectors(2))
    ValidationVectors(MOMENT, vectors(60), vectors(6), as_new).save(shop.model)
    window = held_out_window(shop, seed=1)
    assert window is not None
    new = window.new_items
    assert new is not None
    # All met i0 and i1 before, and i2 in the days.
    assert new.are.tolist() == [False, True, True, False, False, False]
    assert new.relevant.indices.tolist() == [2] * 59
    np.testing.assert_array_equal(new.ranked[[1, 2]], -vectors(2))
    np.testing.assert_array_equal(np.delete(new.ranked, [1, 2], axis=0), np.delete(window.ranked, [1, 2], axis=0))


def test_the_pairs_that_a_night_has_kept_give_the_same_past_as_the_events(shop: RunPaths) -> None:
    save_validation(shop)
    of_events = held_out_window(shop, seed=1)
    kept = {"user_id": USERS[1:] * 2, "item_id": ["i0"] * 59 + ["i1"] * 59, "num_events": [2] * 59 + [1] * 59}
    assert of_events is not None
    last = of_events.users.purchases.last_seconds
    pairs = pa.table(kept | {"last_seconds": [*last[0::2].tolist(), *last[1::2].tolist()]})
    pq.write_table(pairs, shop.pairs_at(MOMENT))
    of_pairs = held_out_window(shop, seed=1)
    assert of_pairs is not None
    for name in ("indptr", "indices", "counts", "last_seconds"):
        np.testing.assert_array_equal(getattr(of_pairs.users.purchases, name), getattr(of_events.users.purchases, name))


def test_without_days_or_with_few_users_what_was_served_stays(shop: RunPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Choice("popularity", {"repeat": 1.0}, 20.0, exclude_known=True)
    found = choice.choose(CHOSEN, shop, k=5, seed=1)
    assert (found.choice, found.num_users, found.tried) == (DEFAULT, 0, ())
    assert found.why == "the fixed default: no days are held out (training.validation_days)"
    assert choice.choose(CHOSEN, shop, k=5, seed=1, before=before).choice == before
    save_validation(shop)
    monkeypatch.setattr(choice, "LEAST_USERS", 60)
    found = choice.choose(CHOSEN, shop, k=5, seed=1, before=before)
    assert found.choice == before
    assert "as the night before: 59 users with a history met something from 2024-01-08 up to 2024-01-15" in found.why


def test_the_choice_is_the_same_again_and_says_on_which_days_it_was_made(shop: RunPaths) -> None:
    save_validation(shop)
    found = choice.choose(CHOSEN, shop, k=5, seed=1)
    # Nobody repeats anything: all that is new is i2, the most popular of what is not known.
    assert found.exclude_known
    assert found.why.endswith("of 59 users, on 2024-01-08 up to 2024-01-15")
    assert found.metric == "ndcg@5"
    assert found.tried[0].value == 1
    assert choice.choose(CHOSEN, shop, k=5, seed=1) == found
    as_configured = choice.choose(RankingConfig(retriever="repeat"), shop, k=5, seed=1)
    assert (as_configured.retriever, as_configured.why) == ("repeat", "as configured")


def test_where_nobody_meets_an_item_twice_known_items_are_kept_out_even_without_days(shop: RunPaths) -> None:
    assert repeated_share(shop) == pytest.approx(59 / 178)
    pq.write_table(pa.table({"num_events": [1] * 500 + [2]}), shop.pairs)
    assert choice.choose(CHOSEN, shop, k=5, seed=1).choice == NO_REPEATS
    save_validation(shop)
    found = choice.choose(CHOSEN, shop, k=5, seed=1)
    assert found.exclude_known
    assert all(one.exclude_known for one in found.tried)
    # What is configured wins all the same.
    assert not choice.choose(RankingConfig(exclude_known=False), shop, k=5, seed=1).exclude_known
    pq.write_table(pa.table({"num_events": pa.array([], pa.int64())}), shop.pairs)
    assert repeated_share(shop) == 0
