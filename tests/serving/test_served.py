"""What a server answers by default: what is configured, or what was chosen for its bundle."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from serving.bundles.bundle import Bundle
from serving.bundles.bundle_diff import compare
from serving.bundles.manifest import Facts
from serving.bundles.publish import Parts, write
from serving.config import RankingConfig
from serving.recommender import Recommender
from serving.registry import choice_of, retrievers_of
from serving.served import DEFAULT, Choice, Served, Tried, settled

AUTO = RankingConfig(max_fetch=30, fusion_depth=20)
TRIED = Tried("two_tower", {"repeat": 1.0}, 5.0, exclude_known=True, value=0.2, behind=0.0, behind_low=0, behind_high=0)
CHOSEN = Served(
    "two_tower",
    {"popularity": 1.0, "two_tower": 0.3},
    20.0,
    exclude_known=True,
    why="ndcg@100 0.2000 of 80 users",
    metric="ndcg@100",
    num_users=80,
    tried=(TRIED,),
)


def written_with(parts: Parts, facts: Facts, folder: Path, served: Served) -> Bundle:
    return Bundle.open(folder / write(folder, parts, facts.model_copy(update={"served": served})))


def asked_of(bundle: Bundle, read_users: Callable[[list[str]], pa.Table], ranking: RankingConfig = AUTO) -> Recommender:
    choice = choice_of(bundle, ranking)
    retrievers = retrievers_of(bundle, ranking, ef_search=50)
    return Recommender(
        bundle,
        read_users,
        retrievers=retrievers,
        default_retriever=choice.retriever,
        exclude_known=choice.exclude_known,
    )


def ids_of(recommender: Recommender, **asked: object) -> set[str]:
    [answer] = recommender.recommend(["u1"], k=30, **asked).answers
    return {item["item_id"] for item in answer.items}


def test_a_bundle_answers_with_what_was_chosen_for_it(
    parts: Parts, facts: Facts, tmp_path: Path, read_users: Callable[[list[str]], pa.Table]
) -> None:
    bundle = written_with(parts, facts, tmp_path, CHOSEN)
    assert bundle.manifest.facts.served == CHOSEN
    recommender = asked_of(bundle, read_users)
    assert recommender.recommend(["u1"], k=3).retriever == "two_tower"
    # u1 bought i0, i1 and i2.
    bought = {"i0", "i1", "i2"}
    assert not bought & ids_of(recommender)
    assert not bought & ids_of(recommender, retriever="exact")
    # Nothing would be left of what was asked for by name.
    assert ids_of(recommender, retriever="repeat") == bought
    assert ids_of(recommender, retriever="repeat", exclude_known=True).isdisjoint(bought)
    [answer] = recommender.recommend(["u1"], k=3, retriever="fused", explain=True).answers
    assert {name for item in answer.items for name in item["explanation"]["found_by"]} == {"popularity", "two_tower"}


def test_an_explicit_request_lets_known_items_come_back(
    parts: Parts, facts: Facts, tmp_path: Path, read_users: Callable[[list[str]], pa.Table]
) -> None:
    recommender = asked_of(written_with(parts, facts, tmp_path, CHOSEN), read_users)
    everything = recommender.recommend(["u1"], k=40, exclude_known=False).answers[0].items
    assert {"i0", "i1", "i2"} <= {item["item_id"] for item in everything}


def test_what_is_configured_wins_over_what_was_chosen(parts: Parts, facts: Facts, tmp_path: Path) -> None:
    bundle = written_with(parts, facts, tmp_path, CHOSEN)
    assert choice_of(bundle, AUTO) == CHOSEN.choice
    given = {"retriever": "popularity", "exclude_known": False}
    assert choice_of(bundle, RankingConfig.model_validate(given)) == dataclasses.replace(CHOSEN.choice, **given)
    # Weights are given to be served.
    weights = {"repeat": 2.0}
    expected = Choice("fused", weights, 20.0, exclude_known=True)
    assert choice_of(bundle, RankingConfig(fusion_weights=weights)) == expected
    assert choice_of(bundle, RankingConfig(fusion_rank_constant=3)).retriever == "two_tower"


def test_another_choice_is_another_bundle_and_its_difference_is_named(
    parts: Parts, facts: Facts, tmp_path: Path
) -> None:
    one = written_with(parts, facts, tmp_path, CHOSEN)
    other = written_with(parts, facts, tmp_path, dataclasses.replace(CHOSEN, exclude_known=False, tried=()))
    assert one.version != other.version
    changed = compare(one.folder, other.folder).facts
    assert changed["served.exclude_known"] == {"old": True, "new": False}
    assert not any(key.startswith("served.tried") for key in changed)
    card = (one.folder / "MODEL_CARD.md").read_text()
    assert "- Served by default: two_tower; known items are kept out. Why: ndcg@100 0.2000 of 80 users." in card
    # As a changed file does, a changed choice no longer fits the name.
    manifest = one.folder / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_text(manifest.read_text().replace('"exclude_known": true', '"exclude_known": false', 1))
    with pytest.raises(ValueError, match="manifest_sha256"):
        Bundle.open(one.folder)


def test_a_choice_is_told_in_words() -> None:
    assert str(DEFAULT) == "repeat 1 + two_tower 0.3, rank constant 5; known items may come back"
    alone = Choice("fused", {"repeat": 1.0}, 5.0, exclude_known=False)
    assert alone.lists == "repeat, filled up with popular items"
    assert str(CHOSEN) == "two_tower; known items are kept out"
    assert [*CHOSEN.table] == [("two_tower", "kept out", "0.2000", "0.0000 [+0.0000, +0.0000]")]
    assert settled(RankingConfig()) == DEFAULT
