"""Worlds: what is drawn has the distribution that the truth says, and each strength can be turned to zero."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp
import yaml

from evaluation.worlds.config import WorldConfig
from evaluation.worlds.days import KINDS, Day
from evaluation.worlds.draws import Ints, chosen, integers, uniforms
from evaluation.worlds.items import make_items, promoted
from evaluation.worlds.truth import Truth
from evaluation.worlds.users import first_days, tastes_on
from evaluation.worlds.write import write_world

SMALL = {"users": 400, "items": 240, "days": 21, "catalogue": {"categories": 12, "departments": 3}}


def a_world(**changes: object) -> WorldConfig:
    return WorldConfig.model_validate({**SMALL, **changes})


def views(world: WorldConfig, day: int) -> tuple[Ints, Ints]:
    events = Day(world, make_items(world), day).events(np.arange(world.users))
    is_view = events.kinds == 0
    return events.users[is_view], events.items[is_view]


def test_draws_depend_on_their_purpose_and_counters_alone() -> None:
    alone = uniforms(7, "taste", np.arange(1000), 3)

    assert np.array_equal(alone[[5, 900]], uniforms(7, "taste", np.array([5, 900]), 3))
    for other in (uniforms(8, "taste", np.arange(1000), 3), uniforms(7, "style", np.arange(1000), 3)):
        assert abs(np.corrcoef(alone, other)[0, 1]) < 0.1
    assert abs(np.corrcoef(alone, uniforms(7, "taste", np.arange(1000), 4))[0, 1]) < 0.1
    assert abs(np.corrcoef(alone[1:], alone[:-1])[0, 1]) < 0.1


def test_draws_are_even() -> None:
    counts = np.bincount(integers(1, "even", 10, np.arange(100_000)), minlength=10)

    # 99.9% of the chi-square distribution with 9 degrees of freedom.
    assert ((counts - 10_000) ** 2 / 10_000).sum() < 27.9


def test_chosen_follows_the_weights() -> None:
    draw = (np.arange(1000) + 0.5) / 1000

    counts = np.bincount(chosen(draw, np.array([1.0, 0.0, 3.0])), minlength=3)

    assert counts.tolist() == [250, 0, 750]


def truths() -> dict[str, dict[str, object]]:
    return {
        "defaults": {},
        "every mechanism": {
            "taste": {"variants": 1.0, "rank": 0},
            "visits": {"sequence": 0.6, "repeat": 0.4},
            "catalogue": {**SMALL["catalogue"], "turnover": 0.05},
            "calendar": {"season": 1.0, "weekday": 1.0, "promotions": 0.2, "lift": 2.0},
        },
        "none": {
            "taste": {"per_user": 1, "drift_days": 0, "kinds": 1, "strength": 0, "segment_strength": 0},
            "visits": {"sequence": 0, "repeat": 0, "cold_users": 0, "length": 1},
            "catalogue": {**SMALL["catalogue"], "turnover": 0, "family_size": 1, "popularity": 0},
            "calendar": {"season": 0, "weekday": 0, "promotions": 0, "lift": 0},
        },
    }


@pytest.mark.parametrize("changes", truths().values(), ids=truths())
def test_what_happens_has_the_distribution_of_the_truth(changes: dict[str, object]) -> None:
    world = a_world(users=12_000, **changes)
    truth, users = Truth(world, make_items(world)), np.arange(12_000)
    seen, expected = np.zeros(world.num_items), np.zeros(world.num_items)
    for day in (8, 9, 14):
        came, items = views(world, day)
        visitors = np.unique(came)
        seen += np.bincount(items, minlength=world.num_items)
        expected += truth.of_visit(users[visitors], day).sum(axis=0)

    assert seen[expected == 0].sum() == 0
    assert seen.sum() == pytest.approx(expected.sum(), rel=0.03)
    # Items of one visit depend on each other, so the spread is a little more than Poisson's.
    often = expected > 5
    z = (seen - expected)[often] / np.sqrt(expected[often])
    assert abs(z.mean()) < 0.2
    assert 0.7 < z.std() < 1.35


def test_each_user_has_the_distribution_of_the_truth() -> None:
    """The likelihood of what users do is what the truth expects it to be, not that of the mean user."""
    world = a_world(users=2000, visits={"sequence": 0, "repeat": 0.2})
    truth = Truth(world, make_items(world))
    users, items = views(world, 10)
    first = np.unique(users, return_index=True)[1]
    probabilities = truth.of_visit(users[first], 10)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    found = np.log(probabilities[np.arange(len(first)), items[first]])
    logs = np.log(np.where(probabilities > 0, probabilities, 1))
    means = (probabilities * logs).sum(axis=1)
    spread = np.sqrt(((probabilities * logs**2).sum(axis=1) - means**2).sum())

    assert abs((found - means).sum()) < 4 * spread


def test_what_follows_an_item_of_a_visit_has_the_distribution_of_the_truth() -> None:
    world = a_world(users=12_000, visits={"sequence": 0.6, "repeat": 0.3})
    truth, (users, items) = Truth(world, make_items(world)), views(world, 10)
    is_next = users[1:] == users[:-1]
    at, last, found = users[1:][is_next], items[:-1][is_next], items[1:][is_next]
    chances = truth.after(at, last, 10)

    np.testing.assert_allclose(chances.sum(axis=1), 1, rtol=1e-9)
    expected, seen = chances.sum(axis=0), np.bincount(found, minlength=world.num_items)
    often = expected > 5
    z = (seen - expected)[often] / np.sqrt(expected[often])
    assert abs(z.mean()) < 0.2
    assert 0.7 < z.std() < 1.3
    # More than half of them are among the few that follow the item before.
    is_follower = np.zeros_like(chances, bool)
    np.put_along_axis(is_follower, truth.items.successors[last], True, axis=1)
    share = is_follower[np.arange(len(found)), found].mean()
    assert share == pytest.approx((chances * is_follower).sum(axis=1).mean(), abs=0.02)
    assert share > 0.5


def test_visits_come_as_often_as_the_truth_says() -> None:
    world = a_world(users=3000)
    truth = Truth(world, make_items(world))

    expected = truth.expected(np.arange(3000), [5, 6]).sum()

    assert sum(len(views(world, day)[0]) for day in (5, 6)) == pytest.approx(expected, rel=0.06)


def test_items_follow_their_predecessors() -> None:
    world = a_world(users=3000, visits={"sequence": 0.9, "repeat": 0})
    items = make_items(world)
    events = Day(world, items, 3).events(np.arange(3000))
    same_visit = events.users[1:] == events.users[:-1]
    follows = (items.successors[events.items[:-1]] == events.items[1:, None]).any(axis=1)

    assert follows[same_visit].mean() > 0.8
    assert follows[~same_visit].mean() < 0.2


def test_nothing_follows_without_sequence() -> None:
    world = a_world(users=3000, visits={"sequence": 0, "repeat": 0})
    items = make_items(world)
    events = Day(world, items, 3).events(np.arange(3000))
    same_visit = events.users[1:] == events.users[:-1]
    follows = (items.successors[events.items[:-1]] == events.items[1:, None]).any(axis=1)

    assert follows[same_visit].mean() < 0.05


def test_tastes_drift_and_stay() -> None:
    users = np.arange(500)
    moving, still = a_world(taste={"drift_days": 20}), a_world(taste={"drift_days": 0})

    changed = tastes_on(moving, users, 0).styles != tastes_on(moving, users, 10).styles
    # Half of the tastes turn in half of the time, one in twelve of them to the same style.
    assert changed.mean() == pytest.approx(0.5 * 11 / 12, abs=0.05)
    assert np.array_equal(tastes_on(still, users, 0).categories, tastes_on(still, users, 20).categories)


def test_the_catalogue_turns_over() -> None:
    world = a_world(items=2000, days=30, catalogue={**SMALL["catalogue"], "turnover": 0.02})
    items = make_items(world)

    alive = [int(items.alive(day).sum()) for day in range(30)]

    assert alive[0] == 2000
    assert all(abs(count - 2000) < 150 for count in alive)
    assert (items.alive(0) & items.alive(29)).sum() < 0.55 * 2000


def test_no_one_takes_what_is_not_in_the_catalogue() -> None:
    world = a_world(users=2000, catalogue={**SMALL["catalogue"], "turnover": 0.1}, visits={"repeat": 0.5})
    items = make_items(world)
    for day in (4, 15):
        _, taken = views(world, day)
        assert items.alive(day)[taken].all()


def test_users_without_a_past_come_late() -> None:
    world = a_world(users=3000, visits={"cold_users": 0.5})
    users, _ = views(world, 2)

    assert (first_days(world, users) <= 2).all()
    assert (first_days(world, np.arange(3000)) > 0).mean() == pytest.approx(0.5 * 20 / 21, abs=0.03)


def test_promotions_lift() -> None:
    world = a_world(users=4000, calendar={"promotions": 0.2, "lift": 2.0, "season": 0, "weekday": 0})
    _, taken = views(world, 3)
    is_on = promoted(world, world.num_items, 3) > 0

    share = is_on[taken].mean()

    assert share > 1.5 * is_on.mean()


@pytest.mark.parametrize("cart", [0.0, 0.5])
def test_a_world_with_carts_declares_the_kinds_of_its_events(tmp_path: Path, cart: float) -> None:
    world = a_world(users=30, days=3, visits={"cart": cart, "purchase": 0.5})
    write_world(world, tmp_path / "world")
    dataset = yaml.safe_load((tmp_path / "world" / "config.yaml").read_text())["dataset"]
    assert dataset.get("event_kinds") == ({"view": 0.1, "cart": 0.5, "purchase": 1.0} if cart else None)
    kinds = pc.unique(pq.read_table(tmp_path / "world" / "events").column("kind").cast(pa.string())).to_pylist()
    assert set(kinds) == set(dataset.get("event_kinds") or ["view"]) == set(KINDS if cart else ["view"])


def test_carts_and_purchases_follow_views() -> None:
    world = a_world(users=3000, visits={"cart": 0.5, "purchase": 0.5})
    events = Day(world, make_items(world), 3).events(np.arange(3000))
    counts = np.bincount(events.kinds, minlength=len(KINDS))

    assert counts[1] == pytest.approx(counts[0] / 2, rel=0.08)
    assert counts[2] == pytest.approx(counts[1] / 2, rel=0.1)
    key = (events.users * world.num_items + events.items) * 3
    assert np.isin(key[events.kinds == 1], key[events.kinds == 0]).all()


def test_propensities_are_those_of_what_is_shown() -> None:
    world = a_world(users=20_000, exposures={"share": 1.0, "length": 4})
    shown = Day(world, make_items(world), 3).exposures(np.arange(20_000))
    lists = len(np.unique(shown.users))
    counts = np.bincount(shown.items, minlength=world.num_items)
    propensity = np.zeros(world.num_items)
    propensity[shown.items] = shown.propensities

    assert len(np.unique(shown.users * world.num_items + shown.items)) == len(shown.users) == 4 * lists
    expected = lists * propensity
    often = expected > 20
    z = (counts - expected)[often] / np.sqrt(expected[often])
    assert 0.7 < z.std() < 1.3
    assert shown.clicked[shown.places == 0].mean() > shown.clicked[shown.places == 3].mean()


def test_the_oracle_finds_more_than_any_other_ranking() -> None:
    world = a_world(users=2000, items=240)
    truth, days, users = Truth(world, make_items(world)), [14, 15, 16], np.arange(2000)
    relevant = np.zeros((2000, world.num_items), dtype=bool)
    for day in days:
        came, items = views(world, day)
        relevant[came, items] = True

    def recall(lists: Ints) -> float:
        found = np.take_along_axis(relevant, lists, axis=1).sum(axis=1)
        some = relevant.any(axis=1)
        return float((found[some] / relevant[some].sum(axis=1)).mean())

    oracle = truth.oracle(users, days, 20)
    popular = np.tile(np.argsort(-relevant.sum(axis=0), kind="stable")[:20], (2000, 1))
    stale = truth.oracle(users, [2], 20)
    assert recall(oracle) > recall(stale) + 0.01 > recall(popular) + 0.02


def test_the_oracle_leaves_out_what_is_known() -> None:
    world = a_world(visits={"cold_users": 0})
    truth, users = Truth(world, make_items(world)), np.arange(300)
    all_items = truth.oracle(users, [10], 5)
    known = sp.csr_array((np.ones(300), (users, all_items[:, 0])), shape=(300, world.num_items))

    assert (truth.oracle(users, [10], 4, known=known) == all_items[:, 1:]).all()


def test_what_is_written_does_not_depend_on_blocks(tmp_path: Path) -> None:
    world = a_world(exposures={"share": 0.5}, visits={"cart": 0.3, "purchase": 0.3})
    days: list[int] = []

    written = write_world(world, tmp_path / "a", advance=days.append)
    write_world(world, tmp_path / "b", user_block=90)

    names = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.parquet"))
    assert len(names) == 3 + 2 * world.days
    assert all(pq.read_table(tmp_path / "a" / name).equals(pq.read_table(tmp_path / "b" / name)) for name in names)
    assert sum(days) == world.days
    events = pa.concat_tables([pq.read_table(tmp_path / "a" / name) for name in names if name.parts[0] == "events"])
    assert events.num_rows == written.num_events
    items = pq.read_table(tmp_path / "a" / "items.parquet")
    assert items.num_rows == world.num_items == len(items["item_id"].unique())
    assert pc.all(pc.is_in(events["item_id"], items["item_id"].combine_chunks())).as_py()
    assert Truth.open(tmp_path / "a").world == world


def test_files_are_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("kept")

    with pytest.raises(FileExistsError, match=r"is not empty; name another folder"):
        write_world(a_world(), tmp_path)


def test_content_without_signal_says_nothing_of_the_kind(tmp_path: Path) -> None:
    def match(signal: float) -> float:
        world = a_world(items=2000, content={"signal": signal})
        folder = tmp_path / str(signal)
        write_world(world, folder)
        table = pq.read_table(folder / "items.parquet")
        vectors = np.stack(table["vector"].to_numpy(zero_copy_only=False))
        items = make_items(world)
        kinds = items.kind[np.argsort(items.number)]
        families = items.family[np.argsort(items.number)]
        cosine = vectors @ vectors.T
        other = families[:, None] != families[None, :]
        same = (kinds[:, None] == kinds[None, :]) & other
        return float(cosine[same].mean() - cosine[other & ~same].mean())

    assert match(0.9) > 0.2
    assert abs(match(0.0)) < 0.02


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"items": 10}, r"items is 10, fewer than one family of 4 in each of 12 categories"),
        ({"catalogue": {"departments": 9, "categories": 3}}, r"departments is 9, more than the 3 categories"),
        ({"items": 100_000_000, "taste": {"kinds": 10}}, r"10 styles of .* numbers, more than 200,000,000"),
    ],
)
def test_worlds_that_do_not_fit_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        a_world(**changes)
