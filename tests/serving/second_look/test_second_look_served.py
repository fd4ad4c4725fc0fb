"""A bundle with a second look: lists that it ranks, why, and what happens where there is no time or no net."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from serving.bundles.bundle import Bundle
from serving.bundles.manifest import BundleError, Facts
from serving.bundles.publish import Parts, write
from serving.config import RankingConfig
from serving.recommender import Recommender
from serving.registry import recommender_of, retrievers_of
from serving.retrieval.retrievers import UserQueries
from serving.second_look.files import ITEMS, SecondLookParts, SecondLookReport
from serving.second_look.inputs import PAIR_INPUTS, STATISTICS, input_names
from serving.second_look.net import Net

LISTS = ("repeat", "two_tower", "popularity")
NUM_ITEMS = 40
NAMES = input_names(LISTS, 1)


def net_of(**counts: float) -> Net:
    """A net whose score is a sum of inputs, positive ones alone."""
    width, num_pairs = len(NAMES), 1 + len(PAIR_INPUTS)
    hidden = np.zeros((width + num_pairs, 1), np.float32)
    for name, weight in counts.items():
        hidden[NAMES.index(name)] = weight
    return Net(
        NAMES,
        np.zeros(width, np.float32),
        np.ones(width, np.float32),
        np.zeros((num_pairs, 1), np.float32),
        hidden,
        np.zeros(1, np.float32),
        np.ones(1, np.float32),
    )


@pytest.fixture(scope="module")
def looking(parts: Parts, facts: Facts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that ranks what was met lately first, and then what is popular."""
    folder = tmp_path_factory.mktemp("looking")
    report = SecondLookReport(LISTS, 40, 5, 10, 5, {"popularity_score": 1.0})
    statistics = np.zeros((NUM_ITEMS, len(STATISTICS)), np.float32)
    net = net_of(popularity_score=1.0, times_met=4.0)
    SecondLookParts(net, statistics, np.zeros(NUM_ITEMS, np.int32), report).save(folder / "own")
    own = facts.model_copy(update={"second_look_report": report})
    return folder / write(folder, replace(parts, second_look=folder / "own"), own)


def opened(folder: Path, read_users: Callable[[list[str]], pa.Table], **changes: object) -> Recommender:
    ranking = RankingConfig(retriever="second_look", exclude_known=False, **changes)  # type: ignore[arg-type]
    return recommender_of(Bundle.open(folder), read_users, ranking, ef_search=50)


@pytest.fixture(scope="module")
def recommender(looking: Path, read_users: Callable[[list[str]], pa.Table]) -> Recommender:
    return opened(looking, read_users, second_look_ms=None)


def ids(recommender: Recommender, user: str, **asked: object) -> list[str]:
    return [item["item_id"] for item in recommender.recommend([user], **asked).answers[0].items]  # type: ignore[arg-type]


def test_the_net_orders_the_candidates_of_all_lists(recommender: Recommender) -> None:
    # u1 met i0 three times, i1 and i2 twice; all others by popularity, which is their number.
    assert ids(recommender, "u1", k=7) == ["i0", "i2", "i1", "i39", "i38", "i37", "i36"]


@pytest.mark.parametrize("k", [1, 10, 39, 40, 41])
def test_lists_are_as_long_as_they_can_be_and_keep_to_filters(recommender: Recommender, k: int) -> None:
    for user in ("u1", "u3", "n1", "unknown"):
        assert len(set(ids(recommender, user, k=k))) == min(k, NUM_ITEMS), user
    kept = ids(recommender, "u1", k=k, exclude_known=True, allow_categories=("fruit",))
    assert not {"i0", "i1", "i2"} & {*kept}
    # Twenty are fruit, of which u1 has met i1.
    assert len(set(kept)) == min(k, 19)
    assert all(int(item[1:]) % 2 for item in kept)


def test_a_user_gets_the_same_list_in_any_company(recommender: Recommender) -> None:
    together = recommender.recommend(["u4", "u1", "u2"] * 30, k=10)
    assert [item["item_id"] for item in together.answers[1].items] == ids(recommender, "u1", k=10)
    assert together.answers[1].items == together.answers[88].items


def test_an_explanation_names_the_lists_and_what_counted(recommender: Recommender) -> None:
    first, *_, last = recommender.recommend(["u1"], k=10, explain=True).answers[0].items
    assert {*first["explanation"]["found_by"]} == {*LISTS}
    assert [*first["explanation"]["counted"]] == ["times_met"]
    assert [*last["explanation"]["counted"]] == ["popularity_score"]
    assert last["explanation"]["counted"]["popularity_score"] == pytest.approx(np.log1p(33), rel=1e-4)


def test_a_request_that_is_late_gets_the_fused_list_and_is_told(
    looking: Path, read_users: Callable[[list[str]], pa.Table]
) -> None:
    found = opened(looking, read_users, second_look_ms=1e-9).recommend(["u1"], k=5)
    [answer] = found.answers
    assert (found.retriever, answer.reasons) == ("fused", ("late",))
    fused = opened(looking, read_users, second_look_ms=None).recommend(["u1"], k=5, retriever="fused")
    assert answer.items == fused.answers[0].items


def test_business_weights_count_as_factors_of_chances(looking: Path) -> None:
    bundle = Bundle.open(looking)
    weights = np.ones(NUM_ITEMS, np.float32)
    weights[30] = np.exp(1)
    assert bundle.second_look is not None
    retrievers = retrievers_of(bundle, RankingConfig(), ef_search=50)
    weighted = bundle.second_look.retriever(retrievers, bundle.ranked, (8,), weights=weights)
    # A user without a past: nothing but popularity scores.
    no_past = bundle.purchases.of(np.zeros(1, np.int64))
    users = UserQueries(no_past, np.zeros(1, np.int64), np.zeros((1, 8), np.float32))
    rows, scores = weighted.retrieve(users, NUM_ITEMS)
    expected = np.log1p(np.arange(NUM_ITEMS)) + np.log(weights)
    np.testing.assert_allclose(scores[0], expected[rows[0]], rtol=1e-5)
    assert rows[0, 0] == 30
    # What a request asks for takes their place.
    asked = weighted.retrieve(replace(users, scale=np.ones(NUM_ITEMS, np.float32)), NUM_ITEMS)[0]
    assert asked[0].tolist() == list(range(NUM_ITEMS - 1, -1, -1))


def test_a_bundle_without_one_says_what_to_do(written: Path, read_users: Callable[[list[str]], pa.Table]) -> None:
    with pytest.raises(ValueError, match=r"serving.retriever is 'second_look', which needs a second look, and this"):
        opened(written, read_users)


def test_what_does_not_fit_the_catalogue_is_refused(looking: Path, tmp_path: Path, sign: Callable[..., Path]) -> None:
    folder = Path(shutil.copytree(looking, tmp_path / looking.name))
    with np.load(folder / "second_look" / ITEMS) as kept:
        arrays = dict(kept)
    np.savez(folder / "second_look" / ITEMS, statistics=arrays["statistics"][1:], groups=arrays["groups"])
    with pytest.raises(BundleError, match="second_look: cannot be read: statistics are"):
        Bundle.open(sign(folder))
