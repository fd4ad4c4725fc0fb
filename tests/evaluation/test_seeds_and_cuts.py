"""Over seeds and cuts arms are compared on the same users, a user counts once; Markdown keeps its text."""

from __future__ import annotations

import datetime as dt
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import scipy.sparse as sp
from rich.console import Console

from evaluation.catalogue import Catalogue
from evaluation.comparison import compare_arms
from evaluation.folds import Fold
from evaluation.metrics import find_hits, ndcg_at_k, recall_at_k
from evaluation.render.formats import p_text
from evaluation.render.markdown import markers, to_markdown, write_markdown
from evaluation.render.table import print_ablation
from evaluation.report import NEW_TO_THE_USER, LayerCheck, Report, to_json
from evaluation.settings import About, Arm, Settings
from evaluation.slices import Groups, users_by_past
from evaluation.split import Split
from evaluation.statistics import mean_interval, paired_difference

DRAW = {"num_samples": 50, "seed": 3, "level": 0.9}
CUTS = (1, 8)
NUM_ITEMS = 6


def window_of(user_ids: list[str], new: list[list[int]], day: int = 1) -> Fold:
    relevant = np.zeros((len(user_ids), NUM_ITEMS), bool)
    for user, items in enumerate(new):
        relevant[user, items] = True
    history = sp.csr_array(np.tri(len(user_ids), NUM_ITEMS, dtype=np.float32))
    split = Split(
        user_ids=np.array(user_ids, object),
        history=history,
        days_since=history,
        relevant=sp.csr_array(relevant),
        relevant_new=sp.csr_array(relevant),
        days_until=sp.csr_array(relevant).astype(np.int16),
        cut=dt.datetime(2020, 1, day, tzinfo=dt.UTC),
        window_days=7,
        num_unknown_window_pairs=0,
        num_unknown_window_items=0,
        num_unknown_history_events=0,
    )
    parity = Groups("parity", ("even", "odd"), np.arange(NUM_ITEMS) % 2)
    counts = np.zeros(NUM_ITEMS, np.int64)
    return Fold(split, (parity,), (users_by_past(split),), counts, counts > 0)


def lists_of(*rows: list[int]) -> npt.NDArray[np.int32]:
    return np.array(rows, np.int32)


@pytest.fixture
def windows() -> list[Fold]:
    return [window_of(["ann", "bob", "cat"], [[0, 1], [2], []]), window_of(["bob", "dan"], [[0, 1, 2, 3], [5]], 8)]


@pytest.fixture
def arms() -> list[Arm]:
    first = [lists_of([0, 1], [2, 0], [0, 1]), lists_of([0, 5], [1, 0], [0, 1])]
    second = [lists_of([0, 1], [0, 1]), lists_of([4, 5], [5, 0])]
    nothing = lists_of([-1, -1], [-1, -1], [-1, -1])
    return [
        Arm("base", "", [[nothing], [nothing[:2]]]),
        Arm("two seeds", "note", [first, second], training_seconds=(1.0, 2.0, 3.0, 6.0)),
    ]


def compare(folds: list[Fold], arms: list[Arm], *, k: int = 2, layers: tuple[LayerCheck, ...] = ()) -> Report:
    settings = Settings(NEW_TO_THE_USER, (k,), f"recall@{k}", alpha=0.1, num_samples=50, seed=3, by_day=False)
    catalogue = Catalogue([str(row) for row in range(NUM_ITEMS)], np.full(NUM_ITEMS, -1))
    about = About("shop", "after-cut", (1, 2), layers, failed={"broken": "no | luck"}, notes=("no leakage",))
    return compare_arms(folds, arms, settings=settings, catalogue=catalogue, about=about)


def test_a_user_counts_once_however_many_seeds_and_cuts_there_are(windows: list[Fold], arms: list[Arm]) -> None:
    report = compare(windows, arms)
    base, row = report.arms
    # First cut, by seed: ann 2/2 and 1/2, bob 1 and 0. Second cut: bob 2/4 and 0, dan 0 and 1.
    ann, bob, dan = (1 + 1 / 2) / 2, ((1 + 0) / 2 + (1 / 2 + 0) / 2) / 2, (0 + 1) / 2
    assert row.metrics["recall@2"].mean == pytest.approx((ann + bob + dan) / 3)
    assert row.metrics["recall@2"].num_users == report.num_users == 3
    assert row.by_seed == pytest.approx(((1 + 3 / 4 + 0) / 3, (1 / 2 + 0 + 1) / 3))
    assert row.by_cut == pytest.approx(((3 / 4 + 1 / 2) / 2, (1 / 4 + 1 / 2) / 2))
    assert row.training_seconds == 3
    assert base.metrics["recall@2"].mean == 0
    assert base.by_seed == (0,)
    assert base.training_seconds != base.training_seconds
    assert report.comparison("A") is None
    assert report.comparisons[0].metrics["recall@2"].interval == row.metrics["recall@2"]
    assert (report.seeds, report.cuts) == ((1, 2), ("2020-01-01T00:00:00+00:00", "2020-01-08T00:00:00+00:00"))


def test_lists_are_compared_seed_by_seed(windows: list[Fold], arms: list[Arm]) -> None:
    found = compare(windows[:1], [Arm("same", "", [arms[1].ranked[0]]), Arm("again", "", [arms[1].ranked[0]])])
    assert found.comparisons[0].overlap == 1
    # The mean of the coverage of one seed, not that of all lists: items 0, 1, 2 and 0, 1, 5 of six.
    assert found.arms[0].lists["coverage@2"] == 3 / 6


def test_an_arm_over_seeds_has_a_p_value_and_a_verdict() -> None:
    folds = [window_of([f"u{user:02}" for user in range(30)], [[user % 3] for user in range(30)])]
    found, missed = (np.tile(np.array(rows, np.int32), (30, 1)) for rows in ([0, 1, 2], [3, 4, 5]))
    report = compare(folds, [Arm("bad", "", [[missed]]), Arm("good", "", [[found, found]])], k=3)
    difference = report.comparisons[0].metrics["recall@3"]
    assert difference.p_value <= difference.adjusted_p < 0.05
    assert report.comparisons[0].verdict.decision == "ship"
    text = to_markdown(report)
    assert (
        f"| good | 1.0000 | 1.0000–1.0000 | +1.0000 [+1.0000, +1.0000] | bad | {p_text(difference.adjusted_p)} | ship |"
        in text
    )
    assert "- no leakage" in text


def test_with_one_seed_and_cut_the_figures_are_those_of_the_plain_functions(windows: list[Fold]) -> None:
    window = windows[0]
    own, other = lists_of([0, 4, 1], [1, 2, 0], [0, 1, 2]), lists_of([4, 5, 0], [2, 0, 1], [0, 1, 2])
    report = compare([window], [Arm("a", "", [[own]]), Arm("b", "", [[other]])], k=3)
    for name, metric in (("recall@3", recall_at_k), ("ndcg@3", ndcg_at_k)):
        values = [metric(find_hits(ranked, window.split.relevant_new), 3) for ranked in (own, other)]
        assert report.arms[1].metrics[name] == mean_interval(values[1], **DRAW)
        assert report.comparisons[0].metrics[name].interval == paired_difference(values[1], values[0], **DRAW)


def test_groups_of_users_and_of_items_have_their_own_users(windows: list[Fold], arms: list[Arm]) -> None:
    slices = compare(windows, arms).arms[1].slices
    # Of the even items ann wants 0 (found by both seeds), bob 2 (found, not) and then 0 and 2 (0, then none).
    assert slices["parity"]["even"].num_users == 2
    assert slices["parity"]["even"].mean == pytest.approx((1 + (1 / 2 + 1 / 4) / 2) / 2)
    # Histories of one and two items in either cut: bob is the warm one first, then the cold one.
    past = slices["past of the user"]
    assert past["cold users"].mean == pytest.approx((3 / 4 + 1 / 4) / 2)
    assert past["warm users"].mean == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert past["middle users"].num_users == 0
    assert np.isnan(past["middle users"].mean)


def test_arms_that_do_not_fit_together_are_refused(windows: list[Fold], arms: list[Arm]) -> None:
    base, row = arms
    with pytest.raises(ValueError, match="no arm is called 'gone'"):
        compare(windows, [base, replace(row, reference="gone")])
    with pytest.raises(ValueError, match=r"'two seeds' has \[2, 1\] lists of its folds, expected 1 or 2 of each of 2"):
        compare(windows, [base, replace(row, ranked=[row.ranked[0], row.ranked[1][:1]])])
    with pytest.raises(ValueError, match=r"'two seeds' has \[2\] lists of its folds"):
        compare(windows, [base, replace(row, ranked=row.ranked[:1])])
    with pytest.raises(ValueError, match=r"arms are \['base', 'base'\]"):
        compare(windows, [base, base])


def test_markdown_has_a_row_for_each_arm_as_wide_as_its_headings(windows: list[Fold], arms: list[Arm]) -> None:
    text = to_markdown(compare(windows, arms))
    tables = [[line for line in block.splitlines() if line.startswith("|")] for block in text.split("\n\n")]
    widths = [{line.count(" |") for line in table} for table in tables if table]
    assert widths == [{10}, {4}, {3}]
    assert "| two seeds | .5417 | .5000–.5833 | +.5417 [" in text
    assert "| base | .0000 |  |  |  |  |  | .0000 |  |  |" in text
    assert "7 days from 2020-01-01, 2020-01-08 on, 2 seeds; 3 users" in text
    assert "- broken: no | luck" in text


def test_a_star_marks_a_group_whose_difference_is_not_by_chance(windows: list[Fold]) -> None:
    good, bad = lists_of([0, 1], [2, 0], [0, 1]), lists_of([5, 4], [5, 4], [5, 4])
    arms = [Arm("bad", "", [[bad]]), Arm("good", "", [[good]])]
    text = to_markdown(compare(windows[:1], arms))
    assert "| good | 1.0000\\* | 1.0000\\* |" in text
    assert "| bad | .0000 | .0000 |" in text


def test_a_terminal_shows_the_same_figures(windows: list[Fold], arms: list[Arm]) -> None:
    screen = io.StringIO()
    print_ablation(compare(windows, arms), Console(file=screen, width=200))
    for expected in ("two seeds", ".5417", "recall by parity", "odd (3 users)"):
        assert expected in screen.getvalue()


def test_text_around_the_markers_stays_and_other_datasets_keep_their_tables(
    windows: list[Fold], arms: list[Arm], tmp_path: Path
) -> None:
    path = tmp_path / "ablations.md"
    begin, end = markers("shop")
    path.write_text(f"# Before\n\n{begin}\nold figures\n{end}\n\nAfter.\n")
    report = compare(windows, arms)
    write_markdown(report, path)
    write_markdown(replace(report, dataset="library"), path)
    once = path.read_text()
    assert once.startswith(f"# Before\n\n{begin}\n\nshop: 7 days")
    assert f"{end}\n\nAfter.\n" in once
    assert "old figures" not in once
    assert once.count("two seeds") == 2 * once.count("shop: 7 days") * 3
    write_markdown(report, path)
    assert path.read_text() == once


def test_a_missing_file_is_made_and_broken_markers_are_refused(
    windows: list[Fold], arms: list[Arm], tmp_path: Path
) -> None:
    report = compare(windows, arms)
    write_markdown(report, tmp_path / "new" / "ablations.md")
    assert (tmp_path / "new" / "ablations.md").read_text().count("two seeds") == 3
    begin, end = markers("shop")
    for text in (begin, f"{end}\n{begin}", f"{begin}\n{begin}\n{end}"):
        (tmp_path / "broken.md").write_text(text)
        with pytest.raises(ValueError, match=r"broken\.md: has \d of '<!-- ablations of shop: begin"):
            write_markdown(report, tmp_path / "broken.md")
        assert (tmp_path / "broken.md").read_text() == text


def test_json_has_every_figure_and_null_where_there_is_none(windows: list[Fold], arms: list[Arm]) -> None:
    found = json.loads(to_json(compare(windows, arms)))
    assert found["arms"][1]["metrics"]["recall@2"]["mean"] == pytest.approx(0.5417, abs=1e-4)
    assert found["arms"][1]["slices"]["past of the user"]["middle users"]["mean"] is None
    assert found["arms"][0]["training_seconds"] is None
    assert found["failed"] == {"broken": "no | luck"}
