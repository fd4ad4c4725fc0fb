"""A comparison finds the better arm and where it loses; a user counts once, over seeds and cuts."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import scipy.sparse as sp

from evaluation.catalogue import Catalogue
from evaluation.comparison import compare_arms
from evaluation.folds import Fold
from evaluation.report import ALL_PURCHASES, NEW_TO_THE_USER, Problem, Report
from evaluation.settings import About, Arm, Settings
from evaluation.slices import Groups
from evaluation.split import Split

NUM_USERS, NUM_ITEMS, K = 200, 60, 10
SETTINGS = Settings(NEW_TO_THE_USER, (5, K), f"recall@{K}", num_samples=200, seed=3)
ABOUT = About("shop", "after-cut")
CATALOGUE = Catalogue([f"item {row}" for row in range(NUM_ITEMS)], np.arange(NUM_ITEMS) % 4, np.ones(NUM_ITEMS))
Rows = npt.NDArray[np.int32]


def fold(seed: int = 0, day: int = 1) -> Fold:
    """Each user meets four items at random after the cut, and none before it."""
    rng = np.random.default_rng(seed)
    items = np.argsort(rng.random((NUM_USERS, NUM_ITEMS)), axis=1)[:, :4]
    users = np.repeat(np.arange(NUM_USERS), 4)
    shape = (NUM_USERS, NUM_ITEMS)
    relevant = sp.csr_array((np.ones(users.size, bool), (users, items.ravel())), shape=shape)
    nothing = sp.csr_array(shape)
    split = Split(
        user_ids=np.array([f"u{user:03}" for user in range(NUM_USERS)], dtype=object),
        history=nothing,
        days_since=nothing,
        relevant=relevant,
        relevant_new=relevant,
        days_until=sp.csr_array((np.zeros(users.size, np.int16), relevant.indices, relevant.indptr), shape=shape),
        cut=dt.datetime(2024, 1, day, tzinfo=dt.UTC),
        window_days=1,
        num_unknown_window_pairs=3,
        num_unknown_window_items=1,
        num_unknown_history_events=0,
    )
    halves = Groups("half", ("first", "second"), (np.arange(NUM_USERS) >= NUM_USERS // 2).astype(np.int64))
    thirds = Groups("third", ("a", "b", "c"), (np.arange(NUM_ITEMS) % 3).astype(np.int64))
    return Fold(split, (thirds,), (halves,), np.arange(NUM_ITEMS), np.arange(NUM_ITEMS) > 50)


def lists(of: Fold, share: float, seed: int) -> Rows:
    """Random lists in which each relevant item comes first with a probability."""
    rng = np.random.default_rng(seed)
    scores = rng.random((NUM_USERS, NUM_ITEMS))
    scores += of.split.relevant_new.toarray() * (rng.random((NUM_USERS, NUM_ITEMS)) < share)
    ranked: Rows = np.argsort(-scores, axis=1)[:, :K].astype(np.int32)
    return ranked


def compare(*ranked: Rows, settings: Settings = SETTINGS, of: Fold | None = None) -> Report:
    arms = [Arm(f"arm {number}", "by hand", [[found]]) for number, found in enumerate(ranked)]
    return compare_arms([of or fold()], arms, settings=settings, catalogue=CATALOGUE, about=ABOUT)


def compare_all(*arms: Arm, settings: Settings = SETTINGS, folds: Sequence[Fold] = ()) -> Report:
    """Compares arms that are made already."""
    return compare_arms(folds or [fold()], arms, settings=settings, catalogue=CATALOGUE, about=ABOUT)


def test_ships_the_better_and_not_the_worse() -> None:
    a, better, worse = (lists(fold(), share, seed) for seed, share in enumerate((0.4, 0.8, 0.1)))
    report = compare(a, better, worse)
    assert [found.verdict.decision for found in report.comparisons] == ["ship", "do not ship"]
    difference = report.comparisons[0].metrics["recall@10"]
    arms = [arm.metrics["recall@10"].mean for arm in report.arms]
    assert difference.interval.mean == pytest.approx(arms[1] - arms[0])
    assert difference.adjusted_p < 0.05
    assert report.num_unknown_relevant == 3


def test_an_arm_compared_with_itself_is_undecided_and_differs_for_no_user() -> None:
    a = lists(fold(), 0.4, 1)
    found = compare(a, a.copy()).comparisons[0]
    assert found.verdict.decision == "undecided"
    assert found.metrics["recall@10"].p_value == 1
    assert (found.overlap, found.rank_biased_overlap) == (1, pytest.approx(1))
    assert found.differing == ()
    assert found.users_needed is None


def test_false_alarms_come_at_the_stated_rate() -> None:
    of = fold()
    alarms = 0
    for seed in range(60):
        report = compare(
            lists(of, 0.4, 1000 + 2 * seed),
            lists(of, 0.4, 1001 + 2 * seed),
            settings=replace(SETTINGS, num_samples=100),
            of=of,
        )
        alarms += report.comparisons[0].verdict.decision != "undecided"
    # Binomial(60, .05): more than 8 happen once in two hundred times.
    assert alarms <= 8


def test_a_lost_slice_is_named_though_the_whole_wins() -> None:
    of = fold()
    a, better, worse = (lists(of, share, seed) for seed, share in enumerate((0.4, 1.0, 0.1)))
    # The second half of the users gets what is worse.
    mixed = np.where(np.arange(NUM_USERS)[:, None] < 3 * NUM_USERS // 4, better, worse)
    quarter = Groups("quarter", ("others", "last"), (np.arange(NUM_USERS) >= 3 * NUM_USERS // 4).astype(np.int64))
    found = compare(a, mixed, of=replace(of, user_groups=(quarter,))).comparisons[0]
    assert found.verdict.decision == "ship"
    assert found.lost_slices == ("quarter: last",)
    assert "significantly worse in quarter: last" in found.verdict.reasons


def test_many_slices_can_still_be_found() -> None:
    of = fold()
    single = Groups("user", tuple(map(str, range(NUM_USERS // 2))), np.arange(NUM_USERS) // 2)
    halves = of.user_groups[0]
    of = replace(of, user_groups=(halves, single))
    report = compare(lists(of, 0.9, 1), lists(of, 0.0, 2), settings=replace(SETTINGS, num_samples=50), of=of)
    # With 50 permutations no p could be below .02, and corrected over a hundred slices none below 1.
    assert {"half: first", "half: second"} <= set(report.comparisons[0].lost_slices)


def test_users_of_several_folds_count_once_with_their_mean() -> None:
    folds = [fold(1, 1), fold(2, 2)]
    parts = [[[lists(of, share, 7)] for of in folds] for share in (0.2, 0.9)]
    arms = [Arm("a", "by hand", parts[0]), Arm("b", "by hand", parts[1])]
    report = compare_arms(folds, arms, settings=SETTINGS, catalogue=CATALOGUE, about=ABOUT)
    assert report.num_users == NUM_USERS
    alone = [
        compare_arms(
            [of],
            [Arm(arm.name, "", [arm.ranked[at]]) for arm in arms],
            settings=SETTINGS,
            catalogue=CATALOGUE,
            about=ABOUT,
        )
        for at, of in enumerate(folds)
    ]
    means = [report.arms[1].metrics["recall@10"].mean for report in alone]
    assert report.arms[1].metrics["recall@10"].mean == pytest.approx(np.mean(means))
    assert list(report.arms[1].slices["day"]) == ["2024-01-01", "2024-01-02"]


def test_the_users_for_whom_arms_differ_most_come_with_names() -> None:
    of = fold()
    a, b = lists(of, 0.3, 1), lists(of, 0.9, 2)
    examples = compare(a, b, of=of).comparisons[0].differing
    gaps = [abs(example.recall - example.recall_of_reference) for example in examples]
    assert len(examples) == 10
    assert gaps == sorted(gaps, reverse=True)
    first = examples[0]
    user = int(first.user_id[1:])
    wanted = set(
        of.split.relevant_new.indices[of.split.relevant_new.indptr[user] : of.split.relevant_new.indptr[user + 1]]
    )
    expected = {f"item {row}" for row in (set(b[user]) - set(a[user])) & wanted}
    assert set(first.only_arm) == expected
    assert first.num_relevant == 4


def test_problems_of_an_input_are_among_the_reasons() -> None:
    a = lists(fold(), 0.4, 1)
    arms = [Arm("a", "", [[a]]), Arm("file", "", [[a]], problems=(Problem("unknown item", 7, (3,)),))]
    report = compare_arms([fold()], arms, settings=SETTINGS, catalogue=CATALOGUE, about=ABOUT)
    assert "7 of its input: unknown item" in report.comparisons[0].verdict.reasons


def test_a_margin_lets_an_equal_arm_ship() -> None:
    a = lists(fold(), 0.9, 1)
    report = compare(a, a.copy(), settings=replace(SETTINGS, margin=0.02))
    assert report.comparisons[0].verdict.decision == "ship"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"ks": ()}, "ks is empty; give at least one list length"),
        ({"metric": "recall@7"}, r"metric is 'recall@7', expected one of: recall@5, recall@10, .*mrr"),
        ({"alpha": 0.0}, r"alpha is 0.0, margin 0.0 and num_samples 200; expected between 0 and 1"),
        ({"margin": 1.0}, "margin 1.0"),
    ],
)
def test_invalid_settings_are_refused(changed: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**{**vars(SETTINGS), **changed})  # type: ignore[arg-type]


def test_refuses_one_arm_names_that_repeat_and_lists_of_other_folds() -> None:
    a = lists(fold(), 0.4, 1)
    once, twice = Arm("a", "", [[a]]), Arm("b", "", [[a], [a]])
    with pytest.raises(ValueError, match=r"arms are \['arm 0'\]; give at least 2 arms, each with a name of its own"):
        compare(a)
    with pytest.raises(ValueError, match=r"arms are \['a', 'a'\]; give at least 2 arms, each with a name of its own"):
        compare_all(once, once)
    with pytest.raises(ValueError, match=r"arm 'b' has \[1, 1\] lists of its folds, expected 1 of each of 1 folds"):
        compare_all(once, twice)
    with pytest.raises(ValueError, match="expected 1 of each of 0 folds"):
        compare_arms([], [once, twice], settings=SETTINGS, catalogue=CATALOGUE, about=ABOUT)
    with pytest.raises(ValueError, match="k is 10 and the lists have 7 places"):
        compare(a, a[:, :7])


def test_refuses_references_that_name_no_arm() -> None:
    arm = Arm("a", "", [[lists(fold(), 0.4, 1)]])
    for wrong in ({"reference": "gone"}, {"exact": "gone"}):
        with pytest.raises(ValueError, match=r"no arm is called 'gone'; the arms are \['a', 'b'\]"):
            compare_all(arm, replace(arm, name="b", **wrong))


def test_all_purchases_count_where_they_are_asked_for() -> None:
    of = fold()
    seen = replace(of.split, relevant_new=sp.csr_array((NUM_USERS, NUM_ITEMS), dtype=bool))
    a, b = lists(of, 0.3, 1), lists(of, 0.9, 2)
    report = compare(a, b, settings=replace(SETTINGS, task=ALL_PURCHASES), of=replace(of, split=seen))
    assert report.num_users == NUM_USERS


def test_every_arm_may_have_a_reference_of_its_own_and_a_third_arm_changes_no_interval() -> None:
    a, b, c = (lists(fold(), share, seed) for seed, share in enumerate((0.4, 0.8, 0.1)))
    arms = [Arm("a", "", [[a]]), Arm("b", "", [[b]]), Arm("c", "", [[c]], reference="b")]
    to_a, to_b = compare_all(*arms).comparisons
    assert [(found.letter, found.reference) for found in (to_a, to_b)] == [("B", "A"), ("C", "B")]
    alone = compare_all(arms[1], arms[2]).comparisons[0]
    assert to_b.metrics["recall@10"].interval == alone.metrics["recall@10"].interval
    assert to_b.verdict.decision == alone.verdict.decision == "do not ship"


def test_the_reference_may_be_any_arm() -> None:
    a, b = (Arm(name, "", [[lists(fold(), share, 1)]]) for name, share in (("a", 0.4), ("b", 0.8)))
    report = compare_arms([fold()], [a, b], settings=SETTINGS, catalogue=CATALOGUE, about=ABOUT, reference="b")
    assert [(found.letter, found.reference) for found in report.comparisons] == [("A", "B")]
    assert report.comparisons[0].metrics["recall@10"].interval.mean < 0


def test_one_user_is_compared_without_a_figure_of_power() -> None:
    of = fold()
    only = sp.csr_array(np.where(np.arange(NUM_USERS)[:, None] == 7, of.split.relevant_new.toarray(), False))
    of = replace(of, split=replace(of.split, relevant_new=only))
    found = compare(lists(fold(), 0.1, 1), lists(fold(), 1.0, 2), of=of).comparisons[0]
    assert found.metrics["recall@10"].interval.num_users == 1
    assert np.isnan(found.smallest_detectable)
    assert (found.users_needed, found.users_for_one_percent) == (None, None)
