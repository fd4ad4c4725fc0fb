"""Arms are compared on the same users, a user counts once, and the tables keep what stands around them."""

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

from evaluation.ablation import AblationReport, Arm, ArmRow, Window, compare
from evaluation.ablation_table import markers, print_ablation, to_markdown, write_markdown
from evaluation.metrics import judge, ndcg_at_k, recall_at_k
from evaluation.report import to_json
from evaluation.slices import Groups, users_by_past
from evaluation.split import Split
from evaluation.statistics import mean_interval, paired_difference

DRAW = {"num_samples": 50, "seed": 3, "level": 0.9}
NUM_ITEMS = 6


def window_of(user_ids: list[str], new: list[list[int]]) -> Window:
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
        cut=dt.datetime(2020, 1, 1, tzinfo=dt.UTC),
        window_days=7,
        num_unknown_window_pairs=0,
        num_unknown_window_items=0,
        num_unknown_history_events=0,
    )
    parity = Groups("parity", ("even", "odd"), np.arange(NUM_ITEMS) % 2)
    return Window(split, (parity,), (users_by_past(split),))


def lists_of(*rows: list[int]) -> npt.NDArray[np.int32]:
    return np.array(rows, np.int32)


@pytest.fixture
def windows() -> list[Window]:
    return [window_of(["ann", "bob", "cat"], [[0, 1], [2], []]), window_of(["bob", "dan"], [[0, 1, 2, 3], [5]])]


@pytest.fixture
def arms() -> list[Arm]:
    first = [lists_of([0, 1], [2, 0], [0, 1]), lists_of([0, 5], [1, 0], [0, 1])]
    second = [lists_of([0, 1], [0, 1]), lists_of([4, 5], [5, 0])]
    nothing = lists_of([-1, -1], [-1, -1], [-1, -1])
    return [
        Arm("base", "", None, [[nothing], [nothing[:2]]], ()),
        Arm("two seeds", "note", "base", [first, second], (1.0, 2.0, 3.0, 6.0)),
    ]


def test_a_user_counts_once_however_many_seeds_and_cuts_there_are(windows: list[Window], arms: list[Arm]) -> None:
    base, row = compare(windows, arms, k=2, **DRAW)
    # First cut, by seed: ann 2/2 and 1/2, bob 1 and 0. Second cut: bob 2/4 and 0, dan 0 and 1.
    ann, bob, dan = (1 + 1 / 2) / 2, ((1 + 0) / 2 + (1 / 2 + 0) / 2) / 2, (0 + 1) / 2
    assert row.figures["recall"].mean == pytest.approx((ann + bob + dan) / 3)
    assert row.figures["recall"].num_users == 3
    assert row.recall_by_seed == pytest.approx(((1 + 3 / 4 + 0) / 3, (1 / 2 + 0 + 1) / 3))
    assert row.recall_by_cut == pytest.approx(((3 / 4 + 1 / 2) / 2, (1 / 4 + 1 / 2) / 2))
    assert row.training_seconds == 3
    assert base.figures["recall"].mean == 0
    assert base.recall_by_seed == (0,)
    assert base.training_seconds != base.training_seconds
    assert base.differences == {}
    assert row.differences["recall"] == row.figures["recall"]


def test_with_one_seed_and_cut_the_figures_are_those_of_the_plain_functions(windows: list[Window]) -> None:
    window = windows[0]
    own, other = lists_of([0, 4, 1], [1, 2, 0], [0, 1, 2]), lists_of([4, 5, 0], [2, 0, 1], [0, 1, 2])
    arms = [Arm("a", "", None, [[own]], ()), Arm("b", "", "a", [[other]], ())]
    _, row = compare([window], arms, k=3, **DRAW)
    for name, metric in (("recall", recall_at_k), ("ndcg", ndcg_at_k)):
        values = [metric(judge(ranked, window.split.relevant_new), 3) for ranked in (own, other)]
        assert row.figures[name] == mean_interval(values[1], **DRAW)
        assert row.differences[name] == paired_difference(values[1], values[0], **DRAW)


def test_groups_of_users_and_of_items_have_their_own_users(windows: list[Window], arms: list[Arm]) -> None:
    _, row = compare(windows, arms, k=2, **DRAW)
    # Of the even items ann wants 0 (found by both seeds), bob 2 (found, not) and then 0 and 2 (0, then none).
    assert row.figures["recall by parity: even"].num_users == 2
    assert row.figures["recall by parity: even"].mean == pytest.approx((1 + (1 / 2 + 1 / 4) / 2) / 2)
    # Histories of one and two items in either cut: bob is the warm one first, then the cold one.
    assert row.figures["recall by past of the user: cold users"].mean == pytest.approx((3 / 4 + 1 / 4) / 2)
    assert row.figures["recall by past of the user: warm users"].mean == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert row.figures["recall by past of the user: middle users"].num_users == 0
    assert np.isnan(row.figures["recall by past of the user: middle users"].mean)


def test_arms_that_do_not_fit_together_are_refused(windows: list[Window], arms: list[Arm]) -> None:
    base, row = arms
    with pytest.raises(ValueError, match="is compared with 'gone'"):
        compare(windows, [base, replace(row, against="gone")], k=2, **DRAW)
    with pytest.raises(ValueError, match=r"'two seeds' has lists of \[2, 1\] seeds, expected as many in each of 2"):
        compare(windows, [base, replace(row, ranked=[row.ranked[0], row.ranked[1][:1]])], k=2, **DRAW)
    with pytest.raises(ValueError, match=r"has lists of \[2\] seeds"):
        compare(windows, [base, replace(row, ranked=row.ranked[:1])], k=2, **DRAW)
    with pytest.raises(ValueError, match=r"arms \['base', 'base'\]"):
        compare(windows, [base, base], k=2, **DRAW)


def report_of(rows: tuple[ArmRow, ...]) -> AblationReport:
    return AblationReport(
        dataset="shop",
        cuts=("2020-01-01", "2020-01-08"),
        window_days=7,
        seeds=(1, 2),
        k=2,
        num_users=3,
        num_items=NUM_ITEMS,
        level=0.9,
        num_samples=50,
        slices={"parity": ("even", "odd"), "past of the user": ("cold users", "middle users", "warm users")},
        arms=rows,
        failed={"broken": "no | luck"},
    )


def test_markdown_has_a_row_for_each_arm_as_wide_as_its_headings(windows: list[Window], arms: list[Arm]) -> None:
    text = to_markdown(report_of(compare(windows, arms, k=2, **DRAW)))
    tables = [[line for line in block.splitlines() if line.startswith("|")] for block in text.split("\n\n")]
    widths = [{line.count(" |") for line in table} for table in tables if table]
    assert widths == [{8}, {3}, {4}]
    assert "| two seeds | .5417 | .5000–.5833 | +.5417 [" in text
    assert "| base | .0000 |  |  |  | .0000 |  |  |" in text
    assert "7 days from 2020-01-01, 2020-01-08 on, 2 seeds; 3 users" in text
    assert "- broken: no | luck" in text


def test_a_star_marks_a_group_whose_difference_is_not_by_chance(windows: list[Window]) -> None:
    good, bad = lists_of([0, 1], [2, 0], [0, 1]), lists_of([5, 4], [5, 4], [5, 4])
    arms = [Arm("bad", "", None, [[bad]], ()), Arm("good", "", "bad", [[good]], ())]
    text = to_markdown(report_of(compare(windows[:1], arms, k=2, **DRAW)))
    assert "| good | 1.0000\\* | 1.0000\\* |" in text
    assert "| bad | .0000 | .0000 |" in text


def test_a_terminal_shows_the_same_figures(windows: list[Window], arms: list[Arm]) -> None:
    screen = io.StringIO()
    print_ablation(report_of(compare(windows, arms, k=2, **DRAW)), Console(file=screen, width=200))
    for expected in ("two seeds", ".5417", "recall by parity", "odd (3 users)"):
        assert expected in screen.getvalue()


def test_text_around_the_markers_stays_and_other_datasets_keep_their_tables(
    windows: list[Window], arms: list[Arm], tmp_path: Path
) -> None:
    path = tmp_path / "ablations.md"
    begin, end = markers("shop")
    path.write_text(f"# Before\n\n{begin}\nold figures\n{end}\n\nAfter.\n")
    report = report_of(compare(windows, arms, k=2, **DRAW))
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
    windows: list[Window], arms: list[Arm], tmp_path: Path
) -> None:
    report = report_of(compare(windows, arms, k=2, **DRAW))
    write_markdown(report, tmp_path / "new" / "ablations.md")
    assert (tmp_path / "new" / "ablations.md").read_text().count("two seeds") == 3
    begin, end = markers("shop")
    for text in (begin, f"{end}\n{begin}", f"{begin}\n{begin}\n{end}"):
        (tmp_path / "broken.md").write_text(text)
        with pytest.raises(ValueError, match=r"broken\.md: has \d of '<!-- ablations of shop: begin"):
            write_markdown(report, tmp_path / "broken.md")
        assert (tmp_path / "broken.md").read_text() == text


def test_json_has_every_figure_and_null_where_there_is_none(windows: list[Window], arms: list[Arm]) -> None:
    found = json.loads(to_json(report_of(compare(windows, arms, k=2, **DRAW))))
    assert found["arms"][1]["figures"]["recall"]["mean"] == pytest.approx(0.5417, abs=1e-4)
    assert found["arms"][1]["figures"]["recall by past of the user: middle users"]["mean"] is None
    assert found["arms"][0]["training_seconds"] is None
